"""How a run went over time: what is kept of it, for how long, and who shows it."""

import asyncio
import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.commands.status import carry_out
from pipeline.history import HISTORY_SCHEMA, MOST_EVENTS, Event, History, Moment, read_history
from pipeline.journal import FILE_NAME
from pipeline.loop_lag import LoopLag, measured
from tests.support.clock import run_virtual
from tests.support.rig import FakeTransport, Reply, answer, refusal
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
    cut = Event(5, "run", "requests a minute cut from 600 to 300: 50.0% of the latest requests were refused")
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
    assert 4 <= min(gaps) <= max(gaps) <= 8


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
    assert any("requests a minute cut from" in r and "were refused (requests)" in r for r in reasons)
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
