"""How large rows of Parquet become when they are unpacked, told before they are.

Parquet keeps a repeated value once, in a dictionary of its row group: a file of kilobytes may say one long text in a million
rows, or a million times in one. So columns whose dictionary could do harm are read as dictionaries, and each row is
measured before Python sees it. What is not bounded here is a single page, which Parquet unpacks whole.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BATCH_ROWS = 2048
BATCH_BYTES = 4 * 1024 * 1024
# What repeated values may add up to in one batch, or at worst in one row of lists, before they are looked at closely.
_HARMLESS_BATCH_BYTES = 64 * 1024 * 1024
_HARMLESS_ROW_BYTES = 256 * 1024 * 1024
_TOGETHER_ROWS = 8 * BATCH_ROWS
_TEXT = frozenset({"BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"})


class Stretch(NamedTuple):
    """Row groups that are read alike: so many rows at once, and these columns (by their paths) as dictionaries."""

    groups: list[int]
    batch_rows: int
    by_dictionary: tuple[str, ...]


def text_paths(parquet: pq.ParquetFile, only: str | None) -> list[str]:
    """The paths of columns of text or bytes, or of those within the column `only`."""
    columns = (parquet.schema.column(place) for place in range(len(parquet.schema)))
    return [
        column.path
        for column in columns
        if column.physical_type in _TEXT and (only is None or column.path.partition(".")[0] == only)
    ]


def stretches(parquet: pq.ParquetFile, first_group: int, paths: list[str]) -> Iterator[Stretch]:
    """Divide the row groups from `first_group` on by how they are to be read; small ones are read together.

    `parquet` was opened to read the columns at `paths` as dictionaries.
    """
    current, together = Stretch([], 0, ()), 0
    for group in range(first_group, parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        rows = _batch_rows(metadata)
        risky = tuple(_risky(parquet, group, rows, paths))
        if current.groups and ((rows, risky) != current[1:] or together >= _TOGETHER_ROWS):
            yield current
            current, together = Stretch([], 0, ()), 0
        current = Stretch([*current.groups, group], rows, risky)
        together += metadata.num_rows
    if current.groups:
        yield current


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    """How many rows to hold at once, so that long ones do not add up; a power of two, so that groups are often alike."""
    row_bytes = group.total_byte_size / max(group.num_rows, 1)
    rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))
    return 1 << (rows.bit_length() - 1)


def _risky(parquet: pq.ParquetFile, group: int, batch_rows: int, paths: list[str]) -> Iterator[str]:
    """The columns that could unpack to much more than they are."""
    metadata = parquet.metadata.row_group(group)
    for place in range(metadata.num_columns):
        column = metadata.column(place)
        path, name = column.path_in_schema, column.path_in_schema.partition(".")[0]
        if path not in paths or not column.has_dictionary_page:
            continue
        if parquet.schema.column(place).max_repetition_level:  # of a list all values may stand in one row
            times, harmless = column.num_values, _HARMLESS_ROW_BYTES
        elif batch_rows > 1:
            times, harmless = batch_rows, _HARMLESS_BATCH_BYTES
        else:
            continue
        # No value is longer than all that is written. If that does not settle it, the first row brings the dictionary along.
        if column.total_uncompressed_size * times <= harmless:
            continue
        first = next(parquet.iter_batches(1, row_groups=[group], columns=[name], use_threads=False))
        longest = _longest_value(first.column(0))
        if longest is None or longest * times > harmless:
            yield path


def _longest_value(array: "pa.Array[Any]") -> int | None:
    """The longest value of the dictionaries in an array, in bytes; None where one of them is not there."""
    if pa.types.is_dictionary(array.type):
        dictionary = array.dictionary  # type: ignore[attr-defined]
        return pc.max(pc.binary_length(dictionary)).as_py() if len(dictionary) else None
    longest: list[int | None] = [_longest_value(inner) for inner in _inner(array)]
    return None if None in longest else max((one for one in longest if one is not None), default=0)


def unpacked_bytes(batch: pa.RecordBatch) -> int:
    """How many bytes the values of a batch are, each repeated one counted."""
    return sum(map(_unpacked, batch.columns))


def _unpacked(array: "pa.Array[Any]") -> int:
    if pa.types.is_dictionary(array.type):
        dictionary, indices = array.dictionary, array.indices  # type: ignore[attr-defined]
        if pa.types.is_nested(dictionary.type) or not len(dictionary):
            return int(array.nbytes)
        if not (pa.types.is_string(dictionary.type) or pa.types.is_binary(dictionary.type)):
            return int(len(array) * dictionary.nbytes // len(dictionary))
        return int(pc.sum(pc.take(pc.binary_length(dictionary), indices)).as_py() or 0)
    if pa.types.is_nested(array.type):
        return sum(map(_unpacked, _inner(array)))
    return int(array.nbytes)


def _inner(array: "pa.Array[Any]") -> list["pa.Array[Any]"]:
    """The arrays of a nested one, cut to its own values; none of one that is not nested."""
    kind = array.type
    if pa.types.is_map(kind):
        start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()  # type: ignore[attr-defined]
        return [one.slice(start, end - start) for one in (array.keys, array.items)]  # type: ignore[attr-defined]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [array.flatten()]  # type: ignore[attr-defined]
    if pa.types.is_struct(kind):
        return list(array.flatten())  # type: ignore[attr-defined]
    return []
