"""Each check of selftest can fail: evidence of a broken promise is judged as one, and says what broke it."""

from decimal import Decimal
from typing import Any

import pytest

from pipeline.records import FailureKind, Status
from pipeline.selftest import budget, crashes, faults, memory, order, pace, rows, secrecy
from pipeline.selftest.results import Row
from pipeline.selftest.verdict import Verdict

MIB = 1024 * 1024


def ok_row(index: int, row_id: str, **changes: Any) -> Row:
    row = Row(row_id, index, Status.OK, f"{row_id}-yes", None, None, 1, f"q-{row_id}")
    return row._replace(**changes)


def failed_row(index: int, row_id: str, kind: FailureKind, message: str, **changes: Any) -> Row:
    row = Row(row_id, index, Status.FAILED, None, kind, message, 1, None)
    return row._replace(**changes)


def replaced(found: list[Row], index: int, **changes: Any) -> list[Row]:
    return [row._replace(**changes) if row.input_index == index else row for row in found]


def assert_broken(verdict: Verdict, *saying: str) -> None:
    assert not verdict.holds
    for text in saying:
        assert any(text in breach for breach in verdict.breaches), (text, verdict.breaches)


# Promise 1

LINES = [rows.Line(1, "a"), rows.Line(2, "b"), rows.Line(4, None), rows.Line(5, "c")]
BAD = failed_row(2, "2", FailureKind.INVALID_INPUT, "rows.jsonl:4: not valid JSON", attempts=0)
ROWS = rows.Evidence(LINES, [ok_row(0, "a"), ok_row(1, "b"), BAD, ok_row(3, "c")], completed=3)


def test_rows_that_all_have_their_outcome_hold() -> None:
    verdict = rows.judge(ROWS)
    assert verdict == ("4 rows in, 4 out; 1 of 1 bad lines named", ())


@pytest.mark.parametrize(
    ("found", "completed", "saying"),
    [
        (ROWS.rows[:3], 3, "rows without an outcome: line 5"),
        ([*ROWS.rows, ROWS.rows[3]], 3, "rows with two outcomes"),
        ([ROWS.rows[i] for i in (1, 0, 2, 3)], 3, "out of order"),
        (replaced(ROWS.rows, 1, input_index=9), 3, "rows without an outcome: line 2"),
        (replaced(ROWS.rows, 2, error_message="not valid JSON"), 3, "with their line: line 4"),
        (replaced(ROWS.rows, 2, error_message="rows.jsonl:3: no JSON"), 3, "with their line: line 4"),
        (replaced(ROWS.rows, 2, status=Status.OK), 3, "with their line: line 4"),
        (replaced(ROWS.rows, 0, content="b-yes"), 3, "good rows without their own answer: a"),
        (replaced(ROWS.rows, 3, row_id="3"), 3, "good rows without their own answer: c"),
        (ROWS.rows, 4, "4 answers were paid for, of 3 good rows"),
    ],
)
def test_a_row_that_is_lost_doubled_unnamed_or_anothers_breaks_promise_1(
    found: list[Row], completed: int, saying: str
) -> None:
    assert_broken(rows.judge(ROWS._replace(rows=found, completed=completed)), saying)


# Promise 2

FOUR = [ok_row(n, f"r{n}") for n in range(4)]
ASKED = [crashes.Asked(f"body{n}", 1, f"q-r{n}", billed=True) for n in range(3)]
# Row 3 was in flight at the last kill: billed, never kept, asked again.
ASKED += [crashes.Asked("body3", 1, "q-lost", billed=True), crashes.Asked("body3", 2, "q-r3", billed=True)]
KILLS = [
    crashes.Kill({}, 0, writing=False),
    crashes.Kill({0: "q-r0"}, 0, writing=True),
    crashes.Kill({0: "q-r0", 1: "q-r1"}, 0, writing=False),
    crashes.Kill({n: f"q-r{n}" for n in range(3)}, 1, writing=True),
]
CRASHES = crashes.Evidence([f"r{n}" for n in range(4)], 2, KILLS, FOUR, maybe_paid=1, asked=ASKED)
AGAIN = crashes.Asked("body1", 2, "q-again", billed=True)


def test_kills_after_which_only_what_was_in_flight_is_asked_again_hold() -> None:
    verdict = crashes.judge(CRASHES)
    assert verdict.holds, verdict.breaches
    assert verdict.figure == (
        "4 kills, 2 in a part write: 0 of 4 rows lost, 0 answers asked for again; 1 in flight sent again, maybe_paid 1"
    )


@pytest.mark.parametrize(
    ("doctored", "saying"),
    [
        ({"rows": FOUR[:3]}, "rows without their answer: r3"),
        ({"rows": replaced(FOUR, 2, status=Status.FAILED)}, "rows without their answer: r2"),
        ({"rows": replaced(FOUR, 2, content="r1-no")}, "rows without their answer: r2"),
        ({"rows": [*FOUR, FOUR[0]]}, "rows that stand twice in the results: 0"),
        (
            {"rows": replaced(FOUR, 1, request_id="q-again"), "asked": [*ASKED, AGAIN]},
            "answers that were kept when it was killed, and are not in the results: r1",
        ),
        ({"asked": [*ASKED, AGAIN]}, "asked again although their answer was there: r1"),
        ({"rows": replaced(FOUR, 3, request_id="q-invented")}, "although their answer was there: r3"),
        ({"asked": [*ASKED, AGAIN]}, "2 requests were sent again, more than the 1 in flight"),
        ({"maybe_paid": 0}, "1 answers were made and never kept, and maybe_paid says 0"),
        ({"maybe_paid": 2}, "maybe_paid says 2, and 1 requests were in flight"),
        ({"at_once": 0}, "more than 0 requests were in flight"),
        ({"kills": KILLS[1:]}, "only 3 kills met a run"),
        (
            {"kills": [*KILLS[:3], KILLS[3]._replace(kept={n: f"q-r{n}" for n in range(4)})]},
            "only 3 kills met",
        ),
    ],
)
def test_an_answer_that_is_lost_or_asked_for_again_breaks_promise_2(
    doctored: dict[str, Any], saying: str
) -> None:
    assert_broken(crashes.judge(CRASHES._replace(**doctored)), saying)


# Promise 3

REQUESTS = pace.Bound("requests", 100.0, [1, 80, 100, 101], 1, 282, 1, finished=True)
TOKENS = pace.Bound("tokens", 10_000.0, [440, 9_000, 10_300], 450, 60, 0, finished=True)


def test_runs_that_keep_to_their_share_of_each_second_hold() -> None:
    verdict = pace.judge([REQUESTS, TOKENS])
    assert verdict.holds, verdict.breaches
    assert verdict.figure.startswith(
        "1 of 282 refused, busiest second 101% of its requests; 0 of 60 refused, busiest second 103% of its tokens; one process"
    )


@pytest.mark.parametrize(
    ("bound", "saying"),
    [
        (REQUESTS._replace(refused=9), "9 of 282 requests of the run bound by requests were refused"),
        (REQUESTS._replace(seconds=[282]), "282 requests came in one second, whose share is 100"),
        (REQUESTS._replace(seconds=[60] * 5), "not put to the test: 60 requests in the busiest second"),
        (REQUESTS._replace(seconds=[]), "not put to the test: 0 requests"),
        (TOKENS._replace(finished=False), "the run bound by tokens was not done after 30s"),
        (TOKENS._replace(refused=2), "2 of 60 requests of the run bound by tokens were refused"),
        (TOKENS._replace(seconds=[12_000]), "12,000 tokens came in one second, whose share is 10,000"),
    ],
)
def test_a_second_above_its_share_or_refused_requests_break_promise_3(bound: pace.Bound, saying: str) -> None:
    both = [bound, TOKENS] if bound.unit == "requests" else [REQUESTS, bound]
    assert_broken(pace.judge(both), saying)


# Promise 4

CAPPED = budget.Stage(Decimal("0.05"), Decimal("0.03"), Decimal("0.0499"), [5])
MONTH = budget.Stage(Decimal("0.08"), Decimal("0.06"), Decimal("0.0795"), [0, 5])


def test_what_is_billed_within_the_caps_holds() -> None:
    verdict = budget.judge(budget.Evidence(2, CAPPED, MONTH))
    assert verdict == ("2 kills: 60% of max_cost billed, 75% of max_cost_per_month by two jobs", ())


@pytest.mark.parametrize(
    ("kills", "capped", "month", "saying"),
    [
        (2, CAPPED._replace(billed=Decimal("0.051")), MONTH, "max_cost is 0.05, and 0.051 is billed"),
        (2, CAPPED._replace(spent=Decimal("0.02")), MONTH, "0.03 is billed, and the runs count 0.02"),
        (2, CAPPED._replace(codes=[0]), MONTH, "no run was stopped by max_cost: exit codes [0]"),
        (2, CAPPED._replace(spent=Decimal("0.045")), MONTH, "max_cost stopped a run with 0.005 left"),
        (2, CAPPED, MONTH._replace(billed=Decimal("0.0801")), "max_cost_per_month is 0.08, and 0.0801 is"),
        (2, CAPPED, MONTH._replace(codes=[0, 0]), "no run was stopped by max_cost_per_month"),
        (1, CAPPED, MONTH, "only 1 kills met a run"),
    ],
)
def test_a_cap_that_does_not_hold_is_told(
    kills: int, capped: budget.Stage, month: budget.Stage, saying: str
) -> None:
    assert_broken(budget.judge(budget.Evidence(kills, capped, month)), saying)


# Promise 5


def test_memory_that_is_the_same_for_ten_times_the_rows_holds() -> None:
    verdict = memory.judge(memory.Size(800, 5 * MIB, 150 * MIB), memory.Size(8_000, 45 * MIB, 155 * MIB))
    assert verdict == ("peak 150 MiB for 800 rows, 155 MiB for 8,000 (40 MiB more input)", ())


def test_memory_that_grows_with_the_input_breaks_promise_5() -> None:
    verdict = memory.judge(memory.Size(800, 5 * MIB, 150 * MIB), memory.Size(8_000, 45 * MIB, 171 * MIB))
    assert_broken(verdict, "21 MiB more memory for 40 MiB more input")


# Promise 6


def faulty() -> faults.Evidence:
    """What comes of the table's rows where all is well."""
    found = [ok_row(n, f"clean{n}") for n in range(faults._CLEAN)]
    met, received = {}, len(found)
    for number, case in enumerate(faults.CASES):
        for row_id in faults._ids(number):
            row = ok_row(len(found), row_id, status=case.status, error_kind=case.kind, attempts=case.asked)
            found.append(row)
        met[case.fault] = faults._EACH * case.met
        received += faults._EACH * case.asked
    return faults.Evidence(found, met, received, fatal_code=4, fatal_sent=4)


FAULTS = faulty()


def test_faults_that_end_as_the_table_says_hold() -> None:
    verdict = faults.judge(FAULTS)
    assert verdict.holds, verdict.breaches
    assert verdict.figure == (
        "17 faults: 44 of 44 rows recovered, 24 of 24 ended in 3 attempts at most; no credit: over after 4 requests"
    )


def index_of(fault: str) -> int:
    number = next(number for number, case in enumerate(faults.CASES) if case.fault == fault)
    return faults._CLEAN + number * faults._EACH


@pytest.mark.parametrize(
    ("doctored", "saying"),
    [
        (
            {"rows": replaced(FAULTS.rows, index_of("503"), status=Status.FAILED, error_kind="overloaded")},
            "1 of 4 rows that met 503 did not end as ok: failed (overloaded",
        ),
        (
            {"rows": replaced(FAULTS.rows, index_of("429"), content="another row's")},
            "1 of 4 rows that met 429 did not end as ok",
        ),
        (
            {"rows": replaced(FAULTS.rows, index_of("DataInspectionFailed"), error_kind="invalid_request")},
            "that met DataInspectionFailed did not end as blocked (blocked)",
        ),
        (
            {"rows": [row for row in FAULTS.rows if row.input_index != index_of("reset")]},
            "1 of 4 rows that met reset did not end as ok: no row",
        ),
        (
            {"met": {**FAULTS.met, "BadRequest.TooLarge": 8}},
            "4 rows met BadRequest.TooLarge 8 times instead of 4",
        ),
        ({"met": {**FAULTS.met, "500": 4}}, "4 rows met 500 4 times instead of 12"),
        ({"met": {}}, "4 rows met 429 0 times instead of 4"),
        ({"received": FAULTS.received + 1}, f"{FAULTS.received + 1} requests for what takes"),
        ({"rows": replaced(FAULTS.rows, 0, attempts=4)}, "4 attempts of one row, of 3 allowed"),
        ({"rows": FAULTS.rows[1:]}, "108 rows in, 107 out"),
        ({"fatal_code": 0}, "ended with exit code 0, not 4"),
        ({"fatal_sent": 60}, "sent 60 requests, more than the 16 in flight"),
    ],
)
def test_a_fault_that_ends_or_is_retried_otherwise_breaks_promise_6(
    doctored: dict[str, Any], saying: str
) -> None:
    assert_broken(faults.judge(FAULTS._replace(**doctored)), saying)


# Promise 7

REFUSED = {"kind": FailureKind.INVALID_INPUT, "message": "rows.jsonl:3: outside", "attempts": 0}
SECRECY = secrecy.Evidence(
    rows=[
        ok_row(0, "t0", content="x{{ 7 * 7 }}-b"),
        ok_row(1, "t1", content="x{# gone #}-a"),
        failed_row(2, "dots", **REFUSED),
        failed_row(3, "quoted", FailureKind.INVALID_REQUEST, "no account has the key sk-..."),
    ],
    answers={"t0": ("x{{ 7 * 7 }}-a", "x{{ 7 * 7 }}-b"), "t1": ("x{# gone #}-a", "x{# gone #}-b")},
    outside=["dots"],
    received=3,
    keyed=2,
    leaks=[],
    searched=20,
)


def test_a_run_that_gives_nothing_away_and_runs_nothing_holds() -> None:
    verdict = secrecy.judge(SECRECY)
    assert verdict.holds, verdict.breaches
    assert verdict.figure == (
        "0 leaks of the key or a traceback in 20 files; 0 of 2 rows ran as templates; 0 of 1 read outside the root"
    )


@pytest.mark.parametrize(
    ("doctored", "saying"),
    [
        ({"leaks": ["the key in runs/main/run.log"]}, "found the key in runs/main/run.log"),
        ({"rows": replaced(SECRECY.rows, 0, content="x49-a")}, "is not the text of the rows t0"),
        ({"rows": replaced(SECRECY.rows, 1, content="x-a")}, "is not the text of the rows t1"),
        ({"rows": SECRECY.rows[1:]}, "is not the text of the rows t0"),
        ({"rows": replaced(SECRECY.rows, 2, status=Status.OK)}, "were not refused: dots"),
        ({"rows": replaced(SECRECY.rows, 2, attempts=1)}, "were not refused: dots"),
        ({"received": 4}, "4 requests were sent for the 3 rows that may be sent"),
        ({"keyed": 0}, "0 of 2 answers took the key"),
        ({"rows": SECRECY.rows[:3]}, "the refusal that quotes the key was not met"),
    ],
)
def test_a_leak_a_template_that_runs_or_a_file_outside_breaks_promise_7(
    doctored: dict[str, Any], saying: str
) -> None:
    assert_broken(secrecy.judge(SECRECY._replace(**doctored)), saying)


# Promise 8


def ordered(*order_of: str, **changes: str) -> order.Run:
    columns = {"row_id": "1", "content": "2", **changes}
    return order.Run({"part-00000.parquet": columns, "part-00001.parquet": columns}, list(order_of))


def test_runs_whose_parts_are_alike_hold() -> None:
    verdict = order.judge([ordered("a", "b"), ordered("b", "a")])
    assert verdict == (
        "2 completion orders: 2 parts with 0 differences in 2 columns (all but times and ids)",
        (),
    )


def less(run: order.Run) -> order.Run:
    return run._replace(parts={"part-00000.parquet": run.parts["part-00000.parquet"]})


@pytest.mark.parametrize(
    ("other", "saying"),
    [
        (ordered("b", "a", content="3"), "what differs: part-00000.parquet: content, part-00001.parquet: content"),
        (ordered("b", "a", more="3"), "part-00000.parquet: other columns"),
        (less(ordered("b", "a")), "part-00001.parquet is missing"),
        (ordered("a", "b"), "two runs completed in the same order"),
        (order.Run({}, []), "part-00000.parquet is missing"),
    ],
)  # fmt: skip
def test_parts_that_differ_break_promise_8(other: order.Run, saying: str) -> None:
    assert_broken(order.judge([ordered("a", "b"), other]), saying)


def test_runs_that_left_no_part_break_promise_8() -> None:
    assert_broken(order.judge([order.Run({}, ["a"]), order.Run({}, ["b"])]), "no part was written")
