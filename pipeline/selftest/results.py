"""What a run left in its part files, read as any user would: with pyarrow, file by file in the order of their names."""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.selftest.verdict import Unproven


class Row(NamedTuple):
    """The columns of a result row that verdicts rest on."""

    row_id: str
    input_index: int
    status: str
    content: str | None
    error_kind: str | None
    error_message: str | None
    attempts: int
    request_id: str | None


def part_paths(run: Path) -> list[Path]:
    return sorted((run / "results").glob("part-*.parquet"))


def read_table(part: Path) -> pa.Table:
    """A part as it lies on the disk. Raises Unproven where it cannot be read."""
    try:
        return pq.ParquetFile(part).read()
    except (OSError, pa.ArrowException) as error:
        raise Unproven(f"{part} is not a Parquet file that can be read: {error}") from error


def read_rows(run: Path) -> list[Row]:
    """All rows of a run, in the order in which they lie. Raises Unproven where a part cannot be read or lacks a column."""
    found: list[Row] = []
    for part in part_paths(run):
        table = read_table(part)
        if missing := set(Row._fields) - set(table.column_names):
            raise Unproven(f"{part} lacks the columns {', '.join(sorted(missing))}")
        found += (Row(**values) for values in table.select(list(Row._fields)).to_pylist())
    return found
