"""Tables on a terminal, or wherever stdout leads: plain lines of text where that is no terminal."""

from collections.abc import Iterable
from io import StringIO
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.masking import printable
from pipeline.report.shown import Table, written

# Where nobody says how wide the place is, as in a file: a table then takes what it needs, and long text is folded.
_WIDTH_ELSEWHERE = 160


def show(tables: Iterable[Table], stream: TextIO) -> None:
    """Print the tables. What text they hold is shown as it is: no markup, nothing that a terminal would obey."""
    if not stream.isatty():
        console = Console(file=StringIO(), highlight=False, width=_WIDTH_ELSEWHERE)
        with console.capture() as printed:
            _print(tables, console)
        stream.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())
    else:
        _print(tables, Console(file=stream, highlight=False))


def _print(tables: Iterable[Table], console: Console) -> None:
    for number, table in enumerate(tables):
        if number:
            console.print()
        console.print(_drawn(table))
        if table.note:
            console.print(Text(f"  {table.note}", style="dim"))


def _drawn(table: Table) -> RichTable:
    drawn = RichTable(
        title=_text(table.title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if table.has_heads else None,
        pad_edge=False,
        show_header=table.has_heads,
    )
    for column in table.columns:
        drawn.add_column(
            _text(column.head),
            justify="right" if column.is_figure else "left",
            overflow="fold",
            no_wrap=column.is_figure,
        )
    for row in table.rows:
        cells = zip(row, table.columns, strict=True)
        drawn.add_row(*(_text(written(value, column.kind)) for value, column in cells))
    return drawn


def _text(text: str) -> Text:
    """Text that a terminal shows and does not obey, and rich does not read as markup."""
    return Text(printable(text))
