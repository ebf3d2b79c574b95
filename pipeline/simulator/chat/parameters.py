"""Ranges and types of the parameters of a call, with the documented refusals.

Every key that is not named here is taken as it is, as the provider does.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.simulator.chat.call import Dialect
from pipeline.simulator.refusals import (
    TOOL_NAMED_SEARCH,
    WRONG_STOP,
    WRONG_TOOL_CHOICE,
    Refusal,
    invalid_parameter,
    refused_parameter,
)

MOST_CHOICES = 4
MOST_OUTPUT_TOKENS = 32_768
MOST_THOUGHT_TOKENS = 38_912
MOST_TOP_LOGPROBS = 5


class _Number(NamedTuple):
    low: float
    high: float
    whole: bool
    message: str


_OUTPUT = f"should be [1, {MOST_OUTPUT_TOKENS}]"
_BUDGET = (
    f"The thinking_budget parameter must be a positive integer and not greater than {MOST_THOUGHT_TOKENS}"
)
_NUMBERS = {
    "temperature": _Number(0, 1.999999, False, "Temperature should be in [0.0, 2.0)"),
    "top_p": _Number(1e-9, 1, False, "Range of top_p should be (0.0, 1.0]"),
    "top_k": _Number(0, 1e18, True, "Parameter top_k be greater than or equal to 0"),
    "repetition_penalty": _Number(1e-9, 1e9, False, "Repetition_penalty should be greater than 0.0"),
    "presence_penalty": _Number(-2, 2, False, "Presence_penalty should be in [-2.0, 2.0]"),
    "seed": _Number(0, 2**31 - 1, True, "Range of seed should be [0, 2147483647]"),
    "n": _Number(1, MOST_CHOICES, True, f"Range of n should be [1, {MOST_CHOICES}]"),
    "max_tokens": _Number(1, MOST_OUTPUT_TOKENS, True, f"Range of max_tokens {_OUTPUT}"),
    "max_completion_tokens": _Number(
        1, MOST_OUTPUT_TOKENS, True, f"Range of max_completion_tokens {_OUTPUT}"
    ),
    "thinking_budget": _Number(1, MOST_THOUGHT_TOKENS, True, _BUDGET),
    "top_logprobs": _Number(
        0, MOST_TOP_LOGPROBS, True, f"Range of top_logprobs should be [0, {MOST_TOP_LOGPROBS}]"
    ),
}
_NATIVE_SEED = _Number(0, 2**63 - 1, True, "Range of seed should be [0, 9223372036854775807]")
_FORMATS = ("text", "json_object", "json_schema")


def wrong_number(params: Mapping[str, Any], dialect: Dialect) -> Refusal | None:
    """Refuse a number out of its range, or what is none."""
    for name in params.keys() & _NUMBERS.keys():
        value = params[name]
        number = _NATIVE_SEED if name == "seed" and dialect is Dialect.NATIVE else _NUMBERS[name]
        if value is None:
            continue
        typed = isinstance(value, int if number.whole else int | float) and not isinstance(value, bool)
        if not typed or not number.low <= value <= number.high:
            return invalid_parameter(number.message)
    return None


def wrong_format(wanted: Any) -> Refusal | None:
    """Refuse a `response_format` that is not of the documented shape."""
    if wanted is None or (isinstance(wanted, Mapping) and wanted.get("type") in _FORMATS):
        return None
    return invalid_parameter(
        "Unknown format of response_format, response_format should be a dict, includes 'type' and an optional key "
        f"'json_schema'. The response_format type from user is {type(wanted).__name__}."
    )


def wrong_stop(stop: Any) -> Refusal | None:
    """Refuse a `stop` of mixed or foreign types."""
    if stop is None or isinstance(stop, str):
        return None
    if not isinstance(stop, list):
        return WRONG_STOP
    kinds = {type(element) for element in stop}
    return None if len(kinds) <= 1 and kinds <= {str, int, list} else WRONG_STOP


def wrong_tools(params: Mapping[str, Any], thinking: bool) -> Refusal | None:
    """Refuse tools that are not declared as documented, and choices of tools that cannot be."""
    tools, choice = params.get("tools"), params.get("tool_choice")
    if tools is not None and not (isinstance(tools, list) and all(_is_tool(tool) for tool in tools)):
        return invalid_parameter(
            "Each of tools must be an object with type 'function' and a function with a name."
        )
    names = {tool["function"]["name"] for tool in tools or ()}
    if "search" in names:
        return TOOL_NAMED_SEARCH
    if tools and (params.get("n") or 1) > 1:
        return invalid_parameter("n must be 1 when tools are given.")
    if isinstance(choice, str) and choice not in ("auto", "none"):
        return WRONG_TOOL_CHOICE
    if isinstance(choice, Mapping):
        function = choice.get("function")
        if not isinstance(function, Mapping) or function.get("name") not in names:
            return invalid_parameter("tool_choice names a function that is not among the tools.")
        if thinking:
            return refused_parameter("tool_choice cannot force a function when enable_thinking is true")
    return None


def _is_tool(tool: Any) -> bool:
    if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
        return False
    function = tool.get("function")
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)
