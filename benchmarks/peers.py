"""Other ways to ask a model about many rows, each as its documentation has one write it.

    python -m benchmarks.peers httpx ROWS_FILE --url http://127.0.0.1:PORT/v1 --connections 64

Most are the loop one would write by hand around a client: a task a row behind a semaphore (or the library's own bound), the
answers kept in a list. curator is a program for the purpose. Nothing but the standard library and the peer's own packages is
imported, so that each runs in an environment that has only itself.
"""

import argparse
import asyncio
import importlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.workload import CLIENT_CORE, KEY, MODEL, SYSTEM, USER, Spent, peak_mib, pin

Row = dict[str, Any]
Ask = Callable[[str], Awaitable[str | None]]
PARAMS: dict[str, Any] = {"temperature": 0, "max_tokens": 16}
TIMEOUT_S = 600


def by_aiohttp(rows: Iterable[Row], url: str, connections: int) -> list[Row]:
    """One `aiohttp.ClientSession` with as many connections as the semaphore lets through."""
    aiohttp = importlib.import_module("aiohttp")

    async def run() -> list[Row]:
        bound = aiohttp.TCPConnector(limit=connections)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=bound, timeout=timeout, headers=_key()) as session:

            async def ask(user: str) -> str | None:
                async with session.post(f"{url}/chat/completions", json=_body(user)) as answer:
                    answer.raise_for_status()
                    return _content(await answer.json())

            return await _loop(ask, rows, connections)

    return asyncio.run(run())


def by_httpx(rows: Iterable[Row], url: str, connections: int) -> list[Row]:
    """One `httpx.AsyncClient` with as many connections as the semaphore lets through."""

    async def run() -> list[Row]:
        async with _http_client("httpx", connections) as client:

            async def ask(user: str) -> str | None:
                answer = await client.post(f"{url}/chat/completions", json=_body(user), headers=_key())
                answer.raise_for_status()
                return _content(answer.json())

            return await _loop(ask, rows, connections)

    return asyncio.run(run())


def by_openai(rows: Iterable[Row], url: str, connections: int) -> list[Row]:
    """One `AsyncOpenAI`, over its own kind of HTTP client with that many connections."""
    return asyncio.run(_openai(_openai_http(connections), rows, url, connections))


def by_openai_over_aiohttp(rows: Iterable[Row], url: str, connections: int) -> list[Row]:
    """One `AsyncOpenAI` over the client of its extra `aiohttp`."""
    openai = importlib.import_module("openai")

    async def run() -> list[Row]:
        return await _openai(openai.DefaultAioHttpClient(timeout=TIMEOUT_S), rows, url, connections)

    return asyncio.run(run())


async def _openai(http: Any, rows: Iterable[Row], url: str, connections: int) -> list[Row]:
    openai = importlib.import_module("openai")
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, http_client=http) as client:

        async def ask(user: str) -> str | None:
            answer = await client.chat.completions.create(**_body(user))
            content: str | None = answer.choices[0].message.content
            return content

        return await _loop(ask, rows, connections)


def by_litellm(rows: Iterable[Row], url: str, connections: int) -> list[Row]:
    """`litellm.acompletion`, which keeps clients of its own."""
    litellm = importlib.import_module("litellm")

    async def ask(user: str) -> str | None:
        body = _body(user) | {"model": f"openai/{MODEL}"}
        answer = await litellm.acompletion(**body, api_base=url, api_key=KEY, timeout=TIMEOUT_S)
        content: str | None = answer.choices[0].message.content
        return content

    return asyncio.run(_loop(ask, rows, connections))


def by_langchain(rows: Iterable[Row], url: str, connections: int) -> list[Row]:
    """`ChatOpenAI.abatch`, with its own bound on what is in flight."""
    chat = importlib.import_module("langchain_openai").ChatOpenAI(
        model=MODEL, base_url=url, api_key=KEY, timeout=TIMEOUT_S, **PARAMS
    )
    kept = list(rows)
    asked = [[("system", SYSTEM), ("user", USER.format(row["text"]))] for row in kept]
    answers = asyncio.run(chat.abatch(asked, config={"max_concurrency": connections}))
    return [{**row, "answer": answer.content} for row, answer in zip(kept, answers, strict=True)]


def by_curator(rows: Iterable[Row], url: str, connections: int) -> list[Row]:
    """`curator.LLM`, its limits far away; what it keeps on disk goes to the folder CURATOR_CACHE_DIR."""
    curator = importlib.import_module("bespokelabs.curator")

    class Labels(curator.LLM):  # type: ignore[misc, name-defined]
        def prompt(self, row: Row) -> list[dict[str, str]]:
            return _messages(USER.format(row["text"]))

        def parse(self, row: Row, answer: str) -> Row:
            return {**row, "answer": answer}

    limits = {"max_requests_per_minute": 10**9, "max_tokens_per_minute": 10**12}
    backend = limits | {"base_url": url, "api_key": KEY, "max_concurrent_requests": connections}
    label = Labels(model_name=MODEL, backend="openai", backend_params=backend, generation_params=PARAMS)
    return list(label(list(rows)).dataset)


class Peer(NamedTuple):
    """How to run one, and what that imports: done before the clock of `main` starts, as it is for every client."""

    label: Callable[[Iterable[Row], str, int], list[Row]]
    imports: tuple[str, ...]


PEERS = {
    "aiohttp": Peer(by_aiohttp, ("aiohttp",)),
    "httpx": Peer(by_httpx, ("httpx",)),
    "openai": Peer(by_openai, ("openai",)),
    "openai-aiohttp": Peer(by_openai_over_aiohttp, ("openai",)),
    "litellm": Peer(by_litellm, ("litellm",)),
    "langchain": Peer(by_langchain, ("langchain_openai",)),
    "curator": Peer(by_curator, ("litellm.litellm_core_utils.default_encoding", "bespokelabs.curator")),
}


async def _loop(ask: Ask, rows: Iterable[Row], connections: int) -> list[Row]:
    semaphore = asyncio.Semaphore(connections)
    answers: list[Row] = []

    async def one(row: Row) -> None:
        async with semaphore:
            answer = await ask(USER.format(row["text"]))
        answers.append({**row, "answer": answer})

    await asyncio.gather(*(one(row) for row in rows))
    return answers


def _http_client(module: str, connections: int) -> Any:  # untyped here: not every environment has it
    httpx = importlib.import_module(module)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(limits=limits, timeout=TIMEOUT_S, trust_env=False)


def _openai_http(connections: int) -> Any:
    """A client of the package the openai SDK stands on: httpx2 from its version 3 on, httpx before."""
    base = importlib.import_module("openai").DefaultAsyncHttpxClient.__base__
    return _http_client(base.__module__.partition(".")[0], connections)


def _key() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


def _messages(user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def _body(user: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": _messages(user), **PARAMS}


def _content(answer: Any) -> str | None:
    content: str | None = answer["choices"][0]["message"]["content"]
    return content


def _read(dataset: Path) -> Iterator[Row]:
    with dataset.open("rb") as lines:
        yield from map(json.loads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, required=True)
    options = parser.parse_args()
    pin(CLIENT_CORE)
    peer = PEERS[options.peer]
    for module in peer.imports:
        importlib.import_module(module)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    answers = peer.label(_read(options.dataset), options.url, options.connections)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    if not all(answer["answer"] == "positive" for answer in answers):
        raise SystemExit("an answer is not what the server sent")
    print(json.dumps(Spent(len(answers), cpu_s, wall_s, peak_mib())._asdict()))


if __name__ == "__main__":
    main()
