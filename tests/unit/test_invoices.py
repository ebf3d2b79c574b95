"""Golden invoices: what answers cost, worked out with pen and paper from the price pages, on both sides of every tier edge.

Each figure is a sum in millionths of the currency unit, tokens times the price per million; none came from the code. The other
kinds (cache, thinking, batch, rounding) are in `test_pricing.py`.
"""

from decimal import Decimal
from typing import NamedTuple

import pytest

from pipeline import catalog, pricing
from pipeline.records import Usage
from pipeline.vision_tokens import Size, image_tokens, vision_rule

CN, SG, US, OA = "dashscope", "dashscope-intl", "dashscope-us", "openai"


class AtEdge(NamedTuple):
    """Two answers of 1,000 tokens: to a prompt exactly at a tier's edge, and to one of one token more."""

    provider: str
    model: str
    edge: int
    at_edge: str
    above: str
    reasoning: bool = False


# The comment: edge x input + output; (edge + 1) x input + output of the next tier, in millionths.
EDGES = [
    AtEdge(CN, "qwen3-max", 32_000, "0.09", "0.144004"),  # 80,000 + 10,000; 128,004 + 16,000
    AtEdge(CN, "qwen3-max", 128_000, "0.528", "0.924007"),  # 512,000 + 16,000; 896,007 + 28,000
    AtEdge(CN, "qwen3.7-plus", 256_000, "0.52", "1.560006"),  # 512,000 + 8,000; 1,536,006 + 24,000
    AtEdge(CN, "qwen3.6-plus", 256_000, "0.524", "2.096008"),  # 512,000 + 12,000; 2,048,008 + 48,000
    AtEdge(CN, "qwen3.5-plus", 128_000, "0.1072", "0.268002"),  # 102,400 + 4,800; 256,002 + 12,000
    AtEdge(CN, "qwen3.5-plus", 256_000, "0.524", "1.048004"),  # 512,000 + 12,000; 1,024,004 + 24,000
    AtEdge(CN, "qwen-plus", 128_000, "0.1044", "0.3272024"),  # 102,400 + 2,000; 307,202.4 + 20,000
    AtEdge(CN, "qwen-plus", 256_000, "0.6344", "1.2768048"),  # 614,400 + 20,000; 1,228,804.8 + 48,000
    AtEdge(CN, "qwen-plus", 128_000, "0.1104", "0.3312024", reasoning=True),  # + 8,000; + 24,000
    AtEdge(CN, "qwen-plus", 256_000, "0.6384", "1.2928048", reasoning=True),  # + 24,000; + 64,000
    AtEdge(CN, "qwen-plus-latest", 128_000, "0.1044", "0.3272024"),  # as qwen-plus
    AtEdge(CN, "qwen-plus-latest", 256_000, "0.6344", "1.2768048"),
    AtEdge(CN, "qwen3.7-flash", 32_000, "0.0072", "0.0216006"),  # 6,400 + 800; 19,200.6 + 2,400
    AtEdge(CN, "qwen3.7-flash", 256_000, "0.156", "0.3120012"),  # 153,600 + 2,400; 307,201.2 + 4,800
    AtEdge(CN, "qwen3.6-flash", 256_000, "0.3144", "1.2576048"),  # 307,200 + 7,200; 1,228,804.8 + 28,800
    AtEdge(CN, "qwen3.5-flash", 128_000, "0.0276", "0.1104008"),  # 25,600 + 2,000; 102,400.8 + 8,000
    AtEdge(CN, "qwen3.5-flash", 256_000, "0.2128", "0.3192012"),  # 204,800 + 8,000; 307,201.2 + 12,000
    AtEdge(CN, "qwen-flash", 128_000, "0.0207", "0.0828006"),  # 19,200 + 1,500; 76,800.6 + 6,000
    AtEdge(CN, "qwen-flash", 256_000, "0.1596", "0.3192012"),  # 153,600 + 6,000; 307,201.2 + 12,000
    AtEdge(CN, "qwen3-vl-plus", 32_000, "0.042", "0.0630015"),  # 32,000 + 10,000; 48,001.5 + 15,000
    AtEdge(CN, "qwen3-vl-plus", 128_000, "0.207", "0.414003"),  # 192,000 + 15,000; 384,003 + 30,000
    AtEdge(CN, "qwen3-vl-flash", 32_000, "0.0063", "0.0126003"),  # 4,800 + 1,500; 9,600.3 + 3,000
    AtEdge(CN, "qwen3-vl-flash", 128_000, "0.0414", "0.0828006"),  # 38,400 + 3,000; 76,800.6 + 6,000
    AtEdge(CN, "qwen3-coder-plus", 32_000, "0.144", "0.216006"),  # 128,000 + 16,000; 192,006 + 24,000
    AtEdge(CN, "qwen3-coder-plus", 128_000, "0.792", "1.32001"),  # 768,000 + 24,000; 1,280,010 + 40,000
    AtEdge(CN, "qwen3-coder-plus", 256_000, "2.6", "5.32002"),  # 2,560,000 + 40,000; 5,120,020 + 200,000
    AtEdge(CN, "qwen3-coder-flash", 32_000, "0.036", "0.0540015"),  # 32,000 + 4,000; 48,001.5 + 6,000
    AtEdge(CN, "qwen3-coder-flash", 128_000, "0.198", "0.3300025"),  # 192,000 + 6,000; 320,002.5 + 10,000
    AtEdge(CN, "qwen3-coder-flash", 256_000, "0.65", "1.305005"),  # 640,000 + 10,000; 1,280,005 + 25,000
    AtEdge(CN, "qwen3.5-397b-a17b", 128_000, "0.1608", "0.402003"),  # 153,600 + 7,200; 384,003 + 18,000
    AtEdge(CN, "qwen3.5-122b-a10b", 128_000, "0.1088", "0.272002"),  # 102,400 + 6,400; 256,002 + 16,000
    AtEdge(CN, "qwen3.5-27b", 128_000, "0.0816", "0.2448018"),  # 76,800 + 4,800; 230,401.8 + 14,400
    AtEdge(CN, "qwen3.5-35b-a3b", 128_000, "0.0544", "0.2176016"),  # 51,200 + 3,200; 204,801.6 + 12,800
    AtEdge(SG, "qwen3-max", 32_000, "0.325859", "0.651736614"),  # 281,824 + 44,035; 563,665.614 + 88,071
    AtEdge(
        SG, "qwen3-max", 128_000, "2.342663", "2.928415018"
    ),  # 2,254,592 + 88,071; 2,818,326.018 + 110,089
    AtEdge(
        SG, "qwen3.7-plus", 256_000, "0.779479", "2.338188993"
    ),  # 767,488 + 11,991; 2,302,216.993 + 35,972
    AtEdge(
        SG, "qwen3.6-plus", 256_000, "0.9817402", "3.882010388"
    ),  # 959,257.6 + 22,482.6; 3,837,045.3884 + 44,965
    AtEdge(SG, "qwen3.5-plus", 256_000, "0.76923", "0.96154167"),  # 751,616 + 17,614; 939,523.67 + 22,018
    AtEdge(SG, "qwen-plus", 256_000, "0.760423", "2.281021807"),  # 751,616 + 8,807; 2,254,600.807 + 26,421
    AtEdge(SG, "qwen-plus-latest", 256_000, "0.760423", "2.281021807"),
    AtEdge(SG, "qwen3.7-flash", 32_000, "0.008174", "0.026966749"),  # 7,200 + 974; 23,968.749 + 2,998
    AtEdge(SG, "qwen3.7-flash", 256_000, "0.194742", "0.389740499"),  # 191,744 + 2,998; 383,745.499 + 5,995
    AtEdge(
        SG, "qwen3.6-flash", 256_000, "0.4908701", "1.948498494"
    ),  # 479,628.8 + 11,241.3; 1,918,522.6942 + 29,975.8
    AtEdge(SG, "qwen-flash", 256_000, "0.096888", "0.484439835"),  # 93,952 + 2,936; 469,761.835 + 14,678
    AtEdge(SG, "qwen3-vl-plus", 32_000, "0.058719", "0.088080202"),  # 46,976 + 11,743; 70,466.202 + 17,614
    AtEdge(SG, "qwen3-vl-plus", 128_000, "0.29947", "0.598944404"),  # 281,856 + 17,614; 563,716.404 + 35,228
    AtEdge(SG, "qwen3-vl-flash", 32_000, "0.01468", "0.02200455"),  # 11,744 + 2,936; 17,600.55 + 4,404
    AtEdge(SG, "qwen3-vl-flash", 128_000, "0.074804", "0.119814881"),  # 70,400 + 4,404; 112,768.881 + 7,046
    AtEdge(
        SG, "qwen3-coder-plus", 32_000, "0.271544", "0.488818211"
    ),  # 234,848 + 36,696; 422,765.211 + 66,053
    AtEdge(
        SG, "qwen3-coder-plus", 128_000, "1.757061", "2.928415018"
    ),  # 1,691,008 + 66,053; 2,818,326.018 + 110,089
    AtEdge(
        SG, "qwen3-coder-plus", 256_000, "5.746697", "11.713358035"
    ),  # 5,636,608 + 110,089; 11,273,004.035 + 440,354
    AtEdge(SG, "qwen3-coder-flash", 32_000, "0.081473", "0.13579167"),  # 70,464 + 11,009; 117,443.67 + 18,348
    AtEdge(
        SG, "qwen3-coder-flash", 128_000, "0.488108", "0.780850871"
    ),  # 469,760 + 18,348; 751,493.871 + 29,357
    AtEdge(
        SG, "qwen3-coder-flash", 256_000, "1.532333", "3.076676743"
    ),  # 1,502,976 + 29,357; 3,006,219.743 + 70,457
    AtEdge(OA, "gpt-5.4", 272_000, "0.695", "1.382505"),  # 680,000 + 15,000; 1,360,005 + 22,500
    AtEdge(OA, "gpt-5.5", 272_000, "1.39", "2.76501"),  # 1,360,000 + 30,000; 2,720,010 + 45,000
    AtEdge(OA, "gpt-5.6-luna", 272_000, "0.0556", "0.1106004"),  # 54,400 + 1,200; 108,800.4 + 1,800
    AtEdge(OA, "gpt-5.6-terra", 272_000, "0.556", "1.106004"),  # 544,000 + 12,000; 1,088,004 + 18,000
    AtEdge(OA, "gpt-5.6-sol", 272_000, "1.108", "2.206008"),  # 1,088,000 + 20,000; 2,176,008 + 30,000
    AtEdge(OA, "gpt-6-luna", 272_000, "0.0277", "0.0551502"),  # 27,200 + 500; 54,400.2 + 750
    AtEdge(OA, "gpt-6-sol", 272_000, "0.554", "1.103004"),  # 544,000 + 10,000; 1,088,004 + 15,000
    AtEdge(OA, "gpt-6-astra", 272_000, "2.77", "5.51502"),  # 2,720,000 + 50,000; 5,440,020 + 75,000
    AtEdge(OA, "gpt-6.1-terra", 272_000, "0.277", "0.551502"),  # 272,000 + 5,000; 544,002 + 7,500
    AtEdge(OA, "gpt-6.1-sol", 272_000, "0.554", "1.103004"),  # as gpt-6-sol
]


def cost(
    provider: str, model: str, usage: Usage, *, reasoning: bool = False, route: str = "realtime"
) -> Decimal | None:
    price = pricing.price(catalog.load(provider), model, route)
    assert price is not None
    return pricing.cost(price, usage, has_reasoning=reasoning)


@pytest.mark.parametrize(
    "i", EDGES, ids=lambda i: f"{i.provider}-{i.model}-{i.edge}{'-thinking' * i.reasoning}"
)
def test_an_edge_belongs_to_the_tier_below_it(i: AtEdge) -> None:
    assert cost(i.provider, i.model, Usage(i.edge, 1_000), reasoning=i.reasoning) == Decimal(i.at_edge)
    assert cost(i.provider, i.model, Usage(i.edge + 1, 1_000), reasoning=i.reasoning) == Decimal(i.above)


@pytest.mark.parametrize("provider", [CN, SG, OA])
def test_every_edge_of_the_catalogue_has_its_two_invoices(provider: str) -> None:
    edges = {
        (name, tier.up_to_prompt_tokens)
        for name, model in catalog.load(provider).models.items()
        for tier in model.tiers
        if tier.up_to_prompt_tokens is not None
    }
    assert edges == {(i.model, i.edge) for i in EDGES if i.provider == provider}


def test_virginia_has_beijings_tiers_and_with_the_suffix_us_singapores() -> None:
    """By the price page its plain names are "global" rows, those with -us its "US" rows; so their invoices are the same."""
    tiered = {name: model.tiers for name, model in catalog.load(US).models.items() if len(model.tiers) > 1}
    assert len(tiered) >= 20
    for name, tiers in tiered.items():
        other = catalog.load(SG if name.endswith("-us") else CN).models[name.removesuffix("-us")]
        assert tiers == other.tiers, name


# Pictures are prompt tokens: 1,024 x 1,024 pixels are 32 x 32 squares of 32 pixels, and one token before and after.
PICTURE = Size(1_024, 1_024)
PICTURE_TOKENS = 1_026
PICTURES = [
    (CN, "qwen3-vl-plus", 1, 24, 100, "0.00205"),  # 1,050 x 1 + 100 x 10
    (CN, "qwen3-vl-plus", 31, 194, 100, "0.033"),  # 31 x 1,026 = 31,806; 32,000 x 1 + 1,000
    (CN, "qwen3-vl-plus", 31, 195, 100, "0.0495015"),  # 32,001 x 1.5 + 100 x 15
    (CN, "qwen3-vl-flash", 2, 48, 10, "0.00033"),  # 2,100 x 0.15 + 10 x 1.5
    (CN, "qwen-vl-max", 2, 48, 10, "0.0034"),  # 2,100 x 1.6 + 10 x 4
    (CN, "qwen3.5-plus", 4, 96, 50, "0.0036"),  # 4,200 x 0.8 + 50 x 4.8
    (SG, "qwen3-vl-plus", 1, 24, 100, "0.0027157"),  # 1,050 x 1.468 = 1,541.4; 100 x 11.743 = 1,174.3
]


@pytest.mark.parametrize(("provider", "model", "pictures", "text", "completion", "amount"), PICTURES)
def test_pictures_are_paid_as_prompt_tokens(
    provider: str, model: str, pictures: int, text: int, completion: int, amount: str
) -> None:
    rule = vision_rule(catalog.load(provider).models[model].image, model)
    each = image_tokens(*PICTURE, rule)
    assert each == PICTURE_TOKENS
    assert cost(provider, model, Usage(pictures * each + text, completion)) == Decimal(amount)


def test_a_batch_of_pictures_costs_half() -> None:
    usage = Usage(PICTURE_TOKENS + 24, 100)
    assert cost(CN, "qwen3-vl-plus", usage, route="batch-chat") == Decimal("0.001025")  # half of 2,050
