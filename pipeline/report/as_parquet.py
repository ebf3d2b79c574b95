"""The report as a Parquet table, for notebooks: sums by all that rows can have in common. The schema stands in docs/reports.md.

One row a run, day, model, route, currency, status, finish reason and failure kind; every figure adds up over rows.
"""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.facts import Cell, RunFacts
from pipeline.totals import TOKEN_KINDS

SCHEMA_VERSION = 1
METADATA_KEY = b"promptmill"
_KEYS = (
    pa.field("job", pa.string(), nullable=False),
    pa.field("folder", pa.string(), nullable=False),
    pa.field("started", pa.timestamp("us", tz="UTC")),
    pa.field("day", pa.date32()),
    pa.field("model", pa.string()),
    pa.field("route", pa.string()),
    pa.field("currency", pa.string()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("finish_reason", pa.string()),
    pa.field("error_kind", pa.string()),
)
_COUNTS = ("rows", "answers", "attempts")
_FIELDS: "list[pa.Field[Any]]" = [
    *_KEYS,
    *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
    *(pa.field(kind, pa.int64()) for kind in TOKEN_KINDS),
    *(pa.field(f"{kind}_unknown", pa.int64(), nullable=False) for kind in TOKEN_KINDS),
    pa.field("cost", pa.decimal128(38, 9)),
    pa.field("unpriced", pa.int64(), nullable=False),
]
SCHEMA = pa.schema(_FIELDS)


def table(runs: Sequence[RunFacts]) -> pa.Table:
    """All sums of some runs; a sum that no answer told is null."""
    cells = [(facts.about, cell, sums) for facts in runs for cell, sums in facts.cells.items()]
    columns: dict[str, list[Any]] = {
        "job": [about.job for about, _, _ in cells],
        "folder": [about.folder for about, _, _ in cells],
        "started": [about.started for about, _, _ in cells],
        **{name: [getattr(cell, name) for _, cell, _ in cells] for name in Cell._fields},
        **{name: [getattr(sums, name) for _, _, sums in cells] for name in _COUNTS},
        **{kind: [sums.known_tokens(kind) for _, _, sums in cells] for kind in TOKEN_KINDS},
        **{
            f"{kind}_unknown": [sums.answers - sums.told[kind] for _, _, sums in cells]
            for kind in TOKEN_KINDS
        },
        "cost": [sums.known_cost for _, _, sums in cells],
        "unpriced": [sums.unpriced for _, _, sums in cells],
    }
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    metadata = {METADATA_KEY: f'{{"report_schema_version": {SCHEMA_VERSION}}}'.encode()}
    return pa.table(arrays, schema=SCHEMA.with_metadata(metadata))


def to_bytes(content: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(content, sink, compression="zstd")
    return sink.getvalue()
