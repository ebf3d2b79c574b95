"""`promptmill prices`."""

import sys
from datetime import date
from itertools import groupby
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.table import Table

from pipeline.commands.job import catalogue, now
from pipeline.price_list import HEADINGS, Entry, Wanted, as_json, cells, entries, stale_warning

_TEXT_COLUMNS = {"model", "checked"}
# Wider than any table: lines are cut by the terminal or the pager, never by us.
_WIDTH = 400


def carry_out(
    models: tuple[str, ...], *, region: str | None, route: str | None, prices: Path | None, as_json_text: bool
) -> int:
    """Print the entries asked for to stdout, and a warning about old ones to stderr."""
    shown = entries(catalogue(prices), Wanted(models, region, route))
    today = now().date()
    if as_json_text:
        click.echo(orjson.dumps([as_json(entry, today) for entry in shown], option=orjson.OPT_INDENT_2))
    else:
        console = Console(file=sys.stdout, width=_WIDTH, highlight=False, markup=False)
        for _, group in groupby(shown, key=lambda entry: entry.provider.name):
            _show(console, list(group), today)
    if warning := stale_warning(shown, today):
        click.echo(f"promptmill: warning: {warning}", err=True)
    return 0


def _show(console: Console, group: list[Entry], today: date) -> None:
    provider, route = group[0].provider, group[0].route
    console.print(f"{provider.name}: {provider.title}" + (f" ({provider.region})" if provider.region else ""))
    currency = provider.currency or "no currency"
    console.print(f"{currency} per 1,000,000 tokens, route {route}, version {provider.price_version}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in _TEXT_COLUMNS else "right", no_wrap=True)
    for entry in group:
        for line in cells(entry, today):
            table.add_row(*line)
    console.print(table)
    for name in dict.fromkeys(name for entry in group for name in entry.model.source):
        source = provider.sources[name]
        console.print(f"  {name}: {source.page}, {source.as_of}")
    for file in dict.fromkeys(entry.origin for entry in group if entry.origin):
        console.print(f"  * as {file} has it")
    console.print()
