"""What a run leaves for others to read while it goes on: the snapshot that `status` shows, and the metrics file."""

import asyncio
import contextlib
import json
import logging
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Any

from pipeline.budget import Spend
from pipeline.history import Event, History, Moment
from pipeline.jobspec import Target
from pipeline.limits import LocalGate
from pipeline.loop_lag import LoopLag
from pipeline.metrics import MetricsFile
from pipeline.progress import Counters, LimitsView, Meter, Snapshot, as_json
from pipeline.run_folder import RunFolder, RunFolderGone

log = logging.getLogger("promptmill")
_EVERY_S = 2.0


def limits_view(gate: LocalGate, target: Target) -> LimitsView:
    admitted, cooling = gate.admitted_last_minute, gate.cooling_until_s
    return LimitsView(
        in_flight=gate.in_flight,
        max_concurrency=gate.ceiling,
        requests_last_minute=admitted.requests,
        tokens_last_minute=admitted.tokens,
        requests_per_minute=target.requests_per_minute,
        tokens_per_minute=target.tokens_per_minute,
        cooling_s=0.0 if cooling is None else cooling - asyncio.get_running_loop().time(),
        chosen_requests_per_minute=gate.chosen.requests_per_minute,
        chosen_tokens_per_minute=gate.chosen.tokens_per_minute,
    )


class Chronicle:
    """Tells a run's history as it goes on: what changes the pace, and a moment every ten seconds."""

    def __init__(
        self,
        history: History,
        run_id: str,
        *,
        counters: Counters,
        spend: Callable[[], Spend],
        now: Callable[[], datetime],
    ) -> None:
        self._history = history
        self._run_id = run_id
        self.counters = counters
        self._spend = spend
        self._now = now
        self.lag: LoopLag | None = None
        self.refused: Callable[[], int] = lambda: 0  # requests of this run that were asked to slow down
        self._last_s = -math.inf

    def note(self, reason: str) -> None:
        """The gate changes its pace; the log and the history say why."""
        log.info("limits: %s", reason)
        self._history.tell(Event(self._at_us(), self._run_id, reason))

    def keep(self, snapshot: Snapshot, now_s: float, *, last: bool = False) -> None:
        """Write what was told, and a moment where it is time for one. Raises sqlite3.Error where it cannot be written."""
        if not last and now_s - self._last_s < self._history.every_s:
            self._history.keep()
            return
        limits, spend = snapshot.limits, self._spend()
        tokens = self.counters.totals.tokens
        self._history.keep(
            Moment(
                at_us=self._at_us(),
                run_id=self._run_id,
                sent=self.counters.sent,
                refused=self.refused(),
                rows=snapshot.done,
                tokens=tokens["prompt_tokens"] + tokens["completion_tokens"],
                spent=None if snapshot.currency is None else spend.paid + spend.maybe,
                in_flight=limits.in_flight,
                ceiling=limits.max_concurrency,
                requests_per_minute=limits.chosen_requests_per_minute,
                tokens_per_minute=limits.chosen_tokens_per_minute,
                cooling=limits.cooling_s > 0,
                lag_p99_ms=None if self.lag is None else self.lag.p99_ms_lately(),
            )
        )
        self._last_s = now_s

    def _at_us(self) -> int:
        return int(self._now().timestamp() * 1_000_000)


@contextlib.asynccontextmanager
async def kept_live(
    folder: RunFolder,
    meter: Meter,
    metrics: MetricsFile | None,
    chronicle: Chronicle,
    fail: Callable[[Exception, float | None], None],
) -> AsyncIterator[None]:
    """Leave a snapshot in the journal every other second, and in the metrics file where one is asked for.

    `fail` is called with what ends the run, and the grace of requests in flight: none where the folder is gone, with all they may
    bring; the usual one where the journal cannot be written, which is where their answers go as well.
    """
    loop = asyncio.get_running_loop()

    def write(live: dict[str, Any] | None, snapshot: Snapshot, *, last: bool = False) -> None:
        folder.journal.write_manifest({"live": json.dumps(live)})
        chronicle.keep(snapshot, loop.time(), last=last)

    async def keep() -> None:
        while True:
            if not folder.is_there():
                fail(RunFolderGone(folder.path), 0.0)
                return
            snapshot = meter.snapshot(loop.time())
            try:
                write(as_json(snapshot), snapshot)
                await folder.journal.checkpoint()
            except sqlite3.Error as error:
                fail(error, None)
                return
            if metrics is not None:
                with metrics_may_fail(metrics):
                    metrics.write(snapshot, chronicle.counters)
            await asyncio.sleep(_EVERY_S)

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        try:
            write(None, meter.snapshot(loop.time()), last=True)
        except sqlite3.Error as error:  # no row depends on it any more, and what ended the run is to be told
            log.warning("the last seconds are missing in the run's history: %s", error)


@contextlib.contextmanager
def metrics_may_fail(metrics: MetricsFile) -> Iterator[None]:
    """Figures that cannot be written are a warning: no row depends on them."""
    try:
        yield
    except OSError as error:
        log.warning("the metrics file %s cannot be written: %s", metrics.path, error)
