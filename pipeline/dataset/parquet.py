"""Parquet: rows by row group and small batch, any column types, and the one schema that all files share.

A column's type is the files' own, but for three: nanoseconds are carried as microseconds (the rest is cut
off, Python holds no more), float16 as float32, dictionary-encoded values as the values.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.files import Cursor, DatasetFile
from pipeline.dataset.lines import too_long_problem
from pipeline.dataset.row_sizes import BATCH_ROWS, Stretch, stretches, text_paths, unpacked_bytes
from pipeline.errors import DatasetError
from pipeline.records import Row
from pipeline.s3 import GO_ON, S3Error

_OFFSETS = pa.array(range(BATCH_ROWS))
AGREE = "all Parquet files of a dataset must have the same columns. Name only files that agree."


def open_parquet(file: DatasetFile, by_dictionary: Sequence[str] = ()) -> pq.ParquetFile:
    """Open `file` and read its footer; DatasetError where it has none, or bears a column's name twice.

    Values of the columns at the paths `by_dictionary` are left in dictionaries.
    """
    try:
        with file.source.errors():
            parquet = file.source.parquet(list(by_dictionary))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{file.name} cannot be read as Parquet: {one_line(error)}") from error
    names = parquet.schema_arrow.names
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise DatasetError(f'{file.name} has two columns "{twice}"; each column needs its own name.')
    if not names:
        raise DatasetError(f"{file.name} has no columns.")
    return parquet


def read_parquet(
    file: DatasetFile, cursor: Cursor, max_row_bytes: int, only: str | None = None
) -> Iterator[Row]:
    """Yield the rows of one file, or of its column `only`, from `cursor.start` on.

    Row groups before it are not read. `Row.line` is the row within the file, from 1. A row of more than `max_row_bytes`, or
    with a value that Python cannot hold (text that is not UTF-8, a year past 9999), is a problem. Raises
    DatasetError where the data is damaged.
    """
    with open_parquet(file) as parquet:
        group_rows = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        first_group = 0
        line = 1
        while first_group < len(group_rows) and cursor.index + group_rows[first_group] <= cursor.start:
            cursor.index += group_rows[first_group]
            line += group_rows[first_group]
            first_group += 1
        paths = text_paths(parquet, only)
        try:
            with file.source.errors(), open_parquet(file, paths) as dictionaries:
                for stretch in stretches(dictionaries, first_group, paths):
                    for batch in _batches(file, stretch, only):
                        passed = min(max(cursor.start - cursor.index, 0), batch.num_rows)
                        cursor.index += passed
                        place = _Place(file.name, cursor.index, line + passed)
                        for row in _bounded_rows(batch.slice(passed), place, max_row_bytes):
                            cursor.index += 1
                            yield row
                        line += batch.num_rows
        except S3Error as error:
            raise DatasetError(
                f"{file.name} cannot be read after row {line - 1:,}: {error}. {GO_ON}"
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{file.name} is damaged after row {line - 1:,}: {one_line(error)}") from error


def _batches(file: DatasetFile, stretch: Stretch, only: str | None) -> Iterator[pa.RecordBatch]:
    with open_parquet(file, stretch.by_dictionary) as parquet:
        yield from parquet.iter_batches(
            stretch.batch_rows,
            row_groups=stretch.groups,
            columns=None if only is None else [only],
            use_threads=False,
        )


class _Place(NamedTuple):
    """Where the first row of a batch stands."""

    source: str
    row: int
    line: int


def _bounded_rows(batch: pa.RecordBatch, place: _Place, max_row_bytes: int) -> Iterator[Row]:
    """The rows of a batch, of which no more than fit the bound become Python's at once."""
    if unpacked_bytes(batch) <= max_row_bytes:  # then so is each of them
        yield from _rows(batch, place)
    elif batch.num_rows == 1:
        yield Row(place.row, {}, place.source, place.line, too_long_problem("row", max_row_bytes))
    else:
        half = batch.num_rows // 2
        for start, end in ((0, half), (half, batch.num_rows)):
            # Taken, not sliced: a slice of a list still has the values of all, and would unpack them.
            some = batch.take(_OFFSETS.slice(start, end - start))
            there = _Place(place.source, place.row + start, place.line + start)
            yield from _bounded_rows(some, there, max_row_bytes)


def _rows(batch: pa.RecordBatch, place: _Place) -> Iterator[Row]:
    name, index, line = place
    names = batch.schema.names
    problems: dict[int, str] = {}
    values = [_python_values(c, n, problems) for c, n in zip(batch.columns, names, strict=True)]
    for offset, row in enumerate(zip(*values, strict=True)):
        problem = problems.get(offset)
        columns = {} if problem else dict(zip(names, row, strict=True))
        yield Row(index + offset, columns, name, line + offset, problem)


def _python_values(array: "pa.Array[Any]", name: str, problems: dict[int, str]) -> list[Any]:
    """Return the column's values; of one that Python cannot hold, `problems` says why, by its offset."""
    carried = carried_type(array.type)
    if carried != array.type:
        array = array.cast(carried, safe=False)
    try:
        return array.to_pylist()
    except (ValueError, OverflowError):
        pass  # some value of the batch: find which
    values = []
    for offset, scalar in enumerate(array):
        try:
            values.append(scalar.as_py())
        except (ValueError, OverflowError) as error:
            values.append(None)
            problems.setdefault(offset, f'column "{name}" cannot be read: {one_line(error)}')
    return values


def carried_type(kind: pa.DataType) -> pa.DataType:
    """Return the type under which values of `kind` are carried; see the module's docstring."""
    if pa.types.is_dictionary(kind):
        return carried_type(kind.value_type)
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_list(kind):
        return pa.list_(carried_type(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(carried_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, carried_type(field.type)) for field in kind])
    return kind


def count_rows(files: Sequence[DatasetFile]) -> int:
    """Return the number of rows by the files' footers alone."""
    return sum(_footer(file)[1] for file in files)


def shared_schema(files: Sequence[DatasetFile]) -> pa.Schema:
    """Return the carried columns of all files, in the order of the first, each nullable.

    A column without any value (type null) agrees with every type. Raises DatasetError with two files and the
    column where they differ otherwise.
    """
    first = files[0]
    types: dict[str, pa.DataType] = {}
    for file in files:
        found = _footer(file)[0]
        if not types:
            types = found
        for name in sorted(types.keys() | found.keys()):
            if name not in types or name not in found:
                having, lacking = (file, first) if name not in types else (first, file)
                raise DatasetError(f'{having.name} has a column "{name}", {lacking.name} has not; {AGREE}')
            if pa.types.is_null(types[name]):
                types[name] = found[name]
            elif types[name] != found[name] and not pa.types.is_null(found[name]):
                raise DatasetError(
                    f'Column "{name}" is {types[name]} in {first.name}, {found[name]} in {file.name}; {AGREE}'
                )
    return pa.schema([pa.field(name, kind) for name, kind in types.items()])


def _footer(file: DatasetFile) -> tuple[dict[str, pa.DataType], int]:
    with open_parquet(file) as parquet:
        return {f.name: carried_type(f.type) for f in parquet.schema_arrow}, parquet.metadata.num_rows


def one_line(error: Exception) -> str:
    """Return the first line of a library's message, ended by a full stop."""
    text = str(error).strip().split("\n", 1)[0].rstrip(".")
    return f"{text or type(error).__name__}."
