"""A pilot asks its rows alone, and the run that follows never asks them again."""

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.pilot import is_pilot, new_run_id
from tests.support.rig import FakeTransport, Reply, always, answer, refusal
from tests.support.whole_runs import now, run, texts, write_rows

DRAWN = [9, 2, 5]


def test_a_pilot_asks_the_drawn_rows_in_their_order_and_the_run_all_others(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(12))
    pilot = always(answer("first"))
    summary = run(tmp_path, pilot, "limits.max_concurrency=1", pilot=DRAWN)
    assert [body["messages"][0]["content"] for body in pilot.bodies] == ["Say: t9", "Say: t2", "Say: t5"]
    assert (summary.exit_code, summary.rows, summary.done, summary.sent) == (0, 12, 3, 3)
    assert summary.exit_reason == "every row of the pilot has its outcome"
    assert not list((tmp_path / "out" / "results").iterdir())
    rest = always(answer("later"))
    whole = run(tmp_path, rest)
    assert (whole.exit_code, whole.done, whole.sent, set(rest.asked)) == (
        0,
        12,
        9,
        {str(n) for n in range(12)} - {"9", "2", "5"},
    )
    rows = pl.read_parquet(tmp_path / "out" / "results" / "*.parquet")
    assert rows["input_index"].to_list() == list(range(12))
    assert rows.filter(pl.col("content") == "first")["input_index"].to_list() == sorted(DRAWN)
    assert [is_pilot(one) for one in rows["run_id"]] == [n in DRAWN for n in range(12)]


def test_a_pilot_stopped_on_the_way_goes_on_where_it_was(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(12))

    async def script(row_id: str, nth: int) -> Reply:
        return refusal(401) if row_id == "5" else answer()

    stopped = run(tmp_path, FakeTransport(script), "limits.max_concurrency=1", pilot=DRAWN)
    assert (stopped.exit_code, stopped.done) == (4, 2)
    again = always(answer())
    ended = run(tmp_path, again, pilot=DRAWN)
    assert (ended.exit_code, ended.done, list(again.asked)) == (0, 3, ["5"])
    idle = always(answer())
    assert run(tmp_path, idle, pilot=DRAWN).sent == 0
    assert not idle.asked


def test_rows_with_an_outcome_in_a_part_or_the_journal_are_not_asked_by_a_pilot(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(12))

    async def script(row_id: str, nth: int) -> Reply:
        return answer() if int(row_id) < 6 else refusal(401)

    assert (
        run(tmp_path, FakeTransport(script), "limits.max_concurrency=1").done == 6
    )  # a part of 4 and 2 rows
    pilot = always(answer())
    assert run(tmp_path, pilot, pilot=DRAWN).done == 7
    assert list(pilot.asked) == ["9"]


def test_a_pilot_heeds_the_cap_of_its_job(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(12))
    priced = (
        "model.provider=dashscope",
        "model.name=qwen-plus",
        "model.base_url=http://127.0.0.1:9/v1",
        "params.max_tokens=10",
        "budget.max_cost=0.0004",
    )
    ended = run(tmp_path, always(answer()), *priced, pilot=list(range(12)))
    assert (ended.exit_code, ended.max_cost) == (5, "0.0004")
    assert ended.done < 12


def test_a_pilot_is_no_success_of_its_job(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(12))
    run(tmp_path, always(answer()), pilot=DRAWN)
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (told["rows"], told["summary"]["done"], is_pilot(told["run_id"])) == (12, 3, True)
    metrics = tmp_path / "job.prom"
    run(tmp_path, always(refusal(401)), metrics=metrics)
    told_lines = [line for line in metrics.read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in told_lines if "last_success" in line]


@pytest.mark.parametrize("pilot", [True, False])
def test_a_runs_name_tells_whether_it_was_a_pilot(pilot: bool) -> None:
    assert is_pilot(new_run_id(now(), pilot=pilot)) is pilot
    assert not is_pilot(None)
