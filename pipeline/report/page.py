"""The report as one HTML file that needs nothing else: no network, no script but the few lines that sort tables.

What a model or server wrote is escaped, cut short and cleared of what turns or hides text; besides, the page's own content
security policy lets no script run but ours, by its digest, and nothing be fetched.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from pipeline import __version__
from pipeline.masking import printable
from pipeline.report.drawing import Chart
from pipeline.report.shown import Column, Table, Value, written

_HERE = Path(__file__).parent
# Text of so many characters has a line of its own on a phone; words of so many may be broken anywhere.
_LONG_CHARS = 14
_WORD_CHARS = 16


class Tile(NamedTuple):
    """One of the few figures that stand on top."""

    name: str
    value: str


class Page(NamedTuple):
    """All that a page shows, in its order."""

    title: str
    tiles: Sequence[Tile]
    charts: Sequence[Chart]
    tables: Sequence[Table]


def html(page: Page, made: datetime) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    environment.filters |= {"cell": _cell, "shown": printable, "drawn": Markup}
    template = environment.from_string((_HERE / "page.html.jinja").read_text(encoding="utf-8"))
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        title=printable(page.title),
        subtitle=f"promptmill {__version__}, {made:%Y-%m-%d %H:%M %z}",
        tiles=[Tile(name, printable(value)) for name, value in page.tiles],
        charts=page.charts,
        tables=page.tables,
        script=Markup(script),  # noqa: S704  (our own file)
        script_hash=f"sha256-{digest}",
    )


class _Cell(NamedTuple):
    text: str
    classes: str


def _cell(value: Value, column: Column) -> _Cell:
    """A cell's text, and what of it the page's style must know."""
    text = printable(written(value, column.kind))
    if column.is_figure:
        return _Cell(text, "n")
    has_long_word = any(len(word) > _WORD_CHARS for word in text.split())
    classes = [
        name for name, holds in (("long", len(text) > _LONG_CHARS), ("unbroken", has_long_word)) if holds
    ]
    return _Cell(text, " ".join(classes))
