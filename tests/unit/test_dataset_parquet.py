"""Parquet: any column type, whole row groups passed over, and one schema for all files."""

import secrets
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Dataset, open_dataset
from pipeline.errors import DatasetError

MIB = 1024 * 1024
NOON = datetime(2026, 11, 22, 12, 0, 0, 123456, UTC)


def write(folder: Path, table: pa.Table, name: str = "rows.parquet", group_rows: int = 3) -> Dataset:
    pq.write_table(table, folder / name, row_group_size=group_rows)
    return open_dataset(name, base=folder)


def column(values: Iterable[Any], kind: pa.DataType) -> pa.Table:
    return pa.table({"a": pa.array(list(values), kind)})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("中\0", pa.string()),
        ("large", pa.large_string()),
        (b"\xff\0", pa.binary()),
        (2**63, pa.uint64()),
        (1.5, pa.float64()),
        (True, pa.bool_()),
        (Decimal("1.10"), pa.decimal128(10, 2)),
        (NOON, pa.timestamp("us", "UTC")),
        (date(2026, 11, 22), pa.date32()),
        ([["x"], None, []], pa.list_(pa.list_(pa.string()))),
        (
            {"x": 1, "y": [{"z": None}]},
            pa.struct([("x", pa.int8()), ("y", pa.list_(pa.struct([("z", pa.string())])))]),
        ),
        ([("k", 1)], pa.map_(pa.string(), pa.int64())),
    ],
)
def test_values_of_any_type_come_as_python_values_and_keep_their_type(
    tmp_path: Path, value: object, kind: pa.DataType
) -> None:
    dataset = write(tmp_path, column([value, None], kind))
    assert [r.columns["a"] for r in dataset.rows()] == [value, None]
    schema = dataset.arrow_schema()
    assert schema is not None
    assert schema.field("a").type == kind
    assert pa.array([value, None], schema.field("a").type).to_pylist() == [value, None]


@pytest.mark.parametrize(
    ("array", "carried", "value"),
    [
        (pa.array([NOON], pa.timestamp("ns", "UTC")), pa.timestamp("us", "UTC"), NOON),
        (pa.array([1_999], pa.int64()).cast(pa.duration("ns")), pa.duration("us"), None),
        (pa.array(["x"]).dictionary_encode(), pa.string(), "x"),
        (
            pa.array([[NOON]], pa.list_(pa.timestamp("ns", "UTC"))),
            pa.list_(pa.timestamp("us", "UTC")),
            [NOON],
        ),
    ],
)
def test_types_that_python_does_not_hold_are_carried_as_the_nearest_it_does(
    tmp_path: Path, array: "pa.Array[Any]", carried: pa.DataType, value: object
) -> None:
    dataset = write(tmp_path, pa.table({"a": array}))
    schema = dataset.arrow_schema()
    assert schema is not None
    assert schema.field("a").type == carried
    (row,) = dataset.rows()
    assert row.problem is None
    if value is not None:
        assert row.columns["a"] == value


def test_nanoseconds_below_a_microsecond_are_cut_off_not_an_error(tmp_path: Path) -> None:
    stamps = pa.array([1_234_567], pa.int64()).cast(pa.timestamp("ns"))
    (row,) = write(tmp_path, pa.table({"a": stamps})).rows()
    assert row.columns["a"] == datetime(1970, 1, 1, 0, 0, 0, 1_234)  # the column has no zone


def test_a_value_that_python_cannot_hold_makes_its_row_a_problem(tmp_path: Path) -> None:
    days = pa.array([0, 100_000_000, 1], pa.int32()).cast(pa.date32())
    texts = pa.StringArray.from_buffers(
        3, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])), pa.py_buffer(b"a\xffb")
    )
    rows = list(write(tmp_path, pa.table({"day": days, "n": [1, 2, 3]})).rows())
    assert [r.columns.get("n") for r in rows] == [1, None, 3]
    assert (rows[1].problem or "").startswith('column "day" cannot be read: ')
    rows = list(write(tmp_path, pa.table({"text": texts})).rows())
    assert [r.columns.get("text") for r in rows] == ["a", None, "b"]
    assert "column \"text\" cannot be read: 'utf-8' codec" in (rows[1].problem or "")


def test_rows_are_placed_by_file_and_row_and_any_start_gives_the_rest(tmp_path: Path) -> None:
    write(tmp_path, column(range(7), pa.int64()), "a.parquet")
    write(tmp_path, column([], pa.int64()), "b.parquet")
    write(tmp_path, column(range(7, 9), pa.int64()), "c.parquet")
    dataset = open_dataset("*.parquet", base=tmp_path)
    rows = list(dataset.rows())
    assert [(r.index, r.columns["a"]) for r in rows] == [(i, i) for i in range(9)]
    assert [r.where for r in rows[5:]] == ["a.parquet:6", "a.parquet:7", "c.parquet:1", "c.parquet:2"]
    for start in range(11):
        assert list(dataset.rows(start)) == rows[start:]


def test_rows_are_counted_through_all_batches_of_a_file(tmp_path: Path) -> None:
    dataset = write(tmp_path, column(range(5_000), pa.int64()), group_rows=1_500)
    for start in (0, 1_499, 4_000):
        assert all(r.index == r.columns["a"] == r.line - 1 for r in dataset.rows(start))


def test_row_groups_before_the_start_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = column([secrets.token_hex(500) for _ in range(8)], pa.string())
    pq.write_table(table, path, row_group_size=4, write_page_checksum=True)
    dataset = open_dataset("rows.parquet", base=tmp_path)
    content = bytearray(path.read_bytes())
    content[100:600] = bytes(500)  # inside the first row group
    path.write_bytes(content)
    assert [r.index for r in dataset.rows(start=4)] == [4, 5, 6, 7]
    with pytest.raises(DatasetError, match=r"rows\.parquet is damaged after row 0: "):
        list(dataset.rows(start=3))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all"])
def test_a_file_that_is_not_parquet_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.parquet").write_bytes(content)
    dataset = open_dataset("rows.parquet", base=tmp_path)
    for read in (lambda: list(dataset.rows()), dataset.arrow_schema, lambda: dataset.scan(None)):
        with pytest.raises(DatasetError, match=r"rows\.parquet cannot be read as Parquet"):
            read()


def test_a_file_cut_short_is_an_error_that_names_it(tmp_path: Path) -> None:
    dataset = write(tmp_path, column(range(100), pa.int64()))
    path = tmp_path / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"rows\.parquet cannot be read as Parquet"):
        list(dataset.rows())


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    dataset = write(tmp_path, pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]))
    with pytest.raises(DatasetError, match='two columns "a"'):
        list(dataset.rows())


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (pa.table({"a": ["x"], "b": [1]}), r'Column "a" is int64 in a\.parquet, string in b\.parquet'),
        (pa.table({"a": [1]}), r'a\.parquet has a column "b", b\.parquet has not'),
        (pa.table({"a": [1], "b": [1], "c": [1]}), r'b\.parquet has a column "c", a\.parquet has not'),
    ],
)
def test_files_that_disagree_are_refused_with_both_and_the_column(
    tmp_path: Path, other: pa.Table, reason: str
) -> None:
    write(tmp_path, pa.table({"a": [1], "b": [1]}), "a.parquet")
    write(tmp_path, other, "b.parquet")
    dataset = open_dataset(".", base=tmp_path)
    with pytest.raises(DatasetError, match=reason):
        dataset.arrow_schema()
    with pytest.raises(DatasetError, match=reason):
        dataset.scan(None)


def test_a_column_without_values_in_one_file_takes_the_other_files_type(tmp_path: Path) -> None:
    write(tmp_path, pa.table({"a": pa.nulls(2), "b": [1, 2]}), "a.parquet")
    write(tmp_path, pa.table({"b": [3], "a": ["x"]}), "b.parquet")
    dataset = open_dataset(".", base=tmp_path)
    fields: list[tuple[str, pa.DataType]] = [("a", pa.string()), ("b", pa.int64())]
    assert dataset.arrow_schema() == pa.schema(fields)
    assert [r.columns for r in dataset.rows()] == [
        {"a": None, "b": 1},
        {"a": None, "b": 2},
        {"a": "x", "b": 3},
    ]


def test_one_giant_row_group_is_not_held_as_a_whole(tmp_path: Path) -> None:
    table = column([secrets.token_hex(1_000) for _ in range(20_000)], pa.string())
    dataset = write(tmp_path, table, group_rows=20_000)
    held_bytes = table.nbytes
    del table
    before_bytes = pa.total_allocated_bytes()
    most_bytes = max(pa.total_allocated_bytes() for _ in dataset.rows()) - before_bytes
    assert held_bytes > 38 * MIB
    assert most_bytes < 16 * MIB
