"""What stops a run from outside: signals, and the end that deadline and window set.

    first signal     stop: feed no more, requests in flight have the usual grace
    second signal    end the grace at once
    end less lead    stop, with the lead as grace
    end              end the grace, whatever stopped the run

Each goes to whoever holds the run at that moment: the start of its server, which is given up, or the runner, which drains.
Before either there is nothing to drain: a signal is raised as `Interrupted`.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from types import FrameType
from typing import Any, Protocol, TypeVar

from pipeline.errors import Interrupted
from pipeline.schedule import End
from pipeline.summary import Stop

T = TypeVar("T")
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
# A loop's timer stands still while the machine sleeps: so often it is compared with the clock on the wall.
_LOOK_AGAIN_S = 30.0


class Stoppable(Protocol):
    """What can be stopped: at first gently, then at once."""

    @property
    def on_wire(self) -> int:
        """How many requests are in flight."""

    def stop(self, stop: Stop, grace_s: float | None = None) -> None: ...

    def cut(self) -> None: ...


class _Start:
    """The start of something: nothing of it is worth a grace."""

    on_wire = 0

    def __init__(self, task: "asyncio.Future[Any]") -> None:
        self._task = task

    def stop(self, stop: Stop, grace_s: float | None = None) -> None:
        self._task.cancel()

    def cut(self) -> None:
        self._task.cancel()  # its own way to clean up is cut short


class Stopping:
    """Watches signals and the clock for one run; `stop` is the first reason that came. `end` counts from `started`."""

    def __init__(self, end: End | None, *, started: datetime, now: Callable[[], datetime]) -> None:
        self.stop: Stop | None = None
        self._end = end
        self._started = started
        self._now = now
        self._holder: Stoppable | None = None
        self._say: Callable[[str, str], None] = lambda message, level: None
        self._signals = 0

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look out while the block runs."""
        clock = None
        if self._end is not None:
            if self._left_s(self._end.feed_s) <= 0:
                self._request(Stop(6, self._end.reason), 0.0)
            clock = asyncio.create_task(self._until(self._end))
        try:
            with signals_stop(self._signalled):
                yield
        finally:
            if clock is not None:
                clock.cancel()

    async def unless_stopped(self, start: Awaitable[T]) -> T | None:
        """What `start` gives; None where a stop comes first: then it is cancelled, and has cleaned up."""
        task = asyncio.ensure_future(start)
        self.hand_to(_Start(task))
        try:
            return await task
        except asyncio.CancelledError:
            if self.stop is None:
                raise
            return None
        finally:
            self._holder = None

    def hand_to(
        self, holder: Stoppable, say: Callable[[str, str], None] = lambda message, level: None
    ) -> None:
        """From now on stops go to `holder`; one that came before reaches it at once. `say` tells them to who looks on."""
        self._holder, self._say = holder, say
        if self.stop is not None:
            holder.stop(self.stop, 0.0)

    async def _until(self, end: End) -> None:
        await self._sleep_to(end.feed_s)
        self._request(Stop(6, end.reason), max(self._left_s(end.feed_s + end.lead_s), 0.0))
        await self._sleep_to(end.feed_s + end.lead_s)
        self._cut()

    async def _sleep_to(self, after_s: float) -> None:
        while (left_s := self._left_s(after_s)) > 0:  # noqa: ASYNC110  (the clock on the wall sets no event)
            await asyncio.sleep(min(left_s, _LOOK_AGAIN_S))

    def _left_s(self, after_s: float) -> float:
        return (self._started + timedelta(seconds=after_s) - self._now()).total_seconds()

    def _signalled(self, stop: Stop) -> None:
        self._signals += 1
        if self._signals > 1:
            self._cut()
        elif not self._request(stop, None) and self._holder is not None:
            self._say(f"stopping already: {self._draining(self._holder)}", "info")

    def _request(self, stop: Stop, grace_s: float | None) -> bool:
        """Stop the run, once; False where it was stopping already."""
        if self.stop is not None:
            return False
        self.stop = stop
        if self._holder is not None:
            self._holder.stop(stop, grace_s)
            if self._holder.on_wire:
                self._say(f"{stop.reason.partition(';')[0]}: {self._draining(self._holder)}", "info")
        return True

    def _draining(self, holder: Stoppable) -> str:
        again = "another signal" if self._signals else "two signals"
        return f"{holder.on_wire:,} requests in flight may still finish; {again} would cut them off"

    def _cut(self) -> None:
        if self._holder is not None:
            self._holder.cut()


def _stop_by(number: signal.Signals) -> Stop:
    return Stop(_CODES[number], f"stopped by {number.name}; run the same command again to go on")


def _heeded() -> list[signal.Signals]:
    """The signals that stop a run: not those its caller has it ignore, as nohup does."""
    return [number for number in _CODES if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def signals_stop(interrupt: Callable[[Stop], None]) -> Iterator[None]:
    """Call `interrupt` at each signal, within the running loop; afterwards what was called before is called again."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _heeded()}
    for number in before:
        loop.add_signal_handler(number, interrupt, _stop_by(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Raise `Interrupted` on each signal while the block runs, but for where the run itself looks after them."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop = _stop_by(signal.Signals(number))
        raise Interrupted(stop.reason, stop.exit_code)

    before = {number: signal.signal(number, interrupt) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
