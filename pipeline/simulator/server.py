"""The HTTP side of the simulator: paths, deliveries (whole, cut, dripping, reset, never), the server's life.

What an answer says is decided in `chat`, which fault a request meets in `faults`, whether the limits let it
pass in `quota`; only this module touches connections. The way of a request:

    read -> ledger -> key -> parse -> fault said at once? -> quota -> wait the latency -> deliver -> ledger
"""

import asyncio
import socket
import struct
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import orjson
from aiohttp import web

from pipeline.errors import JobError, SetupError
from pipeline.simulator.chat import Answered, models_body, parse_ask, respond, response_body, shorten
from pipeline.simulator.faults import AT_ONCE, NO_FAULT, FaultKind, choose_fault, parse_kind
from pipeline.simulator.ledger import Entry, Ledger, body_key
from pipeline.simulator.quota import Quota
from pipeline.simulator.refusals import (
    BY_FAULT,
    GARBAGE,
    HTML_502,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    TOO_LARGE,
    WRONG_KEY,
    Refusal,
    invalid_parameter,
)
from pipeline.simulator.settings import Settings

CHAT_PATHS = ("/compatible-mode/v1/chat/completions", "/v1/chat/completions")
BASE_PATH = "/compatible-mode/v1"
FORCE_HEADER = "X-Simulate"
PARTIAL_HEADER = "x-dashscope-partialresponse"
JSON = "application/json"
DRIPS = 8
BACKLOG = 4096  # a client may open thousands of connections at once
# With linger on and 0 seconds, closing sends RST instead of FIN.
_LINGER_RESET = struct.pack("ii", 1, 0)
_SHUTDOWN_S = 0.05  # stalled requests must not hold the end up


@dataclass(slots=True)
class Reply:
    """What goes back; `completed`: it holds a completion; `delivery`: the fault that shapes the sending."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    completed: bool = False
    delivery: FaultKind | None = None
    wait_s: float = 0.0


class Simulator:
    """One server: its settings, its ledger and its limits. `url` is known once it listens."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.ledger = Ledger(max_keys=settings.ledger_keys, max_entries=settings.ledger_entries)
        self.url = ""
        self._clock = clock
        self._started_s = clock()
        self._quota = Quota(settings)

    @property
    def base_url(self) -> str:
        """The address for clients of the compatible mode."""
        return self.url + BASE_PATH

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it asks."""
        path, method = request.path, request.method
        if path in CHAT_PATHS:
            return await self._chat(request) if method == "POST" else _refuse(METHOD_NOT_ALLOWED)
        if method != "GET":
            return _refuse(NOT_FOUND)
        if path == "/_health":
            return web.Response(body=b'{"status":"ok"}', content_type=JSON)
        if path == "/_ledger":
            full, keys = request.query.get("full") == "1", request.query.get("keys") != "0"
            return web.Response(
                body=orjson.dumps(self.ledger.report(keys=keys, full=full)), content_type=JSON
            )
        if path in (BASE_PATH + "/models", "/v1/models"):
            return web.Response(body=models_body(), content_type=JSON)
        return _refuse(NOT_FOUND)

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._read(request)
        if body is None:
            self.ledger.unread += 1
            return _refuse(TOO_LARGE)
        entry = self.ledger.receive(body_key(body), self._clock() - self._started_s)
        try:
            reply = self._decide(request, body, entry)
            if reply.wait_s:
                await asyncio.sleep(reply.wait_s)
            return await _deliver(request, reply, entry, self.settings.slow_s)
        finally:
            self.ledger.settle(entry)

    async def _read(self, request: web.BaseRequest) -> bytes | None:
        limit = self.settings.max_body_bytes
        if (request.content_length or 0) > limit:
            return None
        parts: list[bytes] = []
        size = 0
        async for part in request.content.iter_any():
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decide(self, request: web.BaseRequest, body: bytes, entry: Entry) -> Reply:
        # What is said follows the request alone; how it goes also follows how often it came, so that a retry
        # may fare better.
        conduct = Random(f"{self.settings.seed}/{entry.key}/{entry.seen}")  # noqa: S311 - chance only
        request_id = entry.request_id = str(uuid.UUID(int=conduct.getrandbits(128), version=4))
        key = self.settings.api_key
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            return _refusal(WRONG_KEY, request_id)
        try:
            fault = self._fault(request, conduct)
        except JobError as error:
            return _refusal(invalid_parameter(f"{FORCE_HEADER}: {error}"), request_id)
        ask = parse_ask(body)
        if isinstance(ask, Refusal):
            return _refusal(ask, request_id)
        entry.model = ask.model
        entry.fault = fault.value if fault else None
        if fault in AT_ONCE:
            if fault is FaultKind.HTML_502:
                return Reply(502, HTML_502, "text/html")
            return _refusal(BY_FAULT[fault], request_id)
        answered = respond(ask, Random(f"{self.settings.seed}/{entry.key}"))  # noqa: S311 - chance only
        tokens = ask.prompt_tokens + answered.completion_tokens
        over = self._quota.admit(ask.model, tokens, self._clock() - self._started_s)
        if over is not None:
            entry.fault = None  # a limit, not a fault: the request never met it
            return _refusal(BY_FAULT[over], request_id)
        reply = _faulty(answered, fault, entry, request_id)
        reply.wait_s = self.settings.latency.sample_s(conduct)
        return reply

    def _fault(self, request: web.BaseRequest, conduct: Random) -> FaultKind | None:
        drawn = choose_fault(self.settings.faults, conduct)
        forced = request.headers.get(FORCE_HEADER)
        if forced is None:
            return drawn
        return None if forced == NO_FAULT else parse_kind(forced)


def _faulty(answered: Answered, fault: FaultKind | None, entry: Entry, request_id: str) -> Reply:
    """Make the reply to an admitted ask, its fault built in, and enter the tokens that were generated."""
    headers = {"x-request-id": request_id}
    match fault:
        case FaultKind.EMPTY:
            return Reply(200, b"", headers=headers)
        case FaultKind.GARBAGE:
            return Reply(200, GARBAGE, headers=headers)
        case FaultKind.ERROR_200:
            return Reply(200, BY_FAULT[FaultKind.ERROR_200].body(request_id), headers=headers)
        case FaultKind.RESET | FaultKind.STALL:
            return Reply(0, b"", delivery=fault)
        case FaultKind.PARTIAL:
            shorten(answered, None)
            headers[PARTIAL_HEADER] = "true"
        case FaultKind.TRUNCATED:
            shorten(answered, "length")
    reply = Reply(200, response_body(answered, request_id), headers=headers, completed=True, delivery=fault)
    entry.prompt_tokens = answered.ask.prompt_tokens
    entry.completion_tokens = answered.completion_tokens
    return reply


async def _deliver(request: web.BaseRequest, reply: Reply, entry: Entry, slow_s: float) -> web.StreamResponse:
    """Send the reply as its delivery says, and enter what became of it."""
    transport = request.transport
    if reply.delivery is FaultKind.STALL:
        await asyncio.Event().wait()  # until the client goes, which cancels this
    if reply.delivery is FaultKind.RESET and transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        transport.abort()
    if transport is None or transport.is_closing():
        return web.Response()  # goes nowhere: the connection is gone before the answer
    if reply.delivery in (FaultKind.CUT, FaultKind.SLOW):
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        response.content_type = reply.content_type
        response.content_length = len(reply.body)
        await response.prepare(request)
        entry.status = reply.status
        if reply.delivery is FaultKind.CUT:
            await response.write(reply.body[: len(reply.body) // 2])
            transport.close()
            return response
        step = -(-len(reply.body) // DRIPS)
        for start in range(0, len(reply.body), step):
            if start:
                await asyncio.sleep(slow_s / DRIPS)
            await response.write(reply.body[start : start + step])
    else:
        response = web.Response(
            body=reply.body, status=reply.status, headers=reply.headers, content_type=reply.content_type
        )
        await response.prepare(request)
        entry.status = reply.status
    await response.write_eof()
    # All of it is with the kernel, and the client was still there: more cannot be known on this side.
    entry.answered = not transport.is_closing() and transport.get_write_buffer_size() == 0
    entry.completed = entry.answered and reply.completed
    return response


def _refusal(refusal: Refusal, request_id: str) -> Reply:
    return Reply(refusal.status, refusal.body(request_id), headers={"x-request-id": request_id})


def _refuse(refusal: Refusal) -> web.Response:
    return web.Response(body=refusal.body(str(uuid.uuid4())), status=refusal.status, content_type=JSON)


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
