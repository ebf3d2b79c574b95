"""JSONL: one JSON object a line. A line that is none becomes a row that says why; reading goes on."""

from collections.abc import Iterator
from typing import Any

import orjson

from pipeline.dataset.files import ByteStream, Cursor
from pipeline.dataset.lines import Skip, TooLong, line_blocks, not_utf8_problem, too_long_problem
from pipeline.records import Row

_DEEP = 250  # orjson reads about a thousand levels and writes 254

JSON_TYPES = {
    "list": "an array",
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "NoneType": "null",
}


def read_jsonl(stream: ByteStream, name: str, cursor: Cursor, max_line_bytes: int) -> Iterator[Row]:
    """Yield the rows of one file from `cursor.start` on; lines before it are counted, not parsed.

    Lines of white space alone are counted in `cursor.empty_lines` and are no rows. Of a key that stands
    twice in an object the last value counts. Integers beyond 64 bits become floats (orjson).
    """
    loads = orjson.loads
    line_number = 0
    skip = Skip(max(cursor.start - cursor.index, 0))
    for lines in line_blocks(stream, name, max_line_bytes, skip):
        line_number += skip.passed
        cursor.index += skip.passed
        skip.passed = 0
        for line in lines:
            line_number += 1
            if cursor.index < cursor.start:
                if _is_blank(line):
                    cursor.empty_lines += 1
                else:
                    cursor.index += 1
                continue
            problem = None
            columns = {}
            try:
                columns = loads(line)  # type: ignore[arg-type]  # a TooLong is refused like any other non-text
            except orjson.JSONDecodeError as error:
                if _is_blank(line):
                    cursor.empty_lines += 1
                    continue
                problem = _problem(line, error, max_line_bytes)
            if isinstance(line, bytes) and len(line) > _DEEP and line.count(b"[") + line.count(b"{") > _DEEP:
                problem, columns = _too_deep(columns, problem)
            if type(columns) is not dict:
                problem = f"not a JSON object but {JSON_TYPES[type(columns).__name__]}"
                columns = {}
            index = cursor.index
            cursor.index = index + 1
            yield Row(index, columns, name, line_number, problem)
        skip.left = max(cursor.start - cursor.index, 0)
    cursor.index += skip.passed


def _too_deep(value: Any, problem: str | None) -> tuple[str | None, Any]:
    """A row nested deeper than JSON can be written again is refused here, where it can be named."""
    try:
        orjson.dumps(value)
    except TypeError:
        return f"nested deeper than {_DEEP} levels", {}
    return problem, value


def _is_blank(line: bytes | TooLong) -> bool:
    return isinstance(line, bytes) and not line.strip()


def _problem(line: bytes | TooLong, error: orjson.JSONDecodeError, max_line_bytes: int) -> str:
    if isinstance(line, TooLong):
        return too_long_problem("line", max_line_bytes)
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return not_utf8_problem(undecodable)
    return f"not valid JSON: {error.msg} at column {error.colno}"
