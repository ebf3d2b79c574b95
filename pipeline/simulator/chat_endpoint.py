"""Chat calls over HTTP, in either dialect: which fault or limit a request meets, and the reply it gets.

What an answer says is decided in `chat`, how it is encoded in `wire`, how it is sent in `delivery`. The way of
a request:

    read -> ledger -> key -> parse -> fault said at once? -> quota -> answer -> wait the latency -> deliver -> ledger
"""

import uuid
from collections.abc import Callable
from random import Random

from aiohttp import web

from pipeline.errors import JobError
from pipeline.simulator.bodies import BodyRoom, Reading
from pipeline.simulator.chat.ask import Ask, parse_ask
from pipeline.simulator.chat.call import Call, Dialect
from pipeline.simulator.chat.media import Media
from pipeline.simulator.chat.models import traits_of
from pipeline.simulator.chat.respond import Answered, respond, shorten
from pipeline.simulator.delivery import EVENTS, JSON, Reply, deliver
from pipeline.simulator.documented import Demand, demanded
from pipeline.simulator.faults import AT_ONCE, OF_STREAMS, FaultKind, choose_fault
from pipeline.simulator.ledger import Entry, Ledger
from pipeline.simulator.quota import Quota
from pipeline.simulator.refusals import (
    BLOCKED_OUTPUT,
    BY_FAULT,
    GARBAGE,
    HTML_502,
    NO_ASYNC_CALLS,
    WRONG_KEY,
    Refusal,
    invalid_parameter,
)
from pipeline.simulator.settings import Settings
from pipeline.simulator.storage.endpoints import StorageEndpoints
from pipeline.simulator.wire import compatible, native
from pipeline.simulator.wire.stream import Wire

FORCE_HEADER = "X-Simulate"
PARTIAL_HEADER = "x-dashscope-partialresponse"
WIRES: dict[Dialect, Wire] = {Dialect.COMPATIBLE: compatible, Dialect.NATIVE: native}


class ChatEndpoint:
    """Answers chat calls from the settings, the stores, the limits and the ledger of one simulator."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        storage: StorageEndpoints,
        room: BodyRoom,
        now_s: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._storage = storage
        self._room = room
        self._now_s = now_s
        self._quota = Quota(settings)

    async def handle(
        self, request: web.BaseRequest, dialect: Dialect, *, multimodal_path: bool
    ) -> web.StreamResponse:
        """Answer one call."""
        with Reading(self._room) as reading:
            body = await reading.body(request, self._settings.max_body_bytes)
            if isinstance(body, bytes):
                return await self._answer(request, body, dialect, multimodal_path)
        self._ledger.unread += 1
        reply = _refusal(dialect, body, str(uuid.uuid4()))
        return web.Response(body=reply.body, status=reply.status, content_type=JSON)

    async def _answer(
        self, request: web.BaseRequest, body: bytes, dialect: Dialect, multimodal_path: bool
    ) -> web.StreamResponse:
        entry = self._ledger.receive(body, self._now_s())
        try:
            # What is said follows the question alone; how it goes also follows how often it came, so that a
            # retry may fare better.
            conduct = Random(f"{self._settings.seed}/{entry.key}/{entry.seen}")  # noqa: S311 - chance only
            entry.request_id = str(uuid.UUID(int=conduct.getrandbits(128), version=4))
            reply = self._decide(
                request, body, entry, conduct, _read(request, body, dialect, multimodal_path)
            )
            return await deliver(request, reply, entry, self._settings.slow_s)
        finally:
            self._ledger.settle(entry)

    def count(self, body: bytes) -> int | Refusal:
        """Count the prompt tokens of a native body, as the tokenizer's path does."""
        call = native.read(body, stream=False, multimodal_path=True)
        if isinstance(call, Call):
            call.multimodal_path = bool(traits_of(call.model).multimodal)
            call.params = {}
            call.stream = traits_of(call.model).stream_only or not traits_of(call.model).thinks_without_stream
            call.incremental = True
            call.result_format = "message"
        ask = call if isinstance(call, Refusal) else self._ask(call, resolves_oss=False)
        return ask if isinstance(ask, Refusal) else ask.prompt.tokens

    def _ask(self, call: Call, *, resolves_oss: bool) -> Ask | Refusal:
        most = traits_of(call.model).most_data_uri_bytes
        media = Media(self._settings.sizes, self._storage.objects, call.model, resolves_oss, most)
        return parse_ask(call, media, self._storage.files)

    def _decide(
        self, request: web.BaseRequest, body: bytes, entry: Entry, conduct: Random, call: Call | Refusal
    ) -> Reply:
        dialect = call.dialect if isinstance(call, Call) else _dialect_of(request)
        request_id = entry.request_id or ""
        key = self._settings.api_key
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            return _refusal(dialect, WRONG_KEY, request_id)
        if request.headers.get("X-DashScope-Async") == "enable":
            return _refusal(dialect, NO_ASYNC_CALLS, request_id)
        try:
            demand = self._demand(request, body, entry, conduct)
        except JobError as error:
            return _refusal(dialect, invalid_parameter(f"{FORCE_HEADER}: {error}"), request_id)
        resolves_oss = request.headers.get("X-DashScope-OssResourceResolve") == "enable"
        ask = call if isinstance(call, Refusal) else self._ask(call, resolves_oss=resolves_oss)
        if isinstance(ask, Refusal):
            return _refusal(dialect, ask, request_id)
        entry.model, entry.modes = ask.model, tuple(ask.modes())
        fault = None if demand.fault in OF_STREAMS and not ask.call.stream else demand.fault
        entry.fault = demand.name if fault or demand.refusal else None
        if demand.refusal is not None:
            return _refusal(dialect, demand.refusal, request_id)
        if fault in AT_ONCE:
            return _said_at_once(fault, dialect, request_id)
        answered = respond(ask, self._settings.seed)
        tokens = answered.prompt_tokens + answered.completion_tokens
        over = self._quota.admit(ask.model, tokens, self._now_s())
        if over is not None:
            entry.fault = None  # a limit, not a fault: the request never met it
            return _refusal(dialect, BY_FAULT[over], request_id)
        reply = self._reply(answered, fault, entry)
        reply.wait_s = self._settings.latency.sample_s(conduct)
        return reply

    def _demand(self, request: web.BaseRequest, body: bytes, entry: Entry, conduct: Random) -> Demand:
        drawn = choose_fault(self._settings.faults, conduct)
        demand = demanded(request.headers.get(FORCE_HEADER), body, entry.seen)
        return demand or Demand(drawn.value if drawn else "", fault=drawn)

    def _reply(self, answered: Answered, fault: FaultKind | None, entry: Entry) -> Reply:
        """Make the reply to an admitted ask, its fault built in, and enter the tokens that were generated."""
        request_id = entry.request_id or ""
        headers = {"x-request-id": request_id}
        call = answered.ask.call
        wire = WIRES[call.dialect]
        match fault:
            case FaultKind.EMPTY:
                return Reply(200, headers=headers)
            case FaultKind.GARBAGE:
                return Reply(200, GARBAGE, headers=headers)
            case FaultKind.ERROR_200:
                return Reply(200, wire.refusal_body(BY_FAULT[fault], request_id), headers=headers)
            case FaultKind.RESET | FaultKind.STALL:
                return Reply(0, delivery=fault)
            case FaultKind.PARTIAL:
                shorten(answered, None)
                headers[PARTIAL_HEADER] = "true"
            case FaultKind.TRUNCATED:
                shorten(answered, "length")
        entry.prompt_tokens = answered.prompt_tokens
        entry.completion_tokens = answered.completion_tokens
        reply = Reply(200, headers=headers, completed=fault not in OF_STREAMS, delivery=fault)
        if not call.stream:
            reply.body = wire.body(answered, request_id)
            return reply
        stream = wire.stream(answered, request_id, self._settings.stream_pieces)
        reply.content_type, reply.stream_s = EVENTS, self._settings.stream_s
        reply.frames = stream.frames
        if fault in OF_STREAMS:
            # About half of what comes before any finish reason, and at least a beginning.
            reply.frames = stream.frames[: max(1, (stream.unfinished + 1) // 2)]
        if fault is FaultKind.ERROR_EVENT:
            reply.frames.append(wire.error_event(BLOCKED_OUTPUT, len(reply.frames) + 1, request_id))
        return reply


def _dialect_of(request: web.BaseRequest) -> Dialect:
    return Dialect.NATIVE if request.path.startswith("/api/") else Dialect.COMPATIBLE


def _read(request: web.BaseRequest, body: bytes, dialect: Dialect, multimodal_path: bool) -> Call | Refusal:
    if dialect is Dialect.COMPATIBLE:
        return compatible.read(body)
    asked = request.headers.get("X-DashScope-SSE") == "enable" or EVENTS in request.headers.get("Accept", "")
    return native.read(body, stream=asked, multimodal_path=multimodal_path)


def _refusal(dialect: Dialect, refusal: Refusal, request_id: str) -> Reply:
    body = WIRES[dialect].refusal_body(refusal, request_id)
    return Reply(refusal.status, body, headers={"x-request-id": request_id})


def _said_at_once(fault: FaultKind, dialect: Dialect, request_id: str) -> Reply:
    if fault is FaultKind.HTML_502:
        return Reply(502, HTML_502, content_type="text/html")
    reply = _refusal(dialect, BY_FAULT[fault], request_id)
    if fault is FaultKind.PREFIXED_400:
        reply.body = b"data: " + reply.body + b"\n\n"
        reply.content_type = EVENTS
    return reply
