"""Our own cost: CPU and memory from reading a row to its part file, with a transport that answers at once.

    python -m benchmarks.overhead

All of a run is in it: looking the input over, rendering, gate (its limits far away), journal, decoding, label check, price,
parts, the progress snapshot. Not in it: starting Python and importing.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.ours import run
from benchmarks.support import ANSWER, ANSWER_HEADERS, child, table, write_reviews
from benchmarks.workload import Spent
from pipeline.records import Failure, Request, Response
from pipeline.transport import KEPT_HEADERS, Core, Endpoint, Sink

TARGET_US, TARGET_MIB, TARGET_GROWTH = 60, 250, 0.10
SMALL_ROWS, LARGE_ROWS = 100_000, 1_000_000
IN_FLIGHT = 256
_HEADERS = {name: value for name, value in ANSWER_HEADERS.items() if name in KEPT_HEADERS}


class StubTransport:
    """Answers every request at once."""

    def __init__(self, core: Core, endpoint: Endpoint) -> None:
        pass

    async def send(self, request: Request, sink: Sink | None = None) -> Response | Failure:
        return Response(200, _HEADERS.copy(), ANSWER, 0.0)

    async def aclose(self) -> None:
        pass


class Overhead(NamedTuple):
    """The median run at a small number of rows, and a run at a large one."""

    small: Spent
    large: Spent

    @property
    def growth(self) -> float:
        return self.large.peak_mib / self.small.peak_mib - 1

    @property
    def holds(self) -> bool:
        return (
            max(self.small.us_a_row, self.large.us_a_row) <= TARGET_US
            and abs(self.growth) <= TARGET_GROWTH
            and self.large.peak_mib < TARGET_MIB
        )


def measure(repeats: int = 3) -> Overhead:
    """Run the small number of rows `repeats` times and the large one once, each in its own process."""
    runs = [Spent(**child("overhead", "--rows", SMALL_ROWS)) for _ in range(repeats)]
    middle = statistics.median_low(one.us_a_row for one in runs)
    small = next(one for one in runs if one.us_a_row == middle)
    return Overhead(small, Spent(**child("overhead", "--rows", LARGE_ROWS)))


def as_table(found: Overhead) -> str:
    def line(spent: Spent, memory: str) -> tuple[str, ...]:
        cpu, wall = spent.us_a_row, spent.wall_s / spent.rows * 1e6
        return (
            f"{spent.rows:,}",
            f"{cpu:.1f}",
            f"<= {TARGET_US}",
            f"{wall:.1f}",
            f"{spent.yardstick_us:.2f}",
            f"{spent.peak_mib:.0f}",
            memory,
        )

    return table(
        ("rows", "CPU us a row", "target", "elapsed us a row", "yardstick us", "peak MiB", "target"),
        [
            line(found.small, f"< {TARGET_MIB}"),
            line(found.large, f"{found.growth * 100:+.1f} % (+-{TARGET_GROWTH * 100:.0f} %)"),
        ],
    )


def run_rows(rows: int) -> Spent:
    """Run a job of so many rows in this process."""
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        dataset = write_reviews(Path(name) / "reviews.jsonl", rows)
        return run(dataset, base_url="http://127.0.0.1:9/v1", in_flight=IN_FLIGHT, connect=StubTransport)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, help="run once with so many rows, in this process, and print JSON"
    )
    options = parser.parse_args()
    if options.rows:
        print(json.dumps(run_rows(options.rows)._asdict()))
    else:
        print(as_table(measure()))


if __name__ == "__main__":
    main()
