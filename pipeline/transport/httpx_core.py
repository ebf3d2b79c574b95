"""The httpx core: any `httpx.AsyncBaseTransport`, from httpx's own pool to a mock in a test.

Only httpx's terms are translated here. It speaks to the transport below httpx's client, which has no
redirects, cookies or retries to switch off. httpx's own pool scans every connection at each request
(encode/httpx#3215): right for a few connections and for transports of your own, while the fast core is
the default.
"""

import asyncio
from collections.abc import AsyncIterable
from typing import Any

import httpx

from pipeline.records import Failure, Request, Response
from pipeline.transport.seam import (
    KEEP_ALIVE_S,
    Endpoint,
    Exchange,
    Fault,
    Sink,
    causes,
    collector,
    connect_failure,
    failure,
    kept,
    refusal,
    tls_context,
    too_large,
)


class HttpxTransport:
    """Posts over one httpx transport: httpx's own pool, or the one given, which is then closed with it."""

    def __init__(self, endpoint: Endpoint, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._endpoint = endpoint
        self._url = httpx.URL(endpoint.url)
        self._headers = httpx.Headers(endpoint.wire_headers())
        self._traced = transport is None
        self._transport = transport or _own_pool(endpoint)
        self._timeout = httpx.Timeout(
            endpoint.idle_timeout_s, connect=endpoint.connect_timeout_s, pool=endpoint.connect_timeout_s
        ).as_dict()

    async def send(self, request: Request, sink: Sink | None = None) -> Response | Failure:
        """Posts the body and reads the whole answer; every fault comes back as a Failure."""
        endpoint = self._endpoint
        # A foreign transport does not say when it writes: take it that it has, on a connection of its own.
        exchange = Exchange() if self._traced else Exchange(fresh=True, written=True)
        trace = _Trace(exchange)
        asked = httpx.Request(
            "POST",
            self._url,
            headers=self._headers,
            content=request.body,
            extensions={"timeout": self._timeout, "trace": trace},
        )
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(endpoint.total_timeout_s):
                try:
                    answer = await self._transport.handle_async_request(asked)
                except asyncio.CancelledError:
                    await trace.abandon()
                    raise
                try:
                    if trace.unasked:
                        return failure(endpoint, exchange, Fault.UNASKED)
                    exchange.status = answer.status_code
                    exchange.headers = answer.headers
                    content = refusal(endpoint, exchange, answer.headers) or await self._read(
                        answer, exchange, sink
                    )
                finally:
                    await answer.aclose()
        except TimeoutError:
            return failure(endpoint, exchange, Fault.TOTAL_TIMEOUT)
        except httpx.TransportError as error:
            if trace.unasked and isinstance(error, httpx.RemoteProtocolError):
                return failure(endpoint, exchange, Fault.UNASKED)
            return _failure(endpoint, exchange, error)
        if isinstance(content, Failure):
            return content
        return Response(answer.status_code, kept(answer.headers), content, (loop.time() - started) * 1000)

    async def _read(self, answer: httpx.Response, exchange: Exchange, sink: Sink | None) -> bytes | Failure:
        chunks: list[bytes] = []
        take = collector(exchange, sink, chunks)
        left = self._endpoint.max_response_bytes
        assert isinstance(answer.stream, AsyncIterable)  # noqa: S101 - httpx types it as either kind of stream
        async for chunk in answer.stream:
            left -= len(chunk)
            if left < 0:
                return too_large(self._endpoint, exchange)
            take(chunk)
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Closes every connection; call it when no send is running."""
        await self._transport.aclose()


def _own_pool(endpoint: Endpoint) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(
        verify=tls_context(endpoint),
        proxy=endpoint.proxy,
        trust_env=False,
        limits=httpx.Limits(
            max_connections=endpoint.max_connections,
            max_keepalive_connections=endpoint.max_connections,
            keepalive_expiry=KEEP_ALIVE_S,
        ),
    )


class _Trace:
    """Follows httpcore's trace events ("Extensions" in its docs); a tunnel's CONNECT is not our request.

    `unasked`: what was read as the answer was there before the request. h11 keeps what follows an answer in the
    same read and takes it for the next one's; to read from a socket takes a turn of the loop, so an answer
    that took none came from there.
    """

    __slots__ = ("_exchange", "_stream", "_turns", "unasked")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._stream: Any = None  # an httpcore.AsyncNetworkStream
        self._turns: list[None] = []
        self.unasked = False

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event == "http11.receive_response_headers.started":
            asyncio.get_running_loop().call_soon(self._turns.append, None)
        elif event in ("http11.receive_response_headers.complete", "http11.receive_response_headers.failed"):
            self.unasked = not self._turns and not self._exchange.fresh
        elif event == "connection.connect_tcp.started":
            self._exchange.fresh = True
        elif event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "http11.send_request_headers.started" and info["request"].method == b"POST":
            self._exchange.written = True

    async def abandon(self) -> None:
        """Closes a connection left in its TLS handshake: httpcore 1.0 forgets it where that is cancelled."""
        if self._stream is not None and not self._exchange.written:
            await self._stream.aclose()


_CONNECTING = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)


def _failure(endpoint: Endpoint, exchange: Exchange, error: httpx.TransportError) -> Failure:
    if isinstance(error, _CONNECTING):
        exchange.written = False
    match error:
        case httpx.ProxyError():
            status = str(error)[:3]
            return failure(
                endpoint, exchange, Fault.PROXY, f"it answered {status}" if status.isdecimal() else ""
            )
        case httpx.TimeoutException():
            fault = Fault.IDLE_TIMEOUT if exchange.written else Fault.CONNECT_TIMEOUT
            return failure(endpoint, exchange, fault)
        case _ if not exchange.written:
            return connect_failure(endpoint, exchange, error)
        case httpx.NetworkError():
            return failure(endpoint, exchange, Fault.RESET)
        case _ if exchange.status is not None:
            return failure(endpoint, exchange, Fault.CUT_BODY)
        case _:
            # h11 words what it could not read; a close before the answer is httpcore's own finding.
            garbled = any(type(cause).__module__.startswith("h11") for cause in causes(error))
            return failure(endpoint, exchange, Fault.BAD_HTTP if garbled else Fault.CONNECTION_CLOSED)
