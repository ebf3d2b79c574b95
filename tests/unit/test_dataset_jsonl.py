"""JSONL: every line is a row, and one that cannot be read says why without stopping the rest."""

import gzip
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.dataset import open_dataset
from pipeline.dataset.files import Cursor
from pipeline.dataset.jsonl import read_jsonl
from pipeline.errors import DatasetError
from pipeline.records import Row

MIB = 1024 * 1024


def read(folder: Path, content: bytes, name: str = "rows.jsonl", max_line_bytes: int = MIB) -> list[Row]:
    (folder / name).write_bytes(content)
    return list(open_dataset(name, base=folder, max_line_bytes=max_line_bytes).rows())


class Repeated:
    """A stream of `head`, then `body` `times` over, never held as a whole."""

    def __init__(self, head: bytes, body: bytes, times: int) -> None:
        self._pending = head
        self._body = body
        self._times = times

    def read(self, size: int, /) -> bytes:
        while len(self._pending) < size and self._times:
            count = min(self._times, size // len(self._body) + 1)
            self._pending += self._body * count
            self._times -= count
        taken, self._pending = self._pending[:size], self._pending[size:]
        return taken


def test_byte_order_mark_crlf_empty_lines_and_a_last_line_without_newline_are_all_fine(
    tmp_path: Path,
) -> None:
    rows = read(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \t\n{"a": "\xe4\xb8\xad"}\n\n{"a": null}')
    assert [(r.index, r.line, r.columns, r.problem) for r in rows] == [
        (0, 1, {"a": 1}, None),
        (1, 4, {"a": "中"}, None),
        (2, 6, {"a": None}, None),
    ]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n", b"\r\n\r\n", b"  "])
def test_a_file_without_rows_has_none(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": nul}', "not valid JSON: invalid literal, expected 'null' at column 7"),
        (b'{"a": 1} {"b": 2}', "not valid JSON: unexpected content after document at column 10"),
        (b'{"a": 1', "not valid JSON: unexpected end of data at column"),
        (b"[" * 5000, "not valid JSON: depth limit exceeded"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": "\x00"}', "not valid JSON: unexpected control character in string"),
        (b'{"a": "\\ud800"}', "not valid JSON: no low surrogate in string"),
        (b'{"a": "caf\xe9"}', "not UTF-8 at byte 11 of the line"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8 at byte 8 of the line"),
        (b"[1]", "not a JSON object but an array"),
        (b'"text"', "not a JSON object but a string"),
        (b"1", "not a JSON object but a number"),
        (b"1.5", "not a JSON object but a number"),
        (b"true", "not a JSON object but a boolean"),
        (b"null", "not a JSON object but null"),
    ],
)
def test_a_bad_line_is_a_row_that_says_why_and_reading_goes_on(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    rows = read(tmp_path, b'{"a": 1}\n' + line + b'\r\n{"a": 2}\n')
    assert [r.index for r in rows] == [0, 1, 2]
    assert rows[1].columns == {}
    assert rows[1].where == "rows.jsonl:2"
    assert rows[1].problem is not None
    assert rows[1].problem.startswith(problem)
    assert [r.columns for r in (rows[0], rows[2])] == [{"a": 1}, {"a": 2}]


def test_an_escaped_nul_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, b'{"a": "\\u0000"}')[0].columns == {"a": "\0"}


def test_of_a_key_that_stands_twice_the_last_value_counts(tmp_path: Path) -> None:
    assert read(tmp_path, b'{"a": 1, "a": 2}')[0].columns == {"a": 2}


@pytest.mark.parametrize("size", [99, 100, 101, 1_000])
@pytest.mark.parametrize("end", [b"", b'\n{"a": 1}\n'])
def test_a_line_over_the_bound_is_one_problem_row(tmp_path: Path, size: int, end: bytes) -> None:
    line = b'{"a": "' + b"x" * (size - 9) + b'"}'
    rows = read(tmp_path, b'{"a": 0}\n' + line + end, max_line_bytes=100)
    assert rows[1].problem == (None if size <= 100 else "the line is longer than 100 bytes")
    assert [r.columns for r in rows[2:]] == ([{"a": 1}] if end else [])


def test_the_bound_is_told_in_mib(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * (2 * MIB) + b'"}'
    assert read(tmp_path, line)[0].problem == "the line is longer than 1 MiB"


def test_a_line_over_the_bound_is_never_held() -> None:
    stream = Repeated(b'{"a": "', b"x", 96 * MIB)
    tracemalloc.start()
    rows = list(read_jsonl(stream, "rows.jsonl", Cursor(), MIB))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r.problem for r in rows] == ["the line is longer than 1 MiB"]
    assert peak_bytes < 12 * MIB


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    def peak_bytes(rows: int) -> int:
        tracemalloc.start()
        stream = Repeated(b"", b'{"id": 1, "text": "' + b"x" * 1_000 + b'"}\n', rows)
        assert sum(1 for _ in read_jsonl(stream, "rows.jsonl", Cursor(), MIB)) == rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(40_000) < 1.1 * peak_bytes(4_000)


def test_lines_before_the_start_are_counted_as_rows_without_being_parsed(tmp_path: Path) -> None:
    content = b'{"a": 0}\n\nbad\n[1]\n' + b"x" * 200 + b'\n{"a": 4}\n'
    rows = read(tmp_path, content, max_line_bytes=100)
    dataset = open_dataset("rows.jsonl", base=tmp_path, max_line_bytes=100)
    assert len(rows) == 5
    for start in range(7):
        assert list(dataset.rows(start)) == rows[start:]


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf16_is_refused_as_a_file(tmp_path: Path, mark: bytes) -> None:
    with pytest.raises(DatasetError, match=r"rows\.jsonl is UTF-16; expected UTF-8"):
        read(tmp_path, mark + b"{\0}\0")


def compressed(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content)
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
def test_compressed_files_read_as_plain_ones_even_in_several_pieces(tmp_path: Path, name: str) -> None:
    first, second = b'{"a": 0}\n' * 3, b'{"a": 1}\n'
    rows = read(tmp_path, compressed(name, first) + compressed(name, second), name)
    assert [r.columns["a"] for r in rows] == [0, 0, 0, 1]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
@pytest.mark.parametrize("cut", [0, 5, 300, -1])
def test_a_cut_compressed_file_is_an_error_that_names_it_never_a_short_dataset(
    tmp_path: Path, name: str, cut: int
) -> None:
    content = b"".join(b'{"a": %d}\n' % (i * i) for i in range(2000))
    with pytest.raises(DatasetError, match=name):
        read(tmp_path, compressed(name, content)[:cut], name)


def test_what_came_before_the_cut_was_read(tmp_path: Path) -> None:
    content = b"".join(b'{"a": %d}\n' % (i * i) for i in range(400_000))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(content, 1)[:-9])
    rows = open_dataset("rows.jsonl.gz", base=tmp_path).rows()
    assert next(rows).columns == {"a": 0}
    with pytest.raises(DatasetError, match=r"rows\.jsonl\.gz cannot be read after row [\d,]+: Truncated"):
        for _ in rows:
            pass


def test_a_file_that_is_not_what_its_extension_says_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"rows\.jsonl\.gz cannot be read: .*incorrect header"):
        read(tmp_path, b'{"a": 1}\n', "rows.jsonl.gz")


def test_a_row_nested_too_deeply_to_be_written_again_is_a_problem_and_the_next_is_read(
    tmp_path: Path,
) -> None:
    deep = b'{"x": ' + b"[" * 400 + b"]" * 400 + b"}\n"
    wide = b'{"x": [' + b",".join([b"[]"] * 400) + b"]}\n"
    rows = read(tmp_path, deep + wide)
    assert rows[0].problem == "nested deeper than 250 levels"
    assert rows[1].problem is None
    assert len(rows[1].columns["x"]) == 400


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\n\n", b"\n \t\r\n", b"\n[]\n"])
def test_blocks_of_lines_before_the_start_are_passed_over_whole_and_still_counted(
    tmp_path: Path, between: bytes
) -> None:
    lines = [b'{"n": %d, "text": "%s"}' % (n, b"x" * (n % 97)) for n in range(60_000)]
    content = between.join(lines) + b"\n"
    rows = read(tmp_path, content)
    dataset = open_dataset("rows.jsonl", base=tmp_path)
    for start in (0, 1, 20_000, len(rows) - 1, len(rows), len(rows) + 5):
        again = list(dataset.rows(start))
        assert [(row.index, row.line) for row in again] == [(row.index, row.line) for row in rows[start:]]
        assert again == rows[start:]
