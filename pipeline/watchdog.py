"""Tells when a run stands still: requests are in flight, and for long nothing has come back.

It looks at counters every few seconds, and so costs a row nothing. It only tells, once when a standstill is noticed and once
when it is over: what ends a silent request is its timeout, and what follows is decided in `retry.py`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from pipeline.progress import Counters, Say
from pipeline.records import FailureKind

log = logging.getLogger("promptmill")

LOOK_EVERY_S = 5.0
SHORTEST_S = 60.0
TIMES_THE_SLOWEST = 2.0  # a model that thinks for minutes is not standing still
SHARE_OF_TIMEOUT = 0.8  # but it is told before the requests give up


class Notice(NamedTuple):
    """Something to be told, and how much it matters (a level of `logging`)."""

    level: int
    text: str


class Watchdog:
    """Watches one run. `sending` are the requests in flight: each row's index, with the loop's time since when.

    What comes back is any answer, a refusal too; a request that was given up for its silence brought nothing. How long is
    long: `SHORTEST_S`, or `TIMES_THE_SLOWEST` what the slowest request took that has come back, at most `SHARE_OF_TIMEOUT`
    of the idle timeout.
    """

    def __init__(self, counters: Counters, sending: Mapping[int, float], idle_timeout_s: float) -> None:
        self._counters = counters
        self._sending = sending
        self._idle_timeout_s = idle_timeout_s
        self._longest_wait_s = idle_timeout_s * SHARE_OF_TIMEOUT
        self.look_every_s = min(LOOK_EVERY_S, idle_timeout_s / 10)
        self._slowest_s = 0.0
        self._came_back: int | None = None
        self._silent_since_s: float | None = None
        self._told = False
        self._oldest: tuple[int, float] | None = None  # in flight at the last look, and since when
        self._looked_s = 0.0

    @property
    def patience_s(self) -> float:
        """How long nothing may come back before it is told."""
        return min(max(SHORTEST_S, TIMES_THE_SLOWEST * self._slowest_s), self._longest_wait_s)

    def look(self, now_s: float) -> Notice | None:
        """Look at the run; `now_s` is the loop's time. What is to be told, if anything."""
        self._learn(now_s)
        came_back = self._count()
        moved = came_back != self._came_back
        self._came_back = came_back
        since_s = self._silent_since_s
        if moved or since_s is None or (not self._told and not self._sending):
            self._silent_since_s = now_s
        if since_s is None:
            return None
        if self._told and moved:
            self._told = False
            return Notice(
                logging.INFO, f"moving again, after {now_s - since_s:.0f} s in which nothing came back"
            )
        if moved or self._told or self._oldest is None or now_s - since_s < self.patience_s:
            return None
        self._told = True
        return Notice(
            logging.WARNING,
            f"nothing has come back for {now_s - since_s:.0f} s: {len(self._sending):,} in flight, the oldest sent "
            f"{now_s - self._oldest[1]:.0f} s ago. Look at the network and at the provider's status page; each is given up "
            f"after {self._idle_timeout_s:g} s of silence (transport.idle_timeout) and sent again",
        )

    def _learn(self, now_s: float) -> None:
        """Note how long the oldest of the last look took, should it be back."""
        if self._oldest is not None and self._sending.get(self._oldest[0]) != self._oldest[1]:
            took_s = self._looked_s - self._oldest[1]
            if took_s < self._longest_wait_s:  # else it was given up, or as good as
                self._slowest_s = max(self._slowest_s, took_s)
        self._oldest = min(self._sending.items(), key=lambda one: one[1], default=None)
        self._looked_s = now_s

    def _count(self) -> int:
        settled, failed = self._counters.sum_up(), self._counters.failed_attempts
        given_up = settled.errors[FailureKind.TIMEOUT] + failed[FailureKind.TIMEOUT]
        return settled.rows + failed.total() - given_up


@contextlib.asynccontextmanager
async def watching(watchdog: Watchdog, say: Say) -> AsyncIterator[None]:
    """Look again and again while the block runs, and once at its end; tell run.log and `say`."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        notice = watchdog.look(loop.time())
        if notice is not None:
            log.log(notice.level, "%s", notice.text)
            say(notice.text, logging.getLevelName(notice.level).lower())

    async def watch() -> None:
        while True:
            await asyncio.sleep(watchdog.look_every_s)
            look()

    ticker = asyncio.create_task(watch())
    try:
        yield
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker
        look()
