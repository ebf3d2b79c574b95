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

CONNECTIONS = (64, 512, 2_000)
FEW = CONNECTIONS[0]
# Enough rows for seconds of CPU, as fast as each is; at 2,000 connections also for their opening not to count.
OUR_ROWS, PEER_ROWS = 30_000, 500
ROWS_TARGET, HTTPX_TARGET, OPENAI_TARGET = 5_000, 20, 12


class OverHttp(NamedTuple):
    """The median run of each client, by CPU a row; ours by its connections."""

    ours: dict[int, Spent]
    httpx: Spent
    openai: Spent

    def holds_at(self, connections: int) -> bool:
        us = self.ours[connections].us_a_row
        many_times = self.httpx.us_a_row >= HTTPX_TARGET * us and self.openai.us_a_row >= OPENAI_TARGET * us
        return 1e6 / us >= ROWS_TARGET or many_times

    @property
    def holds(self) -> bool:
        return all(map(self.holds_at, self.ours))


def measure(repeats: int = 3) -> OverHttp:
    """Run every client `repeats` times, the order turned round each time."""
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name, stub_server() as server:
        many_rows = write_reviews(Path(name) / "many.jsonl", OUR_ROWS)
        few_rows = write_reviews(Path(name) / "few.jsonl", PEER_ROWS)
        clients: list[list[object]] = [
            *(["ours", many_rows, "--connections", connections] for connections in CONNECTIONS),
            ["peers", "httpx", few_rows, "--connections", FEW],
            ["peers", "openai", few_rows, "--connections", FEW],
        ]
        found: list[list[Spent]] = [[] for _ in clients]
        for turn in range(repeats):
            order = list(range(len(clients)))
            for number in order if turn % 2 == 0 else order[::-1]:
                module, *args = clients[number]
                found[number].append(Spent(**child(str(module), *args, "--url", server.url)))
    *ours, httpx, openai = map(_median, found)
    return OverHttp(dict(zip(CONNECTIONS, ours, strict=True)), httpx, openai)


def _median(runs: list[Spent]) -> Spent:
    middle = statistics.median_low(run.us_a_row for run in runs)
    return next(run for run in runs if run.us_a_row == middle)


def as_table(found: OverHttp) -> str:
    def line(name: str, spent: Spent, *more: str) -> tuple[str, ...]:
        us = spent.us_a_row
        return (name, f"{spent.rows:,}", f"{1e6 / us:,.0f}", f"{us:,.0f}", *more, f"{spent.peak_mib:.0f}")

    def ours(connections: int) -> tuple[str, ...]:
        spent = found.ours[connections]
        times = [f"{peer.us_a_row / spent.us_a_row:.1f}x" for peer in (found.httpx, found.openai)]
        verdict = "yes" if found.holds_at(connections) else "no"
        return line(f"promptmill, {connections:,} connections", spent, *times, verdict)

    return table(
        (
            "client",
            "rows",
            "rows per CPU-second",
            "CPU us a row",
            "of httpx",
            "of openai",
            f">= {ROWS_TARGET:,}, or {HTTPX_TARGET}x and {OPENAI_TARGET}x",
            "peak MiB",
        ),
        [
            *map(ours, found.ours),
            line(f"httpx.AsyncClient + semaphore, {FEW}", found.httpx, "", "", ""),
            line(f"openai SDK + semaphore, {FEW}", found.openai, "", "", ""),
        ],
    )


if __name__ == "__main__":
    print(as_table(measure()))
