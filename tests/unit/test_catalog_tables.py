"""The catalogue against the provider's own tables, written down here once more, as they stood when they were read.

Sources, all of Alibaba Cloud Model Studio (help.aliyun.com/zh/model-studio/...), texts of 2026: model-pricing (August or
September), rate-limit and deep-thinking, qwen-structured-output, vision, context-cache, batch-inference (September), and the
field qpmInfo of the console's model list (May). Dollars: list prices of the international site, equal to those in the package
litellm 1.106.2 (`dashscope/*`) wherever that has the model.

The tables are data of their own: a figure that is changed in the catalogue must be changed here too, by who has read it.
"""

from decimal import Decimal

import pytest

from pipeline import catalog, pricing
from pipeline.catalog import Model, Tier

# model | the tiers' upper edges in tokens of prompt, K = 1,000 | input/output or input/output/thinking output, CNY per million
BEIJING = """
qwen3.8-max       | -                      | 12/36
qwen3.7-max       | -                      | 12/36
qwen3-max         | 32K; 128K; 256K        | 2.5/10; 4/16; 7/28
qwen-max          | -                      | 2.4/9.6
qwen3.7-plus      | 256K; 1M               | 2/8; 6/24
qwen3.6-plus      | 256K; 1M               | 2/12; 8/48
qwen3.5-plus      | 128K; 256K; 1M         | 0.8/4.8; 2/12; 4/24
qwen-plus         | 128K; 256K; 1M         | 0.8/2/8; 2.4/20/24; 4.8/48/64
qwen3.7-flash     | 32K; 256K; 1M          | 0.2/0.8; 0.6/2.4; 1.2/4.8
qwen3.6-flash     | 256K; 1M               | 1.2/7.2; 4.8/28.8
qwen3.5-flash     | 128K; 256K; 1M         | 0.2/2; 0.8/8; 1.2/12
qwen-flash        | 128K; 256K; 1M         | 0.15/1.5; 0.6/6; 1.2/12
qwen-turbo        | -                      | 0.3/0.6/3
qwq-plus          | -                      | 1.6/4
qwen-long         | -                      | 0.5/2
qwen3-vl-plus     | 32K; 128K; 256K        | 1/10; 1.5/15; 3/30
qwen3-vl-flash    | 32K; 128K; 256K        | 0.15/1.5; 0.3/3; 0.6/6
qwen-vl-max       | -                      | 1.6/4
qwen-vl-plus      | -                      | 0.8/2
qwen-vl-ocr       | -                      | 0.3/0.5
qvq-max           | -                      | 8/32
qvq-plus          | -                      | 2/5
qwen3-coder-plus  | 32K; 128K; 256K; 1M    | 4/16; 6/24; 10/40; 20/200
qwen3-coder-flash | 32K; 128K; 256K; 1M    | 1/4; 1.5/6; 2.5/10; 5/25
qwen-mt-plus      | -                      | 1.8/5.4
qwen-mt-flash     | -                      | 0.7/1.95
qwen-doc-turbo    | -                      | 0.6/1
deepseek-v3.2     | -                      | 2/3
"""
SINGAPORE = """
qwen3.8-max       | -                      | 14.988/44.965
qwen3.7-max       | -                      | 18.736/56.207
qwen3-max         | 32K; 128K; 256K        | 8.807/44.035; 17.614/88.071; 22.018/110.089
qwen-max          | -                      | 11.743/46.971
qwen3.7-plus      | 256K; 1M               | 2.998/11.991; 8.993/35.972
qwen3.6-plus      | 256K; 1M               | 3.747/22.483; 14.988/44.965
qwen3.5-plus      | 256K; 1M               | 2.936/17.614; 3.67/22.018
qwen-plus         | 256K; 1M               | 2.936/8.807/29.357; 8.807/26.421/88.071
qwen3.7-flash     | 32K; 256K; 1M          | 0.225/0.974; 0.749/2.998; 1.499/5.995
qwen3.6-flash     | 256K; 1M               | 1.874/11.241; 7.494/29.976
qwen3.5-flash     | -                      | 0.734/2.936
qwen-flash        | 256K; 1M               | 0.367/2.936; 1.835/14.678
qwen-turbo        | -                      | 0.367/1.468/3.67
qwq-plus          | -                      | 5.871/17.614
qwen3-vl-plus     | 32K; 128K; 256K        | 1.468/11.743; 2.202/17.614; 4.404/35.228
qwen3-vl-flash    | 32K; 128K; 256K        | 0.367/2.936; 0.55/4.404; 0.881/7.046
qwen-vl-max       | -                      | 5.871/23.486
qwen-vl-plus      | -                      | 1.541/4.624
qwen-vl-ocr       | -                      | 0.514/1.174
qvq-max           | -                      | 8.807/35.228
qwen-mt-plus      | -                      | 18.055/54.09
"""
# What the international site lists in dollars, without thinking prices of their own where one figure stands for both.
SINGAPORE_USD = """
qwen3.8-max       | -                      | 2/6
qwen3.7-max       | -                      | 2.5/7.5
qwen3-max         | 32K; 128K; 256K        | 1.2/6; 2.4/12; 3/15
qwen-max          | -                      | 1.6/6.4
qwen3.7-plus      | 256K; 1M               | 0.4/1.6; 1.2/4.8
qwen3.6-plus      | 256K; 1M               | 0.5/3; 2/6
qwen3.5-plus      | 256K; 1M               | 0.4/2.4; 0.5/3
qwen-plus         | 256K; 1M               | 0.4/1.2/4; 1.2/3.6/12
qwen3.7-flash     | 32K; 256K; 1M          | 0.03/0.13; 0.1/0.4; 0.2/0.8
qwen3.6-flash     | 256K; 1M               | 0.25/1.5; 1/4
qwen3.5-flash     | -                      | 0.1/0.4
qwen-flash        | 256K; 1M               | 0.05/0.4; 0.25/2
qwen-turbo        | -                      | 0.05/0.2/0.5
qwq-plus          | -                      | 0.8/2.4
qwen3-vl-plus     | 32K; 128K; 256K        | 0.2/1.6; 0.3/2.4; 0.6/4.8
qwen3-vl-flash    | 32K; 128K; 256K        | 0.05/0.4; 0.075/0.6; 0.12/0.96
qwen-vl-max       | -                      | 0.8/3.2
qwen-vl-plus      | -                      | 0.21/0.63
qwen-vl-ocr       | -                      | 0.07/0.16
qvq-max           | -                      | 1.2/4.8
qwen3-coder-plus  | 32K; 128K; 256K; 1M    | 1/5; 1.8/9; 3/15; 6/60
qwen3-coder-flash | 32K; 128K; 256K; 1M    | 0.3/1.5; 0.5/2.5; 0.8/4; 1.6/9.6
qwen-mt-plus      | -                      | 2.46/7.37
"""
# model | requests a minute | tokens a minute; - is no limit, ? not on the page
LIMITS = {
    "dashscope": """
qwen3.8-max      | -      | 5M
qwen3.8-flash    | -      | 5M
qwen3.7-max      | 30,000 | 5M
qwen3-max        | 30,000 | 5M
qwen3.7-plus     | 30,000 | 5M
qwen3.6-plus     | 30,000 | 5M
qwen3.5-plus     | 30,000 | 5M
qwen-plus        | 30,000 | 5M
qwen-plus-latest | 15,000 | 1.2M
qwen3.7-flash    | 30,000 | 5M
qwen3.6-flash    | 30,000 | 10M
qwen3.5-flash    | 30,000 | 10M
qwen-flash       | 30,000 | 10M
qwen-turbo       | 1,200  | 5M
qwen-max         | 1,200  | 1M
qwen-long        | 1,200  | 3M
qwen-long-latest | 1,200  | 60k
qwen3-vl-plus    | 3,000  | 5M
qwen3-vl-flash   | 3,000  | 5M
qwen-vl-max      | 1,200  | 1M
qwen-vl-plus     | 1,200  | 1M
qwq-plus         | 600    | 1M
qvq-max          | 60     | 100k
qvq-plus         | 60     | 100k
qwen-omni-turbo  | 60     | 100k
qwen3-omni-flash | 60     | 100k
qwen-mt-plus     | 60     | 25k
deepseek-v3.2    | 15,000 | 1.2M
""",
    "dashscope-intl": """
qwen3.8-max      | -      | 2M
qwen3.8-flash    | -      | 5M
qwen3.7-max      | 600    | 1M
qwen3-max        | 600    | 1M
qwen3.7-plus     | 15,000 | 5M
qwen3.6-plus     | 15,000 | 5M
qwen3.5-plus     | 15,000 | 5M
qwen-plus        | ?      | ?
qwen-plus-latest | 600    | 1M
qwen3.7-flash    | 15,000 | 5M
qwen3.6-flash    | 15,000 | 5M
qwen3.5-flash    | 15,000 | 5M
qwen-flash       | 600    | 5M
qwen-turbo       | 600    | 5M
qwen-max         | 600    | 1M
qwen3-vl-plus    | 1,200  | 1M
qwen3-vl-flash   | 1,200  | 1M
qwen-vl-max      | 1,200  | 1M
qwen-vl-plus     | 1,200  | 1M
qwq-plus         | 60     | 100k
""",
    "dashscope-us": """
qwen-plus        | 15,000 | 5M
qwen-plus-us     | 600    | 1M
""",
}
# model | requests in so many seconds | tokens in so many seconds: the windows behind Beijing's minutes
WINDOWS = """
qwen3.8-max      | -          | 500k in 6
qwen3.7-max      | 500 in 1   | 500k in 6
qwen3-max        | 500 in 1   | 500k in 6
qwen3.7-plus     | 500 in 1   | 2.5M in 30
qwen3.6-plus     | 500 in 1   | 2.5M in 30
qwen3.5-plus     | 500 in 1   | 2.5M in 30
qwen-plus        | 15,000 in 30 | 2.5M in 30
qwen-plus-latest | 7,500 in 30 | 200k in 10
qwen3.5-flash    | 500 in 1   | 10M in 60
qwen3.6-flash    | 3,000 in 6 | -
qwen-flash       | 15,000 in 30 | 5M in 30
qwen-turbo       | 300 in 15  | 1M in 12
qwen-max         | 300 in 15  | 100k in 6
qwen-long        | 20 in 1    | 3M in 60
qwen3-vl-plus    | 250 in 5   | 500k in 6
qwen3-vl-flash   | 250 in 5   | 2.5M in 30
qwen-vl-max      | 100 in 5   | 100k in 6
qwen-vl-plus     | 20 in 1    | 100k in 6
qwq-plus         | 10 in 1    | 100k in 6
deepseek-v3.2    | 3,750 in 15 | 1.2M in 60
"""
# models | thinking by default | answers plainly while thinking | a stream alone | json_object | json_schema | tokenizer | factor
MODES = """
qwen-plus qwen-flash qwen-turbo qwen3-max           | off    | yes | no  | thinking_off | no  | qwen3    | -
qwen3-vl-plus qwen3-vl-flash                        | off    | yes | no  | thinking_off | no  | qwen3    | 32
qwen3.5-plus qwen3.5-flash qwen3.6-plus qwen3.6-flash | on   | yes | no  | thinking_off | no  | qwen3.5  | 32
qwen3.7-max qwen3.7-plus qwen3.7-flash qwen3.8-max qwen3.8-flash | on | yes | no | yes  | yes | qwen3.5  | 32
qwen3-235b-a22b qwen3-32b qwen3-30b-a3b qwen3-14b qwen3-8b | on | no  | no  | thinking_off | no  | qwen3    | -
qwq-plus qwen3-next-80b-a3b-thinking qwen3-235b-a22b-thinking-2507 | always | ? | yes | ?   | no  | qwen3    | -
qvq-max qvq-plus                                    | always | ?   | yes | ?            | no  | qwen3    | 28
qwen-omni-turbo qwen3-omni-flash                    | ?      | ?   | yes | ?            | no  | ?        | ?
qwen-vl-max qwen-vl-plus                            | none   | ?   | no  | yes          | no  | qwen3    | 32
qwen3-coder-plus qwen3-coder-flash qwen-long        | none   | ?   | no  | yes          | no  | qwen3    | -
deepseek-v3.2                                       | off    | yes | no  | ?            | no  | deepseek | -
"""
_SUFFIXES = {"K": 1_000, "k": 1_000, "M": 1_000_000}


def lines(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def number(text: str) -> int | None:
    if text in {"-", "?"}:
        return None
    text = text.replace(",", "")
    times = _SUFFIXES.get(text[-1], 1)
    return int(Decimal(text.rstrip("KkM")) * times)


def tiers(edges: str, prices: str) -> list[tuple[int | None, list[Decimal]]]:
    """Each tier's edge with its input, output and thinking output. The last one's is where the model takes no more."""
    ends = [number(edge.strip()) for edge in edges.split(";")]
    figures = [[Decimal(figure) for figure in tier.split("/")] for tier in prices.split(";")]
    assert len(ends) == len(figures)
    return list(zip([*ends[:-1], None], figures, strict=True))


def figures_of(tier: Tier) -> list[Decimal]:
    return [tier.input, tier.output, *([tier.thinking_output] if tier.thinking_output else [])]


def model(provider: str, name: str) -> Model:
    found = catalog.load(provider).model(name)
    assert found is not None, f"{name} is missing at {provider}"
    return found


def ids(value: object) -> str | None:
    return value[0] if isinstance(value, list) else None


@pytest.mark.parametrize("line", lines(BEIJING), ids=ids)
def test_prices_are_those_of_the_page_for_beijing(line: list[str]) -> None:
    name, edges, prices = line
    found = [(tier.up_to_prompt_tokens, figures_of(tier)) for tier in model("dashscope", name).tiers]
    assert found == tiers(edges, prices)


@pytest.mark.parametrize("line", lines(SINGAPORE), ids=ids)
def test_prices_are_those_of_the_page_for_singapore(line: list[str]) -> None:
    """Some are printed to more places in one table of the page than in another: equal to three."""
    name, edges, prices = line
    found = model("dashscope-intl", name).tiers
    expected = tiers(edges, prices)
    assert [tier.up_to_prompt_tokens for tier in found] == [edge for edge, _ in expected]
    for tier, (_, figures) in zip(found, expected, strict=True):
        assert [round(figure, 3) for figure in figures_of(tier)] == [round(figure, 3) for figure in figures]


@pytest.mark.parametrize("line", lines(SINGAPORE_USD), ids=ids)
def test_singapores_prices_are_its_dollars_at_one_rate(line: list[str]) -> None:
    """A misread figure would stand out: yuan by dollars is 7.339 for models up to qwen3.5, 7.494 for later ones."""
    name, edges, prices = line
    rate = Decimal("7.494") if name.startswith(("qwen3.6", "qwen3.7", "qwen3.8")) else Decimal("7.339")
    for tier, (_, dollars) in zip(model("dashscope-intl", name).tiers, tiers(edges, prices), strict=True):
        for yuan, dollar in zip(figures_of(tier), dollars, strict=True):
            assert abs(yuan / rate - dollar) < Decimal("0.003") + dollar / 500, (yuan, dollar)


@pytest.mark.parametrize(
    ("provider", "line"),
    [(provider, line) for provider, table in LIMITS.items() for line in lines(table)],
    ids=ids,
)
def test_limits_are_those_of_the_page(provider: str, line: list[str]) -> None:
    name, requests, tokens = line
    limits = model(provider, name).limits
    assert (limits.requests_per_minute, limits.tokens_per_minute) == (number(requests), number(tokens))


@pytest.mark.parametrize("line", lines(WINDOWS), ids=ids)
def test_windows_are_those_of_the_console(line: list[str]) -> None:
    name, *cells = line
    expected = {tuple(map(number, cell.split(" in "))) for cell in cells if cell != "-"}
    windows = model("dashscope", name).limits.windows
    assert {(window.requests or window.tokens, window.seconds) for window in windows} == expected


@pytest.mark.parametrize(
    ("name", "cells"), [(name, cells) for names, *cells in lines(MODES) for name in names.split()]
)
def test_modes_are_those_of_the_pages(name: str, cells: list[str]) -> None:
    found = model("dashscope", name)

    def said(value: object) -> str:
        return "?" if value is None else {True: "yes", False: "no"}.get(value, str(value))  # type: ignore[call-overload]

    image = ("?" if cells[-1] == "?" else "-") if found.image is None else str(found.image.factor)
    assert [
        said(found.thinking),
        said(found.non_stream_thinking),
        said(found.stream_only),
        said(found.json_object),
        said(found.json_schema),
        said(found.tokenizer),
        image,
    ] == cells


def test_an_implicit_hit_costs_a_fifth_and_a_mark_125_and_10_percent() -> None:
    """context-cache page; qwen3.8-max has figures of its own: 1.5, 1 and 15 of 12 CNY."""
    for provider in ("dashscope", "dashscope-intl", "dashscope-us"):
        for name, one in catalog.load(provider).models.items():
            assert one.cache.implicit_hit in (None, Decimal("0.2")), name
            assert one.cache.explicit_hit in (None, Decimal("0.1")), name
            assert one.cache.explicit_create in (None, Decimal("1.25")), name
    (tier,) = model("dashscope", "qwen3.8-max").tiers
    assert (tier.implicit_hit, tier.explicit_hit, tier.explicit_create) == (
        Decimal("1.5"),
        Decimal(1),
        Decimal(15),
    )


def test_batch_costs_half_where_the_batch_pages_list_the_model() -> None:
    """batch-inference page; Batch Chat in Beijing alone. Singapore's list: qwen3.7-plus, qwen-max, -plus, -flash, -turbo."""
    listed = {
        "dashscope": (
            "qwen3.8-max qwen3.8-flash qwen3.7-max qwen3.7-plus qwen3.7-flash qwen3.6-plus qwen3.6-flash qwen3.5-plus "
            "qwen3.5-flash qwen3-max qwen-plus qwen-plus-latest qwen-flash qwen-long qwen3-vl-plus qwen3-vl-flash qwen-vl-ocr "
            "deepseek-v3.2"
        ),
        "dashscope-intl": "qwen3.7-plus qwen-max qwen-plus qwen-flash qwen-turbo",
    }
    for provider, names in listed.items():
        for name in names.split():
            found = model(provider, name)
            assert (found.batch_share, found.batch_cache_discount) == (Decimal("0.5"), False), name
    for route, provider, known in [
        ("batch-chat", "dashscope", True),
        ("batch-chat", "dashscope-intl", False),
        ("batch-file", "dashscope-intl", True),
        ("batch-file", "dashscope-us", False),
    ]:
        assert (pricing.price(catalog.load(provider), "qwen-plus", route) is not None) is known
