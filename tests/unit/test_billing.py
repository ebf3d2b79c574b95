"""What was paid keeps its price: settled once, it does not follow the catalogue."""

from decimal import Decimal

import pytest

from pipeline import catalog, pricing
from pipeline.billing import keep_price, outcome_costs
from pipeline.pricing import Price
from pipeline.records import Completion, Outcome, Status, Usage


def price(model: str) -> Price:
    found = pricing.price(catalog.load("dashscope"), model, "realtime")
    assert found is not None
    return found


def outcome(reasoning: str | None) -> Outcome:
    """An answer that was asked again: 1,000 tokens in and 100 out, twice."""
    answer = Completion("yes", "stop", Usage(1_000, 100), reasoning_content=reasoning)
    return Outcome(index=0, row_id="0", status=Status.OK, completion=answer, earlier=[Usage(1_000, 100)])


@pytest.mark.parametrize(
    ("reasoning", "cost"), [(None, "0.002"), ("hm", "0.0026")]
)  # 800 + 200, 800 + 800 of the last
def test_all_paid_answers_of_a_row_keep_the_price_of_their_day(reasoning: str | None, cost: str) -> None:
    kept, plus, other = outcome(reasoning), price("qwen-plus"), price("qwen-max")
    assert outcome_costs(other, [kept]) != [Decimal(cost)]
    keep_price(plus, kept)
    keep_price(other, kept)  # it has its price
    assert outcome_costs(other, [kept]) == outcome_costs(None, [kept]) == [Decimal(cost)]
    assert kept.completion is not None and kept.completion.usage.priced is not None
    assert kept.completion.usage.priced.price_version == plus.version


def test_what_had_no_price_stays_without_and_what_has_no_answer_gets_none() -> None:
    unknown, failed = outcome(None), Outcome(index=1, row_id="1", status=Status.FAILED)
    for one in (unknown, failed):
        keep_price(None, one)
    assert outcome_costs(price("qwen-plus"), [unknown, failed]) == [None, None]
