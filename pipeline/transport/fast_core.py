"""The fast core: the default for chat calls. aiohttp's connections and parser, without its client.

Only aiohttp's terms are translated here. Its connector dials, tunnels, keeps alive and bounds the number of
connections; its response handler, compiled, parses. Between the two a request is one write of bytes made
ready beforehand: aiohttp's client session takes as much CPU again as all of that (docs/performance.md).

Why aiohttp: pyreqwest 0.15 takes less, but there a cancelled send runs on in threads of its own, its
connection open until a timeout ends it, and a kept-alive connection cannot be told from a fresh one.
httpx's own pool scans every connection at each request (encode/httpx#3215), so at hundreds of them it
stands still.
"""

import asyncio
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from yarl import URL

from pipeline.records import Failure, Request, Response
from pipeline.transport.seam import (
    KEEP_ALIVE_S,
    KEPT_HEADERS,
    Endpoint,
    Exchange,
    Fault,
    Sink,
    collector,
    connect_failure,
    failure,
    refusal,
    tls_context,
    too_large,
)
from pipeline.transport.stream_tap import StreamTap


class _Answer(NamedTuple):
    """The head of an answer, and its body to be read."""

    head: RawResponseMessage
    body: StreamReader


class FastTransport:
    """Posts over one pool of connections; make and close it inside the running loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._connector = aiohttp.TCPConnector(
            limit=endpoint.max_connections, keepalive_timeout=KEEP_ALIVE_S, ssl=tls_context(endpoint)
        )
        self._connect_timeout = aiohttp.ClientTimeout(
            connect=endpoint.connect_timeout_s, sock_connect=endpoint.connect_timeout_s
        )
        # What the connector is asked with: where to, and through which proxy. It is never sent itself.
        self._asked = aiohttp.ClientRequest(
            "POST",
            URL(endpoint.url),
            headers=endpoint.wire_headers(),
            proxy=None if endpoint.proxy is None else URL(endpoint.proxy),
            loop=self._loop,
        )
        self._head: bytes | None = None
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def send(self, request: Request, sink: Sink | None = None) -> Response | Failure:
        """Posts the body and reads the whole answer; every fault comes back as a Failure."""
        endpoint, exchange = self._endpoint, Exchange()
        started = self._loop.time()
        try:
            async with asyncio.timeout(endpoint.total_timeout_s):
                connection = await self._connect(exchange)
                try:
                    tap = self._tap(connection, sink)
                    answer = await self._post(connection, request.body)
                    exchange.status, exchange.headers = answer.head.code, answer.head.headers
                    refused = refusal(endpoint, exchange, answer.head.headers)
                    content = refused or await self._read(answer, exchange, sink, tap)
                    if tap is not None:
                        _untap(connection)
                except BaseException:
                    _drop(connection)
                    raise
                if isinstance(content, Failure) or _is_writing(connection):
                    _drop(connection)  # a body not read, or not written, to its end never reaches the pool
                else:
                    connection.release()
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            return _failure(endpoint, exchange, error)
        if isinstance(content, Failure):
            return content
        headers = {
            lower: value
            for name, value in answer.head.headers.items()
            if (lower := name.lower()) in KEPT_HEADERS
        }
        return Response(answer.head.code, headers, content, (self._loop.time() - started) * 1000)

    async def _connect(self, exchange: Exchange) -> Connection:
        while True:
            try:
                connection = await self._connector.connect(self._asked, [], self._connect_timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError from error
            protocol = connection.protocol
            if protocol is None or protocol not in self._used:
                exchange.fresh = True
                if protocol is not None:
                    self._used.add(protocol)
            elif protocol.should_close:
                # Something came while nobody had asked: read on, it would pass for the answer to this request.
                _drop(connection)
                continue
            exchange.written = True
            return connection

    def _tap(self, connection: Connection, sink: Sink | None) -> StreamTap | None:
        """Let a stream go to its sink by the shortest way, where there is one to come."""
        protocol, transport = connection.protocol, connection.transport
        if sink is None or protocol is None or transport is None:
            return None
        tap = StreamTap(protocol, sink, self._endpoint.max_response_bytes)
        transport.set_protocol(tap)
        return tap

    async def _post(self, connection: Connection, body: bytes) -> _Answer:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(
            read_until_eof=True, auto_decompress=False, read_timeout=self._endpoint.idle_timeout_s
        )
        if self._head is None:
            self._head = self._make_head()
        transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (self._head, len(body), body))
        if not protocol.writing_paused:
            protocol.start_timeout()
            return await _answer(protocol)
        writing = asyncio.create_task(_start_clock_once_written(protocol, self._loop))
        try:
            return await _answer(protocol)  # it may come before all is written
        finally:
            writing.cancel()

    def _make_head(self) -> bytes:
        """All of a request's head but its length; made after the first connect, which adds the proxy's password."""
        asked = self._asked
        through_proxy = asked.proxy is not None and not asked.is_ssl()
        target = str(asked.url) if through_proxy else asked.url.raw_path_qs
        fields = [
            (n, v)
            for n, v in asked.headers.items()
            if n.lower() not in ("content-length", "transfer-encoding")
        ]
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        return "".join(f"{line}\r\n" for line in lines).encode("latin-1")

    async def _read(
        self, answer: _Answer, exchange: Exchange, sink: Sink | None, tap: StreamTap | None
    ) -> bytes | Failure:
        if (
            sink is None and "content-length" in answer.head.headers
        ):  # within the bound: the head has been looked at
            return await answer.body.read()
        chunks: list[bytes] = []
        take = collector(exchange, sink, chunks)
        taken = 0
        async for chunk in answer.body.iter_any():
            taken += len(chunk)
            if taken > (self._endpoint.max_response_bytes if tap is None else tap.left):
                return too_large(self._endpoint, exchange)
            take(chunk)
        if tap is not None and tap.error is not None:
            raise tap.error
        if tap is not None and tap.too_large:
            return too_large(self._endpoint, exchange)
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Closes every connection; call it when no send is running."""
        await self._connector.close()


async def _answer(protocol: ResponseHandler) -> _Answer:
    while True:
        head, body = await protocol.read()
        if not 100 <= head.code < 200 or head.code == 101:  # interim answers say nothing
            return _Answer(head, body)


def _drop(connection: Connection) -> None:
    """Closes at once; `close` alone would first write what is left of a long body, to a server that may not read."""
    if connection.transport is not None:
        connection.transport.abort()
    connection.close()


def _untap(connection: Connection) -> None:
    if connection.transport is not None and connection.protocol is not None:
        connection.transport.set_protocol(connection.protocol)


def _is_writing(connection: Connection) -> bool:
    return connection.protocol is not None and connection.protocol.writing_paused


async def _start_clock_once_written(protocol: ResponseHandler, loop: asyncio.AbstractEventLoop) -> None:
    """Idle is silence after a request: while a long body still goes out, the total alone counts."""
    with suppress(ConnectionError):  # whoever waits for the answer learns of it
        await StreamWriter(protocol, loop).drain()
        protocol.start_timeout()


def _failure(endpoint: Endpoint, exchange: Exchange, error: Exception) -> Failure:
    # Order matters: aiohttp's own timeouts are TimeoutErrors too, its proxy error is a ClientResponseError.
    match error:
        case aiohttp.ClientHttpProxyError():
            return failure(endpoint, exchange, Fault.PROXY, f"it answered {error.status}")
        case TimeoutError() if not isinstance(error, aiohttp.ServerTimeoutError):
            return failure(endpoint, exchange, Fault.TOTAL_TIMEOUT)
        case _ if not exchange.written:
            return connect_failure(endpoint, exchange, error.__cause__ or error)
        case aiohttp.ServerTimeoutError():
            return failure(endpoint, exchange, Fault.IDLE_TIMEOUT)
        case aiohttp.ServerDisconnectedError():
            return failure(endpoint, exchange, Fault.CONNECTION_CLOSED)
        case aiohttp.ClientPayloadError():
            return failure(endpoint, exchange, Fault.CUT_BODY)
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return failure(endpoint, exchange, Fault.BAD_HTTP)
        case _:
            return failure(endpoint, exchange, Fault.RESET)
