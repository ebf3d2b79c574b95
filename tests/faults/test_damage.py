"""Files of a run folder that are no longer what was written: named, set aside, and only their rows done again."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from io import BytesIO, StringIO
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RunFolderError
from pipeline.export import export
from pipeline.journal import FILE_NAME
from pipeline.journal_view import view
from pipeline.parts import part_name
from pipeline.status import read_status
from tests.support.rig import FakeTransport, Reply, always, answer, refusal
from tests.support.whole_runs import notes, run, texts, write_rows

ROWS = 10  # in parts of 4, 4 and 2
Damage = Callable[[bytes], bytes]


def flipped(data: bytes, at: float) -> bytes:
    place = round(len(data) * at)
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def in_a_page(data: bytes) -> bytes:
    """A bit changed in the values of a column, which the page's checksum covers."""
    column = pq.read_metadata(BytesIO(data)).row_group(0).column(0)
    place = column.data_page_offset + column.total_compressed_size - 1
    return flipped(data, place / len(data))


def rewrite(path: Path, damage: Damage) -> None:
    path.write_bytes(damage(path.read_bytes()))


def rot(path: Path, damage: Damage) -> None:
    """Change a file as a failing disk would: its time stays."""
    before = path.stat()
    rewrite(path, damage)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def finished(folder: Path) -> Path:
    """A run that has come to its end; its folder."""
    write_rows(folder, *texts(ROWS))
    assert run(folder, always(answer())).exit_code == 0
    return folder / "out"


def part(out: Path, number: int) -> Path:
    return out / "results" / part_name(number)


def rows_of(*numbers: int) -> set[str]:
    return {str(row) for number in numbers for row in range(number * 4, min(number * 4 + 4, ROWS))}


def is_whole(out: Path) -> bool:
    frame = pl.scan_parquet(out / "results" / "*.parquet").collect()
    return frame["row_id"].to_list() == [str(n) for n in range(ROWS)] and set(frame["status"]) == {"ok"}


@pytest.mark.parametrize(
    "damage",
    [
        in_a_page,
        lambda data: flipped(data, 0.99),
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data + b"more",
    ],
    ids=["a bit in a page", "a bit in the footer", "half of it", "nothing", "longer"],
)
def test_a_damaged_part_is_named_and_set_aside_and_its_rows_alone_are_asked_again(
    tmp_path: Path, damage: Damage
) -> None:
    out = finished(tmp_path)
    rewrite(part(out, 1), damage)
    damaged = part(out, 1).read_bytes()
    transport, stderr = always(answer()), StringIO()
    ended = run(tmp_path, transport, notes=notes(stderr, quiet=True))
    assert transport.asked.keys() == rows_of(1)
    assert (ended.exit_code, ended.done, is_whole(out)) == (0, ROWS, True)
    assert (out / "damaged" / part_name(1)).read_bytes() == damaged
    for told in (stderr.getvalue(), "".join(ended.damaged), (out / "run.log").read_text()):
        assert f"{part(out, 1)} is damaged" in told
        assert f"it lies now at {out}/damaged/part-00001.parquet" in told
    again = run(tmp_path, always(refusal(500)))
    assert (again.exit_code, again.sent, again.damaged) == (0, 0, [])


def test_what_was_set_aside_before_is_never_overwritten(tmp_path: Path) -> None:
    out = finished(tmp_path)
    for text in (b"first", b"second", b"third"):
        part(out, 0).write_bytes(text)
        run(tmp_path, always(answer()))
    assert is_whole(out)
    aside = {path.name: path.read_bytes() for path in (out / "damaged").iterdir()}
    assert aside == {
        "part-00000.parquet": b"first",
        "part-00000.2.parquet": b"second",
        "part-00000.3.parquet": b"third",
    }


def test_a_copied_folder_is_no_damage_and_is_compared_once(tmp_path: Path) -> None:
    out = finished(tmp_path)
    shutil.copytree(out, tmp_path / "copy", copy_function=shutil.copy)
    shutil.rmtree(out)
    (tmp_path / "copy").rename(out)
    before = {one.number: one for one in view(out).parts}
    ended = run(tmp_path, always(refusal(500)))
    assert (ended.sent, ended.damaged, ended.maybe_paid) == (0, [], 0)
    after = {one.number: one for one in view(out).parts}
    assert {one.digest for one in after.values()} == {one.digest for one in before.values()}
    assert not {one.stamp for one in after.values()} & {one.stamp for one in before.values()}
    # With the stamps as they are recorded nothing is compared: the file may hold what it will.
    rot(part(out, 2), in_a_page)
    assert run(tmp_path, always(refusal(500))).damaged == []


def test_a_short_parts_rows_are_in_the_journal_and_cost_nothing(tmp_path: Path) -> None:
    out = finished(tmp_path)
    rewrite(part(out, 2), lambda data: data[:100])
    ended = run(tmp_path, always(refusal(500)))
    assert (ended.exit_code, ended.sent, len(ended.damaged), is_whole(out)) == (0, 0, 1, True)


def test_damage_that_left_no_trace_is_found_where_a_part_is_read(tmp_path: Path) -> None:
    out = finished(tmp_path)
    rot(part(out, 1), in_a_page)
    with pytest.raises(OSError, match="checksum"):
        pq.read_table(part(out, 1), page_checksum_verification=True)
    with pytest.raises(RunFolderError, match=r"part-00001\.parquet is damaged: .*`touch` it"):
        export(out, tmp_path / "all.csv", on_note=pytest.fail)
    assert not (tmp_path / "all.csv").exists()
    part(out, 1).touch()
    transport = always(answer())
    assert len(run(tmp_path, transport).damaged) == 1
    assert transport.asked.keys() == rows_of(1)
    assert export(out, tmp_path / "all.csv", on_note=pytest.fail) == ROWS


def test_a_changed_job_takes_no_answer_from_a_damaged_part(tmp_path: Path) -> None:
    out = finished(tmp_path)
    rot(part(out, 1), in_a_page)
    transport = always(answer())
    ended = run(tmp_path, transport, "output.columns=[]")
    assert transport.asked.keys() == rows_of(1)
    assert (ended.reused, len(ended.damaged), is_whole(out)) == (ROWS - 4, 1, True)


def test_rows_are_asked_again_of_no_part_that_is_damaged(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(ROWS))

    async def script(row_id: str, nth: int) -> Reply:
        return refusal(400) if row_id == "5" else answer()

    run(tmp_path, FakeTransport(script), "budget.error_threshold=1")
    out = tmp_path / "out"
    rot(part(out, 1), in_a_page)
    transport = always(answer())
    ended = run(tmp_path, transport, retry=frozenset(["failed"]))
    assert transport.asked.keys() == rows_of(1)
    assert (len(ended.damaged), is_whole(out)) == (1, True)


def test_a_torn_part_that_nobody_recorded_is_set_aside(tmp_path: Path) -> None:
    out = finished(tmp_path)
    with closing(sqlite3.connect(out / FILE_NAME)) as db, db:
        db.execute("DELETE FROM parts WHERE number = 1")
    rewrite(part(out, 1), lambda data: data[:-10])
    transport = always(answer())
    ended = run(tmp_path, transport)
    assert transport.asked.keys() == rows_of(1)
    assert (len(ended.damaged), is_whole(out)) == (1, True)


# The journal


def stopped(folder: Path, *overrides: str) -> Path:
    """A run that was stopped with one part written and rows of the next settled; its folder."""
    write_rows(folder, *texts(ROWS))

    async def script(row_id: str, nth: int) -> Reply:
        return answer() if int(row_id) < 6 else refusal(401)

    ended = run(folder, FakeTransport(script), "limits.max_concurrency=1", *overrides)
    assert (ended.exit_code, ended.done) == (4, 6)
    return folder / "out"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"not a database, whatever its name" * 1000,
        lambda data: data[:16384] + b"\xff" * 16384 * 3 + data[16384 * 4 :],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
    ],
    ids=["other bytes", "pages", "half of it", "nothing"],
)
def test_a_damaged_journal_is_set_aside_and_only_rows_without_a_part_are_asked_again(
    tmp_path: Path, damage: Damage
) -> None:
    out = stopped(tmp_path)
    rewrite(out / FILE_NAME, damage)
    transport, stderr = always(answer()), StringIO()
    # What the parts tell wins over the job file, as the journal would have.
    ended = run(tmp_path, transport, "output.rows_per_part=3", notes=notes(stderr, quiet=True))
    assert transport.asked.keys() == {str(row) for row in range(4, ROWS)}
    assert (ended.exit_code, ended.done, ended.maybe_paid, is_whole(out)) == (0, ROWS, None, True)
    assert f"{out / FILE_NAME} is " in stderr.getvalue()
    assert "how much of it was paid is not known" in stderr.getvalue()
    again = run(tmp_path, always(refusal(500)))
    assert (again.sent, again.damaged, again.maybe_paid) == (0, [], None)
    assert pl.read_parquet(part(out, 0)).height == 4


def test_a_damaged_journal_lies_aside_with_its_log(tmp_path: Path) -> None:
    out = stopped(tmp_path)
    with closing(sqlite3.connect(out / FILE_NAME)) as db, db:
        db.execute("DELETE FROM outcomes")
        shutil.copy(out / FILE_NAME, tmp_path / "db")
        shutil.copy(out / f"{FILE_NAME}-wal", tmp_path / "wal")
    (out / FILE_NAME).write_bytes(b"nothing of use" * 2000)
    shutil.copy(tmp_path / "wal", out / f"{FILE_NAME}-wal")
    assert run(tmp_path, always(answer())).exit_code == 0
    assert {path.name for path in (out / "damaged").iterdir()} >= {FILE_NAME, f"{FILE_NAME}-wal"}


@pytest.mark.parametrize("log_stays", [False, True])
def test_a_journal_that_is_gone_is_told_and_its_log_never_played_into_a_new_one(
    tmp_path: Path, log_stays: bool
) -> None:
    out = finished(tmp_path)
    with closing(sqlite3.connect(out / FILE_NAME)) as db, db:
        db.execute("UPDATE manifest SET value = 'from the log' WHERE name = 'name'")
        db.commit()
        shutil.copy(out / f"{FILE_NAME}-wal", tmp_path / "wal")
    (out / FILE_NAME).unlink()
    if log_stays:
        shutil.copy(tmp_path / "wal", out / f"{FILE_NAME}-wal")
    ended = run(tmp_path, always(refusal(500)))
    assert (ended.sent, ended.maybe_paid, len(ended.damaged)) == (0, None, 1)
    assert (out / "damaged" / f"{FILE_NAME}-wal").exists() is log_stays
    assert is_whole(out)


def test_with_the_journal_gone_a_short_part_that_grows_keeps_its_answers(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(ROWS))
    run(tmp_path, always(answer()), limit=6)
    out = tmp_path / "out"
    (out / FILE_NAME).unlink()
    transport = always(answer())
    ended = run(tmp_path, transport)
    assert transport.asked.keys() == {"6", "7", "8", "9"}
    assert (ended.exit_code, ended.done, is_whole(out)) == (0, ROWS, True)


def test_with_the_journal_gone_and_the_input_changed_answers_are_still_found_by_their_questions(
    tmp_path: Path,
) -> None:
    out = finished(tmp_path)
    (out / FILE_NAME).write_bytes(b"")
    write_rows(tmp_path, {"text": "new"}, *texts(ROWS))
    transport = always(answer())
    ended = run(tmp_path, transport)
    assert (ended.exit_code, ended.reused, ended.done) == (0, ROWS, ROWS + 1)
    assert transport.asked.keys() == {"0"}


def test_one_outcome_that_rotted_in_the_journal_is_asked_again_alone(tmp_path: Path) -> None:
    out = stopped(tmp_path)
    with closing(sqlite3.connect(out / FILE_NAME)) as db, db:
        (data,) = db.execute("SELECT data FROM outcomes WHERE idx = 4").fetchone()
        db.execute("UPDATE outcomes SET data = ? WHERE idx = 4", (flipped(data, 0.5),))
    transport = always(answer())
    ended = run(tmp_path, transport)
    assert transport.asked.keys() == {str(row) for row in range(4, ROWS)} - {"5"}
    assert ended.damaged == [f"1 outcomes in {out / FILE_NAME} are damaged: their rows are asked again"]
    assert is_whole(out)


def test_commits_lost_in_the_middle_of_the_log_are_told_and_their_rows_asked_again(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(ROWS))
    killed = tmp_path / "killed"

    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "7":
            shutil.copytree(tmp_path / "out", killed, copy_function=shutil.copy)
        return answer()

    run(tmp_path, FakeTransport(script), "limits.max_concurrency=1")
    for place, lost in ((None, False), (0.6, True), (0.0, True)):
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(killed, tmp_path / "out")
        if place is not None:
            log = tmp_path / "out" / f"{FILE_NAME}-wal"
            log.write_bytes(flipped(log.read_bytes(), place))
        ended = run(tmp_path, always(answer()))
        assert (ended.exit_code, bool(ended.damaged), is_whole(tmp_path / "out")) == (0, lost, True)
        assert ended.maybe_paid == (None if lost else 1)


# What else lies there


def test_a_damaged_list_of_uploads_is_set_aside(tmp_path: Path) -> None:
    out = finished(tmp_path)
    (out / "uploads.sqlite").write_bytes(b"no list of uploads" * 1000)
    ended = run(tmp_path, always(refusal(500)))
    assert (ended.exit_code, ended.sent, ended.maybe_paid) == (0, 0, 0)
    assert "What it knew is found out anew" in ended.damaged[0]
    assert (out / "damaged" / "uploads.sqlite").exists()
    assert not (out / "uploads.sqlite").exists()


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00", b"[]", b'"text"', b'{"summary": 3}', b"{}"])
def test_a_run_json_of_garbage_harms_nobody(tmp_path: Path, garbage: bytes) -> None:
    out = finished(tmp_path)
    (out / "run.json").write_bytes(garbage)
    assert read_status(out).reason is None
    ended = run(tmp_path, always(refusal(500)))
    assert (ended.sent, ended.damaged) == (0, [])
    assert read_status(out).reason == "every row has its outcome"
