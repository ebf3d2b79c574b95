"""Which files a prompt dataset is made of, and what is said when there are none."""

import gzip
import os
from pathlib import Path

import pytest

from pipeline.dataset import open_dataset
from pipeline.errors import DatasetError


def write(folder: Path, name: str, content: bytes = b'{"a": 1}\n') -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def names(spec: str, base: Path) -> list[str]:
    return [file.name for file in open_dataset(spec, base=base).files]


def refusal(spec: str, base: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(spec, base=base)
    return str(caught.value)


def test_a_relative_path_starts_at_the_base_and_an_absolute_one_does_not(tmp_path: Path) -> None:
    path = write(tmp_path, "in/rows.jsonl")
    assert names("rows.jsonl", tmp_path / "in") == ["rows.jsonl"]
    assert names(str(path), tmp_path / "elsewhere") == ["rows.jsonl"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.NDJSON", "a.b.jsonl.gz", "a.csv", "a.parquet"])
def test_the_extension_says_how_to_read(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert names(name, tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a", "a.gz", "a.parquet.gz", "a.jsonl.bz2"])
def test_an_unknown_extension_is_refused_with_those_known(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    message = refusal(name, tmp_path)
    assert name in message
    assert ".jsonl" in message
    assert ".parquet" in message


def test_files_of_a_folder_are_read_by_name_and_indexed_through(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl.gz", b'{"a": 2}\n\n{"a": 3}\n')
    write(tmp_path, "a.jsonl", b'{"a": 0}\n{"a": 1}\n')
    write(tmp_path, "c.ndjson", b"")
    write(tmp_path, "d.jsonl", b'{"a": 4}')
    rows = list(open_dataset(".", base=tmp_path).rows())
    assert [(r.index, r.columns["a"], r.where) for r in rows] == [
        (0, 0, "a.jsonl:1"),
        (1, 1, "a.jsonl:2"),
        (2, 2, "b.jsonl.gz:1"),
        (3, 3, "b.jsonl.gz:3"),
        (4, 4, "d.jsonl:1"),
    ]
    for start in range(7):
        assert list(open_dataset(".", base=tmp_path).rows(start)) == rows[start:]


def test_a_folder_tells_which_of_its_files_are_not_read(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "README.md", ".rows.jsonl.swp", "_SUCCESS", "_draft.jsonl", "deeper/rows.csv"):
        write(tmp_path, name)
    dataset = open_dataset(str(tmp_path), base=Path("/"))
    assert [f.name for f in dataset.files] == ["rows.jsonl"]
    assert set(dataset.ignored) == {"README.md", ".rows.jsonl.swp", "_SUCCESS", "_draft.jsonl"}


def test_a_glob_takes_what_matches_in_order_of_name(tmp_path: Path) -> None:
    for name in ("x/2.jsonl", "x/1.jsonl", "y/1.jsonl", "x/1.csv"):
        write(tmp_path, name)
    assert names("*/*.jsonl", tmp_path) == ["x/1.jsonl", "x/2.jsonl", "y/1.jsonl"]
    assert names(f"{tmp_path}/x/*.csv", Path("/")) == [f"{tmp_path}/x/1.csv"]
    assert len(names("**/*.jsonl", tmp_path)) == 3


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    write(tmp_path, "rows[1].jsonl")
    write(tmp_path, "rows1.jsonl")
    assert names("rows[1].jsonl", tmp_path) == ["rows[1].jsonl"]


def test_mixed_formats_are_refused_with_a_file_of_each(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    write(tmp_path, "b.csv")
    message = refusal(".", tmp_path)
    assert "a.jsonl" in message
    assert "b.csv" in message


def test_nothing_found_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "none.jsonl") in refusal("none.jsonl", tmp_path)
    assert str(tmp_path) in refusal("*.jsonl", tmp_path)
    assert str(tmp_path / "empty") in refusal("empty", tmp_path)


def test_what_cannot_be_read_twice_or_is_not_local_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "regular file" in refusal("pipe.jsonl", tmp_path)
    assert "local files and from s3://" in refusal("gs://bucket/rows.jsonl", tmp_path)


def test_a_file_that_vanished_or_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl")
    dataset = open_dataset("rows.jsonl", base=tmp_path)
    path.unlink()
    with pytest.raises(DatasetError, match=r"rows\.jsonl cannot be read: No such file"):
        list(dataset.rows())


def test_the_fingerprint_follows_name_size_and_time(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl")

    def taken() -> str:
        return open_dataset(".", base=tmp_path).fingerprint()

    first = taken()
    assert taken() == first
    os.utime(path, ns=(0, 1_000))
    touched = taken()
    path.write_bytes(b"{}\n")
    os.utime(path, ns=(0, 1_000))
    shorter = taken()
    path.rename(tmp_path / "b.jsonl")
    assert len({first, touched, shorter, taken()}) == 4


def test_a_change_since_opening_is_told_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl")
    dataset = open_dataset(".", base=tmp_path)
    fingerprint = dataset.fingerprint()
    assert dataset.changed() is None
    os.utime(path, ns=(0, 1_000))
    assert "a.jsonl was written to" in (dataset.changed() or "")
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    assert "9 bytes then, 18 now" in (dataset.changed() or "")
    assert dataset.fingerprint() == fingerprint
    path.rename(tmp_path / "b.jsonl")
    assert "a.jsonl is gone" in (dataset.changed() or "")
    (tmp_path / "b.jsonl").unlink()
    assert "No dataset files" in (dataset.changed() or "")

    write(tmp_path, "a.jsonl")
    dataset = open_dataset(".", base=tmp_path)
    write(tmp_path, "b.jsonl")
    assert "b.jsonl is new" in (dataset.changed() or "")
