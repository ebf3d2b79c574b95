"""What an attempt can cost at most: no answer within the rules costs more, and what has no bound is refused."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalog import Image, Model, Tier, load
from pipeline.errors import JobError
from pipeline.pricing import Price, Rate, WholePrice, price
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Prompt
from pipeline.tokens import count_messages
from pipeline.vision_tokens import (
    DEFAULT_SYSTEM_TOKENS,
    MOST_ASPECT,
    frames_tokens,
    image_tokens,
    requested_rule,
    tools_tokens,
    vision_rule,
)
from pipeline.worst_case import WorstCase

# A billionth for each token, prompt and answer: amounts are tokens.
A_TOKEN = Price(
    currency="CNY",
    version="v",
    rates=(Rate(None, *(Decimal("0.001"),) * 3, None, None, None),),
)
PLAIN = Model(checked=date(2026, 1, 1), source=("s",), thinking="none", max_output_tokens=8_000)
HYBRID = Model(
    checked=date(2026, 1, 1),
    source=("s",),
    thinking="off",
    context_tokens=100_000,
    max_output_tokens=8_000,
    max_thinking_tokens=30_000,
)
THINKER = Model(
    checked=date(2026, 1, 1),
    source=("s",),
    thinking="on",
    max_output_tokens=8_000,
    max_thinking_tokens=30_000,
)
BARE = Model(checked=date(2026, 1, 1), source=("s",), thinking="off")
PICTURES = vision_rule(
    Image(factor=32, min_pixels=65_536, default_max_pixels=2_621_440, max_pixels=16_777_216)
)
TAIL = 4
Messages = list[dict[str, Any]]


def tokens(
    messages: Messages, params: Mapping[str, Any], model: Model = PLAIN, *, strict: bool = True
) -> int:
    """The most tokens, prompt and answer together."""
    body = orjson.dumps({"model": "m", "messages": messages, **params})
    return WorstCase(A_TOKEN, model, PICTURES, strict=strict).of(Prompt(0, "r", messages, dict(params)), body)


def user(content: Any) -> Messages:
    return [{"role": "user", "content": content}]


def answer_tokens(params: Mapping[str, Any], model: Model = PLAIN) -> int:
    """The most tokens of an answer."""
    worst_case = WorstCase(A_TOKEN, model, PICTURES, strict=True)
    one = worst_case.of(Prompt(0, "r", user("x"), {"max_completion_tokens": 1}), b"x")
    return worst_case.of(Prompt(0, "r", user("x"), dict(params)), b"x") - one + 17


# Prompts


@settings(deadline=None)  # the first count loads the vocabulary
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_no_text_has_more_tokens_than_its_bound(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text.encode("utf-8", "replace").decode()} for text in texts]
    most = tokens(messages, {"max_completion_tokens": 1}) - 17
    assert count_messages(messages, TAIL) + DEFAULT_SYSTEM_TOKENS <= most


def test_a_text_whose_characters_fall_apart_counts_by_what_they_become() -> None:
    """U+1D160 takes four bytes and, composed as far as it can be, twelve."""
    apart, plain = (
        tokens(user("\U0001d160" * 1000), {"max_tokens": 1}),
        tokens(user("a" * 4000), {"max_tokens": 1}),
    )
    assert apart == plain + 8_000


names = st.text(st.characters(codec="utf-8"), min_size=1)


@settings(deadline=None)
@given(st.dictionaries(names, names | st.lists(st.integers(0, 9)), max_size=5))
def test_tools_count_by_more_than_a_template_can_make_of_them(parameters: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    messages = user("what?")
    most = tokens(messages, {"tools": [tool], "max_completion_tokens": 1}) - 17
    assert count_messages(messages, TAIL) + DEFAULT_SYSTEM_TOKENS + tools_tokens([tool]) <= most


sides = st.integers(11, 20_000)


@given(
    sides,
    sides,
    st.booleans(),
    st.none() | st.integers(1, 20_000_000),
    st.none() | st.integers(1, 20_000_000),
)
def test_no_picture_has_more_tokens_than_its_bound(
    width: int, height: int, high: bool, least: int | None, most: int | None
) -> None:
    if max(width, height) > MOST_ASPECT * min(width, height):
        return
    url = "data:image/png;base64," + "A" * 500_000
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    part |= {
        name: value for name, value in (("min_pixels", least), ("max_pixels", most)) if value is not None
    }
    params = {"max_completion_tokens": 1, "vl_high_resolution_images": high}
    text = user([{"type": "text", "text": "what?"}])
    pictured = user([{"type": "text", "text": "what?"}, part])
    counted = image_tokens(width, height, requested_rule(PICTURES, part, high_resolution=high))
    # The address is no text: but for the part's own JSON only the picture counts.
    assert counted <= tokens(pictured, params) - tokens(text, params)
    assert tokens(pictured, params) < 450_000


@given(st.integers(4, 2_000), sides, sides)
def test_no_list_of_frames_has_more_tokens_than_its_bound(frames: int, width: int, height: int) -> None:
    if max(width, height) > MOST_ASPECT * min(width, height):
        return
    part = {"type": "video", "video": [f"https://e.org/{n}.jpg" for n in range(frames)]}
    params = {"max_completion_tokens": 1}
    assert frames_tokens(frames, width, height, PICTURES) <= tokens(user([part]), params)


@pytest.mark.parametrize(
    ("messages", "params"),
    [
        (user([{"type": "video_url", "video_url": {"url": "https://e.org/a.mp4"}}]), {}),
        (user([{"type": "input_audio", "input_audio": {}}]), {}),
        ([{"role": "system", "content": "fileid://file-fe-1"}, *user("what?")], {}),
        (user("news?"), {"enable_search": True}),
        (user("sum?"), {"enable_code_interpreter": True}),
    ],
)
def test_what_nobody_can_bound_counts_as_the_whole_context(
    messages: Messages, params: dict[str, Any]
) -> None:
    asked = {"max_completion_tokens": 84, **params}
    assert 100_000 < tokens(messages, asked, HYBRID) < 101_000
    assert 10_000_000 < tokens(messages, asked, PLAIN) < 10_001_000


# Answers


@pytest.mark.parametrize(
    ("params", "model", "most"),
    [
        ({"max_tokens": 64}, PLAIN, 80),
        ({"max_tokens": 64, "n": 4}, PLAIN, 320),
        ({}, PLAIN, 8_000),
        ({"max_completion_tokens": 500, "enable_thinking": True}, HYBRID, 516),
        ({"max_tokens": 64, "enable_thinking": False}, HYBRID, 80),
        ({"max_tokens": 64, "enable_thinking": True}, HYBRID, 30_080),
        ({"max_tokens": 64, "enable_thinking": True, "thinking_budget": 100}, HYBRID, 196),
        ({"max_tokens": 64, "reasoning_effort": "low"}, HYBRID, 30_080),
        ({"enable_thinking": True}, HYBRID, 38_000),
        ({"max_tokens": 10**6}, HYBRID, 10**6 + 16),  # its context may have grown since
        ({"max_tokens": 64, "reasoning_effort": "none"}, THINKER, 80),
        ({"max_tokens": 64}, THINKER, 30_080),
        ({"max_tokens": 64, "enable_thinking": True, "thinking_budget": 9}, BARE, 105),
    ],
)
def test_an_answer_is_bounded_by_the_request_or_by_the_model(
    params: dict[str, Any], model: Model, most: int
) -> None:
    assert answer_tokens(params, model) == most


@pytest.mark.parametrize(
    ("params", "advice"),
    [
        ({}, "max_tokens"),
        ({"max_tokens": "64"}, "max_tokens"),
        ({"max_tokens": 64, "enable_thinking": True}, "thinking_budget"),
        ({"max_tokens": 64, "search_options": {"search_strategy": "agent_max"}}, "billed by the search"),
    ],
)
def test_an_answer_without_a_bound_is_refused_at_the_start_and_as_a_row(
    params: dict[str, Any], advice: str
) -> None:
    worst_case = WorstCase(A_TOKEN, BARE, PICTURES, strict=True)
    with pytest.raises(JobError, match=rf"\[budget\].*{advice}.*Nothing was sent"):
        worst_case.check(params)
    with pytest.raises(EncodeError, match=advice):
        tokens(user("x"), params, BARE)


def test_without_a_cap_an_answer_without_a_bound_counts_as_the_longest_known() -> None:
    assert tokens(user("x"), {}, BARE, strict=False) > 131_072


def test_rows_with_parameters_of_their_own_are_bounded_by_these() -> None:
    worst_case = WorstCase(A_TOKEN, PLAIN, PICTURES, strict=True)
    found = []
    for limit in (10, 1_000, 10):
        params = {"max_tokens": limit}
        found.append(worst_case.of(Prompt(0, "r", user("x"), params), b"x"))
    assert [amount - found[0] for amount in found] == [0, 990, 0]


def test_without_a_price_nothing_is_set_aside() -> None:
    assert WorstCase(None, None, PICTURES, strict=False).of(Prompt(0, "r", user("x"), {}), b"x") == 0


# Prices


@st.composite
def usages(draw: st.DrawFn) -> tuple[int, int, int, int | None, bool]:
    prompt = draw(st.integers(0, 1_200_000))
    cached = draw(st.integers(0, prompt))
    written = draw(st.none() | st.integers(0, prompt - cached))
    return prompt, draw(st.integers(0, 40_000)), cached, written, draw(st.booleans())


@given(
    st.sampled_from(
        ["qwen-plus", "qwen3-max", "qwen-flash", "qwen3.8-max", "qwen-turbo", "qwen3-coder-plus"]
    ),
    usages(),
    st.integers(0, 300_000),
    st.integers(0, 300_000),
)
def test_no_usage_within_the_bounds_costs_more_than_the_most(
    model: str, usage: tuple[int, int, int, int | None, bool], more_prompt: int, more_answer: int
) -> None:
    found = price(load("dashscope"), model, "realtime")
    assert found is not None
    whole = WholePrice(found)
    prompt, completion, _, written, reasoning = usage
    cost = whole.nano_cost(*usage)
    most = whole.nano_most(
        prompt + more_prompt, completion + more_answer, thinking=reasoning, marks=written is not None
    )
    assert cost is None or cost <= most


def test_a_smaller_tier_counts_where_its_edge_is_dearer_than_the_prompt_in_the_next() -> None:
    """A provider may price long prompts lower; then the dearest prompt is the longest of the tier below."""
    falling = Price(
        currency="CNY",
        version="v",
        rates=(
            Rate(1_000, *(Decimal("0.003"),) * 3, None, None, None),
            Rate(None, *(Decimal("0.001"),) * 3, None, None, None),
        ),
    )
    most = WholePrice(falling).nano_most
    assert [most(tokens, 0, thinking=False, marks=False) for tokens in (1_000, 1_001, 2_999, 4_000)] == [
        3_000,
        3_000,
        3_000,
        4_000,
    ]


def test_cache_marks_count_at_the_price_of_writing() -> None:
    dear = Tier(input=Decimal(1), output=Decimal(1), explicit_create=Decimal("1.25"))
    marked = Price(
        currency="CNY",
        version="v",
        rates=(Rate(None, dear.input, dear.output, dear.output, None, None, dear.explicit_create),),
    )
    worst_case = WorstCase(marked, PLAIN, PICTURES, strict=True)

    def most(part: dict[str, Any]) -> int:
        return worst_case.of(
            Prompt(0, "r", user([{"type": "text", "text": "x", **part}]), {"max_completion_tokens": 1}),
            b"x" * 100,
        )

    answer = 17 * 1_000
    assert most({"cache_control": {"type": "ephemeral"}}) - answer == (most({}) - answer) * Decimal("1.25")
