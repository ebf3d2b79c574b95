"""A TCP proxy of the tests, between a run and the simulator: passes requests on, and breaks their answers as a plan says.

It knows just enough HTTP/1.1 to tell requests and answers apart, so that a fault stands at a chosen byte. Which request
meets which fault is the test's plan; what a client must make of it stands in the tests.
"""

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeVar

import uvloop

from pipeline.simulator.server import BASE_PATH, Simulator, running
from pipeline.simulator.settings import Settings
from tests.support.servers import Connection, RawRequest, serve

T = TypeVar("T")
_PATIENCE_S = 60.0
# As much of a body as a plan sees: enough to know the row, and no more than a faulty server need have read.
STARTS_BYTES = 2048


class Answer(NamedTuple):
    """A whole answer as it came: its head with the blank line, its body as framed, and the body's own bytes."""

    head: bytes
    framed: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.head + self.framed


class Then(StrEnum):
    """What becomes of the connection when all is said."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"  # until the client goes


def whole(answer: Answer) -> Iterable[bytes]:
    return [answer.raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to break a passage.

    `said` are the pieces that go back, `pause_s` apart. `asks`: the simulator is asked first, else it never hears of the
    request. `reads` is how much of the body is taken before the fault, None all of it. `kept_alive`: only on a connection
    that has carried an answer; a fresh one is spared. `demand` goes along to the simulator as `X-Simulate`.
    """

    said: Callable[[Answer], Iterable[bytes]] = whole
    then: Then = Then.KEEP
    asks: bool = True
    pause_s: float = 0.0
    reads: int | None = None
    kept_alive: bool = False
    demand: str = ""


# The start of a body and how often it has come, this time included: a fault, or None where the request passes.
Plan = Callable[[bytes, int], Fault | None]
_NOTHING = Answer(b"", b"", b"")


@dataclass(slots=True)
class FaultProxy:
    """One running proxy. By the start of the body, `seen` counts requests and `met` those that were broken.

    `arrived_s` is when each request came, by the loop's time.
    """

    plan: Plan
    upstream: tuple[str, int]
    base_url: str = ""
    connections: int = 0
    seen: Counter[bytes] = field(default_factory=Counter)
    met: Counter[bytes] = field(default_factory=Counter)
    arrived_s: list[float] = field(default_factory=list)

    async def play(self, conn: Connection) -> None:
        """Carry the requests of one connection until either side ends it."""
        self.connections += 1
        way = _Way(self.upstream)
        answered = False
        try:
            while True:
                request = await conn.read_head()
                length = int(request.headers.get("content-length", "0"))
                request.body = await conn.reader.readexactly(min(length, STARTS_BYTES))
                self.arrived_s.append(asyncio.get_running_loop().time())
                self.seen[request.body] += 1
                fault = self.plan(request.body, self.seen[request.body])
                if fault is None or (fault.kept_alive and not answered):
                    fault = _PASSES
                else:
                    self.met[request.body] += 1
                wanted = length if fault.reads is None else min(length, fault.reads)
                request.body += await conn.reader.readexactly(max(wanted - len(request.body), 0))
                answer = await way.ask(request, fault.demand) if fault.asks else _NOTHING
                if not await _say(conn, fault, answer):
                    return
                answered = True
        finally:
            way.close()


_PASSES = Fault()


async def _say(conn: Connection, fault: Fault, answer: Answer) -> bool:
    """Play the fault; True if the connection goes on."""
    for n, piece in enumerate(fault.said(answer)):
        if n and fault.pause_s:
            await asyncio.sleep(fault.pause_s)
        await conn.send(piece)
    match fault.then:
        case Then.RESET:
            conn.reset()
        case Then.STALL:
            await conn.wait_closed()
    return fault.then is Then.KEEP


class _Way:
    """The connection to the simulator that belongs to one of a client's."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: RawRequest, demand: str) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._upstream)
        reader, writer = self._streams
        head = request.head
        if demand:
            head = head[:-2] + f"x-simulate: {demand}\r\n\r\n".encode()
        writer.write(head + request.body)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = head.lower().split(b"\r\n")
        length = next((int(f[15:]) for f in fields if f.startswith(b"content-length:")), None)
        if length is not None:
            body = await reader.readexactly(length)
            return Answer(head, body, body)
        framed = pieces = b""
        while True:
            line = await reader.readline()
            chunk = await reader.readexactly(int(line, 16) + 2)
            framed += line + chunk
            pieces += chunk[:-2]
            if len(chunk) == 2:
                return Answer(head, framed, pieces)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


@asynccontextmanager
async def faulty(
    plan: Plan, upstream: Simulator, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FaultProxy]:
    """A proxy before this simulator, on a free loopback port while the block runs."""
    host, _, port = upstream.url.removeprefix("http://").partition(":")
    proxy = FaultProxy(plan, (host, int(port)))
    async with serve(proxy.play, tls=tls) as server:
        proxy.base_url = f"{server.scheme}://{server.host}:{server.port}{BASE_PATH}"
        yield proxy


class Provider(NamedTuple):
    """A simulator, and the proxy that stands before it."""

    simulator: Simulator
    proxy: FaultProxy


@asynccontextmanager
async def faulty_provider(
    plan: Plan, settings: Settings | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Provider]:
    async with running(settings or Settings()) as simulator, faulty(plan, simulator, tls=tls) as proxy:
        yield Provider(simulator, proxy)


@contextmanager
def in_thread(server: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Runs a server on a loop and thread of its own, for the tests that start a run as a process."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="faulty")
    thread.start()

    def run(coroutine: object) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_PATIENCE_S)  # type: ignore[arg-type]

    try:
        yield run(server.__aenter__())
    finally:
        with suppress(TimeoutError):
            run(server.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE_S)
        loop.close()
