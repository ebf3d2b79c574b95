"""What a run leaves for others to read while it goes on: the snapshot that `status` shows, and the metrics file."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from pipeline.jobspec import Target
from pipeline.limits import LocalGate
from pipeline.metrics import MetricsFile
from pipeline.progress import Counters, LimitsView, Meter, as_json
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
    )


@contextlib.asynccontextmanager
async def kept_live(
    folder: RunFolder,
    meter: Meter,
    counters: Counters,
    metrics: MetricsFile | None,
    fail: Callable[[Exception, float], None],
) -> AsyncIterator[None]:
    """Leave a snapshot in the journal every other second, and in the metrics file where one is asked for.

    `fail` is called with what ends the run, and the grace of requests in flight: the folder is gone, with all they may bring.
    """
    loop = asyncio.get_running_loop()

    def write(live: dict[str, Any] | None) -> None:
        # A full disk ends the run where a row is kept, with a sentence; a snapshot may be missing.
        with contextlib.suppress(sqlite3.Error):
            folder.journal.write_manifest({"live": json.dumps(live)})

    async def keep() -> None:
        while True:
            if not folder.is_there():
                fail(RunFolderGone(folder.path), 0.0)
                return
            snapshot = meter.snapshot(loop.time())
            write(as_json(snapshot))
            if metrics is not None:
                with metrics_may_fail(metrics):
                    metrics.write(snapshot, counters)
            await asyncio.sleep(_EVERY_S)

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        write(None)


@contextlib.contextmanager
def metrics_may_fail(metrics: MetricsFile) -> Iterator[None]:
    """Figures that cannot be written are a warning: no row depends on them."""
    try:
        yield
    except OSError as error:
        log.warning("the metrics file %s cannot be written: %s", metrics.path, error)
