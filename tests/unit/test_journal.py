"""The journal: what is on disk at each moment, as another connection (or the next run) sees it."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline import journal_upkeep
from pipeline.databases import checkpoint
from pipeline.errors import RunFolderBusy, RunFolderError
from pipeline.journal import FILE_NAME, JOURNAL_VERSION, Journal
from pipeline.journal_upkeep import COMMITS, LEAVE_AT_ONCE
from pipeline.journal_view import JournalView, view
from pipeline.records import (
    Completion,
    Failure,
    FailureKind,
    Outcome,
    Status,
    ToolCall,
    Usage,
)
from pipeline.run_lock import RunLock, is_held
from pipeline.totals import PartRecord
from tests.support.clock import run_virtual
from tests.support.rig import outcome

WHOLE = Outcome(
    index=3,
    row_id="r3",
    status=Status.INVALID,
    key="k",
    completion=Completion(
        content="好 \U0001f600",
        finish_reason="weird",
        usage=Usage(1, 2, 3, 0, None, 5, '{"x":1}'),
        model="m",
        tool_calls=[ToolCall("i", None, "{")],
        partial=True,
    ),
    failure=Failure(FailureKind.INVALID_ANSWER, "c", "m", 200, "id", 1.5, maybe_paid=True),
    fields={"n": 1, "x": 0.5, "b": True, "s": None},
    earlier=[Usage(1)],
    http_status=200,
    attempts=2,
    maybe_paid=1,
    started_at_us=10**15,
    latency_ms=0.1,
    queue_ms=0.2,
    run_id="run",
    response="{}",
)


def with_journal(
    folder: Path,
    use: Callable[[Journal], Coroutine[Any, Any, None]],
    *,
    run: Callable[..., None] = run_virtual,
) -> None:
    async def main() -> None:
        journal = Journal(folder)
        journal.write_manifest({"rows_per_part": "4"})
        try:
            await use(journal)
        finally:
            journal.close()

    run(main())


def break_attempts(folder: Path) -> None:
    """Make every later commit of an attempt fail, as a full disk would."""
    other = sqlite3.connect(folder / FILE_NAME)
    other.execute("DROP TABLE attempts")
    other.close()


def test_an_attempt_is_on_disk_before_its_request_may_be_sent(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        kept = journal.begin_attempt(0)
        assert not kept.done()
        assert view(tmp_path).in_flight == 0
        await kept
        assert view(tmp_path).in_flight == 1

    with_journal(tmp_path, use)


def test_an_outcome_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        journal.record(WHOLE)
        journal.flush()
        assert journal.outcomes(0, 4) == {3: WHOLE}
        assert journal.outcomes(4, 8) == {}
        assert view(tmp_path).outcomes == [WHOLE]

    with_journal(tmp_path, use)


def test_what_gathers_is_committed_together_and_closing_commits_the_rest(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        first, second = journal.begin_attempt(0), journal.begin_attempt(1)
        journal.record(outcome(5))
        await first
        assert second.done()
        assert seen() == ([5], 2)
        journal.record(outcome(6))

    def seen() -> tuple[list[int], int]:
        now = view(tmp_path)
        return [o.index for o in now.outcomes], now.in_flight

    with_journal(tmp_path, use)
    assert seen() == ([5, 6], 2)


def test_a_cancelled_worker_takes_nobody_elses_attempt_with_it(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        async def begin(index: int) -> None:
            await journal.begin_attempt(index)

        one, other = asyncio.create_task(begin(0)), asyncio.create_task(begin(1))
        await asyncio.sleep(0)
        one.cancel()
        await other
        assert one.cancelled()
        assert view(tmp_path).in_flight == 2

    with_journal(tmp_path, use)


@pytest.mark.parametrize(
    ("steps", "maybe_paid"),
    [
        ([], 0),
        (["begin"], 1),
        (["begin", "failed"], 0),
        (["begin", "lost"], 1),
        (["begin", "lost", "begin"], 2),
        (["begin", "lost", "begin", "lost"], 2),
        (["begin", "record"], 0),
        (["begin", "lost", "begin", "record"], 0),
    ],
)
def test_what_a_dead_run_may_have_paid_for_is_counted_once(
    tmp_path: Path, steps: list[str], maybe_paid: int
) -> None:
    async def use(journal: Journal) -> None:
        for step in steps:
            if step == "begin":
                await journal.begin_attempt(7)
            elif step == "record":
                journal.record(outcome(7))
            else:
                journal.attempt_failed(7, maybe_paid=step == "lost")

    with_journal(tmp_path, use)

    async def resume(journal: Journal) -> None:
        assert journal.maybe_paid() == maybe_paid
        assert journal.take_open_attempts() == maybe_paid
        assert journal.take_open_attempts() == 0
        assert journal.maybe_paid() == maybe_paid
        await journal.begin_attempt(7)
        assert journal.maybe_paid() == maybe_paid + ("record" not in steps)

    with_journal(tmp_path, resume)


def test_a_failed_commit_reaches_everyone_who_waits_and_all_who_come_later(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        break_attempts(tmp_path)
        waiting = [journal.begin_attempt(0), journal.begin_attempt(1)]
        for one in waiting:
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                await one
        for later in (
            lambda: journal.begin_attempt(2),
            lambda: journal.record(outcome(2)),
            lambda: journal.attempt_failed(2, maybe_paid=False),
            journal.flush,
            lambda: journal.add_part(PartRecord(0, 4, {}, "stamp", "digest"), 0, keep_rows=False),
        ):
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                later()

    with_journal(tmp_path, use)


def test_a_failed_commit_of_outcomes_alone_is_told_by_flush(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        break_attempts(tmp_path)
        journal.record(outcome(0))
        journal.attempt_failed(1, maybe_paid=False)
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            journal.flush()

    with_journal(tmp_path, use)
    assert view_outcomes(tmp_path) == []


def view_outcomes(folder: Path) -> list[int]:
    with sqlite3.connect(folder / FILE_NAME) as db:
        found = [index for (index,) in db.execute("SELECT idx FROM outcomes")]
    db.close()
    return found


def test_a_parts_rows_leave_with_it_and_a_short_parts_outcomes_stay(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        for index in range(9):
            await journal.begin_attempt(index)
            journal.record(outcome(index))
        journal.add_part(PartRecord(0, 4, {"rows": 4}, "stamp", "digest"), 0, keep_rows=False)
        assert list(journal.outcomes(0, 9)) == [4, 5, 6, 7, 8]
        journal.add_part(PartRecord(1, 3, {"rows": 3}, "stamp", "digest"), 4, keep_rows=True)
        assert list(journal.outcomes(0, 9)) == [4, 5, 6, 7, 8]
        assert [o.index for some in journal.open_outcomes() for o in some] == [7, 8]
        assert [o.index for o in view(tmp_path).outcomes] == [7, 8]
        assert journal.parts() == {
            0: (0, 4, {"rows": 4}, "stamp", "digest"),
            1: (1, 3, {"rows": 3}, "stamp", "digest"),
        }
        journal.drop_part(journal.parts()[1], rows_kept=True)
        assert [o.index for some in journal.open_outcomes() for o in some] == [4, 5, 6, 7, 8]

    with_journal(tmp_path, use)


def test_another_connection_reads_while_the_run_writes_and_delays_nothing(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        journal.record(outcome(0))
        journal.flush()
        reader = sqlite3.connect(tmp_path / FILE_NAME)
        reader.execute("BEGIN")
        before = reader.execute("SELECT count(*) FROM outcomes").fetchone()
        journal.record(outcome(1))
        journal.add_part(PartRecord(1, 4, {}, "stamp", "digest"), 4, keep_rows=False)
        journal.flush()
        assert reader.execute("SELECT count(*) FROM outcomes").fetchone() == before
        reader.close()
        now = view(tmp_path)
        assert ([o.index for o in now.outcomes], [p.number for p in now.parts]) == ([0, 1], [1])

    with_journal(tmp_path, use)


def test_a_view_opens_folders_of_any_name_and_after_the_run_too(tmp_path: Path) -> None:
    folder = tmp_path / "50% of? #1 é"
    folder.mkdir()

    async def use(journal: Journal) -> None:
        journal.write_manifest({"name": "n"})

    with_journal(folder, use)
    assert view(folder) == JournalView(
        {"journal_version": str(JOURNAL_VERSION), "name": "n", "rows_per_part": "4"}, [], [], 0
    )


def test_a_view_of_what_is_no_run_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run folder: it has no journal\.sqlite"):
        view(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"not a database, whatever its name" * 100)
    with pytest.raises(RunFolderError, match="is damaged: file is not a database"):
        view(tmp_path)


def test_a_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        journal.write_manifest({"journal_version": "99"})

    with_journal(tmp_path, use)
    with pytest.raises(RunFolderError, match=f"journal 99, here {JOURNAL_VERSION}"):
        Journal(tmp_path)


def test_one_run_holds_a_folder_and_names_itself_to_the_others(tmp_path: Path) -> None:
    lock = RunLock(tmp_path, note="started today")
    assert is_held(tmp_path)
    with pytest.raises(RunFolderBusy, match=r"pid \d+ on .*, started today"):
        RunLock(tmp_path, note="later")
    lock.release()
    assert not is_held(tmp_path)
    RunLock(tmp_path, note="later").release()


def test_what_a_dead_holder_left_written_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("pid 1 on some host, started long ago\n")
    assert not is_held(tmp_path)
    RunLock(tmp_path, note="now").release()


# What the folder spent


def reopened_spend(folder: Path) -> tuple[dict[int, tuple[int, int]], tuple[int, int]]:
    """The sums by month, and the spend, as the next run finds them once it has taken over what was open."""
    found: list[Any] = []

    async def use(journal: Journal) -> None:
        journal.take_open_attempts()
        found.append((journal.spent.sums(), journal.spend()))

    with_journal(folder, use)
    sums, spend = found[0]
    return sums, spend


def test_a_journal_of_a_version_before_can_be_looked_at(tmp_path: Path) -> None:
    """So that its results can be exported, though no run goes on in it."""

    async def use(journal: Journal) -> None:
        journal.write_manifest({"journal_version": "3"})

    with_journal(tmp_path, use)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DROP TABLE spend")
        db.execute("DROP TABLE attempts")
        db.execute("CREATE TABLE attempts (idx INTEGER PRIMARY KEY, open INTEGER, maybe_paid INTEGER)")
    assert view(tmp_path).spend == (0, 0)


def test_an_attempt_counts_at_its_worst_until_it_is_settled(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        await journal.begin_attempt(0, 100, 202611)
        await journal.begin_attempt(1, 50, 202611)
        assert journal.spend() == (0, 150)
        journal.add_spent(202611, 30, 0)
        journal.record(outcome(0))
        journal.flush()
        assert journal.spend() == (30, 50)
        journal.add_spent(202611, 0, 50)
        journal.attempt_failed(1, maybe_paid=True)
        journal.flush()
        assert journal.spend() == (30, 50)
        await journal.begin_attempt(1, 60, 202612)  # in the next month
        assert journal.spend() == (30, 110)

    with_journal(tmp_path, use)
    assert reopened_spend(tmp_path) == ({202611: (30, 50), 202612: (0, 60)}, (30, 110))
    assert reopened_spend(tmp_path) == ({202611: (30, 50), 202612: (0, 60)}, (30, 110))


def test_what_a_killed_run_settled_and_did_not_commit_counts_at_its_worst(tmp_path: Path) -> None:
    killed = tmp_path / "killed"

    async def use(journal: Journal) -> None:
        await journal.begin_attempt(0, 100, 202611)
        journal.add_spent(202611, 30, 0)
        journal.record(outcome(0))
        shutil.copytree(tmp_path, killed, ignore=lambda *_: ["killed"])

    with_journal(tmp_path, use)
    assert reopened_spend(tmp_path) == ({202611: (30, 0)}, (30, 0))
    assert reopened_spend(killed) == ({202611: (0, 100)}, (0, 100))


def test_a_settled_row_that_loses_its_outcome_does_not_count_as_under_way(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        for index in (0, 1):
            await journal.begin_attempt(index, 100, 202611)
            journal.add_spent(202611, 30, 0)
            journal.record(outcome(index))
        journal.ask_again([0])  # as --retry-failed does
        assert journal.spend() == (60, 0)
        other = sqlite3.connect(tmp_path / FILE_NAME)
        other.execute("UPDATE outcomes SET data = x'00112233445566' WHERE idx = 1")
        other.commit()
        other.close()
        assert journal.drop_damaged() == 1
        assert journal.spend() == (60, 0)

    with_journal(tmp_path, use)


def test_what_was_spent_outlasts_parts_and_changes_of_the_job(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        await journal.begin_attempt(0, 100, 202611)
        journal.add_spent(202611, 30, 0)
        journal.record(outcome(0))
        journal.flush()
        journal.take_open_attempts()
        journal.keep_outcomes()
        assert journal.spend() == (30, 0)

    with_journal(tmp_path, use)


def test_a_long_parts_rows_leave_over_several_commits_and_count_for_nothing_meanwhile(tmp_path: Path) -> None:
    rows = 2 * LEAVE_AT_ONCE + 1

    async def use(journal: Journal) -> None:
        journal.write_manifest({"rows_per_part": str(rows)})
        for index in range(rows + 1):
            journal.begin_attempt(index)
            journal.record(outcome(index))
        journal.add_part(PartRecord(0, rows, {"rows": rows}, "stamp", "digest"), 0, keep_rows=False)
        assert len(journal.outcomes(0, rows)) == rows - LEAVE_AT_ONCE
        assert [o.index for some in journal.open_outcomes() for o in some] == [rows]
        assert [o.index for o in view(tmp_path).outcomes] == [rows]
        assert journal.maybe_paid() == 0
        journal.commit()
        assert len(journal.outcomes(0, rows)) == 1
        journal.commit()
        assert list(journal.outcomes(0, rows + 1)) == [rows]

    with_journal(tmp_path, use)


@pytest.mark.parametrize("commits", [0, 1, 2])
def test_rows_that_were_leaving_when_a_run_was_killed_leave_when_the_next_begins(
    tmp_path: Path, commits: int
) -> None:
    rows = 2 * LEAVE_AT_ONCE + 1
    killed = tmp_path / "killed"

    async def use(journal: Journal) -> None:
        journal.write_manifest({"rows_per_part": str(rows)})
        for index in range(2 * rows):
            journal.begin_attempt(index)
            journal.record(outcome(index))
        again = PartRecord(1, rows, {"rows": rows}, "stamp", "digest")
        journal.add_part(again, rows, keep_rows=False)
        while len(journal.outcomes(rows, 2 * rows)):
            journal.commit()
        journal.reopen(again)
        journal.record(outcome(rows))  # asked again; its part is to be written anew
        journal.add_part(PartRecord(0, rows, {"rows": rows}, "stamp", "digest"), 0, keep_rows=False)
        for _ in range(commits):
            journal.commit()
        shutil.copytree(tmp_path, killed, ignore=shutil.ignore_patterns("killed"))

    with_journal(tmp_path, use)

    async def resume(journal: Journal) -> None:
        journal.write_manifest({"rows_per_part": str(rows)})
        assert journal.take_open_attempts() == 0
        assert list(journal.outcomes(0, 2 * rows)) == [rows]

    with_journal(killed, resume)


def test_what_is_leaving_has_left_when_the_journal_is_closed(tmp_path: Path) -> None:
    rows = 3 * LEAVE_AT_ONCE

    async def use(journal: Journal) -> None:
        for index in range(rows):
            journal.record(outcome(index))
        journal.add_part(PartRecord(0, rows, {}, "stamp", "digest"), 0, keep_rows=False)

    with_journal(tmp_path, use)
    assert view_outcomes(tmp_path) == []


def in_file(folder: Path) -> list[int]:
    """The outcomes in the database file itself, without its log."""
    alone = folder / "alone.sqlite"
    shutil.copy2(folder / FILE_NAME, alone)
    with closing(sqlite3.connect(alone)) as db:
        return [index for (index,) in db.execute("SELECT idx FROM outcomes")]


def commit_often(journal: Journal, times: int) -> None:
    for index in range(times):
        journal.record(outcome(index))
        journal.commit()


def test_commits_come_into_the_file_beside_the_loop_once_enough_have_gathered(tmp_path: Path) -> None:
    async def use(journal: Journal) -> None:
        checkpoint(tmp_path / FILE_NAME)  # the tables, so that the file can be looked into by itself
        commit_often(journal, COMMITS // 2)
        await journal.checkpoint()
        assert in_file(tmp_path) == []
        commit_often(journal, COMMITS)
        await journal.checkpoint()
        assert in_file(tmp_path) == list(range(COMMITS))

    with_journal(tmp_path, use)


def test_the_log_begins_anew_and_only_commits_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, may_end = threading.Event(), threading.Event()
    real = journal_upkeep.checkpoint

    def slow(path: Path, *, restart: bool = False) -> int:
        if restart:
            going.set()
            assert may_end.wait(10)
        return real(path, restart=restart)

    monkeypatch.setattr(journal_upkeep, "checkpoint", slow)
    monkeypatch.setattr(journal_upkeep, "_LONG_LOG_FRAMES", 1)
    log = tmp_path / f"{FILE_NAME}-wal"

    async def use(journal: Journal) -> None:
        commit_often(journal, COMMITS)
        work = asyncio.create_task(journal.checkpoint())
        await asyncio.to_thread(going.wait, 10)
        attempt = journal.begin_attempt(COMMITS)
        await asyncio.sleep(
            0.05
        )  # the loop goes on meanwhile, for more than the time in which commits gather
        assert not attempt.done()
        assert journal.undisturbed.locked()  # what commits at once waits as well, and the loop does not
        may_end.set()
        await work
        await asyncio.wait_for(attempt, 10)
        size = log.stat().st_size
        commit_often(journal, 3)
        assert log.stat().st_size == size
        assert view(tmp_path).in_flight == 1

    with_journal(tmp_path, use, run=asyncio.run)  # threads have a time of their own


def test_a_checkpoint_that_the_disk_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *, restart: bool = False) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal_upkeep, "checkpoint", full)

    async def use(journal: Journal) -> None:
        commit_often(journal, COMMITS)
        journal.begin_attempt(0)
        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            await journal.checkpoint()
        assert view(tmp_path).in_flight == 0  # it has its outcome
        commit_often(journal, 1)

    with_journal(tmp_path, use, run=asyncio.run)  # threads have a time of their own


def test_a_commit_waits_for_a_checkpoint_on_a_slow_disk_and_does_not_fail(tmp_path: Path) -> None:
    """Between processes nobody writes here, so that only a checkpoint can hold the file for longer than SQLite's usual 5 s."""

    async def use(journal: Journal) -> None:
        began, held_s = threading.Event(), 6.0

        def hold() -> None:
            with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                began.set()
                threading.Event().wait(held_s)
                other.execute("ROLLBACK")

        holding = asyncio.create_task(asyncio.to_thread(hold))
        await asyncio.to_thread(began.wait, 10)
        journal.record(outcome(0))
        journal.flush()
        await holding
        assert view_outcomes(tmp_path) == [0]

    with_journal(tmp_path, use, run=asyncio.run)
