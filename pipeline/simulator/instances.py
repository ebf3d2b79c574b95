"""A value that fits a simple JSON Schema, drawn from a seeded source of chance.

Known: type (also a list of them), properties, items, enum, const, the bounds of numbers, strings and arrays,
anyOf, oneOf, local $ref. A keyword that is not known (pattern, format, not) is not looked at.
"""

import math
from random import Random
from typing import Any

_DEEPEST = 24  # a schema that refers to itself ends here
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fern", "grove", "harbor", "inlet", "juniper")


def instance(schema: Any, random: Random) -> Any:
    """Draw a value that fits `schema`; every property of an object is filled, required or not."""
    return _draw(schema, schema, random, 0)


def _draw(schema: Any, root: Any, random: Random, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    if "$ref" in schema:
        return _draw(_resolve(schema["$ref"], root), root, random, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return random.choice(schema["enum"])
    for several in ("anyOf", "oneOf"):
        if isinstance(schema.get(several), list) and schema[several]:
            return _draw(schema[several][0], root, random, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties")
        named = properties.items() if isinstance(properties, dict) else ()
        return {name: _draw(inner, root, random, depth + 1) for name, inner in named}
    if kind == "array":
        fewest, most = _bounds(schema, "minItems", "maxItems", default=(1, 3))
        size = random.randint(fewest, max(fewest, min(most, fewest + 2)))
        return [_draw(schema.get("items", {}), root, random, depth + 1) for _ in range(size)]
    if kind == "integer":
        low, high = _number_bounds(schema)
        step = schema.get("multipleOf", 1)
        first, last = math.ceil(low / step), math.floor(high / step)
        return int(random.randint(first, max(first, last)) * step)
    if kind == "number":
        low, high = _number_bounds(schema)
        return min(max(round(random.uniform(low, high), 2), low), high)
    if kind == "boolean":
        return random.random() < 0.5
    if kind == "null":
        return None
    return _string(schema, random)


def _string(schema: dict[str, Any], random: Random) -> str:
    low, high = _bounds(schema, "minLength", "maxLength", default=(1, 64))
    text = random.choice(_WORDS)
    while len(text) < low:
        text += " " + random.choice(_WORDS)
    return text[: max(low, high)]


def _bounds(
    schema: dict[str, Any], low_name: str, high_name: str, default: tuple[int, int]
) -> tuple[int, int]:
    low, high = schema.get(low_name), schema.get(high_name)
    low = low if isinstance(low, int) else min(default[0], high if isinstance(high, int) else default[0])
    return low, high if isinstance(high, int) else max(low, default[1])


def _number_bounds(schema: dict[str, Any]) -> tuple[float, float]:
    # An excluded bound is stepped over by one: a coarse reading, but a value inside is all that is asked.
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + (1 if schema.get("type") == "integer" else 0.01)
    if high is None and "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - (1 if schema.get("type") == "integer" else 0.01)
    if low is None:
        low = 0 if high is None else high - 10
    return low, max(low, low + 10 if high is None else high)


def _resolve(reference: Any, root: Any) -> Any:
    found = root
    for name in str(reference).removeprefix("#").strip("/").split("/"):
        if name:
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
