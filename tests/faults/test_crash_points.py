"""A run that dies at any moment: the run folder as it was at that instant is copied, and resumed from the copy.

A copy made between two statements of the loop's thread is what kill -9 would have left. Of the instants inside the
writing of a part, which another thread does, the copies are made from the one just after its rename.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import polars as pl
import pytest

from pipeline.journal import FILE_NAME, Journal
from pipeline.records import Status
from pipeline.totals import PartRecord
from tests.support.clock import run_virtual
from tests.support.rig import FakeTransport, Reply, Rig, answer, lost, refusal


@dataclass
class Instant:
    """What a killed process would leave: the folder, and what had been asked so far."""

    name: str
    out: Path
    asked: set[str]
    on_wire: int


@dataclass
class Camera:
    """Copies the run folder, at every instant it is told of."""

    rig: Rig
    shots: Path
    transport: FakeTransport
    instants: list[Instant]

    def shoot(self, name: str) -> Instant:
        name = f"{len(self.instants):03}-{name}"
        # A scratch file may vanish under the copy: the writer has a thread of its own. `shoot_part` makes them up.
        shutil.copytree(self.rig.out, self.shots / name, ignore=shutil.ignore_patterns("*.tmp"))
        instant = Instant(name, self.shots / name, set(self.transport.asked), self.transport.on_wire)
        self.instants.append(instant)
        return instant

    def shoot_part(self, number: int) -> None:
        """The instants of writing a part: nothing yet, a piece of it, all of it under its scratch name, renamed."""
        name = f"part-{number:05}.parquet"
        self.shoot("renamed")
        (self.shoot("before writing").out / "results" / name).unlink()
        for what, share in (("created", 0.0), ("half written", 0.5), ("before rename", 1.0)):
            part = self.shoot(what).out / "results" / name
            whole = part.read_bytes()
            part.with_name(name + ".tmp").write_bytes(whole[: int(len(whole) * share)])
            part.unlink()


def filmed(camera: Camera) -> Callable[[Path], Journal]:
    class FilmedJournal(Journal):
        """The journal, with a picture before and after all that it commits."""

        def commit(self) -> None:
            busy = self._begun or self._failed or self._recorded
            if busy:
                camera.shoot("before commit")
            super().commit()
            if busy:
                camera.shoot("after commit")

        def add_part(self, part: PartRecord, first: int, *, keep_rows: bool) -> None:
            if part.number in self.reopened():  # until the rename the old part stood there
                camera.shoot("renamed")
            else:
                camera.shoot_part(part.number)
            super().add_part(part, first, keep_rows=keep_rows)
            camera.shoot("part recorded")

        def reopen(self, part: PartRecord) -> None:
            super().reopen(part)
            camera.shoot("reopened")

        def ask_again(self, indexes: Iterable[int]) -> None:
            super().ask_again(indexes)
            camera.shoot("taken back")

        def drop_part(self, part: PartRecord, *, rows_kept: bool) -> None:
            super().drop_part(part, rows_kept=rows_kept)
            camera.shoot("part dropped")

        def take_open_attempts(self) -> int:
            taken = super().take_open_attempts()
            camera.shoot("attempts taken")
            return taken

    return FilmedJournal


def settled(out: Path) -> set[str]:
    """The rows whose outcome is on disk: in the journal or in a part."""
    with closing(sqlite3.connect(out / FILE_NAME)) as db:
        rows = {f"r{index}" for (index,) in db.execute("SELECT idx FROM outcomes")}
    for path in (out / "results").glob("*.parquet"):
        rows |= set(pl.read_parquet(path)["row_id"])
    return rows


def open_attempts(out: Path) -> tuple[int, int]:
    """Of rows without outcome on disk: attempts under way, and these with the earlier ones that may have been paid."""
    done = settled(out)
    with closing(sqlite3.connect(out / FILE_NAME)) as db:
        rows = db.execute("SELECT idx, open, maybe_paid FROM attempts").fetchall()
    left = [(open_, maybe_paid) for index, open_, maybe_paid in rows if f"r{index}" not in done]
    return sum(open_ for open_, _ in left), sum(open_ + maybe_paid for open_, maybe_paid in left)


async def ask_again(row_id: str, nth: int) -> Reply:
    return answer("good")


def resume(rig: Rig, instant: Instant, scratch: Path) -> None:
    """Go on from a copy as the next process would, and hold it against the promises."""
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir()
    shutil.copy2(rig.write_rows(), scratch / "rows.jsonl")
    shutil.copytree(instant.out, scratch / "run")
    done, (under_way, maybe_paid) = settled(instant.out), open_attempts(instant.out)
    after = replace(rig, folder=scratch, journal=Journal)
    transport = FakeTransport(ask_again)
    ran = run_virtual(after.run(transport))
    assert after.whole(), instant.name
    assert not transport.asked.keys() & done, instant.name
    assert ran.taken == maybe_paid, instant.name
    assert not ran.damage, instant.name
    assert ran.counters.totals.rows == rig.rows, instant.name
    # Only what was in flight is asked twice: on the wire, or its answer here but not yet on disk.
    waiting_to_retry = {row_id for row_id in instant.asked if row_id not in done}
    assert transport.asked.keys() & instant.asked == waiting_to_retry, instant.name
    assert under_way <= rig.workers, instant.name
    assert instant.on_wire <= under_way, instant.name


def answers(random: Random, faults: float) -> FakeTransport:
    async def script(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(random.random() / 10)
        return lost() if nth == 1 and random.random() < faults else answer("good")

    return FakeTransport(script)


@pytest.mark.parametrize("faults", [0.0, 0.6])
def test_a_run_killed_at_any_instant_ends_with_each_row_once_and_pays_for_none_that_was_settled(
    memory_path: Path, faults: float
) -> None:
    rig = Rig(folder=memory_path, rows=10, workers=3, labels=["good"])
    rig.write_rows()
    camera = Camera(rig, memory_path / "shots", answers(Random(7), faults), [])
    rig.journal = filmed(camera)
    run_virtual(rig.run(camera.transport))
    names = {instant.name[4:] for instant in camera.instants}
    assert len(camera.instants) >= 25
    assert {"renamed", "half written", "before rename", "part recorded"} <= names
    for instant in camera.instants:
        resume(rig, instant, memory_path / "again")


def test_a_run_killed_while_it_opens_a_short_part_again_loses_none_of_its_rows(memory_path: Path) -> None:
    rig = Rig(folder=memory_path, rows=10, workers=3)
    rig.write_rows()
    run_virtual(replace(rig, rows=6).run(FakeTransport(ask_again)))
    camera = Camera(rig, memory_path / "shots", answers(Random(7), 0.0), [])
    rig.journal = filmed(camera)
    run_virtual(rig.run(camera.transport))
    assert camera.instants[1].name == "001-part dropped"
    assert (camera.instants[1].out / "results" / "part-00001.parquet").exists()
    for instant in camera.instants:
        assert {f"r{n}" for n in range(6)} <= settled(instant.out)
        resume(rig, instant, memory_path / "again")


def test_a_run_killed_around_a_short_part_keeps_its_rows_when_more_are_asked_for(memory_path: Path) -> None:
    rig = Rig(folder=memory_path, rows=10, workers=3)
    rig.write_rows()
    camera = Camera(rig, memory_path / "shots", answers(Random(7), 0.0), [])
    rig.journal = filmed(camera)
    run_virtual(replace(rig, rows=6).run(camera.transport))
    assert "renamed" in {instant.name[4:] for instant in camera.instants}
    for instant in camera.instants:
        resume(rig, instant, memory_path / "again")


def test_a_run_killed_again_and_again_while_it_resumes_still_counts_each_lost_request_once(
    memory_path: Path,
) -> None:
    rig = Rig(folder=memory_path, rows=10, workers=3)
    rig.write_rows()
    transport = answers(Random(3), 0.3)
    counted = 0
    for round_ in range(6):
        shots = memory_path / f"shots-{round_}"
        camera = Camera(rig, shots, transport, [])
        filming = replace(rig, journal=filmed(camera))
        run_virtual(filming.run(transport))
        middle = camera.instants[min(5, len(camera.instants) - 1)]
        counted += open_attempts(middle.out)[1]
        shutil.rmtree(rig.out)
        shutil.copytree(middle.out, rig.out)
    run_virtual(rig.run(FakeTransport(ask_again)))
    assert rig.whole()
    with closing(sqlite3.connect(rig.out / FILE_NAME)) as db:
        (total,) = db.execute("SELECT value FROM manifest WHERE name = 'maybe_paid'").fetchone()
    assert 0 < int(total) == counted


def test_a_retry_killed_at_any_instant_keeps_what_it_was_answered_and_every_row_its_outcome(
    memory_path: Path,
) -> None:
    rig = Rig(folder=memory_path, rows=10, workers=3)
    rig.write_rows()
    bad = {"r1", "r2", "r5", "r9"}

    async def first(row_id: str, nth: int) -> Reply:
        return refusal(400) if row_id in bad else answer("good")

    run_virtual(rig.run(FakeTransport(first)))
    camera = Camera(rig, memory_path / "shots", answers(Random(7), 0.3), [])
    run_virtual(replace(rig, retry=frozenset([Status.FAILED]), journal=filmed(camera)).run(camera.transport))
    assert camera.transport.asked.keys() == bad
    scratch = memory_path / "again"
    for instant in camera.instants:
        answered = answered_on_disk(instant.out)
        scratch.mkdir()
        shutil.copy2(rig.write_rows(), scratch / "rows.jsonl")
        shutil.copytree(instant.out, scratch / "run")
        transport = FakeTransport(ask_again)
        after = Rig(folder=scratch, rows=10, workers=3)
        assert after.whole(), instant.name
        ran = run_virtual(after.run(transport))
        assert not transport.asked, instant.name
        assert not ran.damage, instant.name
        assert after.whole(), instant.name
        assert answered_on_disk(after.out) == answered, instant.name
        assert ran.counters.totals.status["ok"] == len(answered), instant.name
        shutil.rmtree(scratch)
    assert answered_on_disk(camera.instants[-1].out) == {f"r{n}" for n in range(10)}


def answered_on_disk(out: Path) -> set[str]:
    """The rows that have an answer: in a part, or in the journal since."""
    with closing(Journal(out)) as journal:
        rows = {o.row_id for o in journal.outcomes(0, 1000).values() if o.status is Status.OK}
    for path in (out / "results").glob("*.parquet"):
        rows |= set(pl.read_parquet(path).filter(status="ok")["row_id"])
    return rows
