"""What stops a run from outside: signals and the deadline."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from pipeline.summary import Stop

Stopper = Callable[[Stop], None]


@contextlib.contextmanager
def signals_stop(interrupt: Stopper) -> Iterator[None]:
    """Call `interrupt` at each SIGINT, SIGTERM and SIGHUP."""
    loop = asyncio.get_running_loop()
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
    for number, code in codes.items():
        stop = Stop(code, f"stopped by {number.name}; run the same command again to go on")
        loop.add_signal_handler(number, interrupt, stop)
    try:
        yield
    finally:
        for number in codes:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def deadline_stops(stop_run: Stopper, deadline_s: float | None) -> Iterator[None]:
    if deadline_s is None:
        yield
        return
    stop = Stop(6, f"the deadline of {deadline_s:g} s is reached; run the same command again to go on")
    timer = asyncio.get_running_loop().call_later(deadline_s, stop_run, stop)
    try:
        yield
    finally:
        timer.cancel()
