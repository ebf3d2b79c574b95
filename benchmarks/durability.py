"""What a durable journal costs: elapsed time of its commits on the disk of the working folder, with and without an fsync each.

    python -m benchmarks.durability [FOLDER]

A row takes part in two commits, that of its attempt and that of its outcome. How many rows share one is the number in flight and
the provider's latency: at 256 in flight and answers after a second about one row gathers in 2 ms, at 100 ms ten or more. The disk
decides; a figure of another machine says nothing about yours.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.support import ANSWER, table
from pipeline.journal import Journal
from pipeline.records import Completion, Outcome, Status, Usage

COMMITS, ROUNDS = 200, 5
GROUPS = (1, 8, 32)


async def _commit_ms(folder: Path, rows: int, *, durable: bool) -> float:
    """The time of one commit of so many rows, the median of all."""
    journal = Journal(folder, durable=durable)
    took = []
    for index in range(0, COMMITS * rows, rows):
        for row in range(index, index + rows):
            journal.begin_attempt(row)
            journal.record(_outcome(row))
        began = time.perf_counter()
        journal.commit()
        took.append(time.perf_counter() - began)
    journal.close()
    return statistics.median(took) * 1000


def _outcome(index: int) -> Outcome:
    answer = Completion(content=ANSWER.decode(), finish_reason="stop", usage=Usage(200, 2, 202))
    return Outcome(
        index=index, row_id=str(index), status=Status.OK, key="0" * 32, completion=answer, attempts=1
    )


def measure(where: Path | None = None) -> list[tuple[int, float, float]]:
    """Rows in a commit, then its milliseconds without and with an fsync; medians of interleaved rounds."""
    found = []
    for rows in GROUPS:
        plain, durable = [], []
        for _ in range(ROUNDS):
            for took, kind in ((plain, False), (durable, True)):
                with tempfile.TemporaryDirectory(prefix="promptmill-bench-", dir=where) as name:
                    took.append(uvloop.run(_commit_ms(Path(name), rows, durable=kind)))
        found.append((rows, statistics.median(plain), statistics.median(durable)))
    return found


def as_table(found: list[tuple[int, float, float]]) -> str:
    head = ("rows a commit", "process: ms a commit", "us a row", "power: ms a commit", "us a row")
    return table(
        head,
        [
            (
                str(rows),
                f"{plain:.2f}",
                f"{plain / rows * 2000:.0f}",
                f"{durable:.2f}",
                f"{durable / rows * 2000:.0f}",
            )
            for rows, plain, durable in found
        ],
    )


if __name__ == "__main__":
    print(as_table(measure(Path(sys.argv[1]) if sys.argv[1:] else None)))
