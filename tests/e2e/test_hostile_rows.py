"""Rows that try to do harm end with a reason, in bounded memory, and the others are answered as if they stood alone."""

import csv
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Workplace
from tests.e2e.test_cli_run import results
from tests.support.provider import Provider
from tests.support.simulators import png

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
MIB = 1024 * 1024
PICTURES = """
name = "hostile"
[input]
path = "rows.jsonl"
id = "id"
root = "."
[prompt]
user = "{{ text }} {{ '!' * marks }}"
images = ["{{ image }}"]
[model]
provider = "simulator"
name = "qwen-vl-max"
[output]
path = "out"
"""
TEXTS = (
    PICTURES.replace('images = ["{{ image }}"]\n', "")
    .replace(" {{ '!' * marks }}", "")
    .replace("vl-max", "plus")
)

# The bad lines of the sample: what is said of each.
HOW_THEY_END = {
    4: r"'\.\./.*passwd' lies outside \[input\] root",
    5: r"'/etc/passwd' lies outside \[input\] root",
    6: r"'file:///etc/passwd' is neither a local path nor a URL that can be sent",
    7: r"'FILE:/proc/self/environ' is neither a local path nor a URL",
    8: r"'/dev/zero' lies outside \[input\] root",
    9: r"is not a path: separate folders by /",
    10: r"is not a path: .* NUL",
    11: r"'．．/．．/etc/passwd' below \[input\] root does not exist",
    12: r"is not a path that this system can hold",
    13: r"nested deeper than 250 levels",
    14: r"it would make more of this row's values than any model takes",
    15: r"the user template failed on it: can't multiply",
    16: r"it holds 251 images as data URLs or more; a request takes 250",
    17: r"not valid JSON",
    18: r"not valid JSON",
    21: r"not valid JSON",
    22: r"'gone\.png' below \[input\] root does not exist",
    23: r"'\.\./README\.md' lies outside \[input\] root",
}


def write_job(place: Workplace, job: str) -> None:
    (place.folder / "job.toml").write_text(job, encoding="utf-8")


def reasons(place: Workplace) -> dict[int, str]:
    """Why rows failed, by their line in the input."""
    failed = results(place.out).filter(status="failed")
    assert set(failed["error_kind"]) <= {"invalid_input"}
    found = {}
    for message in failed["error_message"]:
        said = re.fullmatch(r"[^:]*:(\d+): (.+)", message)
        assert said, message
        assert said[2].isprintable()
        assert len(message) <= 500
        found[int(said[1])] = said[2]
    return found


def test_each_row_of_the_hostile_sample_ends_as_its_description_says(place: Workplace) -> None:
    write_job(place, PICTURES.replace('root = "."', f'root = "{SAMPLES}"'))
    arguments = ("--input", SAMPLES / "hostile.jsonl", "--set", "budget.error_threshold=1")
    ended = place.run(*arguments)
    assert (ended.code, ended.summary["rows"], ended.summary["done"]) == (0, 25, 25), ended
    found = reasons(place)
    assert found.keys() == HOW_THEY_END.keys(), found
    for line, said in HOW_THEY_END.items():
        assert re.search(said, found[line]), (line, found[line])
    assert set(results(place.out)["status"]) == {"ok", "failed"}
    assert (results(place.out)["status"] == "ok").sum() == 25 - len(HOW_THEY_END)

    log = (place.out / "run.log").read_text(encoding="utf-8")
    assert "\x1b" not in log
    assert not [line for line in log.splitlines() if not re.match(r"\d{4}-\d\d-\d\d .*(INFO|WARNING) ", line)]
    assert len(re.findall(r"^2026-01-01 00:00:00", log, re.MULTILINE)) == 0
    check = place.promptmill("check", "job.toml", *arguments, "--show", "25")
    assert check.code == 3
    shown = check.stdout + check.stderr + ended.stderr
    assert not [c for c in shown if not (c.isprintable() or c in "\n\t" or c.isspace())]
    assert "me:secret" not in shown
    assert "Signature=***&width=200&height=300" in shown

    assert place.promptmill("export", "out", "-o", "out.csv").code == 0
    with (place.folder / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["row_id"]: row for row in csv.DictReader(file)}
    assert rows["h19"]["text"] == "'=cmd|' /C calc'!A0"


def test_no_way_out_of_the_root_is_taken_and_no_special_file_is_waited_for(
    place: Workplace, provider: Provider
) -> None:
    root = place.folder / "root"
    (root / "album").mkdir(parents=True)
    secret = png(20, 20) + b"a secret of this machine"
    (place.folder / "secret.png").write_bytes(secret)
    (root / "album" / "good.png").write_bytes(png(20, 20))
    (root / "album" / "again.png").symlink_to("good.png")
    (root / "link.png").symlink_to("../secret.png")
    (root / "far.png").symlink_to(place.folder / "secret.png")
    (root / "up").symlink_to("..")
    (root / "loop.png").symlink_to("loop.png")
    (root / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.png")
    bad = [
        *(
            "link.png",
            "far.png",
            "up/secret.png",
            "album/../../secret.png",
            "loop.png",
            "zero.png",
            "pipe.png",
            "album",
        ),
        *(
            str(place.folder / "secret.png"),
            "/proc/self/environ",
            "/dev/stdin",
            "../root/../secret.png",
            "ALBUM/good.png",
        ),
    ]
    good = ["album/good.png", "album/again.png", "up/root/album/good.png", str(root / "album" / "good.png")]
    rows = [{"id": f"r{n}", "text": "?", "marks": 0, "image": image} for n, image in enumerate([*bad, *good])]
    (place.folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    for key, column in (("images", "image"), ("video", "frames"), ("messages", "messages")):
        write_job(place, PICTURES.replace('root = "."', 'root = "root"'))
        place.point_at(provider)
        more = ["--set", "budget.error_threshold=1", "--set", f"output.path=out-{key}"]
        if key == "video":
            more += [
                "--set",
                "prompt.images=null",
                "--set",
                "prompt.video=['{{ image }}', '{{ image }}', '{{ image }}', '{{ image }}']",
            ]
        elif key == "messages":
            for row in rows:
                part = {"type": "image_url", "image_url": {"url": row["image"]}}
                row["messages"] = [{"role": "user", "content": [part]}]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (place.folder / "rows.jsonl").write_text(text, encoding="utf-8")
            more += [
                "--set",
                "prompt.images=null",
                "--set",
                "prompt.user=null",
                "--set",
                "prompt.messages=messages",
            ]
        ended = place.run(*more)
        assert (ended.code, ended.summary["done"]) == (0, len(rows)), (column, ended)
        frame = results(place.folder / f"out-{key}")
        assert frame["status"].to_list() == ["failed"] * len(bad) + ["ok"] * len(good), (
            key,
            frame["error_message"].to_list(),
        )
        assert secret.hex() not in frame.write_ndjson()


CELL = 50 * MIB


def fifty_megabytes_jsonl(folder: Path) -> list[int]:
    lines = [
        b'{"id": "r0", "text": "good"}',
        b'{"id": "r1", "text": "' + b"x" * CELL + b'"}',
        b'{"id": "r2", "text": "good"}',
        b'{"id": "r3", "text": "good", "more": ' + b"[" * CELL + b"}",
        b'{"id": "r4", "text": "good", "more": "' + b"\\u0000" * (CELL // 6) + b'"}',
        b'{"id": "r5", "text": "good"}',
    ]
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    return [1, 3, 4]


def fifty_megabytes_csv(folder: Path) -> list[int]:
    lines = [
        b"id,text",
        b"r0,good",
        b'r1,"' + (b"x" * 99 + b"\n") * (CELL // 100) + b'"',
        b"r2,good",
        b"r3," + b"y" * CELL,
        b"r4,good",
    ]
    (folder / "rows.csv").write_bytes(b"\r\n".join(lines))
    return [1, 3]


def fifty_megabytes_parquet(folder: Path) -> list[int]:
    texts = ["good", "x" * CELL, "good", "good", "y" * CELL, "good"]
    pq.write_table(pa.table({"id": [f"r{n}" for n in range(6)], "text": texts}), folder / "rows.parquet")
    return [1, 4]


def said_a_thousand_times(folder: Path) -> list[int]:
    texts = pa.DictionaryArray.from_arrays(
        pa.array([1] + [0] * 999, pa.int32()), pa.array(["x" * CELL, "good"])
    )
    table = pa.table({"id": [f"r{n}" for n in range(1000)], "text": texts})
    pq.write_table(table, folder / "rows.parquet", dictionary_pagesize_limit=100 * MIB)
    return list(range(1, 1000))


def unpacked_a_thousand_times(folder: Path) -> list[int]:
    with gzip.open(folder / "rows.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"id": "r0", "text": "good"}\n{"id": "r1", "text": "')
        for _ in range(1024):
            file.write(b"x" * MIB)
        file.write(b'"}\n{"id": "r2", "text": "good"}\n')
    return [1]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", fifty_megabytes_jsonl),
        ("rows.csv", fifty_megabytes_csv),
        ("rows.parquet", fifty_megabytes_parquet),
        ("rows.parquet", said_a_thousand_times),
        ("rows.jsonl.gz", unpacked_a_thousand_times),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_huge_cells_end_as_rows_that_say_so_in_bounded_memory(
    place: Workplace, provider: Provider, name: str, write: Callable[[Path], list[int]]
) -> None:
    write_job(place, TEXTS)
    place.point_at(provider)
    huge = write(place.folder)
    provider.hold_after(0)
    more = ("--set", f"input.path={name}", "--set", "budget.error_threshold=1")
    with place.promptmill.started("run", "job.toml", *more) as run:
        provider.wait(lambda: provider.held > 0)
        provider.release()
        peak = peak_memory(run.process.pid)
        ended = run.end()
    assert ended.code == 0, ended
    assert peak < 500 * MIB
    frame = results(place.out)
    assert frame.filter(status="failed")["input_index"].to_list() == huge
    assert set(frame.filter(status="failed")["error_message"].str.replace(r".*:\d+: ", "")) == {
        f"the {'line' if 'jsonl' in name else 'row'} is longer than 16 MiB"
    }
    assert set(frame.filter(pl.col("status") != "failed")["text"]) == {"good"}


def peak_memory(pid: int) -> int:
    """The most bytes that a process has held so far."""
    said = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", said)
    assert found
    return int(found[1]) * 1024


def wide(count: int, inner: str) -> str:
    return "[" + ",".join([inner] * count) + "]"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x" * 10**6, "items": [1] * 10**6}, "more of this row's values"),
        ({"text": "x" * 1000, "items": [1] * 2 * 10**6}, "more of this row's values"),
        ({"text": "x", "items": [["y" * 1000] * 100] * 300}, None),
    ],
)
def test_a_template_over_a_row_of_many_values_ends_the_row_and_not_the_memory(
    place: Workplace, row: dict[str, Any], said: str | None
) -> None:
    write_job(place, TEXTS.replace("{{ text }}", "{% for item in items %}{{ text }}{{ item }}{% endfor %}"))
    rows = [
        {"id": "a", "text": "fine", "items": [1, 2]},
        {"id": "b", **row},
        {"id": "c", "text": "fine", "items": []},
    ]
    (place.folder / "rows.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8"
    )
    ended = place.run(
        "--set", "budget.error_threshold=1", "--set", "output.columns=[]", "--set", "simulator.seed=3"
    )
    assert ended.code == 0, ended
    frame = results(place.out)
    assert frame["status"].to_list()[::2] == ["ok", "ok"]
    if said is not None:
        assert said in frame["error_message"][1]


def test_a_batch_of_rows_that_are_many_values_each_stays_within_memory(
    place: Workplace, provider: Provider
) -> None:
    """A line of 16 MiB may hold millions of JSON values, each of which takes much more in memory than on disk."""
    write_job(place, TEXTS)
    place.point_at(provider)
    with (place.folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for n, inner in enumerate(("{}", '{"a":1}', "[]", "1.5", '"ab"')):
            file.write(
                f'{{"id": "r{n}", "text": "good", "more": {wide(15 * MIB // (len(inner) + 1), inner)}}}\n'
            )
    provider.hold_after(0)
    with place.promptmill.started("run", "job.toml", "--set", "output.columns=['text']") as run:
        provider.wait_held(4)
        peak = peak_memory(run.process.pid)
        provider.release()
        assert run.end().code == 0
    assert peak < 2000 * MIB
    assert set(results(place.out)["status"]) == {"ok"}


def test_columns_of_any_name_are_carried_and_exported(place: Workplace) -> None:
    names = ["*", "^.*$", "", " ", "a\0b", "a", "=1+1", "row", "self", "__class__", "status", "status_input", "数据", "\x1b[2J",
             "x" * 100_000, "label", "part-00000.parquet", "../../etc"]  # fmt: skip
    row = {"id": "r0", "text": "fine", **{name: f"value {n}" for n, name in enumerate(names)}}
    (place.folder / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert place.run().code == 0
    frame = pq.read_table(place.out / "results").to_pylist()[0]
    shown = {name: f"{name}_input" if name in ("status", "label") else name for name in names}
    shown["status"] = "status_input_input"
    assert {frame[shown[name]] for name in names} == {f"value {n}" for n in range(len(names))}
    for ending in ("parquet", "jsonl", "csv"):
        ended = place.promptmill("export", "out", "-o", f"out.{ending}")
        assert ended.code == 0, ended
    exported = json.loads((place.folder / "out.jsonl").read_text("utf-8"))
    assert [exported[shown[name]] for name in names] == [f"value {n}" for n in range(len(names))]
    refused = place.run("--set", "output.columns=['nothing']", "--output", "elsewhere")
    assert refused.code == 2
    assert len(refused.stderr) < 50_000
    assert "\x1b" not in refused.stderr
