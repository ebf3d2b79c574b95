"""S3: what the environment says of it, which objects an address names, and how files get there whole or not at all."""

import gzip
import io
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import open_dataset
from pipeline.errors import DatasetError, JobError
from pipeline.results import S3Files
from pipeline.s3 import S3Settings, s3_path
from tests.support.s3 import Asked, S3Server

AT = "http://127.0.0.1:9000"


def config(folder: Path, text: str) -> dict[str, str]:
    (folder / ".aws").mkdir()
    (folder / ".aws" / "config").write_text(text)
    return {"HOME": str(folder)}


@pytest.mark.parametrize(
    ("env", "endpoint"),
    [
        ({}, None),
        ({"AWS_ENDPOINT_URL": AT}, AT),
        ({"AWS_ENDPOINT_URL": "http://other", "AWS_ENDPOINT_URL_S3": AT}, AT),
        ({"AWS_ENDPOINT_URL": AT, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None),
    ],
)
def test_the_endpoint_comes_from_the_usual_variables(env: dict[str, str], endpoint: str | None) -> None:
    assert S3Settings.from_env(env).endpoint == endpoint


@pytest.mark.parametrize(
    ("text", "profile", "endpoint"),
    [
        (f"[default]\nendpoint_url = {AT}\n", None, AT),
        (f"[default]\nregion = x\n[profile minio]\nendpoint_url = {AT}\n", "minio", AT),
        ("[profile other]\nendpoint_url = http://other\n", None, None),
        (
            f"[default]\nservices = mine\nendpoint_url = http://o\n[services mine]\ns3 =\n  endpoint_url = {AT}\n",
            None,
            AT,
        ),
        ("no configuration at all", None, None),
    ],
)
def test_the_endpoint_of_the_profile_is_found_where_no_variable_names_one(
    tmp_path: Path, text: str, profile: str | None, endpoint: str | None
) -> None:
    env = config(tmp_path, text) | ({"AWS_PROFILE": profile} if profile else {})
    assert S3Settings.from_env(env).endpoint == endpoint


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "http://", "http://user:secret@host"])
def test_an_endpoint_that_is_no_address_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(JobError, match="is no address: write https://host") as caught:
        S3Settings.from_env({"AWS_ENDPOINT_URL": endpoint})
    assert "secret" not in str(caught.value)


def test_region_authorities_and_proxy_are_those_of_the_environment() -> None:
    env = {
        "AWS_DEFAULT_REGION": "r1",
        "AWS_CA_BUNDLE": "/ca.pem",
        "HTTPS_PROXY": "http://user:word@proxy:3128",
    }
    settings = S3Settings.from_env(env)
    assert (settings.region, settings.ca_file, settings.proxy) == (
        "r1",
        "/ca.pem",
        "http://user:word@proxy:3128",
    )
    assert "word" not in repr(settings)
    assert S3Settings.from_env(env | {"AWS_REGION": "r2"}).region == "r2"
    assert S3Settings.from_env(env | {"NO_PROXY": "amazonaws.com"}).proxy is None
    assert S3Settings.from_env(env | {"AWS_ENDPOINT_URL": "https://localhost:1"}).proxy is None


# Datasets


def parquet(*values: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": values}), sink, row_group_size=2)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


LINES = b'{"a": 0}\n{"a": 1}\n{"a": 2}\n'
FILES = {
    "rows.jsonl": LINES,
    "rows.jsonl.gz": gzip.compress(LINES),
    "rows.jsonl.zst": zstd(LINES),
    "rows.csv": b"a\n0\n1\n2\n",
    "rows.parquet": parquet(0, 1, 2),
}


@pytest.mark.parametrize("name", FILES)
def test_a_dataset_on_s3_reads_as_the_same_file_does_here(tmp_path: Path, s3: S3Server, name: str) -> None:
    bucket = s3.make_bucket("formats")
    s3.put(f"{bucket}/{name}", FILES[name])
    (tmp_path / name).write_bytes(FILES[name])
    here = open_dataset(name, base=tmp_path)
    there = open_dataset(f"s3://{bucket}/{name}", base=tmp_path, s3=s3.settings)
    assert list(there.rows()) == list(here.rows())
    assert [row.index for row in there.rows(start=2)] == [2]
    assert there.scan("a" if name.endswith("parquet") else None).rows == 3
    assert there.changed() is None


NAMES = [
    "a.jsonl",
    "b.jsonl",
    ".hidden.jsonl",
    "_draft.jsonl",
    "notes.txt",
    "x/c.jsonl",
    "x/y/d.jsonl",
    "z/e.jsonl",
]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("", ["a.jsonl", "b.jsonl"]),
        ("/", ["a.jsonl", "b.jsonl"]),
        ("/x", ["c.jsonl"]),
        ("/a.jsonl", ["a.jsonl"]),
        ("/*.jsonl", ["/_draft.jsonl", "/a.jsonl", "/b.jsonl"]),
        ("/.*.jsonl", ["/.hidden.jsonl"]),
        ("/[bc].jsonl", ["/b.jsonl"]),
        ("/*/*.jsonl", ["/x/c.jsonl", "/z/e.jsonl"]),
        ("/x/**/*.jsonl", ["/x/c.jsonl", "/x/y/d.jsonl"]),
        ("/x/**", ["/x/c.jsonl", "/x/y/d.jsonl"]),
        ("/?/?.jsonl", ["/x/c.jsonl", "/z/e.jsonl"]),
    ],
)
def test_a_file_a_folder_and_a_glob_name_the_objects_that_they_would_name_here(
    tmp_path: Path, s3: S3Server, spec: str, found: list[str]
) -> None:
    bucket = s3.make_bucket("names")
    for name in NAMES:
        s3.put(f"{bucket}/in/{name}", LINES)
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(LINES)
    root = f"s3://{bucket}/in"
    there = open_dataset(f"{root}{spec}", base=tmp_path, s3=s3.settings)
    assert [file.name.removeprefix(root) for file in there.files] == found
    # As on this machine, where a pattern's names start at the folder.
    here = open_dataset(f"in{spec}", base=tmp_path)
    assert [file.name.removeprefix("in") for file in here.files] == found
    assert there.ignored == here.ignored


def refusal(s3: S3Server, spec: str) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(spec, base=Path("/"), s3=s3.settings)
    return str(caught.value)


def test_what_is_not_there_or_not_allowed_is_said(s3: S3Server) -> None:
    bucket = s3.make_bucket("refusals")
    s3.put(f"{bucket}/empty/notes.txt", b"")
    assert refusal(s3, f"s3://{bucket}/none.jsonl") == f"There is no dataset at s3://{bucket}/none.jsonl."
    assert "No file matches" in refusal(s3, f"s3://{bucket}/*.jsonl")
    assert f"No dataset files in the folder s3://{bucket}/empty" in refusal(s3, f"s3://{bucket}/empty")
    assert "there is no such bucket there" in refusal(s3, "s3://no-bucket-of-this-name/rows.jsonl")
    s3.refuse = lambda asked: (403, "AccessDenied")
    assert "access is denied: the credentials are missing" in refusal(s3, f"s3://{bucket}/rows.jsonl")


def test_an_object_that_changed_vanished_or_came_is_told(s3: S3Server) -> None:
    bucket = s3.make_bucket("changes")
    s3.put(f"{bucket}/in/a.jsonl", LINES)
    dataset = open_dataset(f"s3://{bucket}/in", base=Path("/"), s3=s3.settings)
    before = dataset.fingerprint()
    s3.put(f"{bucket}/in/b.jsonl", LINES)
    assert dataset.changed() == "b.jsonl is new since the dataset was opened."
    s3.put(f"{bucket}/in/a.jsonl", LINES + LINES)
    assert dataset.changed() == "a.jsonl changed since the dataset was opened: 27 bytes then, 54 now."
    assert open_dataset(f"s3://{bucket}/in", base=Path("/"), s3=s3.settings).fingerprint() != before


def test_a_large_dataset_is_read_in_blocks_and_parquet_by_row_group(s3: S3Server) -> None:
    bucket = s3.make_bucket("large")
    line = b'{"a": "' + b"x" * 1000 + b'"}\n'
    s3.put(f"{bucket}/rows.jsonl", line * 5000)
    rows = open_dataset(f"s3://{bucket}/rows.jsonl", base=Path("/"), s3=s3.settings).rows()
    s3.asked.clear()
    next(rows)
    assert sum(asked.method == "GET" for asked in s3.asked) == 1
    assert sum(1 for _ in rows) == 4999
    assert sum(asked.method == "GET" for asked in s3.asked) == 3


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_service_that_fails_while_a_dataset_is_read_is_not_taken_for_damage(
    s3: S3Server, name: str
) -> None:
    bucket = s3.make_bucket("failing")
    text = "x" * 2000
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"a": [f"{n} {text}" for n in range(3000)]}), sink, row_group_size=500, compression="none"
    )
    lines = "".join(f'{{"a": "{n} {text}"}}\n' for n in range(3000)).encode()
    s3.put(f"{bucket}/{name}", lines if name.endswith("jsonl") else sink.getvalue())
    rows = open_dataset(f"s3://{bucket}/{name}", base=Path("/"), s3=s3.settings).rows()
    next(rows)
    s3.refuse = lambda asked: (403, "AccessDenied")
    with pytest.raises(DatasetError, match=f"{name} cannot be read after row .*access is denied") as caught:
        list(rows)
    assert str(caught.value).endswith("Run the same command again to go on.")


# Files


def files(s3: S3Server, bucket: str) -> S3Files:
    return S3Files(s3_path(f"s3://{s3.make_bucket(bucket)}/run/results"), s3.settings)


def test_files_are_put_listed_read_and_removed(s3: S3Server) -> None:
    place = files(s3, "files")
    place.prepare()
    assert place.stamps() == {}
    first = place.put("a", memoryview(b"one"))
    assert place.stamps() == {"a": first}
    assert place.read("a") == b"one"
    assert place.put("a", memoryview(b"longer")) != first
    place.put("b", memoryview(b"two"))
    place.remove("a")
    place.clear_scratch()
    assert list(place.stamps()) == ["b"]
    with pytest.raises(FileNotFoundError, match="there is no s3://files/run/results/a"):
        place.read("a")


def test_what_is_set_aside_lies_beside_and_replaces_nothing(s3: S3Server) -> None:
    place = files(s3, "aside")
    for text in (b"1", b"2"):
        place.put("part-00000.parquet", memoryview(text))
        lies = place.set_aside("part-00000.parquet")
    assert lies == "s3://aside/run/damaged/part-00000.2.parquet"
    assert place.stamps() == {}
    assert s3.get("aside/run/damaged/part-00000.parquet") == b"1"
    assert s3.get("aside/run/damaged/part-00000.2.parquet") == b"2"


def test_what_a_killed_upload_left_under_a_scratch_name_is_no_file_and_is_removed(s3: S3Server) -> None:
    place = files(s3, "scratch")
    place.put("a", memoryview(b"1"))
    s3.put("scratch/run/results/b.tmp", b"half")
    assert list(place.stamps()) == ["a"]
    place.clear_scratch()
    with pytest.raises(FileNotFoundError):
        place.read("b.tmp")
    assert place.read("a") == b"1"


def test_a_usual_file_is_one_request(s3: S3Server) -> None:
    place = files(s3, "one")
    s3.asked.clear()
    place.put("a", memoryview(bytes(8 * 1024 * 1024)))
    assert [asked.method for asked in s3.asked] == ["PUT", "HEAD"]


@pytest.mark.parametrize("fails", ["beginning", "part 1", "part 2", "completion", "naming"])
def test_an_upload_that_fails_half_way_leaves_what_was_there(s3: S3Server, fails: str) -> None:
    place = files(s3, "half")
    place.put("a", memoryview(b"before"))
    seen = []

    def refuse(asked: Asked) -> tuple[int, str] | None:
        seen.append(asked)
        is_it = {
            "beginning": "uploads" in asked.path,
            "part 1": "partNumber=1" in asked.path,
            "part 2": "partNumber=2" in asked.path,
            "completion": asked.method == "POST" and "uploadId" in asked.path,
            "naming": asked.method == "PUT" and asked.path.endswith("/a"),
        }[fails]
        return (403, "AccessDenied") if is_it else None

    s3.refuse = refuse
    with pytest.raises(OSError, match="s3://half/run/results/a: access is denied"):
        place.put("a", memoryview(bytes(25_000_000)))
    s3.refuse = lambda asked: None
    assert place.read("a") == b"before"
    assert list(place.stamps()) == s3.keys("s3://half/run/results") == ["a"]
    assert seen
    place.put("a", memoryview(bytes(25_000_000)))
    assert len(place.read("a")) == 25_000_000
    assert not [key for key in s3.keys("s3://half/run/results") if key != "a"]


def test_a_place_that_takes_no_files_is_told_before_any_is_written(s3: S3Server) -> None:
    with pytest.raises(OSError, match="there is no such bucket there"):
        S3Files(s3_path("s3://never-made/run"), s3.settings).prepare()
    place = files(s3, "readonly")
    s3.refuse = lambda asked: (403, "AccessDenied") if asked.method == "PUT" else None
    with pytest.raises(OSError, match="access is denied"):
        place.prepare()


def test_a_service_that_has_a_bad_moment_is_asked_again(s3: S3Server) -> None:
    place = files(s3, "moment")
    failures = iter([(500, "InternalError"), (503, "SlowDown")])
    s3.refuse = lambda asked: next(failures, None)
    place.put("a", memoryview(b"1"))
    assert place.read("a") == b"1"
    assert pl.Series(list(failures)).is_empty()
