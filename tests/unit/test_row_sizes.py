"""Rows of Parquet that are small on disk and huge in memory: told as such, in bounded memory, the others unharmed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import Dataset, open_dataset
from pipeline.dataset.row_sizes import stretches, text_paths, unpacked_bytes

MIB = 1024 * 1024
BOUND = 1 * MIB
LONG = "x" * (3 * MIB)
SHORT = "y" * 2000


# In a process of its own, whose peak is this reading's alone.
_READ = """
import json, resource, sys
from pathlib import Path
from pipeline.dataset import open_dataset
dataset = open_dataset("rows.parquet", base=Path(sys.argv[1]), max_line_bytes=int(sys.argv[2]))
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problems = {row.index: row.problem for row in dataset.rows() if row.problem is not None}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
json.dump([(peak - start) * 1024, problems], sys.stdout)
"""


def problems_and_memory(folder: Path) -> tuple[dict[int, str], int]:
    """The problems of the rows, and the bytes that reading them took at most."""
    read = [sys.executable, "-c", _READ, folder, str(BOUND)]
    said = subprocess.run(read, capture_output=True, check=True).stdout
    grown, problems = json.loads(said)
    return {int(index): problem for index, problem in problems.items()}, grown


def parquet(folder: Path, table: pa.Table, **options: Any) -> Dataset:
    pq.write_table(table, folder / "rows.parquet", store_schema=False, **options)
    return open_dataset("rows.parquet", base=folder, max_line_bytes=BOUND)


def repeated(indices: list[int | None], *values: str) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(values))


def lists(lengths: list[int], value: str) -> pa.ListArray:
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), repeated([0] * ends[-1], value))


# What a column holds, and which of its rows are too large. On disk, rows are a few bytes each.
BOMBS: dict[str, tuple[Callable[[], pa.Array], list[int]]] = {
    "one long text in every row": (lambda: repeated([0] * 500, LONG), list(range(500))),
    "behind a null": (lambda: repeated([None] + [0] * 500, LONG), list(range(1, 501))),
    "here and there": (lambda: repeated([1] * 400 + [0, 1] * 50, LONG, "short"), list(range(400, 500, 2))),
    "one row of a million values": (lambda: lists([1, 0, 1_000_000, 1], SHORT), [2]),
    "lists behind an empty one": (lambda: lists([0, *[1000] * 300], SHORT), list(range(1, 301))),
    "within a struct": (
        lambda: pa.StructArray.from_arrays([repeated([0] * 300, LONG), pa.array(range(300))], ["a", "b"]),
        list(range(300)),
    ),
    "a map of a million values": (
        lambda: pa.MapArray.from_arrays(
            pa.array([0, 1, 1_000_001], pa.int32()), pa.array(map(str, range(1_000_001))), repeated([0] * 1_000_001, SHORT)
        ),
        [1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_value_that_is_kept_once_and_said_often_never_fills_the_memory(tmp_path: Path, name: str) -> None:
    make, too_large = BOMBS[name]
    column = make()
    table = pa.table({"id": [f"r{n}" for n in range(len(column))], "x": column})
    dataset = parquet(tmp_path, table, dictionary_pagesize_limit=64 * MIB)
    assert (tmp_path / "rows.parquet").stat().st_size < 8 * MIB
    problems, grown = problems_and_memory(tmp_path)
    assert grown < 200 * MIB
    assert problems == dict.fromkeys(too_large, "the row is longer than 1 MiB")
    good = (
        next(row for row in dataset.rows() if row.problem is None) if len(too_large) < len(column) else None
    )
    assert good is None or good.columns["id"] == f"r{good.index}"


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.list_(pa.string()), pa.struct([("a", pa.string())])],
)
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"row_group_size": 2}])
def test_a_cell_of_fifty_megabytes_is_a_row_that_says_so_and_the_others_stay(
    tmp_path: Path, kind: pa.DataType, options: dict[str, Any]
) -> None:
    def value(text: str) -> Any:
        return (
            [text]
            if pa.types.is_list(kind)
            else {"a": text}
            if pa.types.is_struct(kind)
            else text.encode()
            if kind == pa.binary()
            else text
        )

    values = [value("a"), value("x" * 50 * MIB), value("b"), value("c")]
    dataset = parquet(tmp_path, pa.table({"n": [0, 1, 2, 3], "x": pa.array(values, kind)}), **options)
    rows = list(dataset.rows())
    assert [row.problem for row in rows] == [None, "the row is longer than 1 MiB", None, None]
    assert [row.columns for row in rows] == [
        {"n": 0, "x": values[0]},
        {},
        {"n": 2, "x": values[2]},
        {"n": 3, "x": values[3]},
    ]
    assert [row.line for row in rows] == [1, 2, 3, 4]
    assert list(dataset.rows(start=2)) == rows[2:]


def test_the_bound_is_on_the_whole_row(tmp_path: Path) -> None:
    half = "x" * (BOUND // 2)
    table = pa.table({"a": [half, half, "y"], "b": ["short", half, half]})
    problems = [row.problem for row in parquet(tmp_path, table).rows()]
    assert problems == [None, "the row is longer than 1 MiB", None]


def test_a_repeated_id_is_found_out_in_bounded_memory_too(tmp_path: Path) -> None:
    dataset = parquet(tmp_path, pa.table({"id": repeated([0] * 500, LONG)}))
    scan = dataset.scan("id")
    assert (scan.rows, scan.unreadable, scan.duplicate_ids) == (500, 500, 0)


def test_row_groups_are_read_together_as_far_as_they_are_alike(tmp_path: Path) -> None:
    texts = [*["short"] * 100, *[LONG] * 100, *["short"] * 100]
    pq.write_table(pa.table({"x": texts}), tmp_path / "rows.parquet", row_group_size=50)
    with pq.ParquetFile(tmp_path / "rows.parquet", read_dictionary=["x"]) as file:
        assert text_paths(file, None) == ["x"]
        found = list(stretches(file, 0, ["x"]))
    assert [stretch.groups for stretch in found] == [[0, 1], [2, 3], [4, 5]]
    assert [stretch.by_dictionary for stretch in found] == [(), ("x",), ()]


_CELLS = st.none() | st.text(max_size=30)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(_CELLS, st.none() | st.lists(_CELLS, max_size=4)), min_size=1, max_size=30))
def test_a_batch_weighs_the_same_whether_its_values_stand_in_dictionaries_or_not(
    rows: list[tuple[str | None, list[str | None] | None]],
) -> None:
    plain = pa.array([text for text, _ in rows], pa.string())
    inner = pa.array([many for _, many in rows], pa.list_(pa.string()))
    coded = pa.table({"a": plain.dictionary_encode()}).to_batches()[0]
    text_bytes = sum(len((text or "").encode()) for text, _ in rows)
    list_bytes = sum(len((text or "").encode()) for _, many in rows for text in many or ())
    assert unpacked_bytes(coded) == text_bytes or not text_bytes
    both = pa.table({"a": plain, "b": inner}).to_batches()[0]
    assert (
        text_bytes + list_bytes <= unpacked_bytes(both) <= text_bytes + list_bytes + 64 * (len(rows) * 6 + 8)
    )
