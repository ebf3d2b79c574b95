"""Prices: invoices worked out by hand, nulls where a figure is missing, the column equal to its rows."""

import json
from decimal import Context, Decimal, localcontext
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import catalog, pricing
from pipeline.pricing import Columns, Price
from pipeline.records import Usage


class Invoice(NamedTuple):
    """One answer and what it costs; the comment beside each gives the sum in millionths."""

    provider: str
    model: str
    route: str
    prompt: int
    completion: int
    cost: str
    cached: int | None = None
    cache_write: int | None = None
    reasoning: bool = False


CN, SG, US, OA = "dashscope", "dashscope-intl", "dashscope-us", "openai"
RT, BF, BC = "realtime", "batch-file", "batch-chat"
INVOICES = [
    # tiers, both sides of each edge
    Invoice(CN, "qwen-plus", RT, 1_000, 100, "0.001"),  # 1000 x 0.8 + 100 x 2
    Invoice(CN, "qwen-plus", RT, 128_000, 1_000, "0.1044"),  # 102400 + 2000
    Invoice(CN, "qwen-plus", RT, 128_001, 1_000, "0.3272024"),  # 307202.4 + 20000
    Invoice(CN, "qwen-plus", RT, 256_000, 1_000, "0.6344"),  # 614400 + 20000
    Invoice(CN, "qwen-plus", RT, 256_001, 1_000, "1.2768048"),  # 1228804.8 + 48000
    Invoice(CN, "qwen3-max", RT, 32_000, 10, "0.0801"),  # 80000 + 100
    Invoice(CN, "qwen3-max", RT, 32_001, 10, "0.128164"),  # 128004 + 160
    Invoice(CN, "qwen3-max", RT, 258_000, 10, "1.80628"),  # 1806000 + 280: above the page's last edge
    Invoice(CN, "qwen-flash", RT, 128_001, 10, "0.0768606"),  # 76800.6 + 60
    Invoice(CN, "qwen3-coder-plus", RT, 256_001, 10, "5.12202"),  # 5120020 + 2000
    Invoice(CN, "qwen3-vl-flash", RT, 32_001, 10, "0.0096303"),  # 9600.3 + 30
    Invoice(OA, "gpt-5.4", RT, 272_000, 1_000, "0.695"),  # 680000 + 15000
    Invoice(OA, "gpt-5.4", RT, 272_001, 1_000, "1.382505"),  # 1360005 + 22500
    # thinking: all output at its price
    Invoice(CN, "qwen-plus", RT, 1_000, 100, "0.0016", reasoning=True),  # 800 + 100 x 8
    Invoice(CN, "qwen-plus", RT, 300_000, 2_000, "1.568", reasoning=True),  # 1440000 + 128000
    Invoice(CN, "qwen-turbo", RT, 1_000, 1_000, "0.0033", reasoning=True),  # 300 + 3000
    Invoice(CN, "qwq-plus", RT, 1_000, 100, "0.002", reasoning=True),  # 1600 + 400: one price
    # cached without asking
    Invoice(CN, "qwen-plus", RT, 3_019, 104, "0.00131248", cached=2_048),  # 776.8 + 327.68 + 208
    Invoice(CN, "qwen3.8-max", RT, 10_000, 100, "0.0711", cached=5_000),  # 60000 + 7500 + 3600
    Invoice(SG, "qwen-plus", RT, 1_000, 100, "0.00311206", cached=300),  # 2055.2 + 176.16 + 880.7
    Invoice(CN, "qwen-plus", RT, 128_001, 0, "0.1862424", cached=63_000),  # 156002.4 + 30240
    Invoice(CN, "qwen-plus", RT, 1_000, 100, "0.001", cached=0),
    # cache marks: 125 % to write, 10 % to read
    Invoice(CN, "qwen-plus", RT, 1_618, 50, "0.0017154", cached=0, cache_write=1_605),  # 10.4 + 1605 + 100
    Invoice(CN, "qwen-plus", RT, 1_620, 50, "0.0002404", cached=1_605, cache_write=0),  # 12 + 128.4 + 100
    Invoice(CN, "qwen-plus", RT, 1_600, 10, "0.000496", cached=1_200, cache_write=300),  # 80 + 96 + 300 + 20
    Invoice(CN, "qwen3.8-max", RT, 10_000, 100, "0.0686", cached=5_000, cache_write=0),  # 60000 + 5000 + 3600
    Invoice(CN, "qwen3.8-max", RT, 10_000, 100, "0.1386", cache_write=5_000),  # 60000 + 75000 + 3600
    Invoice(OA, "gpt-6-sol", RT, 2_000, 100, "0.0055", cache_write=1_000),  # 2000 + 2500 + 1000
    # batch: half of everything, and no cache discount on top (OpenAI: both)
    Invoice(CN, "qwen-plus", BF, 1_000, 100, "0.0005"),
    Invoice(CN, "qwen-plus", BC, 1_000, 100, "0.0005", cached=800),
    Invoice(CN, "qwen-plus", BF, 1_000, 100, "0.0008", reasoning=True),  # 400 + 400
    Invoice(CN, "deepseek-v3.2", BC, 1_000, 1_000, "0.0025"),  # 1000 + 1500
    Invoice(OA, "gpt-4o", BF, 1_000, 100, "0.0015", cached=400),  # 750 + 250 + 500
    # regions
    Invoice(SG, "qwen-plus", RT, 256_000, 10, "0.75170407"),  # 751616 + 88.07
    Invoice(SG, "qwen-mt-plus", RT, 100, 100, "0.0072145"),  # 1805.5 + 5409
    Invoice(US, "qwen-plus", RT, 1_000, 100, "0.001"),
    Invoice(US, "qwen-plus-us", RT, 1_000, 100, "0.0038167"),  # 2936 + 880.7
    # the tenth place: half to even
    Invoice(SG, "qwen-plus", RT, 1, 0, "0.000000587", cached=1),  # 0.5872
    Invoice(SG, "qwen-flash", BF, 1, 0, "0.000000184"),  # 0.1835
    Invoice(SG, "qwen-flash", BF, 3, 0, "0.000000550"),  # 0.5505
]


def priced(provider: str, model: str, route: str = RT) -> Price:
    price = pricing.price(catalog.load(provider), model, route)
    assert price is not None
    return price


@pytest.mark.parametrize("i", INVOICES, ids=lambda i: f"{i.provider}-{i.model}-{i.route}-{i.prompt}-{i.cost}")
def test_an_answer_costs_what_the_price_page_says(i: Invoice) -> None:
    price = priced(i.provider, i.model, i.route)
    usage = Usage(i.prompt, i.completion, None, i.cached, i.cache_write)
    amount = pricing.cost(price, usage, has_reasoning=i.reasoning)
    assert amount == Decimal(i.cost)
    assert amount is not None and amount.as_tuple().exponent == -9
    column = pricing.costs(
        price, Columns([i.prompt], [i.completion], [i.cached], [i.cache_write], [i.reasoning])
    )
    assert column == [amount]


@pytest.mark.parametrize(
    ("provider", "model", "route"),
    [
        (CN, "no-such-model", RT),
        (CN, "qwen-plus-2025-07-28", RT),  # a dated snapshot
        (CN, "qwen-omni-turbo", RT),  # priced by modality
        (CN, "qwen-vl-ocr-latest", RT),
        (CN, "qwen-mt-plus", BF),  # not in the batch lists
        (SG, "qwen-plus", BC),  # Batch Chat is in Beijing only
        (US, "qwen-plus", BF),  # no batch service
        (OA, "gpt-6-sol", BF),
        ("simulator", "qwen-plus", RT),
        ("local", "any.gguf", RT),
        ("compatible", "qwen-plus", RT),
    ],
)
def test_what_is_not_known_has_no_price(provider: str, model: str, route: str) -> None:
    assert pricing.price(catalog.load(provider), model, route) is None


def test_a_price_says_its_currency_and_its_version() -> None:
    price = priced(CN, "qwen-plus")
    assert (price.currency, price.version) == ("CNY", catalog.load(CN).price_version)
    assert priced(OA, "gpt-4o").currency == "USD"


@pytest.mark.parametrize("model", ["qwen-plus", "qwen3.8-max", "qwen3.8-flash", "qwen-max"])
def test_a_price_is_the_same_read_back_from_json(model: str) -> None:
    price = priced(CN, model)
    assert Price.from_json(json.loads(json.dumps(price.to_json()))) == price


def test_an_unknown_route_is_refused() -> None:
    with pytest.raises(ValueError, match="realtime, batch-chat or batch-file"):
        pricing.price(catalog.load(CN), "qwen-plus", "overnight")


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        ("qwen-plus", Usage(None, 10)),
        ("qwen-plus", Usage(10, None)),
        ("qwen-plus", Usage()),
        ("qwen-plus", Usage(10, 10, cached_tokens=11)),  # more cached than sent
        ("qwen-plus", Usage(10, 10, cached_tokens=6, cache_write_tokens=6)),
        ("qwen-plus", Usage(-1, 10)),
        ("qwen-plus", Usage(10, -1)),
        ("qwen-plus", Usage(10, 10, cached_tokens=-1)),
        ("qwen3.8-flash", Usage(10, 10, cached_tokens=5)),  # the page names no figure
        ("qwen-max", Usage(10, 10, cache_write_tokens=5)),  # no explicit cache
    ],
)
def test_a_cost_is_null_where_a_figure_is_missing_or_the_counts_contradict(model: str, usage: Usage) -> None:
    price = priced(CN, model)
    assert pricing.cost(price, usage, has_reasoning=False) is None
    row = (
        [usage.prompt_tokens],
        [usage.completion_tokens],
        [usage.cached_tokens],
        [usage.cache_write_tokens],
    )
    assert pricing.costs(price, Columns(*row, [False])) == [None]


def test_a_prompt_above_a_last_edge_has_no_cost() -> None:
    price = priced(CN, "qwen-plus")
    bounded = Price(currency="CNY", version="v", rates=price.rates[:1])
    usage = Usage(128_001, 1)
    assert pricing.cost(bounded, usage, has_reasoning=False) is None
    assert pricing.costs(bounded, Columns([128_001], [1], [None], [None], [0])) == [None]


def test_the_callers_decimal_context_does_not_matter() -> None:
    with localcontext(Context(prec=3)):
        price = priced(SG, "qwen-plus")
        assert pricing.cost(price, Usage(256_000, 10), has_reasoning=False) == Decimal("0.751704070")
        column = pricing.costs(price, Columns([256_000], [10], [None], [None], [None]))
    assert column == [Decimal("0.751704070")]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        pricing.costs(priced(CN, "qwen-plus"), Columns([1, 2], [1], [None], [None], [None]))


PRICES = [
    price
    for provider in (CN, SG, US, OA)
    for model in catalog.load(provider).models
    for route in (RT, BF, BC)
    if (price := pricing.price(catalog.load(provider), model, route)) is not None
]
EDGES = sorted({rate.up_to_prompt_tokens for p in PRICES for rate in p.rates if rate.up_to_prompt_tokens})
PROMPTS = st.one_of(
    st.none(),
    st.integers(-1, 2_000_000),
    st.sampled_from([edge + step for edge in EDGES for step in (-1, 0, 1)]),
)
COUNTS = st.one_of(st.none(), st.integers(-1, 50), st.integers(0, 200_000))
ROWS = st.lists(st.tuples(PROMPTS, COUNTS, COUNTS, COUNTS, st.sampled_from([None, 0, 7, True])), max_size=20)


@given(price=st.sampled_from(PRICES), rows=ROWS)
def test_the_column_equals_the_rows(
    price: Price, rows: list[tuple[int | None, int | None, int | None, int | None, int | None]]
) -> None:
    one_by_one = [
        pricing.cost(price, Usage(p, c, None, hit, written, r), has_reasoning=bool(r))
        for p, c, hit, written, r in rows
    ]
    columns = Columns(*(list(column) for column in zip(*rows, strict=True))) if rows else Columns(*[[]] * 5)
    column = pricing.costs(price, columns)
    assert column == one_by_one
    assert all(amount is None or amount.as_tuple().exponent == -9 for amount in column)


@given(price=st.sampled_from(PRICES), prompt=st.integers(0, 1_000_000), completion=st.integers(0, 65_536))
def test_a_cost_fits_the_column_and_never_falls_as_tokens_are_added(
    price: Price, prompt: int, completion: int
) -> None:
    """decimal(18, 9) holds nine places before the point."""
    usage = [Usage(prompt, completion), Usage(prompt + 1, completion), Usage(prompt, completion + 1)]
    base, more_in, more_out = (pricing.cost(price, u, has_reasoning=False) for u in usage)
    assert base is not None and more_in is not None and more_out is not None
    assert 0 <= base < 10**9
    assert more_in >= base and more_out >= base
