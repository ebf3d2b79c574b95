"""The estimate beside what a run came to: figure by figure, and only once the run is done."""

import json
from pathlib import Path

import pytest

from pipeline.report import foreseen
from pipeline.report.foreseen import ESTIMATE_FILE, compared
from tests.support.reported import answer, estimated, facts_of, run_folder


def estimated_run(folder: Path, rows: int = 10, **values: object) -> Path:
    run = run_folder(folder / "run", [answer(n, **values) for n in range(rows)], wanted=10)
    (run / ESTIMATE_FILE).write_text(json.dumps(estimated()), encoding="utf-8")
    return run


def test_each_figure_is_set_beside_what_it_came_to(tmp_path: Path) -> None:
    facts = facts_of(estimated_run(tmp_path, completion_tokens=13))
    assert [(one.figure, one.expected.value, one.actual, one.holds) for one in compared(facts)] == [
        ("requests", 10, 10, True),
        ("input tokens", 1_000, 1_000, True),
        ("output tokens", 100, 130, False),
        ("cost, CNY", 0.01, 0.01, True),
    ]
    (table,) = foreseen.tables(facts)
    assert table.rows[2] == ("output tokens", "100", "80 to 120", "130", pytest.approx(0.3), "no")
    assert table.note == "answers were judged by 3 rows (pilot)"
    (chart,) = foreseen.charts(facts)
    assert "output tokens: 130.0%" in chart.svg


def test_a_run_that_is_not_done_has_come_to_nothing_yet(tmp_path: Path) -> None:
    facts = facts_of(estimated_run(tmp_path, rows=9))
    assert {(one.actual, one.holds) for one in compared(facts)} == {(None, None)}
    assert list(foreseen.charts(facts)) == []


def test_what_is_unknown_or_in_another_currency_is_not_compared(tmp_path: Path) -> None:
    unpriced = facts_of(estimated_run(tmp_path / "a", cost=None, completion_tokens=None))
    assert [one.actual for one in compared(unpriced)] == [10, 1_000, None, None]
    folder = estimated_run(tmp_path / "b")
    said = json.loads((folder / "run.json").read_text())
    said["summary"]["currency"] = "USD"
    (folder / "run.json").write_text(json.dumps(said))
    assert compared(facts_of(folder))[-1].actual is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_file_that_is_no_estimate_is_passed_over(tmp_path: Path, content: str) -> None:
    run = estimated_run(tmp_path)
    (run / ESTIMATE_FILE).write_text(content)
    facts = facts_of(run)
    assert facts.estimate is None
    assert list(foreseen.tables(facts)) == []
