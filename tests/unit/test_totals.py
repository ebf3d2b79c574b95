"""Sums over outcomes."""

import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Completion, Failure, FailureKind, Outcome, Status, Usage
from pipeline.totals import Totals

BILLED = Usage(prompt_tokens=10, completion_tokens=2, total_tokens=12, cached_tokens=0)


def answered(index: int = 0, usage: Usage = BILLED, *, earlier: list[Usage] | None = None) -> Outcome:
    return Outcome(
        index,
        str(index),
        Status.OK,
        completion=Completion("a", "stop", usage),
        earlier=earlier or [],
        attempts=1,
    )


def failed(index: int = 0, *, attempts: int = 3, maybe_paid: int = 1) -> Outcome:
    failure = Failure(FailureKind.TIMEOUT, "idle_timeout", "silence")
    return Outcome(
        index, str(index), Status.FAILED, failure=failure, attempts=attempts, maybe_paid=maybe_paid
    )


def summed(*priced: tuple[Outcome, Decimal | None]) -> Totals:
    totals = Totals()
    totals.add([outcome for outcome, _ in priced], [cost for _, cost in priced])
    return totals


def test_rows_are_counted_by_status_and_failure_kind() -> None:
    totals = summed((answered(), Decimal(1)), (failed(), None), (failed(), None))
    assert (totals.rows, totals.attempts, totals.maybe_paid) == (3, 7, 2)
    assert totals.status == {"ok": 1, "failed": 2}
    assert totals.errors == {"timeout": 2}


def test_an_unknown_count_is_left_out_and_never_taken_for_0() -> None:
    totals = summed((answered(), None), (answered(usage=Usage(prompt_tokens=5)), None))
    assert totals.tokens == {"prompt_tokens": 15, "completion_tokens": 2, "total_tokens": 12}


def test_answers_that_were_asked_again_were_paid_too() -> None:
    assert summed((answered(earlier=[BILLED, BILLED]), Decimal(3))).tokens["prompt_tokens"] == 30


def test_the_cost_is_whole_only_while_every_answer_has_a_price() -> None:
    totals = summed((answered(), Decimal("0.000000001")), (failed(), None))
    assert (totals.known_cost, totals.unpriced) == (Decimal("0.000000001"), 0)
    totals.add([answered()], [None])
    assert (totals.known_cost, totals.unpriced, totals.cost) == (None, 1, Decimal("0.000000001"))


def test_nothing_answered_costs_nothing() -> None:
    assert summed((failed(), None)).known_cost == 0


_PRICED = st.lists(
    st.tuples(st.booleans(), st.none() | st.decimals(0, 10, places=9)).map(
        lambda drawn: (answered(), drawn[1]) if drawn[0] else (failed(), None)
    )
)


@given(one=_PRICED, other=_PRICED)
def test_totals_add_whatever_the_split_and_survive_json(
    one: list[tuple[Outcome, Decimal | None]], other: list[tuple[Outcome, Decimal | None]]
) -> None:
    whole = summed(*one, *other)
    merged = Totals.from_json(json.loads(json.dumps(summed(*one).to_json())))
    merged.merge(Totals.from_json(json.loads(json.dumps(summed(*other).to_json()))))
    assert merged == whole
