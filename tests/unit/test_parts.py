"""Part files: exactly the contract's columns, whole or not at all, and recognisable afterwards."""

import asyncio
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.part_reading import DamagedPart, arrow_file, found_part
from pipeline.parts import (
    SLICE_ROWS,
    InputColumn,
    Layout,
    OpenRange,
    billed,
    part_name,
    result_name,
    write_part,
)
from pipeline.records import Completion, Failure, FailureKind, Outcome, Status, ToolCall, Usage
from pipeline.response import AnswerCheck
from pipeline.storage import LocalFiles
from tests.support.rig import Rig, always, answer, outcome

TOOL_CALLS = pa.list_(pa.struct([("id", pa.string()), ("name", pa.string()), ("arguments", pa.string())]))
BEFORE = [
    ("row_id", pa.string()),
    ("input_index", pa.int64()),
    ("key", pa.string()),
    ("status", pa.string()),
    ("content", pa.string()),
    ("reasoning_content", pa.string()),
    ("finish_reason", pa.string()),
    ("tool_calls", TOOL_CALLS),
    ("choices", pa.string()),
]
AFTER = [
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("total_tokens", pa.int64()),
    ("cached_tokens", pa.int64()),
    ("cache_write_tokens", pa.int64()),
    ("reasoning_tokens", pa.int64()),
    ("usage", pa.string()),
    ("cost", pa.decimal128(18, 9)),
    ("currency", pa.string()),
    ("price_version", pa.string()),
    ("error_kind", pa.string()),
    ("error_code", pa.string()),
    ("error_message", pa.string()),
    ("http_status", pa.int32()),
    ("attempts", pa.int32()),
    ("model", pa.string()),
    ("request_id", pa.string()),
    ("route", pa.string()),
    ("started_at", pa.timestamp("us", tz="UTC")),
    ("latency_ms", pa.float64()),
    ("first_token_ms", pa.float64()),
    ("queue_ms", pa.float64()),
    ("run_id", pa.string()),
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mood": {"type": "string"},
        "stars": {"type": ["integer", "null"]},
        "share": {"type": "number"},
        "sure": {"type": "boolean"},
        "words": {"type": "array"},
    },
}


def layout(folder: Path, **more: Any) -> Layout:
    plain: dict[str, Any] = {
        "results": LocalFiles(folder / "results"),
        "rows_per_part": 4,
        "inputs": (),
        "answer_fields": (),
        "carry": lambda value: value,
        "costs": lambda outcomes: [None] * len(outcomes),
        "currency": "CNY",
        "price_version": "2026-01",
        "route": "realtime",
        "raw": False,
        "fingerprint": "ours",
    }
    (folder / "results").mkdir(exist_ok=True)
    return Layout(**(plain | more))


def path(target: Layout, number: int) -> Path:
    assert isinstance(target.results, LocalFiles)
    return target.results.folder / part_name(number)


def written(target: Layout, *outcomes: Outcome, number: int = 0) -> pa.Table:
    range_ = OpenRange(target, number, len(outcomes))
    for one in outcomes:
        range_.settle(one)
    write_part(range_, target, range_.slices())
    return pq.read_table(path(target, number))


def columns(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


@pytest.mark.parametrize(
    ("more", "first", "middle", "last"),
    [
        ({}, [], [], []),
        ({"raw": True}, [], [], [("response", pa.string())]),
        (
            {"answer_fields": tuple(AnswerCheck(labels=["a"]).fields())},
            [],
            [("label", pa.string())],
            [],
        ),
        (
            {"answer_fields": tuple(AnswerCheck(schema=SCHEMA).fields()), "raw": True},
            [],
            [
                ("mood", pa.string()),
                ("stars", pa.int64()),
                ("share", pa.float64()),
                ("sure", pa.bool_()),
                ("words", pa.string()),
            ],
            [("response", pa.string())],
        ),
        (
            {
                "inputs": (
                    InputColumn("text", "text", pa.string()),
                    InputColumn("status", "status_input", pa.list_(pa.int8())),
                )
            },
            [("text", pa.string()), ("status_input", pa.list_(pa.int8()))],
            [],
            [],
        ),
    ],
)
def test_a_part_has_the_contracts_columns_in_order_and_type_whatever_the_rows_hold(
    tmp_path: Path, more: dict[str, Any], first: list[Any], middle: list[Any], last: list[Any]
) -> None:
    target = layout(tmp_path, **more)
    table = written(target, outcome(0, Status.FAILED, attempts=0))
    assert columns(table.schema) == [*first, *BEFORE, *middle, *AFTER, *last]
    file = pq.ParquetFile(path(target, 0))
    group = file.metadata.row_group(0)
    assert {group.column(n).compression for n in range(group.num_columns)} == {"ZSTD"}
    assert json.loads(file.schema_arrow.metadata[b"promptmill"])["schema_version"] == 1


def test_an_answered_row_stands_in_its_columns(tmp_path: Path) -> None:
    target = layout(
        tmp_path,
        inputs=(InputColumn("t", "text", pa.string()),),
        answer_fields=tuple(AnswerCheck(labels=["good"]).fields()),
        costs=lambda outcomes: [Decimal("0.000000001")] * len(outcomes),
        raw=True,
    )
    range_ = OpenRange(target, 2, 1)
    range_.carry(8, {"t": "so good", "unused": 1})
    done = Outcome(
        index=8,
        row_id="r8",
        status=Status.OK,
        key="k",
        completion=Completion(
            content="Good.",
            finish_reason="stop",
            usage=Usage(5, 2, 7, 1, 0, 1, '{"total_tokens":7}'),
            model="m",
            request_id="q",
            reasoning_content="hm",
            tool_calls=[ToolCall("i", "f", "{}"), ToolCall(None, None, None)],
            choices="[]",
        ),
        fields={"label": "good"},
        http_status=200,
        attempts=2,
        started_at_us=1_000_000,
        latency_ms=1.5,
        queue_ms=0.5,
        run_id="run",
        response="{}",
    )
    range_.settle(done)
    record = write_part(range_, target, range_.slices())
    (row,) = pl.read_parquet(path(target, 2)).to_dicts()
    assert row.pop("started_at").isoformat() == "1970-01-01T00:00:01+00:00"
    assert row == {
        "text": "so good",
        "row_id": "r8",
        "input_index": 8,
        "key": "k",
        "status": "ok",
        "content": "Good.",
        "reasoning_content": "hm",
        "finish_reason": "stop",
        "tool_calls": [
            {"id": "i", "name": "f", "arguments": "{}"},
            {"id": None, "name": None, "arguments": None},
        ],
        "choices": "[]",
        "label": "good",
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "cached_tokens": 1,
        "cache_write_tokens": 0,
        "reasoning_tokens": 1,
        "usage": '{"total_tokens":7}',
        "cost": Decimal("0.000000001"),
        "currency": "CNY",
        "price_version": "2026-01",
        "error_kind": None,
        "error_code": None,
        "error_message": None,
        "http_status": 200,
        "attempts": 2,
        "model": "m",
        "request_id": "q",
        "route": "realtime",
        "latency_ms": 1.5,
        "first_token_ms": None,
        "queue_ms": 0.5,
        "run_id": "run",
        "response": "{}",
    }
    assert (record.number, record.rows, record.totals["status"]) == (2, 1, {"ok": 1})


def test_a_failed_row_says_why_and_has_neither_cost_nor_currency(tmp_path: Path) -> None:
    failure = Failure(FailureKind.TOO_LARGE, "c", "too long", 400, "q")
    table = written(layout(tmp_path), outcome(0, Status.FAILED, failure=failure, http_status=400))
    (row,) = table.to_pylist()
    told = {name: row[name] for name in ("error_kind", "error_code", "error_message", "request_id")}
    assert told == {
        "error_kind": "too_large",
        "error_code": "c",
        "error_message": "too long",
        "request_id": "q",
    }
    assert row["cost"] is row["currency"] is row["price_version"] is row["content"] is None
    assert (row["route"], row["http_status"]) == ("realtime", 400)


def test_a_row_that_was_never_sent_has_no_route(tmp_path: Path) -> None:
    table = written(layout(tmp_path), outcome(0, Status.FAILED, attempts=0))
    assert table["route"].to_pylist() == [None]


def test_tokens_are_those_of_all_answers_that_were_paid_for_the_row(tmp_path: Path) -> None:
    again = outcome(
        0,
        completion=Completion(content="", finish_reason="stop", usage=Usage(5, 2, 7)),
        earlier=[Usage(4, 1, 5), Usage(4, None, 4)],
    )
    once = outcome(1, completion=Completion(content="", finish_reason="stop", usage=Usage(1, 1, 2)))
    assert (billed(again, "prompt_tokens"), billed(again, "completion_tokens")) == (13, None)
    table = written(layout(tmp_path), again, once)
    assert table["prompt_tokens"].to_pylist() == [13, 1]
    assert table["completion_tokens"].to_pylist() == [None, 1]
    assert table["total_tokens"].to_pylist() == [16, 2]


def test_rows_stand_in_input_order_whatever_the_order_they_settled_in(tmp_path: Path) -> None:
    target = layout(tmp_path)
    range_ = OpenRange(target, 1, 4)
    settled = [range_.settle(outcome(index)) for index in (6, 4, 7, 5)]
    assert settled == [False, False, False, True]
    write_part(range_, target, range_.slices())
    assert pq.read_table(path(target, 1))["input_index"].to_pylist() == [4, 5, 6, 7]


def test_a_second_outcome_of_a_row_is_never_taken(tmp_path: Path) -> None:
    range_ = OpenRange(layout(tmp_path), 0, 2)
    range_.settle(outcome(1))
    with pytest.raises(AssertionError, match="row 1 has two outcomes"):
        range_.settle(outcome(1))


def test_a_part_replaces_its_own_earlier_file_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    target = layout(tmp_path)
    written(target, outcome(0))
    table = written(target, outcome(0), outcome(1))
    assert table.num_rows == 2
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["part-00000.parquet"]


def test_a_part_tells_afterwards_whose_it_is(tmp_path: Path) -> None:
    target = layout(tmp_path)
    range_ = OpenRange(target, 3, 2)
    range_.settle(outcome(12))
    range_.settle(outcome(13))
    record = write_part(range_, target, range_.slices())
    assert found_part(target.results, part_name(3), target.fingerprint) == record
    assert found_part(target.results, part_name(3), "another job's") is None


def test_what_is_not_a_whole_part_is_not_taken_for_one(tmp_path: Path) -> None:
    target = layout(tmp_path)
    written(target, *(outcome(n) for n in range(4)))
    whole = path(target, 0).read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path(target, 1).write_bytes(whole[:size])
        with pytest.raises(DamagedPart):
            found_part(target.results, part_name(1), target.fingerprint)
    path(target, 1).write_bytes(whole)
    assert found_part(target.results, part_name(1), target.fingerprint) is None
    pq.write_table(pa.table({"a": [1]}), path(target, 1))
    assert found_part(target.results, part_name(1), target.fingerprint) is None


def test_arrow_is_handed_no_memory_of_python_s() -> None:
    """A thread of Arrow's that lets go of such memory at the process's end aborts it."""
    data = bytes(range(256)) * 10
    references = sys.getrefcount(data)
    file = arrow_file(data)
    assert sys.getrefcount(data) == references
    assert file.read() == data


def test_an_input_column_with_a_results_name_gets_a_suffix_until_it_is_free() -> None:
    assert result_name("text", {"status"}) == "text"
    assert result_name("status", {"status"}) == "status_input"
    assert result_name("status", {"status", "status_input"}) == "status_input_input"


def test_raw_keeps_each_response_as_it_came(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=2, raw=True)
    asyncio.run(rig.run(always(answer())))
    assert rig.frame()["response"].to_list() == [answer().body.decode()] * 2


def test_a_range_longer_than_a_slice_is_one_table_in_input_order(tmp_path: Path) -> None:
    rows = 2 * SLICE_ROWS + 3
    target = layout(tmp_path, rows_per_part=rows)
    range_ = OpenRange(target, 0, rows)
    for index in reversed(range(rows)):
        range_.settle(outcome(index))
    slices = list(range_.slices())
    assert [one.batch.num_rows for one in slices] == [SLICE_ROWS, SLICE_ROWS, 3]
    record = write_part(range_, target, slices)
    assert record.totals["rows"] == record.rows == rows
    assert sum(one.totals.rows for one in slices) == rows
    file = pq.ParquetFile(path(target, 0))
    assert file.metadata.num_row_groups == 1
    assert file.read(columns=["input_index"])["input_index"].to_pylist() == list(range(rows))
