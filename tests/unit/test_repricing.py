"""Re-pricing: the columns of a run's results at other prices, equal to `pricing.cost` row by row, and why some have none."""

from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import catalog, pricing
from pipeline.catalog import Tier
from pipeline.errors import JobError
from pipeline.records import Usage
from pipeline.repricing import Elsewhere, Unpriced, elsewhere, priced, reprice

HERE = ("dashscope", "qwen-plus", "realtime")
SCHEMA: dict[str, Any] = {
    "status": pl.String,
    "finish_reason": pl.String,
    "prompt_tokens": pl.Int64,
    "completion_tokens": pl.Int64,
    "cached_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "reasoning_tokens": pl.Int64,
    "attempts": pl.Int32,
    "usage": pl.String,
    "reasoning_content": pl.String,
}


def there(text: str) -> Elsewhere:
    return elsewhere(text, HERE, catalog.load)


def rows(*some: dict[str, Any]) -> pl.LazyFrame:
    usual = {"status": "ok", "finish_reason": "stop", "attempts": 1}
    return pl.LazyFrame([{**dict.fromkeys(SCHEMA), **usual, **row} for row in some], SCHEMA)


def test_a_run_is_summed_up_at_another_models_prices() -> None:
    """qwen-flash over Batch Chat: half of 0.15 and 1.5 up to 128,000 prompt tokens, half of 0.6 and 6 above."""
    paid = rows(
        {"prompt_tokens": 1_000, "completion_tokens": 100},  # 75 + 75 = 150 millionths
        {"prompt_tokens": 128_001, "completion_tokens": 10},  # 38,400.3 + 30 = 38,430.3
        {"status": "failed", "finish_reason": None},
        {
            "status": "blocked",
            "finish_reason": "content_filter",
            "prompt_tokens": 10,
            "completion_tokens": 0,
        },  # 0.75
    )
    found = reprice(paid, there("model=qwen-flash,route=batch-chat"))
    assert (found.answered, found.unpriced, found.currency) == (3, {}, "CNY")
    assert found.cost == found.known_cost == Decimal("0.038581050")


def test_where_nothing_is_changed_a_run_costs_what_it_cost() -> None:
    where = there("model=qwen-plus")
    usage = Usage(3_019, 104, None, 2_048, None, None)
    assert where.price is not None
    paid = rows({"prompt_tokens": 3_019, "completion_tokens": 104, "cached_tokens": 2_048})
    assert reprice(paid, where).cost == pricing.cost(where.price, usage, has_reasoning=False)


def test_the_cost_is_unknown_while_any_rows_is_and_the_reasons_are_counted() -> None:
    paid = rows(
        {"prompt_tokens": 1_000, "completion_tokens": 100},  # 2,400 + 960 millionths
        {"prompt_tokens": 1_000},
        {"prompt_tokens": 10, "completion_tokens": 1, "cached_tokens": 11},
        {"prompt_tokens": 40_000, "completion_tokens": 1},  # it takes 32,768
        {"prompt_tokens": 10, "completion_tokens": 1, "cached_tokens": 0, "cache_write_tokens": 5},
        {"status": "failed"},
    )
    found = reprice(paid, there("model=qwen-max"))
    assert found.answered == 5
    assert found.unpriced == {
        Unpriced.NO_USAGE: 1,
        Unpriced.CONTRADICTORY: 1,
        Unpriced.TOO_LONG: 1,
        Unpriced.CACHE: 1,
    }
    assert found.cost is None and found.known_cost == Decimal("0.00336")


def test_a_route_without_a_price_leaves_every_row_without_a_cost() -> None:
    where = there("region=us-east-1,route=batch-file")
    assert where.why == (
        "no price is known for qwen-plus on the route batch-file at Alibaba Cloud Model Studio (DashScope), US Virginia"
    )
    found = reprice(rows({"prompt_tokens": 1, "completion_tokens": 1}, {"status": "failed"}), where)
    assert (found.answered, found.unpriced, found.cost) == (1, {Unpriced.NO_PRICE: 1}, None)
    assert found.currency is None


@pytest.mark.parametrize(
    ("usage", "attempts", "prompt", "cost"),
    [
        ('{"prompt_tokens":130000}', 3, 130_000, "0.312"),  # one answer, after refusals: 130,000 x 2.4
        ('{"prompt_tokens_details":{"prompt_tokens":1},"prompt_tokens":130000}', 2, 130_000, "0.312"),
        ('{"input_tokens":130000}', 2, 130_000, "0.312"),
        (
            '{"prompt_tokens":70000}',
            2,
            130_000,
            None,
        ),  # 60,000 and 70,000, or others: whose tiers are unknown
        (None, 2, 130_000, None),
        ('{"prompt_tokens":70000}', 2, 128_000, "0.1024"),  # all in the first tier: 128,000 x 0.8
    ],
)
def test_the_tokens_of_several_answers_are_priced_where_their_tier_is_certain(
    usage: str | None, attempts: int, prompt: int, cost: str | None
) -> None:
    paid = rows({"prompt_tokens": prompt, "completion_tokens": 0, "attempts": attempts, "usage": usage})
    found = reprice(paid, there("model=qwen-plus"))
    assert found.cost == (None if cost is None else Decimal(cost))
    assert found.unpriced == ({} if cost else {Unpriced.SEVERAL: 1})


def test_reasoning_counts_by_its_tokens_or_its_text() -> None:
    where = there("model=qwen-plus")
    assert "reasoning_content" in where.columns
    tokens = {"prompt_tokens": 0, "completion_tokens": 1_000}
    for row, cost in [
        ({}, "0.002"),
        ({"reasoning_tokens": 0, "reasoning_content": ""}, "0.002"),
        ({"reasoning_tokens": 7}, "0.008"),
        ({"reasoning_content": "hm"}, "0.008"),
    ]:
        assert reprice(rows({**tokens, **row}), where).cost == Decimal(cost)
    flash = there("model=qwen-flash")
    assert "reasoning_content" not in flash.columns
    assert reprice(rows(tokens).drop("reasoning_content"), flash).cost == Decimal("0.0015")


PROVIDERS = ("dashscope", "dashscope-intl", "dashscope-us", "openai")
PLACES = [
    where
    for provider in PROVIDERS
    for model in catalog.load(provider).models
    for route in pricing.ROUTES
    if (where := there(f"provider={provider},model={model},route={route}")).price is not None
]
COUNTS = st.one_of(st.none(), st.integers(-1, 50), st.integers(0, 300_000))
ROWS = st.lists(
    st.tuples(
        st.one_of(COUNTS, st.sampled_from([32_000, 32_001, 128_000, 128_001, 256_000, 256_001, 272_001])),
        COUNTS,
        COUNTS,
        COUNTS,
        st.sampled_from([None, 0, 7]),
        st.sampled_from([None, "", "hm"]),
    ),
    min_size=1,
    max_size=30,
)


@given(where=st.sampled_from(PLACES), some=ROWS)
def test_columns_are_priced_as_rows_are(where: Elsewhere, some: list[tuple[Any, ...]]) -> None:
    assert where.price is not None
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
    frame = rows(*(dict(zip((*names, "reasoning_content"), row, strict=True)) for row in some))
    got = priced(frame, where).collect()
    context = where.model.context_tokens
    for row, nano, why in zip(some, got["nano_cost"], got["why"], strict=True):
        prompt, completion, hit, written, reasoning, text = row
        usage = Usage(prompt, completion, None, hit, written, reasoning)
        cost = pricing.cost(where.price, usage, has_reasoning=bool(reasoning or text))
        if why == Unpriced.TOO_LONG:
            assert context is not None and prompt > context
            cost = None
        assert (None if nano is None else pricing.from_nano(nano)) == cost
        assert (why is None) == (cost is not None)


def test_no_amount_is_too_large_for_the_sum() -> None:
    """Ten places more than usual, and tokens by the billion."""
    where = there("model=qwen-plus")
    tier = Tier(input=Decimal("1234.12345678901234567"), output=Decimal("0.1"))
    model = msgspec.structs.replace(where.model, tiers=(tier,), context_tokens=None)
    provider = msgspec.structs.replace(where.provider, models={"m": model})
    price = pricing.price(provider, "m", "realtime")
    assert price is not None
    dear = Elsewhere(provider=provider, model_name="m", model=model, route="realtime", price=price)
    usage = Usage(10**10, 10**10)
    found = reprice(rows({"prompt_tokens": 10**10, "completion_tokens": 10**10}), dear)
    assert found.cost == pricing.cost(price, usage, has_reasoning=False)


@pytest.mark.parametrize(
    ("text", "provider", "model", "route"),
    [
        ("model=qwen-flash", "dashscope", "qwen-flash", "realtime"),
        ("route=batch-chat", "dashscope", "qwen-plus", "batch-chat"),
        ("region=ap-southeast-1", "dashscope-intl", "qwen-plus", "realtime"),
        (" provider = openai , model = gpt-4o ", "openai", "gpt-4o", "realtime"),
        ("provider=dashscope-us,region=us-east-1", "dashscope-us", "qwen-plus", "realtime"),
    ],
)
def test_what_is_left_out_stays_as_it_is(text: str, provider: str, model: str, route: str) -> None:
    where = there(text)
    assert (where.provider.name, where.model_name, where.route) == (provider, model, route)
    assert where.price is not None and where.why is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("qwen-flash", "expected KEY=VALUE"),
        ("", "expected KEY=VALUE"),
        ("model=", "expected KEY=VALUE"),
        ("model=a,model=b", "found 'model=b'"),
        ("modell=a", "found 'modell=a'"),
        ("route=overnight", "realtime, batch-chat, batch-file"),
        ("region=mars", "cn-beijing"),
        ("provider=openai,region=us-east-1", "leave one of the two out"),
        ("provider=dashscop", "did you mean 'dashscope'"),
        ("model=qwen-plsu", "did you mean qwen-plus"),
        ("model=zzz", "promptmill prices"),
    ],
)
def test_what_names_no_place_is_refused_with_advice(text: str, says: str) -> None:
    with pytest.raises(JobError, match=says):
        there(text)
