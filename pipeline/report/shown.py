"""Tables of figures before they have a place: titled columns of one kind each, and how a figure of each kind is written.

Every place (terminal, page) shows the same tables. Text in them may be a model's or a server's: it is cut short here, and made
harmless where it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import assert_never

UNKNOWN = "–"
TEXT_CHARS = 300
# The value of one cell; None is unknown.
Value = str | int | float | Decimal | date | None


class Kind(StrEnum):
    """What a column holds, which decides how it is written."""

    TEXT = "text"
    COUNT = "count"
    SHARE = "share"  # of 1
    CHANGE = "change"  # of 1, against what was before
    AMOUNT = "amount"  # of money
    MS = "ms"
    MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head and what it holds."""

    head: str
    kind: Kind = Kind.TEXT

    @property
    def is_figure(self) -> bool:
        return self.kind is not Kind.TEXT


@dataclass(frozen=True, slots=True)
class Table:
    """One table. `note` says what must be known to read it."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Value]]
    note: str = ""

    @property
    def has_heads(self) -> bool:
        """Whether its columns are told by heads: a list of facts has none."""
        return any(column.is_figure for column in self.columns)


def written(value: Value, kind: Kind) -> str:
    """A cell's value as text."""
    if value is None:
        return UNKNOWN
    if isinstance(value, date):
        return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else value.isoformat()
    if isinstance(value, str):
        return short(value)
    match kind:
        case Kind.TEXT:
            return str(value)
        case Kind.COUNT:
            return f"{value:,.0f}"
        case Kind.SHARE:
            return share(float(value))
        case Kind.CHANGE:
            return f"{float(value):+.0%}"
        case Kind.AMOUNT:
            return amount(value)
        case Kind.MS:
            return milliseconds(float(value))
        case Kind.MEAN:
            return f"{value:,.1f}"
        case _:
            assert_never(kind)


def short(text: str, chars: int = TEXT_CHARS) -> str:
    """Text of at most so many characters, in one line."""
    line = " ".join(text[: chars * 2].split())
    whole = len(text) <= chars * 2 and len(line) <= chars
    return line if whole else line[: chars - 1] + "…"


def share(value: float) -> str:
    """A share as percent, which says 0 and 100 only of none and all."""
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{value:.1%}"


def amount(value: Decimal | float) -> str:
    """An amount of money with as many places as its size asks for."""
    size = abs(float(value))
    places = 2 if size >= 100 else 4 if size >= 1 else 6
    return f"{value:,.{places}f}" if size else "0"


def milliseconds(value: float) -> str:
    """A time in the unit that its size asks for."""
    if value < 1:
        return f"{value:.2f} ms"
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.2f} s" if value < 100_000 else f"{value / 1000:,.0f} s"
