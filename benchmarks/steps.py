"""Where the microseconds go: each step of a row's way on its own, over the same rows as the overhead figure.

    python -m benchmarks.steps

Steps are timed apart, in a loop that does nothing else, so their sum lacks what lies between them: workers, awaits, cold
caches. The figure that counts is the whole run's (`overhead`).
"""

import asyncio
import gc
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.ours import read_plan, write_job
from benchmarks.overhead import run_rows
from benchmarks.support import ANSWER, ANSWER_HEADERS, child, table, write_reviews
from pipeline.budget import Budget, BudgetSpec, Held
from pipeline.gate import Limits
from pipeline.journal import Journal
from pipeline.limits import LocalGate
from pipeline.parts import OpenRange, write_part
from pipeline.plan import Plan, scan_dataset
from pipeline.progress import Counters
from pipeline.protocol import compatible
from pipeline.records import Completion, Outcome, Prompt, Request, Response, Row, Status
from pipeline.spent import Spent
from pipeline.storage import LocalFiles
from pipeline.totals import Totals

ROWS = 8192 * 4
WHOLE = "a whole run of these rows, right after"
GROUP = 32  # rows in one commit


class Steps:
    """CPU microseconds a row of each step, in the order of a row's way."""

    def __init__(self) -> None:
        self.us: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.us[name] = (time.process_time() - began) / ROWS * 1e6


def measure() -> dict[str, float]:
    """Each step's CPU microseconds a row, and a whole run's (`WHOLE`), in a process of its own."""
    return child("steps", "--child")


def as_table(us: dict[str, float]) -> str:
    steps = [(name, value) for name, value in us.items() if name != WHOLE]
    between = us[WHOLE] - sum(value for _, value in steps)
    lines = [
        *steps,
        ("between them: workers, awaits, the attempt's state, cold caches", between),
        (WHOLE, us[WHOLE]),
    ]
    return table(("step", "CPU us a row"), [(name, f"{value:.1f}") for name, value in lines])


async def _take(plan: Plan, folder: Path) -> dict[str, float]:
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as a run does
    steps = Steps()
    with steps.step("look the input over before anything is sent (ids, columns)"):
        scan = scan_dataset(plan, limit=None)
    layout = plan.layout(scan, LocalFiles(folder), rows_per_part=8192, fingerprint="")
    with steps.step("read: JSON line to row"):
        rows: list[Row] = list(plan.dataset.rows())
    ranges = [OpenRange(layout, number, 8192) for number in range(ROWS // 8192)]
    with steps.step("carry the input columns"):
        for row in rows:
            ranges[row.index // 8192].carry(row.index, row.columns)
    with steps.step("render: row to prompt"):
        prompts = [_sure(plan.renderer.render(row), Prompt) for row in rows]
    with steps.step("encode: prompt to bytes and key"):
        requests = [plan.encode(prompt) for prompt in prompts]
    gate = LocalGate(Limits(requests_per_minute=1e9, tokens_per_minute=1e12, max_concurrency=256))
    await asyncio.sleep(1.1)  # behind the ramp of its start
    await gate.acquire(1)
    gate.release(1, 1)
    with steps.step("gate: acquire and release, nobody waiting"):
        for _ in requests:
            await gate.acquire(200)
            gate.release(200, 183)
    answer, headers, now = ANSWER, ANSWER_HEADERS, datetime.now(UTC)
    with steps.step("decode: bytes to completion"):
        found = [
            _sure(compatible.decode(Response(200, headers, answer, 0.0), plan.dialect, now), Completion)
            for _ in requests
        ]
    with steps.step("budget: set the worst case aside, settle it"):
        await _spend(plan, requests, found)
    with steps.step("check the label"):
        fields = [_sure(plan.check.check(one), dict) for one in found]
    with steps.step("settle: the outcome"):
        outcomes = [
            Outcome(
                index=asked.index,
                row_id=asked.row_id,
                status=Status.OK,
                key=asked.key,
                completion=one,
                fields=typed,
                http_status=200,
                attempts=1,
                started_at_us=1764000000000000,
                latency_ms=400.0,
                queue_ms=0.1,
                run_id="20261122T100000-00000000",
            )
            for asked, one, typed in zip(requests, found, fields, strict=True)
        ]
    journal = Journal(folder)
    with steps.step(f"journal: attempt and outcome, {GROUP} rows a commit"):
        for first in range(0, ROWS, GROUP):
            group = outcomes[first : first + GROUP]
            for one in group:
                journal.begin_attempt(one.index)
            journal.commit()
            for one in group:
                journal.record(one)
            journal.commit()
    counters = Counters(ROWS, Totals(), plan.costs)
    with steps.step("count: tokens and cost so far"):
        for one in outcomes:
            counters.settle(one)
    for one in outcomes:
        ranges[one.index // 8192].settle(one)
    with steps.step("part: columns, prices, Parquet, fsync"):
        records = [write_part(range_, layout, range_.slices()) for range_ in ranges]
    with steps.step("journal: let go of the part's rows"):
        for range_, record in zip(ranges, records, strict=True):
            journal.add_part(record, range_.first, keep_rows=False)
        journal.close()  # with which the last of them leave
    return steps.us


async def _spend(plan: Plan, requests: list[Request], found: list[Completion]) -> None:
    note = Spent(sqlite3.connect(":memory:")).add
    spec = BudgetSpec(cap=10**18, currency="CNY", cost=plan.nano_cost, month=lambda: 202611, note=note)
    budget = Budget(spec, {})
    for asked, one in zip(requests, found, strict=True):
        with _sure(await budget.hold(asked.most_cost), Held) as held:
            held.sent = True
            held.settle(one, maybe_paid=False)


def _sure(value: Any, kind: type) -> Any:
    assert isinstance(value, kind), value
    return value


def main() -> None:
    if sys.argv[1:] != ["--child"]:
        print(as_table(measure()))
        return
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        folder = Path(name)
        dataset = write_reviews(folder / "reviews.jsonl", ROWS)
        plan = read_plan(write_job(folder, dataset, base_url="http://127.0.0.1:9/v1", in_flight=256))
        (folder / "run").mkdir()
        us = uvloop.run(_take(plan, folder / "run"))
    us[WHOLE] = run_rows(ROWS).us_a_row
    print(json.dumps(us))


if __name__ == "__main__":
    main()
