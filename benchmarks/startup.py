"""How long until something happens: the first request of a run, `--help`, and a whole small job.

    python -m benchmarks.startup

Times are on the clock, from starting the process. The first request is noted by the stub server as it arrives; by then the
job is read and checked, the input looked over, the run folder made, the attempt committed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.ours import write_job
from benchmarks.support import ROOT, stub_server, table, write_reviews
from benchmarks.workload import KEY

FIRST_REQUEST_TARGET_S, HELP_TARGET_S = 1.0, 0.3
SMALL_JOB_ROWS = 48
_PROGRAM = str(Path(sys.executable).with_name("promptmill"))


class Startup(NamedTuple):
    """Medians, in seconds; the last two for a whole job of SMALL_JOB_ROWS rows."""

    first_request_s: float
    help_s: float
    ours_s: float
    loop_s: float

    @property
    def holds(self) -> bool:
        return self.first_request_s < FIRST_REQUEST_TARGET_S and self.help_s < HELP_TARGET_S


def measure(repeats: int = 5) -> Startup:
    """Each `repeats` times, after one run that warms the disk cache."""
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        folder = Path(name)
        dataset = write_reviews(folder / "reviews.jsonl", SMALL_JOB_ROWS)
        runs = [_run(folder, dataset, number) for number in range(repeats + 1)][1:]
        return Startup(
            statistics.median(first for first, _ in runs),
            _median(lambda: _seconds(_PROGRAM, "--help"), repeats),
            statistics.median(whole for _, whole in runs),
            _median(lambda: _loop(dataset), repeats),
        )


def as_table(found: Startup) -> str:
    return table(
        ("from starting the process", "seconds", "target"),
        [
            (
                "to the first request of a run",
                f"{found.first_request_s:.2f}",
                f"< {FIRST_REQUEST_TARGET_S:g}",
            ),
            ("to the end of --help", f"{found.help_s:.2f}", f"< {HELP_TARGET_S:g}"),
            (f"to the end of a job of {SMALL_JOB_ROWS} rows", f"{found.ours_s:.2f}", ""),
            ("the same rows by the httpx loop", f"{found.loop_s:.2f}", ""),
        ],
    )


def _run(folder: Path, dataset: Path, number: int) -> tuple[float, float]:
    own = folder / str(number)
    own.mkdir()
    with stub_server() as server:
        job = write_job(own, dataset, base_url=server.url, in_flight=64)
        began = time.monotonic()
        whole = _seconds(_PROGRAM, "run", str(job), "--quiet")
        return server.first_request_s() - began, whole


def _loop(dataset: Path) -> float:
    with stub_server() as server:
        loop = [sys.executable, "-m", "benchmarks.peers", "httpx", str(dataset)]
        return _seconds(*loop, "--url", server.url, "--connections", "64")


def _median(take: Callable[[], float], repeats: int) -> float:
    return statistics.median([take() for _ in range(repeats + 1)][1:])


def _seconds(*argv: str) -> float:
    began = time.monotonic()
    subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, "DASHSCOPE_API_KEY": KEY},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    return time.monotonic() - began


if __name__ == "__main__":
    print(as_table(measure()))
