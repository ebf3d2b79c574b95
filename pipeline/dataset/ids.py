"""Values of a row as text: row ids, and columns carried along without a type of their own. Pure; no I/O."""

from typing import Any

import orjson


def id_text(value: Any) -> str | None:
    """Return the row id that `value` stands for, or None where it is none.

    Text is taken as it is and an integer in decimal, so `7` and `"7"` are the same id. Null, empty text,
    booleans and floats are no ids: they do not name the same row in every tool a user may join with.
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def id_problem(columns: dict[str, Any], id_column: str) -> str:
    """Say why a row has no id in `id_column`; for rows whose `id_text` is None."""
    if id_column not in columns:
        return f'no column "{id_column}"'
    value = columns[id_column]
    if value is None:
        return f'"{id_column}" is null'
    if value == "":
        return f'"{id_column}" is empty'
    return f'"{id_column}" is {type(value).__name__}, expected text or an integer'


def text_of(value: Any) -> str | None:
    """Return a JSONL or CSV value as the text it is carried as: None, the text itself, else its JSON."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
