"""Templates that cannot run away: Jinja's sandbox, with the bounds it leaves out.

The sandbox keeps a template from reaching Python; it does not keep `{{ text * count }}` from filling the memory where a row
says that `count` is a billion. Templates are the operator's, but their values are the row's. So whatever makes much of
little is looked at before it is done: a result larger than any prompt is refused. Refusals are ValueErrors: they end the row.
What is not bounded is the time of a loop that prints nothing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import islice
from types import BuiltinMethodType
from typing import Any

import jinja2
import jinja2.filters
import jinja2.nodes
import jinja2.runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

MOST_CHARS = 32 * 1024 * 1024  # of one text: a body that large is refused by every provider
_MOST_PIECES = 1024 * 1024
_PIECES_AT_ONCE = 1024
_FEW_PIECES = 16
_MOST_NUMBER = 1_000_000  # of columns, items, digits
_MOST_BITS = 4 * _MOST_NUMBER
_OTHER_CHARS = 16  # what else than text and containers counts for
_LONG_NUMBER = re.compile(r"[0-9]{7,}")
_LONG_WIDTH = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(?:[0-9]{7,}|[0-9*]*\.[0-9]{7,})")
_STARRED = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(?:\*|[0-9]*\.\*)")


class TooLarge(ValueError):
    """An operation of a template that would make too much of a row's values."""

    def __init__(self) -> None:
        super().__init__("it would make more of this row's values than any model takes")


class _Formatter(SandboxedFormatter):
    """Sees each format as it is applied, also one that was put together from values."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if _LONG_NUMBER.search(format_spec):
            raise TooLarge
        return str(super().format_field(value, format_spec))


def bounded_concat(pieces: Iterable[str]) -> str:
    """The text that a template, a macro or a block yields. Raises TooLarge once it is longer than any prompt may be."""
    pieces = iter(pieces)
    some = list(islice(pieces, _PIECES_AT_ONCE))
    if len(some) <= _FEW_PIECES:  # as good as always
        text = "".join(some)
        _check(len(text), MOST_CHARS)
        return text
    texts: list[str] = []
    chars = count = 0
    while some:
        chars += sum(map(len, some))
        count += len(some)
        _check(chars, MOST_CHARS)
        _check(count, _MOST_PIECES)
        texts.append("".join(some))
        some = list(islice(pieces, _PIECES_AT_ONCE))
    return "".join(texts)


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, in which no operation makes more of a row's values than a prompt may hold."""

    intercepted_binops = frozenset({"*", "**", "%"})
    concat = staticmethod(bounded_concat)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, check in _FILTERS.items():
            self.filters[name] = _checked(self.filters[name], check)
        self.filters["join"] = _join

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_printf(left, *(right if isinstance(right, tuple) else (right,)))
        elif operator == "*":
            _check_product(left, right)
            _check_product(right, left)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and right > 0:
            _check(left.bit_length() * right, _MOST_BITS)
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        # Methods of text and numbers alone: macros of the template's own may take any number.
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str | bytes | int):
            check: Callable[..., None] = _METHODS.get(obj.__name__, _check_numbers)
            check(obj.__self__, *args, **kwargs)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text, vformat = value.__self__, _Formatter(self).vformat
        if value.__name__ == "format_map":
            return lambda mapping: vformat(text, (), mapping)
        return lambda *args, **kwargs: vformat(text, args, kwargs)


def _checked(sized: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    @wraps(sized)  # with the marks by which Jinja knows what to hand over first
    def checked(*args: Any, **kwargs: Any) -> Any:
        # Text is among the first two: before it, some filters get what Jinja hands over.
        given = args[1:] if args and isinstance(args[0], _HANDED_OVER) else args
        check(*given, **kwargs)
        return sized(*args, **kwargs)

    return checked


_HANDED_OVER = (jinja2.Environment, jinja2.runtime.Context, jinja2.nodes.EvalContext)


@jinja2.pass_eval_context
def _join(
    eval_ctx: jinja2.nodes.EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    """Jinja's own, over values of which not too many have been seen first."""
    seen: list[Any] = []
    chars, between = 0, len(str(d))
    for one in value:
        seen.append(one)
        chars += between + _size(one)
        _check(chars, MOST_CHARS)
    return str(jinja2.filters.do_join(eval_ctx, seen, d, attribute))


def _check_printf(text: str, *values: Any, **named: Any) -> None:
    """Widths of `%`, written out or (`*`) among the values."""
    if _LONG_WIDTH.search(text):
        raise TooLarge
    if _STARRED.search(text):
        _check_numbers(text, *values)


def _check_product(many: Any, times: Any) -> None:
    if not isinstance(times, int) or times <= 0:
        return
    if isinstance(many, int):
        _check(many.bit_length() + times.bit_length(), _MOST_BITS)
    elif isinstance(many, Sequence):
        _check(_size(many) * times, MOST_CHARS)


def _check_numbers(value: Any, *args: Any, **kwargs: Any) -> None:
    for number in (*args, *kwargs.values()):
        if isinstance(number, int):
            _check(abs(number), _MOST_NUMBER)


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    _check(str(text).count(str(old)) * len(str(new)), MOST_CHARS)


def _check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    columns = width if isinstance(width, int) else len(str(width))
    _check((str(text).count("\n") + 1) * columns, MOST_CHARS)


def _check_tabs(text: Any, tabsize: int = 8) -> None:
    if isinstance(text, str) and isinstance(tabsize, int):
        _check(text.count("\t") * tabsize, MOST_CHARS)


def _check_json(value: Any, indent: Any = None) -> None:
    if isinstance(indent, int):
        _check(_size(value) * indent, MOST_CHARS)


def _check_wrapped(text: Any, width: Any = 79, *args: Any, wrapstring: Any = "", **__: Any) -> None:
    # A line may be as short as one letter.
    between = max((len(one) for one in (*args, wrapstring) if isinstance(one, str)), default=0)
    _check(len(str(text)) * between, MOST_CHARS)


def _check_join(between: Any, values: Any) -> None:
    """Text joins what it is given at once; what is given one by one is not known beforehand."""
    if not isinstance(values, Sequence | Mapping):
        raise TooLarge
    _check(len(values) * len(between) + _size(values), MOST_CHARS)


_FILTERS: dict[str, Callable[..., None]] = {
    "batch": _check_numbers,
    "center": _check_numbers,
    "format": _check_printf,
    "indent": _check_indent,
    "replace": _check_replace,
    "round": _check_numbers,
    "slice": _check_numbers,
    "tojson": _check_json,
    "wordwrap": _check_wrapped,
}
_METHODS: dict[str, Callable[..., None]] = {
    "expandtabs": _check_tabs,
    "join": _check_join,
    "replace": _check_replace,
}


def _size(value: Any) -> int:
    """About as many characters as a value has when it is printed."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(one) for pair in value.items() for one in pair)
    if isinstance(value, Sequence):
        return sum(map(_size, value)) if not isinstance(value, range) else _OTHER_CHARS * len(value)
    return _OTHER_CHARS


def _check(size: int, most: int) -> None:
    if size > most:
        raise TooLarge
