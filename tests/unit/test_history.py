"""How a run went over time: what is kept of it, for how long, and who shows it."""

import asyncio
import shutil
import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.commands.status import carry_out
from pipeline.history import HISTORY_SCHEMA, MOST_EVENTS, Event, History, Moment, read_history
from pipeline.journal import FILE_NAME
from pipeline.loop_lag import LoopLag, measured
from pipeline.records import Response
from pipeline.run_folder import StorageError
from pipeline.status import RunStatus, read_status
from tests.support.clock import VirtualLoop, run_virtual
from tests.support.rig import FakeTransport, Reply, always, answer, refusal
from tests.support.whole_runs import run, texts, write_rows


def moment(n: int) -> Moment:
    return Moment(n * 10_000_000, "run", n, 0, n, 10 * n, None, 1, 64, None, 6000.0, False, None)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path, isolation_level=None) as db:
        db.executescript(HISTORY_SCHEMA)
    return path


def history(journal: Path) -> History:
    db = sqlite3.connect(journal, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    return History(db)


def test_what_is_told_is_kept_with_the_next_moment_and_read_back_as_it_was(journal: Path) -> None:
    written = history(journal)
    cut = Event(
        5, "run", "requests a minute cut from 600 to 300: 20 of the latest 40 requests refused (requests)"
    )
    written.tell(cut)
    assert read_history(journal) == ([], [])
    written.keep(moment(1))
    cooling = moment(2)._replace(cooling=True, spent=12, lag_p99_ms=1.5, requests_per_minute=300.0)
    written.keep(cooling)
    assert read_history(journal) == ([moment(1), cooling], [cut])


def test_a_long_run_is_kept_more_coarsely_from_its_beginning_to_its_end(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, total = 200, 1_000
    monkeypatch.setattr("pipeline.history.MOST_MOMENTS", most)
    written = history(journal)
    due_s = 0.0
    for n in range(total):
        if 10 * n >= due_s:
            due_s = 10 * n + written.every_s
            written.keep(moment(n))
    moments, _ = read_history(journal)
    assert most // 2 <= len(moments) <= most
    assert moments[0] == moment(0)
    assert moments[-1].sent >= total - 8
    assert moments == sorted(moments)
    gaps = [later.sent - earlier.sent for earlier, later in pairwise(moments)]
    assert 4 <= min(gaps) <= max(gaps) < 2 * 8  # neighbours lie in one span or in two
    assert sorted(gaps)[len(gaps) // 2] == 8


def test_what_each_run_came_to_outlasts_the_thinning_and_earlier_runs_are_not_thinned_out_again_by_each(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, runs, moments_a_run = 200, 12, 100
    monkeypatch.setattr("pipeline.history.MOST_MOMENTS", most)
    n, ends = 0, []
    for number in range(runs):
        written = history(journal)  # each in a process of its own
        start = n
        for _ in range(moments_a_run):
            written.keep(moment(n)._replace(run_id=f"run-{number}"))
            n += 1
        ends.append((f"run-{number}", start, n - 1))
    moments, _ = read_history(journal)
    assert len(moments) <= most
    kept = {run: [m.sent for m in moments if m.run_id == run] for run, _, _ in ends}
    assert [(run, sent[0], sent[-1]) for run, sent in kept.items()] == ends
    counts = [len(sent) for sent in kept.values()]
    assert min(counts) > most / runs / 3  # which would be a third of an even share


def test_of_a_folder_that_is_gone_on_with_for_ever_the_latest_runs_are_kept(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.history.MOST_MOMENTS", 40)
    monkeypatch.setattr("pipeline.history.MOST_RUNS", 5)
    written = history(journal)
    for n in range(200):
        written.keep(moment(n)._replace(run_id=f"run-{n // 3}"))
    runs = [m.run_id for m in read_history(journal)[0]]
    assert len(runs) <= 40
    assert set(runs) >= {f"run-{n}" for n in range(62, 67)}


def test_what_could_not_be_written_is_written_with_the_next(journal: Path) -> None:
    written = history(journal)
    written.tell(Event(1, "run", "first"))
    with sqlite3.connect(journal, isolation_level=None) as other:
        other.execute("ALTER TABLE moments RENAME TO elsewhere")
        with pytest.raises(sqlite3.OperationalError):
            written.keep(moment(1))
        assert read_history(journal)[1] == []
        other.execute("ALTER TABLE elsewhere RENAME TO moments")
    written.keep(moment(2))
    assert read_history(journal) == ([moment(2)], [Event(1, "run", "first")])


def test_of_very_many_events_the_latest_are_kept(journal: Path) -> None:
    written = history(journal)
    for n in range(MOST_EVENTS + 500):
        written.tell(Event(n * 1_000_000, "run", f"event {n}"))
        if n % 100 == 99:
            written.keep()
    _, events = read_history(journal)
    assert [event.reason for event in events] == [f"event {n}" for n in range(500, MOST_EVENTS + 500)]


def test_a_storm_of_events_is_one_a_second(journal: Path) -> None:
    written = history(journal)
    for n in range(10_000):
        written.tell(Event(n * 1_000, "run", "again"))
    written.keep()
    assert len(read_history(journal)[1]) < 120


def test_a_journal_of_before_has_no_history(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE manifest (name TEXT)")
    assert read_history(path) == ([], [])


def test_a_run_that_was_refused_says_so_in_its_log_its_status_and_its_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path, *texts(8))

    async def script(row_id: str, nth: int) -> Reply:
        return refusal(429, "limit_requests") if nth == 1 and row_id in {"0", "1", "2"} else answer(row_id)

    summary = run(tmp_path, FakeTransport(script), "retry.max_attempts=9")
    assert (summary.exit_code, summary.sent) == (0, 11)
    moments, events = read_history(tmp_path / "out" / FILE_NAME)
    last = moments[-1]
    assert (last.sent, last.refused, last.rows, last.in_flight) == (11, 3, 8, 0)
    assert last.requests_per_minute is not None  # the search for a quota has begun
    reasons = [event.reason for event in events]
    assert any("requests a minute cut from" in r and "requests refused (requests)" in r for r in reasons)
    log = (tmp_path / "out" / "run.log").read_text(encoding="utf-8")
    assert all(f"limits: {reason}" in log for reason in reasons)
    assert {event.run_id for event in events} == {summary.run_id}
    assert summary.loop_lag_p99_ms is not None

    async def denied(row_id: str, nth: int) -> Reply:
        return refusal(401)

    write_rows(tmp_path, *texts(9))
    stopped = run(tmp_path, FakeTransport(denied))
    assert stopped.exit_code == 4
    then, _ = read_history(tmp_path / "out" / FILE_NAME)
    assert {moment.run_id for moment in then} == {summary.run_id, stopped.run_id}
    capsys.readouterr()
    carry_out(tmp_path / "out")
    assert reasons[-1] in capsys.readouterr().out


# Whole runs on the virtual clock: an answer takes a second, and one is asked after the other.

SLOWLY = "limits.max_concurrency=1"


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.new_event_loop", lambda: VirtualLoop(86_400.0))


async def a_second(row_id: str, nth: int) -> Reply:
    await asyncio.sleep(1)
    return answer(row_id)


@pytest.mark.usefixtures("virtual")
def test_figures_go_on_over_resumes_and_a_kill_loses_ten_seconds_of_them(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(80))
    out, killed = tmp_path / "out", tmp_path / "killed"

    async def then_refused(row_id: str, nth: int) -> Reply:
        if row_id == "35":
            shutil.copytree(out, killed)  # all that a kill would leave
        return await a_second(row_id, nth) if int(row_id) < 45 else refusal(401)

    assert run(tmp_path, FakeTransport(then_refused), SLOWLY).exit_code == 4
    left, _ = read_history(killed / FILE_NAME)
    assert 35 - 13 <= left[-1].rows <= 35  # ten seconds, and the two between looks
    first, _ = read_history(out / FILE_NAME)
    assert first[: len(left)] == left
    assert (first[0].sent, first[0].rows, first[-1].sent, first[-1].rows) == (0, 0, 46, 45)
    assert all(9 <= after.sent - before.sent <= 13 for before, after in pairwise(first[:-1]))

    ended = run(tmp_path, FakeTransport(a_second), SLOWLY)
    assert (ended.exit_code, ended.sent) == (0, 35)
    moments, _ = read_history(out / FILE_NAME)
    assert moments[: len(first)] == first
    then = moments[len(first) :]
    assert {moment.run_id for moment in then} == {ended.run_id}
    assert (then[0].sent, then[0].rows, then[-1].sent, then[-1].rows) == (0, 45, 35, 80)
    # An answer bills two tokens besides the ten of its prompt.
    assert all(moment.tokens == 12 * moment.rows for moment in moments)
    for before, after in pairwise(moments):
        assert before.rows <= after.rows


@pytest.mark.usefixtures("virtual")
def test_while_nothing_is_sent_status_and_history_say_for_how_long_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path, *texts(40))
    seen: list[RunStatus] = []

    async def look() -> None:
        await asyncio.sleep(7)
        seen.append(read_status(tmp_path / "out"))
        carry_out(tmp_path / "out")

    looking: list[asyncio.Task[None]] = []

    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "5" and nth == 1:
            looking.append(asyncio.create_task(look()))
            return Response(429, {"retry-after": "30"}, b"{}", 1.0)
        return await a_second(row_id, nth)

    assert run(tmp_path, FakeTransport(script), SLOWLY, "limits.requests_per_minute=600").exit_code == 0
    (status,) = seen
    assert status.live is not None
    assert 30 - 7 <= status.live.limits.cooling_s <= 30 - 7 + 2  # it is told every two seconds
    assert status.live.limits.chosen_requests_per_minute == pytest.approx(0.99 * 600)  # nothing was cut
    why = "nothing is sent for 30.0 s: the provider says how long to wait"
    assert status.events[-1].reason == why
    told = capsys.readouterr().out
    assert f"cooling down {status.live.limits.cooling_s:.0f}s" in told
    assert why in told
    moments, events = read_history(tmp_path / "out" / FILE_NAME)
    assert [event.reason for event in events].count(why) == 1
    cooling = [moment for moment in moments if moment.cooling]
    assert 2 <= len(cooling) <= 3
    assert len({(moment.sent, moment.refused) for moment in cooling}) == 1


@pytest.mark.usefixtures("virtual")
def test_a_history_that_cannot_be_written_ends_the_run_as_any_write_to_the_journal_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path, *texts(40))
    kept = History.keep

    def keep(history: History, moment: Moment | None = None) -> None:
        if moment is not None and moment.sent > 5:
            raise sqlite3.OperationalError("database or disk is full")
        kept(history, moment)

    monkeypatch.setattr(History, "keep", keep)
    with pytest.raises(StorageError, match="disk is full"):
        run(tmp_path, FakeTransport(a_second), SLOWLY)
    log = (tmp_path / "out" / "run.log").read_text(encoding="utf-8")
    assert "the last seconds are missing in the run's history: database or disk is full" in log
    monkeypatch.undo()
    write_rows(tmp_path, *texts(40))
    ended = run(tmp_path, always(answer()), SLOWLY)
    assert (ended.exit_code, ended.done, ended.maybe_paid) == (0, 40, 0)  # what was on its way was kept
    assert ended.sent < 40 - 5


# The lateness of the loop


def test_lateness_is_told_as_percentiles_of_all_and_of_late() -> None:
    lag = LoopLag()
    assert (lag.percentile_ms(0.5), lag.p99_ms_lately(), lag.max_ms) == (None, None, None)
    for n in range(1, 101):
        lag.add(n / 1000)
    assert lag.percentile_ms(0.5) == pytest.approx(50, rel=0.13)
    assert lag.p99_ms_lately() == pytest.approx(99, rel=0.13)
    assert lag.max_ms == 100
    assert lag.p99_ms_lately() is None
    for _ in range(10_000):
        lag.add(0.0)
    assert lag.p99_ms_lately() == 0.1
    assert lag.percentile_ms(0.5) == 0.1
    assert lag.percentile_ms(0.999) == pytest.approx(90, rel=0.15)
    lag.add(1e6)
    assert lag.percentile_ms(1.0) is not None


def test_a_loop_that_is_blocked_is_late_by_as_much() -> None:
    async def blocked() -> LoopLag:
        loop = asyncio.get_running_loop()
        async with measured() as lag:
            await asyncio.sleep(1)
            assert lag.max_ms == pytest.approx(0, abs=0.01)
            loop.call_later(
                0.005, lambda: setattr(loop, "now_s", loop.time() + 0.3)
            )  # as a long computation would
            await asyncio.sleep(1)
            return lag

    assert run_virtual(blocked()).max_ms == pytest.approx(285, abs=6)
