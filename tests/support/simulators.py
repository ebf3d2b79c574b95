"""A fresh simulator for one test, with a client for it, on a clock that stands still where it should."""

import asyncio
import struct
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson

from pipeline.simulator.server import Simulator, running
from pipeline.simulator.settings import Settings

CHAT = "/chat/completions"
NATIVE_TEXT = "/services/aigc/text-generation/generation"
NATIVE_MULTIMODAL = "/services/aigc/multimodal-generation/generation"
PATIENCE_S = 20

WHO: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "你是谁?"},
]


class Clock:
    """A clock that stands still until it is moved."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Place:
    """One running simulator, and how to ask it in either dialect."""

    def __init__(self, simulator: Simulator, http: httpx.AsyncClient) -> None:
        self.simulator = simulator
        self.http = http

    @property
    def totals(self) -> dict[str, Any]:
        return self.simulator.ledger.totals()

    async def chat(self, messages: Any = WHO, *, headers: Any = None, **params: Any) -> httpx.Response:
        """Ask in the compatible mode."""
        sent = orjson.dumps({"model": "qwen-plus", "messages": messages, **params})
        return await self.http.post(self.simulator.base_url + CHAT, content=sent, headers=headers)

    async def native(
        self,
        messages: Any = WHO,
        *,
        model: str = "qwen-plus",
        path: str = NATIVE_TEXT,
        stream: bool = False,
        headers: Any = None,
        **parameters: Any,
    ) -> httpx.Response:
        """Ask in the native protocol, for messages unless the parameters say otherwise."""
        body = {
            "model": model,
            "input": {"messages": messages},
            "parameters": {"result_format": "message", **parameters},
        }
        asked = {"X-DashScope-SSE": "enable"} if stream else {}
        url = self.simulator.native_base_url + path
        return await self.http.post(url, content=orjson.dumps(body), headers={**asked, **(headers or {})})

    async def upload(
        self, content: bytes = b"A document.", name: str = "a.txt", purpose: str = "file-extract"
    ) -> httpx.Response:
        """Send a file to the Files API."""
        return await self.http.post(
            self.simulator.base_url + "/files", files={"file": (name, content)}, data={"purpose": purpose}
        )


def at_simulator(
    use: Callable[[Place], Awaitable[None]], settings: Settings | None = None, clock: Clock | None = None
) -> None:
    """Run `use` against a fresh simulator, within a patience that turns a hang into a failure."""

    async def main() -> None:
        chosen: dict[str, Any] = {"clock": clock} if clock else {}
        async with (
            asyncio.timeout(PATIENCE_S),
            running(settings or Settings(), **chosen) as simulator,
            httpx.AsyncClient(trust_env=False) as http,
        ):
            await use(Place(simulator, http))

    asyncio.run(main())


def png(width: int, height: int, padding: int = 0) -> bytes:
    """Make the head of a PNG file of this size, which is all that its size needs."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + b"\0" * (4 + padding)


def data_url(content: bytes, mime: str = "image/png") -> str:
    """Write a file into an address."""
    return f"data:{mime};base64,{b64encode(content).decode()}"


def events(answer: httpx.Response) -> list[Any]:
    """Read the data of each event of a compatible stream, the end mark left out."""
    lines = answer.text.split("\n\n")
    assert lines[-1] == ""
    assert all(line.startswith("data: ") for line in lines[:-1])
    return [orjson.loads(line[6:]) for line in lines[:-1] if line != "data: [DONE]"]


def native_events(answer: httpx.Response) -> list[tuple[str, int, Any]]:
    """Read each event of a native stream as its kind, HTTP status and data; their numbers must count from 1."""
    blocks = answer.text.split("\n\n")
    assert blocks[-1] == ""
    read = []
    for number, block in enumerate(blocks[:-1], 1):
        identity, kind, status, data = block.split("\n")
        assert identity == f"id:{number}"
        assert data.startswith("data:{")
        kind, status = kind.removeprefix("event:"), status.removeprefix(":HTTP_STATUS/")
        read.append((kind, int(status), orjson.loads(data[5:])))
    return read
