"""Part files: the result schema, ranges of input rows, and how a full range becomes one Parquet file, whole or not at all.

A part holds the input rows [k*N, (k+1)*N) in input order and exists if and only if each of them has its outcome. Where its
bytes come to lie, and that they do so at once, is `storage.py`'s business. Arrow arrays are built a column at a time.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import Completion, Failure, Outcome, Priced, Usage
from pipeline.response import AnswerField
from pipeline.storage import Storage
from pipeline.totals import TOKEN_KINDS, Costs, PartRecord, Totals

SCHEMA_VERSION = 1
DEFAULT_ROWS_PER_PART = 8192
# About 2 ms: made on the event loop, for a thread that makes Python objects takes the interpreter from it for 5 ms at a time.
SLICE_ROWS = 512
METADATA_KEY = b"promptmill"
_TOOL_CALLS = pa.list_(pa.struct([("id", pa.string()), ("name", pa.string()), ("arguments", pa.string())]))
# Few distinct values: dictionary encoding pays. Elsewhere it costs time and memory for nothing.
_ENUM_COLUMNS = [
    "status",
    "finish_reason",
    "currency",
    "price_version",
    "error_kind",
    "error_code",
    "model",
    "route",
    "run_id",
]

_BEFORE_ANSWER: list[tuple[str, pa.DataType]] = [
    ("row_id", pa.string()),
    ("input_index", pa.int64()),
    ("key", pa.string()),
    ("status", pa.string()),
    ("content", pa.string()),
    ("reasoning_content", pa.string()),
    ("finish_reason", pa.string()),
    ("tool_calls", _TOOL_CALLS),
    ("choices", pa.string()),
]
_AFTER_ANSWER: list[tuple[str, pa.DataType]] = [
    *((name, pa.int64()) for name in TOKEN_KINDS),
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
RESULT_COLUMNS: frozenset[str] = frozenset(name for name, _ in (*_BEFORE_ANSWER, *_AFTER_ANSWER)) | {
    "response"
}


class InputColumn(NamedTuple):
    """An input column carried along: its name in the input, its name in the results, its type."""

    source: str
    name: str
    type: pa.DataType


class Terms(Protocol):
    """On what terms outcomes are paid; prices are None where none is known."""

    @property
    def currency(self) -> str | None: ...

    @property
    def price_version(self) -> str | None: ...

    @property
    def route(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All that decides how the part files of one run look, and where they lie (`results`).

    `carry` turns an input value into one of its column's type; `costs` prices outcomes, in order. `fingerprint` names the job
    and dataset, so that a stray part of other work is never taken for ours.
    """

    results: Storage
    rows_per_part: int
    inputs: tuple[InputColumn, ...]
    answer_fields: tuple[AnswerField, ...]
    carry: Callable[[Any], Any]
    costs: Costs
    currency: str | None
    price_version: str | None
    route: str
    raw: bool
    fingerprint: str

    def schema(self) -> pa.Schema:
        fields = [
            *(pa.field(column.name, column.type) for column in self.inputs),
            *(pa.field(name, kind) for name, kind in _BEFORE_ANSWER),
            *self.answer_fields,
            *(pa.field(name, kind) for name, kind in _AFTER_ANSWER),
        ]
        if self.raw:
            fields.append(pa.field("response", pa.string()))
        return pa.schema(fields)


class OpenRange:
    """A range whose rows do not all have outcomes yet. `missing` counts those still out."""

    __slots__ = ("_columns", "_layout", "first", "missing", "number", "outcomes", "size")

    def __init__(self, layout: Layout, number: int, size: int) -> None:
        self.number = number
        self.first = number * layout.rows_per_part
        self.size = size
        self.missing = size
        self.outcomes: list[Outcome | None] = [None] * size
        self._layout = layout
        self._columns: list[list[Any]] = [[None] * size for _ in layout.inputs]

    def carry(self, index: int, columns: dict[str, Any]) -> None:
        """Keep the row's input columns for the results."""
        carry = self._layout.carry
        for column, values in zip(self._layout.inputs, self._columns, strict=True):
            if (value := columns.get(column.source)) is not None:
                values[index - self.first] = carry(value)

    def settle(self, outcome: Outcome) -> bool:
        """Keep a row's outcome; True when the range is full."""
        place = outcome.index - self.first
        if self.outcomes[place] is not None:
            raise AssertionError(f"row {outcome.index} has two outcomes")
        self.outcomes[place] = outcome
        self.missing -= 1
        return self.missing == 0

    def slices(self) -> Iterator["Slice"]:
        """The range as its part file has it, some rows at a time; every row must have its outcome."""
        schema = self._layout.schema()
        for start in range(0, self.size, SLICE_ROWS):
            yield self._slice(slice(start, start + SLICE_ROWS), schema)

    def _slice(self, rows: slice, schema: pa.Schema) -> "Slice":
        layout = self._layout
        outcomes = [outcome for outcome in self.outcomes[rows] if outcome is not None]
        costs = layout.costs(outcomes)
        arrays: dict[str, Any] = result_columns(outcomes, costs, layout)
        for column, values in zip(layout.inputs, self._columns, strict=True):
            arrays[column.name] = pa.array(values[rows], column.type)
        for field in layout.answer_fields:
            arrays[field.name] = pa.array([o.fields.get(field.name) for o in outcomes], field.type)
        totals = Totals()
        totals.add(outcomes, costs)
        return Slice(pa.record_batch([arrays[field.name] for field in schema], schema=schema), totals)


class Slice(NamedTuple):
    """Some rows of a full range, with their totals."""

    batch: pa.RecordBatch
    totals: Totals


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def is_part_name(name: str) -> bool:
    """Whether a reader of `results/part-*.parquet` would take this file for a part."""
    return name.startswith("part-") and name.endswith(".parquet")


def part_names(results: Storage) -> list[str]:
    """The names of all parts there are, in the order of their rows."""
    return sorted(filter(is_part_name, results.stamps()), key=lambda name: (len(name), name))


def write_part(full: OpenRange, layout: Layout, slices: Iterable[Slice]) -> PartRecord:
    """Write a full range's part file, whole and durably, and say what it holds. Raises OSError where the disk refuses.

    `slices` are those of the range. Little of this holds the interpreter, so that a thread may do it beside the event loop.
    """
    slices = list(slices)
    table = pa.Table.from_batches([one.batch for one in slices], layout.schema())
    totals = Totals()
    for one in slices:
        totals.merge(one.totals)
    metadata: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "number": full.number,
        "rows": full.size,
        "rows_per_part": layout.rows_per_part,
        "totals": totals.to_json(),
        "answer_fields": [field.name for field in layout.answer_fields],
        "fingerprint": layout.fingerprint,
    }
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)})
    dictionary = [name for name in _ENUM_COLUMNS if name in table.column_names]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=dictionary,  # type: ignore[arg-type]  # the stub knows bool only
        write_page_checksum=True,
    )
    data = memoryview(sink.getvalue())
    stamp = layout.results.put(part_name(full.number), data)
    return PartRecord(full.number, full.size, metadata["totals"], stamp, digest(data))


def digest(data: bytes | memoryview) -> str:
    """What a part file's bytes are known by."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def result_name(column: str, taken: Sequence[str] | set[str] | frozenset[str]) -> str:
    """An input column's name among the results: its own, with `_input` behind it while that is taken."""
    name = column
    while name in taken:
        name += "_input"
    return name


def billed(outcome: Outcome, name: str) -> int | None:
    """A token count of all answers that were paid for this row; None where any of them is unknown."""
    if outcome.completion is None:
        return None
    count: int | None = getattr(outcome.completion.usage, name)
    for usage in outcome.earlier:
        more = getattr(usage, name)
        count = None if count is None or more is None else count + more
    return count


_UNPRICED = Priced(None, None, None)
_NO_COMPLETION = Completion(content=None, finish_reason=None, usage=Usage())


def result_columns(outcomes: list[Outcome], costs: list[Decimal | None], terms: Terms) -> dict[str, Any]:
    """The result columns of these outcomes by name, each an Arrow array; without those of inputs and answers' fields."""
    answers = [o.completion or _NO_COMPLETION for o in outcomes]
    failures: list[Failure | None] = [o.failure for o in outcomes]
    asked = [o.completion is not None for o in outcomes]
    # By which prices: those of the day it was paid, else today's; by none where the cost is unknown.
    prices = [
        a.usage.priced if cost is not None else _UNPRICED for a, cost in zip(answers, costs, strict=True)
    ]
    values: dict[str, list[Any]] = {
        "row_id": [o.row_id for o in outcomes],
        "input_index": [o.index for o in outcomes],
        "key": [o.key for o in outcomes],
        "status": [o.status for o in outcomes],
        "content": [a.content for a in answers],
        "reasoning_content": [a.reasoning_content for a in answers],
        "finish_reason": [a.finish_reason for a in answers],
        "tool_calls": [
            a.tool_calls and [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in a.tool_calls]
            for a in answers
        ],
        "choices": [a.choices for a in answers],
        "usage": [a.usage.raw for a in answers],
        "cost": costs,
        "currency": [p.currency if p else terms.currency for p in prices],
        "price_version": [p.price_version if p else terms.price_version for p in prices],
        "error_kind": [f and f.kind for f in failures],
        "error_code": [f and f.code for f in failures],
        "error_message": [f and f.message for f in failures],
        "http_status": [o.http_status for o in outcomes],
        "attempts": [o.attempts for o in outcomes],
        "model": [a.model for a in answers],
        "request_id": [
            a.request_id if known else f and f.request_id
            for a, known, f in zip(answers, asked, failures, strict=True)
        ],
        "route": [terms.route if o.attempts else None for o in outcomes],
        "started_at": [o.started_at_us for o in outcomes],
        "latency_ms": [o.latency_ms for o in outcomes],
        "first_token_ms": [o.first_token_ms for o in outcomes],
        "queue_ms": [o.queue_ms for o in outcomes],
        "run_id": [o.run_id for o in outcomes],
        "response": [o.response for o in outcomes],
    }
    repaired = any(o.earlier for o in outcomes)
    for name in TOKEN_KINDS:
        values[name] = (
            [billed(o, name) for o in outcomes] if repaired else [getattr(a.usage, name) for a in answers]
        )
    types = dict((*_BEFORE_ANSWER, *_AFTER_ANSWER, ("response", pa.string())))
    return {name: pa.array(column, types[name]) for name, column in values.items()}
