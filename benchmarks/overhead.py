"""Our own cost: CPU and memory from reading a row to its part file, with a transport that answers at once.

    python -m benchmarks.overhead            # the figures; minutes
    python -m benchmarks.overhead --steps    # where the microseconds go; seconds

All of a run is in it: looking the input over, rendering, gate (its limits far away), journal, label check, price, parts,
the progress snapshot. Not in it: starting Python and importing.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.support import ANSWER, ANSWER_HEADERS, child, peak_mib, read_plan, table, write_job, write_reviews
from pipeline.engine import RunOptions, run_job
from pipeline.records import Failure, Request, Response
from pipeline.transport import Core, Endpoint
from pipeline.transport.seam import kept

TARGET_US = 70
FAILURE_US = 200
TARGET_MIB = 250
IN_FLIGHT = 256
_HEADERS = kept(ANSWER_HEADERS)


class StubTransport:
    """Answers every request at once."""

    def __init__(self, core: Core, endpoint: Endpoint) -> None:
        pass

    async def send(self, request: Request) -> Response | Failure:
        return Response(200, _HEADERS.copy(), ANSWER, 0.0)

    async def aclose(self) -> None:
        pass


class Overhead(NamedTuple):
    """CPU microseconds a row (medians) and peak MiB, at a small and a large number of rows."""

    small_rows: int
    large_rows: int
    small_us: float
    large_us: float
    small_mib: float
    large_mib: float

    @property
    def holds(self) -> bool:
        grown = abs(self.large_mib / self.small_mib - 1)
        return max(self.small_us, self.large_us) <= TARGET_US and grown <= 0.10 and self.large_mib < TARGET_MIB


def measure(small_rows: int = 100_000, large_rows: int = 1_000_000, repeats: int = 3) -> Overhead:
    """Run the small number of rows `repeats` times and the large one once, each in its own process."""
    small = [child("overhead", "--rows", small_rows) for _ in range(repeats)]
    large = child("overhead", "--rows", large_rows)
    return Overhead(
        small_rows,
        large_rows,
        statistics.median(one["cpu_us"] for one in small),
        large["cpu_us"],
        statistics.median(one["peak_mib"] for one in small),
        large["peak_mib"],
    )


def as_table(found: Overhead) -> str:
    return table(
        ("rows", "CPU us a row", "target", "peak MiB", "target"),
        [
            (f"{found.small_rows:,}", f"{found.small_us:.1f}", f"<= {TARGET_US}", f"{found.small_mib:.0f}", f"< {TARGET_MIB}"),
            (f"{found.large_rows:,}", f"{found.large_us:.1f}", f"<= {TARGET_US}", f"{found.large_mib:.0f}", "the same +-10 %"),
        ],
    )  # fmt: skip


def run_rows(rows: int) -> dict[str, float]:
    """Run a job of so many rows in this process; CPU is that of all its threads."""
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        folder = Path(name)
        dataset = write_reviews(folder / "reviews.jsonl", rows)
        plan = read_plan(write_job(folder, dataset, base_url="http://127.0.0.1:9/v1", in_flight=IN_FLIGHT))
        options = RunOptions(limit=None, deadline_s=None, quiet=True, stderr=io.StringIO())
        wall, cpu = time.perf_counter(), time.process_time()
        summary = run_job(plan, options, now=lambda: datetime.now().astimezone(), connect=StubTransport)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        assert summary.exit_code == 0 and summary.status["ok"] == rows, summary
    return {"cpu_us": cpu / rows * 1e6, "wall_us": wall / rows * 1e6, "peak_mib": peak_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="run once with so many rows, in this process, and print JSON")
    options = parser.parse_args()
    if options.rows:
        print(json.dumps(run_rows(options.rows)))
    else:
        print(as_table(measure()))


if __name__ == "__main__":
    main()
