"""The cores of the transport seam, each on both loops, opened with short bounds for the contract tests.

Every failure that passes here is searched for the key and the proxy's password.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from pipeline.records import Failure, Request, Response
from pipeline.transport import Core, Endpoint, Transport, open_transport

KEY = "Bearer sk-never-shown"
PASSWORD = "hunter2"


@dataclass(frozen=True)
class Client:
    """One core on one loop."""

    core: Core
    new_loop: Callable[[], asyncio.AbstractEventLoop]

    def __str__(self) -> str:
        return f"{self.core}-{'uvloop' if self.new_loop is uvloop.new_event_loop else 'asyncio'}"

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(main)

    @asynccontextmanager
    async def open(self, url: str, **more: Any) -> AsyncIterator[Transport]:
        bounds = {"connect_timeout_s": 5, "idle_timeout_s": 5, "total_timeout_s": 10, "max_connections": 4}
        endpoint = Endpoint(url=url, headers={"Authorization": KEY}, **(bounds | more))
        transport = open_transport(self.core, endpoint)
        try:
            yield transport
        finally:
            await transport.aclose()

    async def fail(self, url: str, body: bytes = b"{}", **more: Any) -> Failure:
        async with self.open(url, **more) as transport:
            return await failed(transport, body)


CLIENTS = [
    Client("fast", asyncio.new_event_loop),
    Client("fast", uvloop.new_event_loop),
    Client("httpx", asyncio.new_event_loop),
    Client("httpx", uvloop.new_event_loop),
]


def request(body: bytes = b'{"model":"m"}') -> Request:
    return Request(index=0, row_id="0", key="k", body=body, tokens_estimate=1)


async def answered(transport: Transport) -> Response:
    response = await transport.send(request())
    assert isinstance(response, Response), response
    return response


async def failed(transport: Transport, body: bytes = b"{}") -> Failure:
    failure = await transport.send(request(body))
    assert isinstance(failure, Failure), failure
    assert KEY not in repr(failure)
    assert PASSWORD not in repr(failure)
    return failure
