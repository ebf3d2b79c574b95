"""How a run went, from the moments its journal keeps: rates within one run, never across two."""

from pathlib import Path

import pytest

from pipeline.history import Event
from pipeline.report import over_time
from pipeline.report.charts import of_one_run
from pipeline.report.drawing import near
from pipeline.report.shown import Table
from tests.support.reported import answer, facts_of, keeping_history, moment, run_folder


def test_rates_are_those_between_two_moments_of_one_run() -> None:
    moments = [
        moment(0),
        moment(10, sent=100, refused=10, tokens=5_000),
        moment(30, sent=400, refused=10, tokens=6_000),
        moment(1000, run_id="run-2", sent=5, tokens=6_000),
        moment(1060, run_id="run-2", sent=65, tokens=5_000),
    ]
    found = over_time.rates(moments)
    assert [(one.sent, one.refused, one.tokens) for one in found] == [
        (600, 60, 30_000),
        (900, 0, 3_000),
        (60, 0, 0),
    ]
    assert [one.end_s - one.start_s for one in found] == [10, 20, 60]


def test_charts_and_figures_are_of_what_the_journal_kept(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [answer(n) for n in range(5)], job={"budget": {"max_cost": 2}})
    with keeping_history(folder) as history:
        for n in range(5):
            told = {"sent": 90 * n, "refused": 3 * n, "tokens": 1000 * n, "in_flight": 7, "ceiling": 9}
            history.keep(moment(10 * n, spent=10**8 * n, requests_per_minute=600.0, cooling=n == 1, **told))
        history.tell(Event(1, "run-1", "requests a minute cut from 900 to 600"))
        history.keep()
    facts = facts_of(folder)
    figures, events = over_time.tables(facts)
    said = {str(name): value for name, value in figures.rows}
    assert (said["requests sent"], said["of these refused (429)"]) == ("360", "12")
    assert str(said["most requests a minute"]).startswith("540")
    assert (said["cooling down"], said["event loop's lag, p99"]) == ("20.0% of the time", "1.0 ms at worst")
    assert events.rows[0][1] == "requests a minute cut from 900 to 600"
    charts = {chart.title: chart for chart in of_one_run(facts)}
    assert list(charts)[:5] == [
        "Requests and refusals (429) a minute",
        "Tokens a minute",
        "Requests in flight",
        "Spent over time",
        "Lag of the event loop, p99",
    ]
    for series in ("sent", "refused", "chosen rate"):
        assert series in charts["Requests and refusals (429) a minute"].svg
    assert "Cost of the answers over time" not in charts, "spent tells more"


def test_the_events_shown_are_the_latest(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [answer(0)])
    with keeping_history(folder) as history:
        for n in range(60):
            history.tell(Event(n * 1_000_000, "run-1", f"change {n}"))
        history.keep()
    (table,) = over_time.tables(facts_of(folder))
    assert isinstance(table, Table)
    assert (table.rows[-1][1], table.note) == ("change 59", "the last 25 of 60")


def test_a_run_of_many_moments_is_drawn_with_some_of_them(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [answer(0)])
    with keeping_history(folder) as history:
        for n in range(1_500):
            history.keep(moment(10 * n, sent=100 * n))
    facts = facts_of(folder)
    assert len(facts.moments_kept) == 1_500
    drawn = next(iter(over_time.charts(facts)))
    assert len(drawn.svg) < 60_000


def test_without_moments_rows_tell_when_they_were_settled(tmp_path: Path) -> None:
    facts = facts_of(run_folder(tmp_path / "run", [answer(n) for n in range(20)]))
    assert [*over_time.charts(facts), *over_time.tables(facts)] == []
    titles = [chart.title for chart in of_one_run(facts)]
    assert titles[:3] == ["Rows settled a minute", "Tokens a minute", "Cost of the answers over time"]


@pytest.mark.parametrize(("limit", "most", "drawn"), [(None, 5, None), (300, 100, 300), (301, 100, None)])
def test_a_limit_far_above_is_not_drawn(limit: float | None, most: float, drawn: float | None) -> None:
    assert near(limit, most) == drawn
