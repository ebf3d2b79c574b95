"""Tables on a terminal, or wherever stdout leads: plain lines of text where that is no terminal."""

from collections.abc import Iterable
from io import StringIO
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.masking import printable
from pipeline.report.shown import Table, written

# Where nobody says how wide the place is, as in a file: a table then takes what it needs, and long text is folded.
_WIDTH_ELSEWHERE = 160
_FOLDED_CHARS = 16
_BETWEEN_COLUMNS = 3


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
        cells = [
            [printable(written(value, column.kind)) for value, column in zip(row, table.columns, strict=True)]
            for row in table.rows
        ]
        console.print(_drawn(table, cells) if _fits(table, cells, console.width) else _by_row(table, cells))
        if table.note:
            console.print(Text(f"  {table.note}", style="dim"))


def _fits(table: Table, cells: list[list[str]], width: int) -> bool:
    """Whether all figures stand in their columns, and text has room enough to be folded."""
    needed = 0
    for number, column in enumerate(table.columns):
        widest = max(cell_len(text) for text in (column.head, *(row[number] for row in cells)))
        needed += (widest if column.is_figure else min(widest, _FOLDED_CHARS)) + _BETWEEN_COLUMNS
    return needed <= width


def _drawn(table: Table, cells: list[list[str]]) -> RichTable:
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
    for row in cells:
        drawn.add_row(*map(Text, row))
    return drawn


def _by_row(table: Table, cells: list[list[str]]) -> Group:
    """A table that is wider than the place: each row as a line of its figures, with their heads, folded between two of them."""
    lines: list[RenderableType] = [Text(printable(table.title), style="bold")]
    for first, *others in cells:
        lines.append(Text(f" {first}"))
        heads = (column.head for column in table.columns[1:])
        said = (
            f"{printable(head)} {text}".strip().replace(" ", "\u00a0")
            for head, text in zip(heads, others, strict=True)
        )
        lines.append(Padding(Text(" · ".join(said)), (0, 0, 0, 3)))
    return Group(*lines)


def _text(text: str) -> Text:
    """Text that a terminal shows and does not obey, and rich does not read as markup."""
    return Text(printable(text))
