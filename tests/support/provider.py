"""The simulator in a thread of the test, whose answers can be held back: so that a test meets a run where it wants it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from aiohttp import web

from pipeline.simulator.ledger import Ledger, body_key
from pipeline.simulator.server import BASE_PATH, Simulator
from pipeline.simulator.settings import Settings

P = TypeVar("P", bound="Provider")
_PATIENCE_S = 60


class Provider:
    """One server. Chat requests beyond the first `free` are held until `release`; a held one is not in the ledger yet.

    `key` makes the name by which the ledger knows a request.
    """

    def __init__(self, settings: Settings, key: Callable[[bytes], str] = body_key) -> None:
        self._simulator = Simulator(settings, key=key)
        self._changed = threading.Condition()
        self._free: float = float("inf")
        self._arrived = 0
        self._open = asyncio.Event()
        self.held = 0
        self.base_url = ""

    @property
    def ledger(self) -> Ledger:
        return self._simulator.ledger

    def hold_after(self, requests: int) -> None:
        """Answer so many more requests and hold those that follow."""
        self._free = self._arrived + requests
        self._open = asyncio.Event()

    def release(self) -> None:
        """Answer what is held, and all that follows."""
        self._free = float("inf")
        self._loop.call_soon_threadsafe(self._open.set)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever a request comes, is held, or is over."""
        with self._changed:
            assert self._changed.wait_for(condition, _PATIENCE_S), f"{self.held} held, {self.ledger.totals()}"

    def wait_held(self, requests: int) -> None:
        self.wait(lambda: self.held == requests)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST":
            return await self._simulator.handle(request)
        self._arrived += 1
        try:
            if self._arrived > self._free:
                await self._hold(self._open)
            return await self._simulator.handle(request)
        finally:
            self._tell(0)

    async def _hold(self, opened: asyncio.Event) -> None:
        self._tell(1)
        try:
            await opened.wait()
        finally:
            self._tell(-1)

    def _tell(self, held: int) -> None:
        with self._changed:
            self.held += held
            self._changed.notify_all()

    async def serve(self, ready: threading.Event) -> None:
        """Serve on a free loopback port until `stop`."""
        self._loop = asyncio.get_running_loop()
        self._serving = asyncio.current_task()
        self._end = asyncio.Event()
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            self.base_url = f"http://{host}:{port}{BASE_PATH}"
            ready.set()
            await self._end.wait()
        finally:
            await runner.cleanup()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)


@contextmanager
def serving(settings: Settings | None = None) -> Iterator[Provider]:
    """A provider that listens inside the block."""
    with listening(Provider(settings or Settings())) as provider:
        yield provider


@contextmanager
def listening(provider: P) -> Iterator[P]:
    """This provider, listening inside the block."""
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(provider.serve(ready)), name="provider")
    thread.start()
    try:
        assert ready.wait(_PATIENCE_S)
        yield provider
    finally:
        provider.stop()
        thread.join(_PATIENCE_S)
