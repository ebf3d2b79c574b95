"""Rows per CPU-second over HTTP: the whole program against what one would write by hand (`peers`).

    python -m benchmarks.over_http

The server answers at once, on a core of its own, so that what counts is the client's CPU; the network of a real run adds the
same to everyone. All send the same rows to the same server, each in a process of its own, the order turned round each time.
CPU is that of the whole client process from the first row read to the last result kept; starting Python, importing and
opening the client are left out for all.
"""

import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.support import child, stub_server, table, write_reviews
from benchmarks.workload import Spent

FEW, MANY = 64, 1_000
# Enough rows for seconds of CPU, as fast as each is; at 1,000 connections also for their opening not to count.
OUR_ROWS, PEER_ROWS = 30_000, 500
HTTPX_TARGET, OPENAI_TARGET, MANY_TARGET = 15, 10, 0.20


class OverHttp(NamedTuple):
    """The median run of each client, by CPU a row."""

    ours: Spent
    ours_many: Spent
    httpx: Spent
    openai: Spent

    @property
    def holds(self) -> bool:
        return (
            self.httpx.us_a_row >= HTTPX_TARGET * self.ours.us_a_row
            and self.openai.us_a_row >= OPENAI_TARGET * self.ours.us_a_row
            and abs(self.ours_many.us_a_row / self.ours.us_a_row - 1) <= MANY_TARGET
        )


def measure(repeats: int = 3) -> OverHttp:
    """Run every client `repeats` times, the order turned round each time."""
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name, stub_server() as server:
        many_rows = write_reviews(Path(name) / "many.jsonl", OUR_ROWS)
        few_rows = write_reviews(Path(name) / "few.jsonl", PEER_ROWS)
        clients: list[list[object]] = [
            ["ours", many_rows, "--connections", FEW],
            ["ours", many_rows, "--connections", MANY],
            ["peers", "httpx", few_rows, "--connections", FEW],
            ["peers", "openai", few_rows, "--connections", FEW],
        ]
        found: list[list[Spent]] = [[] for _ in clients]
        for turn in range(repeats):
            order = list(range(len(clients)))
            for number in order if turn % 2 == 0 else order[::-1]:
                module, *args = clients[number]
                found[number].append(Spent(**child(str(module), *args, "--url", server.url)))
    return OverHttp(*(_median(runs) for runs in found))


def _median(runs: list[Spent]) -> Spent:
    middle = statistics.median_low(run.us_a_row for run in runs)
    return next(run for run in runs if run.us_a_row == middle)


def as_table(found: OverHttp) -> str:
    def line(name: str, spent: Spent, against: str) -> tuple[str, ...]:
        us = spent.us_a_row
        return (name, f"{spent.rows:,}", f"{1e6 / us:,.0f}", f"{us:,.0f}", against, f"{spent.peak_mib:.0f}")

    ours = found.ours.us_a_row
    more = (found.ours_many.us_a_row / ours - 1) * 100
    return table(
        ("client", "rows", "rows per CPU-second", "CPU us a row", "ours against it", "peak MiB"),
        [
            line(f"promptmill, {FEW} connections", found.ours, ""),
            line(
                f"promptmill, {MANY:,} connections",
                found.ours_many,
                f"{more:+.0f} % a row (+-{MANY_TARGET * 100:.0f} %)",
            ),
            line(
                f"httpx.AsyncClient + semaphore, {FEW}",
                found.httpx,
                f"{found.httpx.us_a_row / ours:.1f}x (>= {HTTPX_TARGET}x)",
            ),
            line(
                f"openai SDK + semaphore, {FEW}",
                found.openai,
                f"{found.openai.us_a_row / ours:.1f}x (>= {OPENAI_TARGET}x)",
            ),
        ],
    )


if __name__ == "__main__":
    print(as_table(measure()))
