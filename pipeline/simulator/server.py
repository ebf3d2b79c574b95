"""The HTTP side of the simulator: which path leads where, and the server's life.

Chat calls go to `chat_endpoint`, uploads to `storage.endpoints`; here stand only the paths, and the small
answers of the simulator's own (`/_health`, `/_ledger`).
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from pipeline.errors import SetupError
from pipeline.simulator.bodies import BodyRoom, Reading
from pipeline.simulator.chat.call import Dialect
from pipeline.simulator.chat_endpoint import ChatEndpoint
from pipeline.simulator.delivery import JSON
from pipeline.simulator.ledger import Ledger, body_key
from pipeline.simulator.refusals import METHOD_NOT_ALLOWED, NOT_FOUND, WRONG_KEY, Refusal
from pipeline.simulator.settings import Settings
from pipeline.simulator.storage.endpoints import StorageEndpoints
from pipeline.simulator.wire import compatible, native

BASE_PATH = "/compatible-mode/v1"
NATIVE_PATH = "/api/v1"
BACKLOG = 4096  # a client may open thousands of connections at once
# Where chat calls go: the dialect, and whether it is the native path for models that see.
CHAT_PATHS = {
    BASE_PATH + "/chat/completions": (Dialect.COMPATIBLE, False),
    "/v1/chat/completions": (Dialect.COMPATIBLE, False),
    NATIVE_PATH + "/services/aigc/text-generation/generation": (Dialect.NATIVE, False),
    NATIVE_PATH + "/services/aigc/multimodal-generation/generation": (Dialect.NATIVE, True),
}
TOKENIZER_PATH = NATIVE_PATH + "/tokenizer"
UPLOADS_PATH = NATIVE_PATH + "/uploads"
FORM_PATH = "/_oss"
_FILES_PATHS = (BASE_PATH + "/files", "/v1/files")
_MODELS_PATHS = (BASE_PATH + "/models", "/v1/models")
_SHUTDOWN_S = 0.05  # stalled requests must not hold the end up


class Simulator:
    """One server: its settings, its ledger, its limits and its stores. `url` is known once it listens.

    `key` makes the name by which the ledger knows a request of its body.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        key: Callable[[bytes], str] = body_key,
    ) -> None:
        self.settings = settings
        self.ledger = Ledger(max_keys=settings.ledger_keys, max_entries=settings.ledger_entries, key=key)
        self.url = ""
        self._clock = clock
        self._started_s = clock()
        self._room = BodyRoom(settings.max_held_bytes)
        self._storage = StorageEndpoints(settings, self.ledger, self._room, self._now_s)
        self._chat = ChatEndpoint(settings, self.ledger, self._storage, self._room, self._now_s)

    @property
    def base_url(self) -> str:
        """The address for clients of the compatible mode."""
        return self.url + BASE_PATH

    @property
    def native_base_url(self) -> str:
        """The address for clients of the native protocol."""
        return self.url + NATIVE_PATH

    def _now_s(self) -> float:
        return self._clock() - self._started_s

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it asks."""
        path, method = request.path, request.method
        chat = CHAT_PATHS.get(path)
        if chat is not None:
            dialect, multimodal_path = chat
            if method != "POST":
                return _refuse(METHOD_NOT_ALLOWED)
            return await self._chat.handle(request, dialect, multimodal_path=multimodal_path)
        if path == FORM_PATH:  # the form's own signature is its key
            return (
                await self._storage.handle_form(request) if method == "POST" else _refuse(METHOD_NOT_ALLOWED)
            )
        if method == "GET" and path == "/_health":
            return web.Response(body=b'{"status":"ok"}', content_type=JSON)
        if method == "GET" and path == "/_ledger":
            full, keys = request.query.get("full") == "1", request.query.get("keys") != "0"
            return web.Response(
                body=orjson.dumps(self.ledger.report(keys=keys, full=full)), content_type=JSON
            )
        return await self._with_key(request, path, method)

    async def _with_key(self, request: web.BaseRequest, path: str, method: str) -> web.StreamResponse:
        key = self.settings.api_key
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            return _refuse(WRONG_KEY)
        for base in _FILES_PATHS:
            if path == base or path.startswith(base + "/"):
                return await self._storage.handle_files(request, path[len(base) + 1 :])
        if path == TOKENIZER_PATH and method == "POST":
            return await self._count(request)
        if method != "GET":
            return _refuse(NOT_FOUND)
        if path == UPLOADS_PATH:
            return self._storage.policy(request, f"{request.scheme}://{request.host}{FORM_PATH}")
        if path in _MODELS_PATHS:
            return web.Response(body=compatible.models_body(), content_type=JSON)
        return _refuse(NOT_FOUND)

    async def _count(self, request: web.BaseRequest) -> web.Response:
        with Reading(self._room) as reading:
            body = await reading.body(request, self.settings.max_body_bytes)
            tokens = self._chat.count(body) if isinstance(body, bytes) else body
        if isinstance(tokens, Refusal):
            return _refuse(tokens, native_dialect=True)
        return web.Response(body=native.tokens_body(tokens, str(uuid.uuid4())), content_type=JSON)


def _refuse(refusal: Refusal, *, native_dialect: bool = False) -> web.Response:
    request_id = str(uuid.uuid4())
    body = refusal.native_body(request_id) if native_dialect else refusal.body(request_id)
    return web.Response(body=body, status=refusal.status, content_type=JSON)


@asynccontextmanager
async def running(
    settings: Settings, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Simulator]:
    """Run a simulator in the present loop; it listens inside the `with`, at `url` and `base_url`.

    `clock` is what the limits and the ledger's times go by. `SetupError` where the port cannot be had.
    """
    simulator = Simulator(settings, clock)
    # A handler ends when its client goes: an answer that nobody waits for is not answered.
    server = web.Server(simulator.handle, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise SetupError(
                f"cannot listen on {where}: {error.strerror}; take another port, or 0 for any"
            ) from None
        host, port = runner.addresses[0][:2]
        simulator.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        yield simulator
    finally:
        await runner.cleanup()


async def serve(
    settings: Settings, *, announce: Callable[[Simulator], None], stop: asyncio.Event | None = None
) -> Simulator:
    """Run a simulator until `stop` is set, or for ever; `announce` is called once it listens."""
    async with running(settings) as simulator:
        announce(simulator)
        await (stop or asyncio.Event()).wait()
    return simulator
