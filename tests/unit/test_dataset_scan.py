"""The scan before a run: counts, columns and ids, in memory that does not grow with the rows."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Dataset, DatasetScan, id_problem, id_text, open_dataset, text_of
from pipeline.dataset.files import Cursor
from pipeline.dataset.repeats import BUCKET_VALUES, BUCKETS, MAX_CANDIDATES, HashSpill
from pipeline.dataset.scan import ScanRequest, scan_rows
from pipeline.errors import DatasetError
from pipeline.records import Row

MIB = 1024 * 1024


def jsonl(folder: Path, *lines: object) -> Dataset:
    """Write each of `lines`: bytes as they are, else as JSON."""
    content = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    (folder / "rows.jsonl").write_bytes(content)
    return open_dataset("rows.jsonl", base=folder)


def test_rows_empty_lines_and_unreadable_lines_are_counted_with_examples(tmp_path: Path) -> None:
    dataset = jsonl(tmp_path, {"id": 1}, b"", b"bad", {"id": 2}, b" ", *[b"[]"] * 9)
    scan = dataset.scan("id")
    assert (scan.rows, scan.empty_lines, scan.unreadable, scan.missing_ids) == (12, 2, 10, 0)
    assert len(scan.unreadable_examples) == 5
    assert scan.unreadable_examples[1] == ("rows.jsonl:6", "not a JSON object but an array")


def test_columns_stand_in_order_of_first_appearance(tmp_path: Path) -> None:
    assert jsonl(tmp_path, {"b": 1, "a": 1}, {"c": 1, "a": 1}, {"b": 1}).scan(None).columns == ["b", "a", "c"]


def test_repeated_ids_are_counted_and_shown_with_both_places(tmp_path: Path) -> None:
    scan = jsonl(tmp_path, {"id": "7"}, {"id": "x"}, {"id": 7}, {"id": "y"}, {"id": "7"}, {"id": "x"}).scan(
        "id"
    )
    assert scan.duplicate_ids == 3
    assert scan.duplicate_examples == [
        ("7", "rows.jsonl:1", "rows.jsonl:3"),
        ("7", "rows.jsonl:1", "rows.jsonl:5"),
        ("x", "rows.jsonl:2", "rows.jsonl:6"),
    ]


def test_examples_of_repeated_ids_are_few_and_short(tmp_path: Path) -> None:
    scan = jsonl(tmp_path, *[{"id": "x" * 5_000}] * 20).scan("id")
    assert scan.duplicate_ids == 19
    assert [len(d.id) for d in scan.duplicate_examples] == [200] * 5


def test_repeats_beyond_what_is_confirmed_one_by_one_are_counted_too(tmp_path: Path) -> None:
    different = MAX_CANDIDATES + 5_000
    scan = jsonl(tmp_path, *[{"id": i % different} for i in range(3 * different)]).scan("id")
    assert scan.duplicate_ids == 2 * different


def test_ids_that_are_none_are_counted_and_told_apart(tmp_path: Path) -> None:
    dataset = jsonl(tmp_path, {"id": None}, {"other": 1}, {"id": ""}, {"id": 1.5}, {"id": True}, {"id": 0})
    scan = dataset.scan("id")
    assert scan.missing_ids == 5
    assert [f.problem for f in scan.missing_id_examples] == [
        '"id" is null',
        'no column "id"',
        '"id" is empty',
        '"id" is float, expected text or an integer',
        '"id" is bool, expected text or an integer',
    ]
    assert scan.missing_id_examples[1].where == "rows.jsonl:2"
    assert scan.duplicate_ids == 0


def test_an_id_column_that_no_row_has_is_refused_with_the_columns_there_are(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r'input\.id names "ident".*columns are: id, text'):
        jsonl(tmp_path, {"id": 1, "text": "x"}).scan("ident")
    pq.write_table(pa.table({"id": [1], "text": ["x"]}), tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match=r'input\.id names "ident".*columns are: id, text'):
        open_dataset("rows.parquet", base=tmp_path).scan("ident")


def test_a_dataset_without_rows_is_not_blamed_for_its_id_column(tmp_path: Path) -> None:
    assert jsonl(tmp_path).scan("id") == DatasetScan()
    assert jsonl(tmp_path, b"bad").scan("id").unreadable == 1


def test_more_than_a_thousand_columns_are_refused_unless_the_job_names_its_own(tmp_path: Path) -> None:
    lines = [{"id": i, f"key{i}": 1} for i in range(1_000)]
    assert len(jsonl(tmp_path, *lines[:999]).scan("id").columns) == 1_000
    dataset = jsonl(tmp_path, *lines)
    with pytest.raises(DatasetError, match=r"1,000 different columns by rows\.jsonl:1000; .*output\.columns"):
        dataset.scan("id")
    scan = dataset.scan("id", wanted=["key7", "id", "absent"])
    assert scan.columns == ["id", "key7"]
    assert scan.rows == 1_000


@pytest.mark.parametrize(("limit", "rows", "repeats"), [(0, 0, 0), (2, 2, 0), (3, 3, 1), (9, 4, 2)])
def test_a_limit_looks_at_the_first_rows_only(tmp_path: Path, limit: int, rows: int, repeats: int) -> None:
    ids = [1, 2, 1, 1]
    scan = jsonl(tmp_path, *[{"id": i} for i in ids]).scan("id", limit)
    assert (scan.rows, scan.duplicate_ids) == (rows, repeats)
    pq.write_table(pa.table({"id": ids}), tmp_path / "rows.parquet")
    dataset = open_dataset("rows.parquet", base=tmp_path)
    scan = dataset.scan("id", limit)
    assert (scan.rows, scan.duplicate_ids) == (rows, repeats)
    assert dataset.scan(None, limit).rows == rows


def test_progress_is_told_on_the_way_and_at_the_end(tmp_path: Path) -> None:
    told: list[int] = []
    jsonl(tmp_path, *[{"id": i} for i in range(25_000)]).scan("id", on_progress=told.append)
    assert told == [10_000, 20_000, 25_000]


def test_csv_ids_and_columns_are_scanned_alike(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"id,text\n1,a\n\n1,b\n,c\n2\n")
    scan = open_dataset("rows.csv", base=tmp_path).scan("id")
    assert (scan.rows, scan.empty_lines, scan.unreadable, scan.missing_ids, scan.duplicate_ids) == (
        4,
        1,
        1,
        1,
        1,
    )
    assert scan.columns == ["id", "text"]


def test_of_parquet_only_the_footer_and_the_id_column_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({"text": [f"{i:0999d}" for i in range(200)], "id": [*range(199), 0]}),
        path,
        use_dictionary=False,
        compression="none",
    )
    content = bytearray(path.read_bytes())
    content[1_000:100_000] = bytes(99_000)  # inside `text`
    path.write_bytes(content)
    dataset = open_dataset("rows.parquet", base=tmp_path)
    scan = dataset.scan("id")
    assert (scan.rows, scan.columns, scan.duplicate_ids) == (200, ["text", "id"], 1)
    assert scan.duplicate_examples == [("0", "rows.parquet:1", "rows.parquet:200")]
    assert dataset.scan("id", wanted=["text"]).columns == ["text"]
    before_footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[4:before_footer] = bytes(before_footer - 4)
    path.write_bytes(content)
    assert dataset.scan(None).rows == 200


def test_memory_does_not_grow_with_the_number_of_ids() -> None:
    def read(cursor: Cursor) -> Iterator[Row]:
        return (Row(i, {"id": f"row-{i}"}, "rows.jsonl", i + 1) for i in range(rows))

    def peak_bytes() -> int:
        tracemalloc.start()
        request = ScanRequest(read=read, id_column="id", limit=None, wanted=None, on_progress=None)
        assert scan_rows(request).rows == rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    rows = 100_000  # a set of these ids takes more than 10 MiB
    assert peak_bytes() < 6 * MIB


def test_hashes_beyond_a_fixed_number_are_kept_on_disk(tmp_path: Path) -> None:
    spill = HashSpill(tmp_path)
    ids = 2 * BUCKETS * BUCKET_VALUES
    for number in range(ids):
        spill.add(str(number))
    spill.add("7")
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir()) / 8
    assert ids - on_disk < BUCKETS * BUCKET_VALUES
    assert spill.candidates().hashes == {hash("7")}


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (" ", " "), (0, "0"), (-7, "-7"), (2**70, str(2**70)), ("", None), (None, None), (True, None),
     (1.0, None), ([1], None), (b"x", None)],
)  # fmt: skip
def test_text_and_integers_are_ids_and_nothing_else_is(value: object, text: str | None) -> None:
    assert id_text(value) == text
    if text is None:
        assert '"id"' in id_problem({"id": value}, "id")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("a", "a"),
        ("1", "1"),
        (1, "1"),
        (1.0, "1.0"),
        (True, "true"),
        ([1, None], "[1,null]"),
        ({"中": "b"}, '{"中":"b"}'),
    ],
)
def test_untyped_values_are_carried_as_text_or_json(value: object, text: str | None) -> None:
    assert text_of(value) == text
