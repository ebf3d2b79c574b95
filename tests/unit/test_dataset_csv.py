"""CSV: a header row, text values, and rows that break the rules told apart from those that do not."""

import tracemalloc
from pathlib import Path

import pytest

from pipeline.dataset import open_dataset
from pipeline.dataset.delimited import read_csv
from pipeline.dataset.files import Cursor
from pipeline.errors import DatasetError
from pipeline.records import Row
from tests.unit.test_dataset_jsonl import Repeated

MIB = 1024 * 1024


def read(folder: Path, content: bytes, max_line_bytes: int = MIB) -> list[Row]:
    (folder / "rows.csv").write_bytes(content)
    return list(open_dataset("rows.csv", base=folder, max_line_bytes=max_line_bytes).rows())


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(DatasetError) as caught:
        read(folder, content)
    return str(caught.value)


def test_every_value_is_text_under_its_header(tmp_path: Path) -> None:
    rows = read(tmp_path, b"\xef\xbb\xbfid,n,text\r\n007,1.50,\xe4\xb8\xad\r\n\r\n8,,null")
    assert [(r.index, r.line, r.columns) for r in rows] == [
        (0, 2, {"id": "007", "n": "1.50", "text": "中"}),
        (1, 4, {"id": "8", "n": "", "text": "null"}),
    ]


def test_quoted_commas_quotes_and_newlines_belong_to_the_value(tmp_path: Path) -> None:
    rows = read(tmp_path, b'id,text\n1,"a, ""b""\nc\r\n\nd"\n2,x\n')
    assert [(r.index, r.line, r.columns["text"]) for r in rows] == [(0, 2, 'a, "b"\nc\r\n\nd'), (1, 6, "x")]
    assert list(open_dataset("rows.csv", base=tmp_path).rows(1)) == rows[1:]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"1", "1 values where the header has 2 columns"),
        (b"1,2,3", "3 values where the header has 2 columns"),
        (b'1,"a" b', "not valid CSV: ',' expected after '\"'"),
        (b"1,a\rb", "not valid CSV: a carriage return within a value that is not quoted"),
        (b"1,caf\xe9", "not UTF-8 at byte 6 of the line"),
        (b'1,"caf\n\xe9"', "not UTF-8 at byte 1 of the line"),
        (b"1," + b"x" * 200, "the row is longer than 100 bytes"),
        (b'1,"' + b"x\n" * 100 + b'"', "the row is longer than 100 bytes"),
        (b'1,"' + b"x" * 150 + b'\n""\n\n2,3\n"', "the row is longer than 100 bytes"),
    ],
)
def test_a_bad_row_says_why_and_reading_goes_on_behind_it(tmp_path: Path, row: bytes, problem: str) -> None:
    rows = read(tmp_path, b"id,text\n1,a\n" + row + b"\n2,b\n3,c", max_line_bytes=100)
    assert [(r.index, r.problem) for r in rows] == [(0, None), (1, problem), (2, None), (3, None)]
    assert rows[1].columns == {}
    assert rows[1].line == 3
    assert [r.columns["text"] for r in (rows[0], *rows[2:])] == ["a", "b", "c"]


def test_a_quote_that_never_closes_is_told_where_it_opens(tmp_path: Path) -> None:
    rows = read(tmp_path, b'id,text\n1,a\n2,"b\n3,c\n4,d\n')
    assert [(r.line, r.problem) for r in rows] == [
        (2, None),
        (3, "a quote opens here and is not closed by the end of the file, 2 lines on"),
    ]


@pytest.mark.parametrize("line", [b"\n", b"x\n", b"x\r\n", b"\xe4\xb8\xad\n", b"x" * 70 + b"\n"])
def test_a_long_value_of_short_lines_is_one_row_that_is_too_long(tmp_path: Path, line: bytes) -> None:
    bound = (
        2**18
    )  # above the csv module's own bound, which must not be met first: it would leave the rest unquoted
    long = line * (3 * bound // len(line))
    rows = read(tmp_path, b'id,text\n1,a\n2,"' + long + b'"\n3,c', max_line_bytes=bound)
    assert [r.problem for r in rows] == [None, "the row is longer than 262,144 bytes", None]
    assert rows[2].columns == {"id": "3", "text": "c"}


def test_a_row_may_be_as_long_as_the_bound(tmp_path: Path) -> None:
    bound = 2**18
    for value in (b"x" * (bound - 2), b'"' + b"x\n" * (bound // 2 - 2) + b'"'):
        rows = read(tmp_path, b"id,text\n1," + value + b"\n2,b", max_line_bytes=bound)
        assert [r.problem for r in rows] == [None, None]


def test_a_value_longer_than_the_csv_modules_own_bound_is_read(tmp_path: Path) -> None:
    assert len(read(tmp_path, b"id\n" + b"x" * 200_000)[0].columns["id"]) == 200_000


def test_a_row_over_the_bound_is_never_held() -> None:
    stream = Repeated(b'id,text\n1,"', b"x" * 4095 + b"\n", 64 * MIB // 4096)
    tracemalloc.start()
    rows = list(read_csv(stream, "rows.csv", Cursor(), MIB))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 1
    assert rows[0].problem is not None
    assert peak_bytes < 24 * MIB


def test_columns_without_a_name_are_named_by_position(tmp_path: Path) -> None:
    assert read(tmp_path, b",text,\n0,a,b\n")[0].columns == {"column_1": "0", "text": "a", "column_3": "b"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\r\n", "is empty"),
        (b"id,text,id\n", 'names "id" twice'),
        (b"id;text\n1;a\n", "separated by ';'"),
        (b"id\ttext\n1\ta\n", r"separated by '\t'"),
        (b"i\xe9,text\n1,a\n", "header row cannot be read: not UTF-8"),
        (b"\xff\xfei\0d\0", "UTF-16"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    message = refusal(tmp_path, content)
    assert "rows.csv" in message
    assert reason in message
