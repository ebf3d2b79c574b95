"""What the catalogue knows of a model decides streaming and refusals; what it does not know of passes."""

from typing import Any

import pytest

from pipeline import catalog
from pipeline.errors import JobError
from pipeline.model_rules import must_stream, refuse_silent_thinking, refused_params, thinks

DASHSCOPE = catalog.load("dashscope").models
THINKS_BY_DEFAULT = "qwen3.5-plus"


@pytest.mark.parametrize(
    ("model", "params", "streams"),
    [
        ("qwen-plus", {}, False),
        ("qwen-plus", {"enable_thinking": True}, False),
        ("qwq-plus", {}, True),
    ],
)
def test_only_what_must_be_streamed_is(model: str, params: dict[str, Any], streams: bool) -> None:
    assert (must_stream(DASHSCOPE[model], params) is not None) is streams


def test_an_open_hybrid_streams_only_while_it_thinks() -> None:
    hybrids = [m for m in DASHSCOPE.values() if m.non_stream_thinking is False and not m.stream_only]
    assert hybrids
    for model in hybrids:
        assert must_stream(model, {"enable_thinking": True})
        assert must_stream(model, {"enable_thinking": False}) is None


def test_a_model_unknown_to_the_catalogue_may_do_anything() -> None:
    assert must_stream(None, {"enable_thinking": True}) is None
    refuse_silent_thinking("m", None, {})
    assert list(refused_params(None, {"n": 9, "tool_choice": "required"})) == []


def test_thinking_by_default_must_be_said_and_the_sentence_names_the_prices() -> None:
    refuse_silent_thinking("qwen-plus", DASHSCOPE["qwen-plus"], {})
    for said in ({"enable_thinking": False}, {"enable_thinking": True}, {"reasoning_effort": "none"}):
        refuse_silent_thinking(THINKS_BY_DEFAULT, DASHSCOPE[THINKS_BY_DEFAULT], said)
    with pytest.raises(JobError, match="enable_thinking = false, or true"):
        refuse_silent_thinking(THINKS_BY_DEFAULT, DASHSCOPE[THINKS_BY_DEFAULT], {})


@pytest.mark.parametrize(
    ("model", "params", "word"),
    [
        ("qwen-plus", {"thinking_budget": 9, "reasoning_effort": "low"}, "exclude each other"),
        ("qwen-plus", {"response_format": {"type": "json_schema"}}, "json_schema"),
        ("qwen-plus", {"response_format": {"type": "json_object"}, "enable_thinking": True}, "json_object"),
        ("qwen-plus", {"tool_choice": "required"}, "required"),
        ("qwen-plus", {"tool_choice": {"type": "function"}, "enable_thinking": True}, "forced"),
        ("qwen-plus", {"n": 2, "tools": []}, "n above 1"),
        ("qwq-plus", {"enable_thinking": False}, "always thinks"),
    ],
)
def test_a_parameter_known_to_be_refused_is_named(model: str, params: dict[str, Any], word: str) -> None:
    assert any(word in sentence for sentence in refused_params(DASHSCOPE[model], params))


def test_parameters_that_are_fine_or_unknown_pass() -> None:
    fine = {"temperature": 0, "response_format": {"type": "json_object"}, "n": 2, "something_new": 1}
    assert list(refused_params(DASHSCOPE["qwen-plus"], fine)) == []
    assert not thinks(DASHSCOPE["qwen-plus"], {})
