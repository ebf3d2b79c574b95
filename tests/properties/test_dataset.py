"""Whatever rows are written, in whatever dress, the same rows are read, from any start."""

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import Dataset, open_dataset

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=8)
NEWLINES = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\r\n"])
MARK = st.sampled_from([b"", b"\xef\xbb\xbf"])


@contextmanager
def dataset_of(name: str, content: bytes, max_line_bytes: int = 2**24) -> Iterator[Dataset]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        yield open_dataset(name, base=Path(folder), max_line_bytes=max_line_bytes)


def assert_reads(dataset: Dataset, expected: list[dict[str, Any]], start: int) -> None:
    rows = list(dataset.rows())
    assert [r.problem for r in rows] == [None] * len(expected)
    assert [r.columns for r in rows] == expected
    assert [r.index for r in rows] == list(range(len(expected)))
    assert list(dataset.rows(start)) == rows[start:]
    assert dataset.scan(None).rows == len(expected)


@settings(max_examples=150, deadline=None)
@given(OBJECTS, st.data(), MARK, st.booleans(), st.booleans(), st.integers(0, 9))
def test_jsonl_reads_back_equal_in_any_mix_of_newlines(
    objects: list[dict[str, Any]], data: st.DataObject, mark: bytes, ends: bool, packed: bool, start: int
) -> None:
    lines = [orjson.dumps(o) for o in objects]
    content = mark + b"".join(line + data.draw(NEWLINES) for line in lines)
    if not ends:
        content = content.rstrip(b"\r\n\t ")
    # Blocks are no larger than the bound, so that a bound just large enough makes lines span blocks.
    bound = max([len(line) + 1 for line in lines] + [4])
    with dataset_of("rows.jsonl.gz" if packed else "rows.jsonl", content, bound) as dataset:
        assert_reads(dataset, objects, start)


def is_object(line: bytes) -> bool:
    try:
        return len(line) <= 30 and isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b'{"a": 1}', b'{"":0}', b"[1]"]), max_size=12),
    st.integers(0, 12),
)
def test_any_bytes_are_as_many_rows_as_lines_that_are_not_blank(lines: list[bytes], start: int) -> None:
    with dataset_of("rows.jsonl", b"{}\n" + b"\n".join(lines), 30) as dataset:
        rows = list(dataset.rows())
        written = (b"{}\n" + b"\n".join(lines)).split(b"\n")
        assert [r.line for r in rows] == [n for n, line in enumerate(written, 1) if line.strip()]
        assert all((r.problem is None) == is_object(written[r.line - 1]) for r in rows)
        assert list(dataset.rows(start)) == rows[start:]


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4), MARK, st.sampled_from(["\n", "\r\n"]), st.integers(0, 9))
def test_csv_reads_back_equal_with_any_text_in_its_values(
    data: st.DataObject, width: int, mark: bytes, newline: str, start: int
) -> None:
    header = [f"列{n}" for n in range(width)]
    values = data.draw(st.lists(st.lists(TEXT, min_size=width, max_size=width), max_size=8))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=newline, quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    writer.writerows(values)
    content = mark + text.getvalue().encode()
    with dataset_of("rows.csv", content, max(len(content) // 2, 400)) as dataset:
        assert_reads(dataset, [dict(zip(header, row, strict=True)) for row in values], start)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "id": st.integers(-(2**63), 2**63 - 1),
                "text": st.none() | TEXT,
                "tags": st.lists(TEXT, max_size=2),
            }
        ),
        max_size=12,
    ),
    st.integers(1, 5),
    st.integers(0, 13),
)
def test_parquet_reads_back_equal_by_any_row_groups(
    rows: list[dict[str, Any]], group_rows: int, start: int
) -> None:
    fields: list[tuple[str, pa.DataType]] = [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("tags", pa.list_(pa.string())),
    ]
    schema = pa.schema(fields)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, row_group_size=group_rows)
    with dataset_of("rows.parquet", sink.getvalue()) as dataset:
        assert_reads(dataset, rows, start)
        assert dataset.arrow_schema() == schema


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6) | st.sampled_from(["0", "1", "a"]), min_size=1, max_size=20))
def test_the_scan_counts_each_row_whose_id_stood_before(ids: list[int | str]) -> None:
    content = b"\n".join(orjson.dumps({"id": i}) for i in ids)
    with dataset_of("rows.jsonl", content) as dataset:
        assert dataset.scan("id").duplicate_ids == len(ids) - len({str(i) for i in ids})
