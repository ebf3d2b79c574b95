"""How late the event loop is: whatever blocks it (a part being written, a pause of the garbage collector) delays every answer.

A timer fires every 20 ms, and how much later it was is counted in classes an eighth apart, so that days of a run take no room.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

EVERY_S = 0.02
_LEAST_MS = 0.1
_STEP = 1.125
_CLASSES = 128  # up to 300 s


@dataclass(slots=True)
class LoopLag:
    """The lateness of one loop. Figures are None until the timer has fired."""

    _all: list[int] = field(default_factory=lambda: [0] * _CLASSES)
    _lately: list[int] = field(default_factory=lambda: [0] * _CLASSES)
    max_ms: float | None = None

    def add(self, late_s: float) -> None:
        late_ms = max(late_s, 0.0) * 1000
        place = 0 if late_ms <= _LEAST_MS else math.ceil(math.log(late_ms / _LEAST_MS, _STEP))
        self._lately[min(place, _CLASSES - 1)] += 1
        self.max_ms = max(self.max_ms or 0.0, late_ms)

    def p99_ms_lately(self) -> float | None:
        """The 99th percentile since the last call, rounded up to its class."""
        p99_ms = _percentile(self._lately, 0.99)
        self._all = [before + new for before, new in zip(self._all, self._lately, strict=True)]
        self._lately = [0] * _CLASSES
        return p99_ms

    def percentile_ms(self, share: float) -> float | None:
        """A percentile of the whole run, rounded up to its class."""
        return _percentile([before + new for before, new in zip(self._all, self._lately, strict=True)], share)


def _percentile(counts: list[int], share: float) -> float | None:
    total = sum(counts)
    if not total:
        return None
    wanted = math.ceil(total * share)
    for place, count in enumerate(counts):
        wanted -= count
        if wanted <= 0:
            return round(_LEAST_MS * _STEP**place, 2)
    raise AssertionError("the counts are fewer than their sum")


@contextlib.asynccontextmanager
async def measured() -> AsyncIterator[LoopLag]:
    """Measure the running loop while the block runs."""
    lag, loop = LoopLag(), asyncio.get_running_loop()

    async def tick() -> None:
        while True:
            due_s = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            lag.add(loop.time() - due_s)

    ticking = asyncio.create_task(tick())
    try:
        yield lag
    finally:
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
