"""The fast core, over aiohttp: the default for chat calls.

Only aiohttp's terms are translated here. Why aiohttp: pyreqwest 0.15 takes half its CPU a request, but
there a cancelled send runs on in threads of its own, its connection open until a timeout ends it, and a
kept-alive connection cannot be told from a fresh one. aiohttp's connector says both, and whether the
request could have been written. httpx's own pool scans every connection at each request
(encode/httpx#3215), so at hundreds of them it stands still.
"""

import asyncio
import io
from contextvars import ContextVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from pipeline.records import Failure, Request, Response
from pipeline.transport.seam import (
    KEEP_ALIVE_S,
    KEPT_HEADERS,
    Endpoint,
    Exchange,
    Fault,
    connect_failure,
    failure,
    refusal,
    tls_context,
    too_large,
)

# aiohttp warns where more than this is sent as plain bytes: it cannot write them without blocking the loop.
_LARGE_BODY_BYTES = 1024 * 1024
# The attempt of the running task: aiohttp hands nothing of a call down to its connector.
_attempt: ContextVar[Exchange] = ContextVar("_attempt")


class FastTransport:
    """Posts over one aiohttp session; make and close it inside the running loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = URL(endpoint.url)
        self._loop = asyncio.get_running_loop()
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=endpoint.max_connections,
                keepalive_timeout=KEEP_ALIVE_S,
                ssl=tls_context(endpoint),
            ),
            headers=endpoint.wire_headers(),
            proxy=endpoint.proxy,
            timeout=aiohttp.ClientTimeout(
                total=endpoint.total_timeout_s,
                connect=endpoint.connect_timeout_s,
                sock_connect=endpoint.connect_timeout_s,
                sock_read=endpoint.idle_timeout_s,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def send(self, request: Request) -> Response | Failure:
        """Posts the body and reads the whole answer; every fault comes back as a Failure."""
        endpoint, exchange = self._endpoint, Exchange()
        body = request.body if len(request.body) < _LARGE_BODY_BYTES else io.BytesIO(request.body)
        _attempt.set(exchange)
        started = self._loop.time()
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as answer:
                exchange.status = answer.status
                exchange.headers = answer.headers
                content = refusal(endpoint, exchange, answer.headers) or await self._read(answer, exchange)
                if isinstance(content, Failure):
                    answer.close()  # an unread body never reaches the pool
                    return content
        except (aiohttp.ClientError, OSError) as error:
            return _failure(endpoint, exchange, error)
        headers = {
            lower: value for name, value in answer.headers.items() if (lower := name.lower()) in KEPT_HEADERS
        }
        return Response(answer.status, headers, content, (self._loop.time() - started) * 1000)

    async def _read(self, answer: aiohttp.ClientResponse, exchange: Exchange) -> bytes | Failure:
        if answer.content_length is not None:  # within the bound: the head has been looked at
            return await answer.read()
        chunks: list[bytes] = []
        left = self._endpoint.max_response_bytes
        async for chunk in answer.content.iter_any():
            left -= len(chunk)
            if left < 0:
                return too_large(self._endpoint, exchange)
            chunks.append(chunk)
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Closes every connection; call it when no send is running."""
        await self._session.close()


class _Connector(aiohttp.TCPConnector):
    """Notes how far each attempt's connection is. aiohttp's tracing tells the same, for 25 us CPU a request more."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        _attempt.get().written = True
        return connection

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        _attempt.get().fresh = True
        return await super()._create_connection(req, traces, timeout)


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
        case aiohttp.ClientResponseError():
            return failure(endpoint, exchange, Fault.BAD_HTTP)
        case _:
            return failure(endpoint, exchange, Fault.RESET)
