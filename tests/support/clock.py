"""The virtual clock of the tests: an event loop whose time passes only when nothing else can happen.

An hour of limits takes milliseconds, and a hang is a failure that names those who wait. Only the loop lives
here; fakes of servers or files do not. Real sockets work as far as no timer runs beside them: with a timer pending,
the clock jumps to it instead of waiting for a peer.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

REAL_PATIENCE_S = 10.0
# Each turn of a loop takes some time. Without it, code that waits for a float's breadth more would spin.
TURN_S = 1e-9
START_S = 1_000.0  # not 0, which could pass for "never"


class Hang(AssertionError):
    """The main coroutine is not done, and nothing can happen any more or its virtual time is used up."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer, moves the loop's time to it."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self.loop
        loop.now_s += TURN_S
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if loop.in_threads:
            ready = super().select(REAL_PATIENCE_S)
            if not ready:
                raise Hang(
                    f"a thread is not done after {REAL_PATIENCE_S} real seconds; waiting: {loop.who_waits()}"
                )
        elif timeout is not None:
            loop.jump(timeout)
        elif threading.active_count() > 1 or len(self.get_map()) > 1:  # one is the loop's own wake-up pipe
            ready = super().select(REAL_PATIENCE_S)
            if not ready:
                raise Hang(f"no thread or socket woke the loop; waiting: {loop.who_waits()}")
        else:
            raise Hang(f"nothing is ready and no timer is set; waiting: {loop.who_waits()}")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector loop on virtual time, from `START_S`; while executor threads work, time stands still."""

    def __init__(self, max_virtual_s: float) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.now_s = START_S
        self.end_s = START_S + max_virtual_s
        self.in_threads = 0
        super().__init__(selector)
        self._threads = ThreadPoolExecutor(thread_name_prefix="virtual-loop")
        self.set_default_executor(self._threads)

    def time(self) -> float:
        return self.now_s

    def jump(self, by_s: float) -> None:
        if self.now_s + by_s > self.end_s:
            raise Hang(f"not done after {self.end_s - START_S} virtual seconds; waiting: {self.who_waits()}")
        self.now_s += by_s

    def who_waits(self) -> str:
        places = []
        for task in asyncio.all_tasks(self):
            frames = task.get_stack(limit=1)
            where = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "?"
            places.append(f"{task.get_name()} at {where}")
        return ", ".join(sorted(places)) or "nobody"

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        future = super().run_in_executor(executor, func, *args)
        self.in_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: "asyncio.Future[Any]") -> None:
        self.in_threads -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # The library's own way waits for a thread under a timer, which virtual time lets expire at once.
        self._threads.shutdown(wait=True)


def run_virtual(main: Coroutine[Any, Any, T], *, max_virtual_s: float = 86_400.0) -> T:
    """Run `main` on a fresh virtual loop and return its result; what it leaves behind is cancelled.

    Times read from the loop are nanoseconds off round figures: compare with `pytest.approx`. Raises `Hang`.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(max_virtual_s)) as runner:
        return runner.run(main)
