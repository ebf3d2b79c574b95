"""The disk refuses, or the process dies, at the n-th change to a file, for every n: SQLite's own changes are among them.

    refused   the n-th change fails with "no space left", those after it succeed
    dies      neither the n-th nor any later change happens: what kill -9 at that moment leaves
    torn      as `dies`, but half of what the n-th write should have written is there

The folder that is left is then run again on a good disk.
"""

import asyncio
import contextlib
import errno
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

import polars as pl
import pytest

from pipeline.errors import PromptmillError
from pipeline.journal import FILE_NAME
from pipeline.parts import part_name
from pipeline.records import Status
from tests.support.changes import (
    Change,
    Changes,
    Refused,
    WatchedDisk,
    sqlite_can_be_watched,
    watched_sqlite,
)
from tests.support.clock import run_virtual
from tests.support.on_disk import known
from tests.support.rig import FakeTransport, Reply, Rig, always, answer, lost, refusal
from tests.support.whole_runs import run, texts, write_rows

Fault = Literal["refused", "dies", "torn"]
FAULTS: list[Fault] = ["refused", "dies", "torn"]
REFUSALS = (PromptmillError, sqlite3.Error, OSError)  # the engine makes sentences of the latter two

pytestmark = pytest.mark.skipif(
    not sqlite_can_be_watched(), reason="this Python has its SQLite built in, whose writes cannot be refused"
)


@dataclass
class FaultAt(Changes):
    """Refuses the change of this number, counted from 1; what was refused, in words."""

    number: int
    fault: Fault
    at: Change | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def before(self, change: Change, size: int) -> None:
        super().before(change, size)
        if self.count == self.number:
            self.at = change
            keep = size // 2 if self.fault == "torn" else 0
            raise Refused(errno.ENOSPC if self.fault == "refused" else errno.EIO, keep=keep)
        if self.count > self.number and self.fault != "refused":
            raise Refused(errno.EIO)


@contextlib.contextmanager
def watched(changes: Changes) -> Iterator[WatchedDisk]:
    with watched_sqlite(changes):
        yield WatchedDisk(changes)


async def good(row_id: str, nth: int) -> Reply:
    return answer("good")


def mixed() -> FakeTransport:
    """Answers that come in another order than they were asked for; some requests are lost first."""
    random = Random(11)

    async def script(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(random.random() / 10)
        return lost() if nth == 1 and random.random() < 0.3 else answer("good")

    return FakeTransport(script)


def resumed(rig: Rig, sent: set[str], what: str) -> None:
    """Run what is left to its end, and judge it by what the folder knew."""
    before = known(rig.out)
    transport = FakeTransport(good)
    ran = run_virtual(rig.run(transport))
    assert rig.whole(), what
    assert sent <= before.sent, f"{what}: a row was sent that the journal does not know of"
    assert not transport.asked.keys() & before.settled, f"{what}: a settled row was asked again"
    assert ran.counters.totals.rows == rig.rows, what
    assert not ran.damage, what
    assert not list(rig.out.rglob("*.tmp")), what


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_whose_disk_fails_at_any_change_ends_with_each_row_once(
    memory_path: Path, fault: Fault
) -> None:
    number = 0
    reached = True
    while reached:
        number += 1
        changes = FaultAt(number, fault)
        transport = mixed()
        rig = Rig(folder=memory_path, rows=6, workers=2)
        with watched(changes) as disk, contextlib.suppress(*REFUSALS):
            run_virtual(replace(rig, disk=disk).run(transport))
        reached = changes.at is not None
        resumed(rig, set(transport.asked), f"{number}: {changes.at}")
        shutil.rmtree(rig.out)
    assert number > 60


@pytest.mark.parametrize("fault", FAULTS)
def test_a_retry_whose_disk_fails_at_any_change_loses_no_outcome(memory_path: Path, fault: Fault) -> None:
    bad = {"r1", "r4"}

    async def first(row_id: str, nth: int) -> Reply:
        return refusal(400) if row_id in bad else answer("good")

    done = Rig(folder=memory_path, at=memory_path / "done", rows=6, workers=2)
    run_virtual(done.run(FakeTransport(first)))
    number = 0
    reached = True
    while reached:
        number += 1
        changes = FaultAt(number, fault)
        rig = replace(done, at=memory_path / "run")
        shutil.copytree(done.out, rig.out)
        transport = mixed()
        with watched(changes) as disk, contextlib.suppress(*REFUSALS):
            again = replace(rig, disk=disk, retry=frozenset([Status.FAILED]))
            run_virtual(again.run(transport))
        reached = changes.at is not None
        assert transport.asked.keys() <= bad
        resumed(rig, set(transport.asked), f"{number}: {changes.at}")
        frame = rig.frame()
        assert set(frame.filter(pl.col("status") != "ok")["row_id"]) <= bad
        shutil.rmtree(rig.out)
    assert number > 40


# Whole runs, whose disk is refused what SQLite does not write: parts, run.json, what is set aside and taken over


def fresh(folder: Path) -> None:
    write_rows(folder, *texts(6))


def with_damage(folder: Path) -> None:
    """A finished run of which a part and the journal are damaged."""
    fresh(folder)
    run(folder, always(answer()))
    (folder / "out" / "results" / part_name(0)).write_bytes(b"no part")
    (folder / "out" / FILE_NAME).write_bytes(b"no journal" * 5000)


def with_changed_rows(folder: Path) -> None:
    """A finished run whose input has one row more in front."""
    fresh(folder)
    run(folder, always(answer()))
    write_rows(folder, {"text": "new"}, *texts(6))


class FaultOfOurs(FaultAt):
    """Counts only what SQLite does not write, but dies for both."""

    def before(self, change: Change, size: int) -> None:
        if "sqlite" not in change.path.name or "damaged" in change.path.parts:
            super().before(change, size)
        elif self.at is not None and self.fault != "refused":
            raise Refused(errno.EIO)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("prepare", "rows", "paid"), [(fresh, 6, 6), (with_damage, 6, 4), (with_changed_rows, 7, 1)]
)
def test_a_whole_run_whose_disk_fails_at_any_file_says_so_and_the_same_command_goes_on(
    memory_path: Path, fault: Fault, prepare: Callable[[Path], None], rows: int, paid: int
) -> None:
    (memory_path / "before").mkdir()
    prepare(memory_path / "before")
    number = 0
    reached = True
    while reached:
        number += 1
        folder = memory_path / "now"
        shutil.copytree(memory_path / "before", folder)
        changes = FaultOfOurs(number, fault)
        first = always(answer())
        with watched(changes) as disk:
            try:
                run(folder, first, disk=disk)
            except PromptmillError as error:
                assert error.exit_code in (1, 2)
        reached = changes.at is not None
        settled = known(folder / "out", prefix="").settled
        second = always(answer())
        ended = run(folder, second)
        what = f"{number}: {changes.at}"
        assert (ended.exit_code, ended.done) == (0, rows), what
        frame = pl.read_parquet(folder / "out" / "results" / "*.parquet")
        assert frame["row_id"].to_list() == [str(n) for n in range(rows)], what
        assert not second.asked.keys() & settled or prepare is with_changed_rows, what
        assert first.asked.total() + second.asked.total() <= paid + 4, what
        shutil.rmtree(folder)
    assert number > 10


@pytest.mark.parametrize("fault", ["refused", "dies"])
def test_a_whole_run_says_in_a_sentence_what_its_journal_was_refused(memory_path: Path, fault: Fault) -> None:
    """Every fifth change; that nothing is lost at any of them is shown above."""
    number = 1
    reached = True
    while reached:
        folder = memory_path / str(number)
        folder.mkdir()
        fresh(folder)
        changes = FaultAt(number, fault)
        with watched(changes) as disk:
            try:
                assert run(folder, always(answer()), disk=disk).exit_code == 0
            except PromptmillError as error:
                assert error.exit_code in (1, 2)
                assert "cannot be" in str(error)
        reached = changes.at is not None
        assert run(folder, always(answer())).done == 6
        number += 5
    assert number > 60
