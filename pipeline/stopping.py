"""What stops a run from outside: signals, and the end that deadline and window set."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from pipeline.schedule import End
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
def end_stops(stop_run: Callable[[Stop, float], None], end: End | None) -> Iterator[None]:
    """Stop the run so that it is over at its end: `stop_run` gets the reason, and how long requests in flight have left."""
    if end is None:
        yield
        return
    stop = Stop(6, end.reason)
    timer = asyncio.get_running_loop().call_later(end.feed_s, stop_run, stop, end.lead_s)
    try:
        yield
    finally:
        timer.cancel()
