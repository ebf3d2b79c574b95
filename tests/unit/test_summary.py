"""The end of a run: its exit code, its reason, its one line of JSON."""

import json
from collections import Counter

import pytest

from pipeline.records import Status
from pipeline.summary import RunSummary, Stop, ending
from pipeline.totals import Totals


def totals(*, ok: int = 0, failed: int = 0, invalid: int = 0) -> Totals:
    status = Counter({Status.OK: ok, Status.FAILED: failed, Status.INVALID: invalid})
    return Totals(rows=ok + failed + invalid, status=Counter(status))


def test_a_whole_run_ends_well() -> None:
    assert ending(None, totals(ok=99, failed=1), 100, 0.01) == Stop(0, "every row has its outcome")


def test_more_failed_rows_than_the_threshold_are_exit_3() -> None:
    stop = ending(None, totals(ok=98, failed=2), 100, 0.01)
    assert stop.exit_code == 3
    assert stop.reason == "finished, but 2 of 100 rows failed, more than error_threshold = 0.01 allows"


def test_invalid_answers_are_no_failed_rows() -> None:
    assert ending(None, totals(ok=1, invalid=9), 10, 0.0).exit_code == 0


def test_a_threshold_of_1_lets_all_rows_fail() -> None:
    assert ending(None, totals(failed=10), 10, 1.0).exit_code == 0


def test_no_rows_are_a_whole_run() -> None:
    assert ending(None, totals(), 0, 0.0).exit_code == 0


@pytest.mark.parametrize("code", [4, 6, 130])
def test_a_stop_before_the_last_row_is_the_runs_end(code: int) -> None:
    assert ending(Stop(code, "why"), totals(ok=9), 10, 0.01) == Stop(code, "why")


def test_a_stop_after_the_last_row_changes_nothing() -> None:
    assert ending(Stop(6, "deadline"), totals(ok=10), 10, 0.01).exit_code == 0
    assert ending(Stop(130, "signal"), totals(failed=10), 10, 0.01).exit_code == 3


def test_the_summary_is_one_line_of_ascii_json() -> None:
    summary = RunSummary(
        job="j",
        run_id="r",
        exit_code=4,
        exit_reason="欠费\nnext",
        rows=1,
        done=0,
        status={"ok": 0},
        errors={},
        tokens={},
        cost=None,
        unpriced=1,
        spent=None,
        maybe_cost=None,
        max_cost=None,
        currency=None,
        attempts=1,
        maybe_paid=0,
        streamed=None,
        sent=1,
        reused=0,
        deduplicated=0,
        changed=[],
        damaged=[],
        loop_lag_p99_ms=1.5,
        elapsed_s=0.5,
        run_folder="/data/结果\udcff",
        results="/data/results",
    )
    text = summary.to_json()
    assert text.isascii()
    assert "\n" not in text
    said = json.loads(text)
    assert (said["exit_reason"], said["cost"], said["elapsed_s"]) == ("欠费\nnext", None, 0.5)
