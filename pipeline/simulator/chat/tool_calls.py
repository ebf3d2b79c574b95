"""Plausible tool calls: which of the declared tools a question is about, and arguments that fit its schema.

A tool is taken for what its name and description share with the question: words of three letters and more,
or pairs of Chinese characters. Arguments are drawn from the schema; a place that the question names is used.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from pipeline.simulator.instances import instance
from pipeline.vision_tokens import call_tokens

_WORD = re.compile(r"[a-z]{3,}")
_CHINESE = re.compile(r"[\u3400-\u9fff]+")
_PLACE = re.compile(r"city|location|place|town|region|城市|地点", re.I)
_CITIES = (
    *("杭州", "北京", "上海", "深圳", "广州", "成都", "南京", "武汉", "西安", "重庆"),
    *("Hangzhou", "Beijing", "Shanghai", "Singapore", "Paris", "London", "Berlin", "Tokyo", "New York"),
)
_ALWAYS_KNOWN = ("杭州", "北京")


@dataclass(slots=True)
class ToolCall:
    """One call; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str

    @property
    def tokens(self) -> int:
        return call_tokens(self.name, self.arguments)


def calls_for(
    question: str, tools: Sequence[Mapping[str, Any]], params: Mapping[str, Any], random: Random
) -> list[ToolCall]:
    """Call the tool the question is about; with `parallel_tool_calls` every such tool, at least two calls.

    `tool_choice` naming a function calls that one. The tools must be of the documented shape.
    """
    functions = [tool["function"] for tool in tools]
    choice = params.get("tool_choice")
    places = _places(question)
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        return [_call(next(f for f in functions if f["name"] == name), places[:1], random)]
    asked = _signs(question)
    ranked = sorted(functions, key=lambda f: -len(asked & _signs(f"{f['name']} {f.get('description', '')}")))
    if not params.get("parallel_tool_calls"):
        return [_call(ranked[0], places[:1], random)]
    about = [f for f in ranked if asked & _signs(f"{f['name']} {f.get('description', '')}")] or ranked[:1]
    if len(about) > 1:
        return [_call(function, places[:1], random) for function in about]
    return [_call(about[0], [place], random) for place in (places if len(places) > 1 else _ALWAYS_KNOWN)]


def _signs(text: str) -> set[str]:
    lowered = text.lower().replace("_", " ")
    found = set(_WORD.findall(lowered))
    for run in _CHINESE.findall(lowered):
        found.update(run[i : i + 2] for i in range(len(run) - 1))
    return found


def _places(question: str) -> list[str]:
    return [city for city in _CITIES if city in question]


def _call(function: Mapping[str, Any], places: Sequence[str], random: Random) -> ToolCall:
    schema = function.get("parameters")
    drawn = instance(schema, random) if isinstance(schema, Mapping) and schema else {}
    arguments = drawn if isinstance(drawn, dict) else {}
    if places:
        place = places[0] + ("市" if _CHINESE.match(places[0]) else "")
        named = (name for name, value in arguments.items() if isinstance(value, str) and _PLACE.search(name))
        for name in named:
            if "enum" not in (schema or {}).get("properties", {}).get(name, {}):
                arguments[name] = place
    call_id = f"call_{random.getrandbits(88):022x}"
    return ToolCall(call_id, function["name"], json.dumps(arguments, ensure_ascii=False))
