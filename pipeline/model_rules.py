"""What the catalogue knows of a model, held against what a job asks of it: streaming, thinking, refused parameters.

Facts: Model Studio, "Deep thinking" and "Structured output" (help.aliyun.com/zh/model-studio/deep-thinking,
.../qwen-structured-output), as dated in the catalogue. What it does not know of, passes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.catalog import Model
from pipeline.errors import JobError


def must_stream(model: Model | None, params: Mapping[str, Any]) -> str | None:
    """Why this model answers these params in a stream alone, or None where it need not."""
    if model is None:
        return None
    if model.stream_only:
        return "the model answers in a stream alone"
    if model.non_stream_thinking is False and thinks(model, params):
        return "the model thinks in a stream alone"
    return None


def thinks(model: Model, params: Mapping[str, Any]) -> bool:
    """Whether the model will reason before it answers these params."""
    asked = params.get("enable_thinking")
    return model.thinking == "always" or bool(asked if asked is not None else model.thinking == "on")


def refuse_silent_thinking(name: str, model: Model | None, params: Mapping[str, Any]) -> None:
    """Raise JobError for a model that thinks unless told otherwise, where the job does not say: it costs many times more."""
    if model is None or model.thinking != "on" or {"enable_thinking", "reasoning_effort"} & params.keys():
        return
    price = ""
    tier = model.tiers[0] if model.tiers else None
    if tier is not None and tier.thinking_output not in (None, tier.output):
        price = f" at {tier.thinking_output} instead of {tier.output} per million"
    raise JobError(
        f"{name} thinks before it answers unless told not to, and every token of its reasoning is paid as output{price}. "
        "Say which you want: [params] enable_thinking = false, or true"
    )


def refused_params(model: Model | None, params: Mapping[str, Any]) -> Iterator[str]:
    """Sentences for the parameters that the catalogue knows this model to refuse."""
    if model is None:
        return
    thinking = thinks(model, params)
    if params.get("enable_thinking") is not None and model.thinking == "none":
        yield "enable_thinking: this model has no thinking mode and refuses the parameter; take it out"
    if params.get("enable_thinking") is False and model.thinking == "always":
        yield "enable_thinking = false: this model always thinks and refuses that; take it out"
    if "thinking_budget" in params and "reasoning_effort" in params:
        yield "thinking_budget and reasoning_effort exclude each other; keep one"
    wanted = params.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_schema" and model.json_schema is False:
        yield "response_format json_schema: this model does not take it; use json_object and [response] schema"
    if kind == "json_object" and (
        model.json_object == "no" or (model.json_object == "thinking_off" and thinking)
    ):
        yield "response_format json_object: this model takes it with thinking off alone; set enable_thinking = false"
    choice = params.get("tool_choice")
    if choice == "required":
        yield 'tool_choice = "required": not supported here; use "auto", "none" or a function'
    if isinstance(choice, dict) and thinking:
        yield "tool_choice: a function cannot be forced in thinking mode; set enable_thinking = false"
    if params.get("n", 1) != 1 and (thinking or "tools" in params):
        yield "n above 1 goes neither with thinking nor with tools"
