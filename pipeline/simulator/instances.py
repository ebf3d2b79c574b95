"""A value that fits a simple JSON Schema, drawn from a seeded source of chance.

Known: type (also a list of them), properties, items, enum, const, the bounds of numbers, strings and arrays,
anyOf, oneOf, local $ref. A keyword that is not known (pattern, format, not), or has a value that JSON Schema does not
allow, is not looked at. A schema may ask for more than anybody can answer: what is drawn is bounded.
"""

import math
from random import Random
from typing import Any

_DEEPEST = 24  # a schema that refers to itself ends here
_MOST_VALUES = 10_000  # and one that does so in several places, here
_LONGEST = 10_000  # text, in characters; lists, in values
_LARGEST = 1e15
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fern", "grove", "harbor", "inlet", "juniper")


def instance(schema: Any, random: Random) -> Any:
    """Draw a value that fits `schema`; every property of an object is filled, required or not."""
    return _Drawing(schema, random).value(schema, 0)


class _Drawing:
    """One value in the making: how many inner values may still be drawn for it."""

    def __init__(self, root: Any, random: Random) -> None:
        self._root = root
        self._random = random
        self._left = _MOST_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > _DEEPEST or self._left < 0:
            return None
        if "$ref" in schema:
            return self.value(_resolve(schema["$ref"], self._root), depth + 1)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return self._random.choice(schema["enum"])
        for several in ("anyOf", "oneOf"):
            if isinstance(schema.get(several), list) and schema[several]:
                return self.value(schema[several][0], depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if kind == "object" or (kind is None and "properties" in schema):
            properties = schema.get("properties")
            named = properties.items() if isinstance(properties, dict) else ()
            return {name: self.value(inner, depth + 1) for name, inner in named}
        if kind == "array":
            fewest, most = _bounds(schema, "minItems", "maxItems", default=(1, 3))
            size = self._random.randint(fewest, max(fewest, min(most, fewest + 2)))
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(size)]
        if kind == "null":
            return None
        return self._plain(kind, schema)

    def _plain(self, kind: Any, schema: dict[str, Any]) -> Any:
        if kind == "integer":
            low, high = _number_bounds(schema)
            step = _number(schema.get("multipleOf"), above=0) or 1
            first, last = math.ceil(low / step), math.floor(high / step)
            return int(self._random.randint(first, max(first, last)) * step)
        if kind == "number":
            low, high = _number_bounds(schema)
            return min(max(round(self._random.uniform(low, high), 2), low), high)
        if kind == "boolean":
            return self._random.random() < 0.5
        return self._string(schema)

    def _string(self, schema: dict[str, Any]) -> str:
        low, high = _bounds(schema, "minLength", "maxLength", default=(1, 64))
        text = self._random.choice(_WORDS)
        while len(text) < low:
            text += " " + self._random.choice(_WORDS)
        return text[: max(low, high)]


def _bounds(
    schema: dict[str, Any], low_name: str, high_name: str, default: tuple[int, int]
) -> tuple[int, int]:
    low, high = _count(schema.get(low_name)), _count(schema.get(high_name))
    if low is None:
        low = default[0] if high is None else min(default[0], high)
    return low, max(low, default[1]) if high is None else high


def _count(value: Any) -> int | None:
    """A number of items or characters, no larger than what is ever drawn."""
    found = _number(value, above=-1)
    return None if found is None else min(int(found), _LONGEST)


def _number(value: Any, above: float = -math.inf) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and above < value
    return value if usable and abs(value) <= _LARGEST else None


def _number_bounds(schema: dict[str, Any]) -> tuple[float, float]:
    # An excluded bound is stepped over by one: a coarse reading, but a value inside is all that is asked.
    low, high = _number(schema.get("minimum")), _number(schema.get("maximum"))
    step = 1 if schema.get("type") == "integer" else 0.01
    if low is None and (excluded := _number(schema.get("exclusiveMinimum"))) is not None:
        low = excluded + step
    if high is None and (excluded := _number(schema.get("exclusiveMaximum"))) is not None:
        high = excluded - step
    if low is None:
        low = 0 if high is None else high - 10
    return low, max(low, low + 10 if high is None else high)


def _resolve(reference: Any, root: Any) -> Any:
    found = root
    for name in str(reference).removeprefix("#").strip("/").split("/"):
        if name:
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
