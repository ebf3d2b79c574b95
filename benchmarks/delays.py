"""Throughput against a server that takes its time, as models do: are the slots kept busy?

    python -m benchmarks.delays

So many in flight and an answer after so long can be no more than in flight / delay a second. The server notes when each request
came; what counts is the stretch between the first requests, while connections are opened, and the last, when none follow. The
same runs tell how late the event loop was while parts were written and synced, and whether 10,000 connections can be held.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.support import child, stub_server, table, write_reviews
from benchmarks.workload import Spent

TARGET, LAG_TARGET_MS = 0.97, 20
HELD = 10_000


class Case(NamedTuple):
    delay_s: float
    in_flight: int
    turns: int  # of all slots; the first five or six go by while the ceiling doubles


class Found(NamedTuple):
    """`share` of what in flight and delay allow; `most_connections` at the server."""

    case: Case
    share: float
    most_connections: int
    spent: Spent


CASES = (
    Case(0.2, 512, 60),
    Case(0.2, 2_000, 20),
    Case(2.0, 512, 14),
    Case(2.0, 2_000, 14),
    Case(8.0, HELD, 7),
)


def measure() -> list[Found]:
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        return [_take(Path(name), case) for case in CASES]


def _take(folder: Path, case: Case) -> Found:
    rows = write_reviews(folder / "rows.jsonl", case.in_flight * case.turns)
    with stub_server(case.delay_s * 1000) as server:
        spent = Spent(**child("ours", rows, "--url", server.url, "--connections", case.in_flight))
        seen = server.ended()
    assert seen.settled_per_s is not None
    return Found(case, seen.settled_per_s * case.delay_s / case.in_flight, seen.most_connections, spent)


def holds(found: list[Found]) -> bool:
    return all(
        one.share >= TARGET
        and one.most_connections == one.case.in_flight
        and (one.spent.lag_p99_ms or 0) < LAG_TARGET_MS
        for one in found
    )


def as_table(found: list[Found]) -> str:
    return table(
        (
            "delay, in flight",
            "rows",
            f"of in flight / delay (>= {TARGET:.0%})",
            f"lag p99 (< {LAG_TARGET_MS} ms)",
            "CPU us a row",
            "CPU busy",
            "connections held",
            "peak MiB",
        ),
        [
            (
                f"{one.case.delay_s:g} s, {one.case.in_flight:,}",
                f"{one.spent.rows:,}",
                f"{one.share:.1%}",
                f"{one.spent.lag_p99_ms:.1f} ms",
                f"{one.spent.us_a_row:.0f}",
                f"{one.spent.cpu_s / one.spent.wall_s:.0%}",
                f"{one.most_connections:,}",
                f"{one.spent.peak_mib:.0f}",
            )
            for one in found
        ],
    )


if __name__ == "__main__":
    print(as_table(measure()))
