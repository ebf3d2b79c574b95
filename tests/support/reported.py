"""Run folders with rows as a test wants them: whole result rows from the few values that matter, in real part files."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.estimate import as_json
from pipeline.estimate.figures import Cost, Estimate, Source
from pipeline.history import History, Moment
from pipeline.journal import Journal
from pipeline.masking import Secrets
from pipeline.parts import InputColumn, Layout, part_name
from pipeline.report.facts import RunFacts
from pipeline.report.read import Reading, read_run
from pipeline.s3 import S3Settings
from pipeline.sampling import Interval
from pipeline.storage import RESULTS, LocalFiles

START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
PLAINLY = Reading(s3=S3Settings(), secrets=Secrets())


def answer(index: int, **values: Any) -> dict[str, Any]:
    """A row that was answered, a second after the one before it."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {
        "row_id": f"r{index}",
        "input_index": index,
        "key": f"k{index}",
        "status": "ok",
        "content": f"answer {index}",
        "finish_reason": "stop",
        **usage,
        "cost": Decimal("0.001"),
        "currency": "CNY",
        "attempts": 1,
        "model": "qwen-plus",
        "route": "realtime",
        "started_at": START + timedelta(seconds=index),
        "latency_ms": 100.0 + index,
        "queue_ms": 0.0,
        "http_status": 200,
        "run_id": "run-1",
    } | values


def failure(index: int, kind: str = "invalid_request", **values: Any) -> dict[str, Any]:
    """A row that failed without an answer."""
    without = dict.fromkeys(
        (
            "content",
            "finish_reason",
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "cost",
            "currency",
            "model",
        )
    )
    why = {
        "status": "failed",
        "error_kind": kind,
        "error_code": "bad",
        "error_message": "no good",
        "http_status": 400,
    }
    return answer(index, **(without | why | values))


def run_folder(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    *,
    rows_per_part: int = 4,
    wanted: int | None = None,
    job: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    started: datetime = START,
) -> Path:
    """A run folder with these rows in its parts. Other columns than results' own are text that was carried along.

    `job` has sections for run.json's; `wanted` is how many rows the whole input has.
    """
    results = LocalFiles(folder / RESULTS)
    results.prepare()
    journal = Journal(folder)
    name = (job or {}).get("name", "mood")
    count = len(rows) if wanted is None else wanted
    journal.write_manifest({"name": name, "rows": str(count), "rows_per_part": str(rows_per_part)})
    journal.close()
    schema = _schema(results, rows)
    for number in range(-(-len(rows) // rows_per_part)):
        some = rows[number * rows_per_part : (number + 1) * rows_per_part]
        table = pa.Table.from_pylist(list(some), schema=schema)
        pq.write_table(table, folder / RESULTS / part_name(number))
    sections = {"model": {"provider": "dashscope", "name": "qwen-plus", "route": "realtime"}} | (job or {})
    content = {
        "started": started.isoformat(),
        "price_version": "2026-11-01-abcdef01",
        "job": {"name": name} | sections,
        "summary": {
            "exit_code": 0,
            "exit_reason": "every row has its outcome",
            "elapsed_s": 60.0,
            "currency": "CNY",
        }
        | (summary or {}),
    }
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _schema(results: LocalFiles, rows: Sequence[dict[str, Any]]) -> pa.Schema:
    layout = Layout(
        results=results,
        rows_per_part=1,
        inputs=(),
        answer_fields=(),
        carry=lambda value: value,
        costs=lambda outcomes: [None] * len(outcomes),
        currency=None,
        price_version=None,
        route="realtime",
        raw=False,
        fingerprint="",
    )
    own = layout.schema()
    others = sorted({name for row in rows for name in row} - set(own.names))
    inputs = [InputColumn(name, name, pa.string()) for name in others]
    return pa.schema([*(pa.field(one.name, one.type) for one in inputs), *own])


@contextmanager
def keeping_history(folder: Path) -> Iterator[History]:
    """The history of a run folder, to add to."""
    journal = Journal(folder)
    try:
        yield journal.history
    finally:
        journal.close()


def moment(seconds: int, **values: Any) -> Moment:
    """A moment so many seconds after START; nothing had happened."""
    nothing: dict[str, Any] = dict.fromkeys(Moment._fields, 0) | {"run_id": "run-1", "lag_p99_ms": 1.0}
    return Moment(
        **nothing | {"at_us": int((START.timestamp() + seconds) * 1_000_000), "cooling": False} | values
    )


def estimated() -> dict[str, Any]:
    """An estimate of ten rows as `estimate --json` gives it: 1,000 input tokens exactly, 100 output tokens more or less."""
    cost = Cost(
        provider="dashscope",
        model="qwen-plus",
        route="realtime",
        own=True,
        currency="CNY",
        price_version=None,
        expected=Interval(10_000_000.0, 8_000_000.0, 12_000_000.0),
        least=None,
        most=None,
        time_s=None,
        bound_by=None,
    )
    other = replace(cost, own=False, expected=Interval.exactly(1.0))
    return as_json(
        Estimate(
            job="mood",
            provider="dashscope",
            model="qwen-plus",
            rows=10,
            unsendable=Interval.exactly(0),
            repeated=0,
            settled=0,
            paid=None,
            counted=10,
            source=Source(kind="pilot", rows=3),
            input=Interval.exactly(1_000.0),
            output=Interval(100.0, 80.0, 120.0),
            reasoning=None,
            most_output=None,
            requests=Interval.exactly(10),
            failed_share=None,
            costs=[other, cost],
        )
    )


def facts_of(folder: Path) -> RunFacts:
    return read_run(folder, PLAINLY)
