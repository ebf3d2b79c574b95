"""The estimate on a terminal: a few sentences, and a table of what it costs with each model on each route."""

from collections.abc import Iterator
from decimal import Decimal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.estimate.figures import Cost, Estimate, amount
from pipeline.masking import printable
from pipeline.progress import clock
from pipeline.sampling import Interval

_UNKNOWN = "?"


def show(estimate: Estimate, console: Console) -> None:
    """Print the estimate."""
    console.print(_drawn(estimate), highlight=False)


def _drawn(estimate: Estimate) -> RenderableType:
    notes = list(_notes(estimate))
    return Group(
        Text("\n".join(_heading(estimate))),
        _tokens(estimate),
        _costs(estimate),
        *(Text(printable(note)) for note in notes),
    )


def _heading(estimate: Estimate) -> Iterator[str]:
    source = estimate.source
    yield printable(f"{estimate.job}: {estimate.model} at {estimate.provider}")
    rows = [f"{estimate.rows:,} rows"]
    if estimate.unsendable.high:
        rows.append(f"{interval_said(estimate.unsendable)} of them cannot become requests")
    if estimate.repeated:
        rows.append(f"{estimate.repeated:,} share the answer of an identical prompt")
    asked = estimate.rows - estimate.repeated - estimate.unsendable.low
    counted = "all prompts" if estimate.counted >= asked else f"{estimate.counted:,} prompts"
    yield f"input     {', '.join(rows)}; {counted} counted"
    yield {
        "pilot": f"answers   judged by a pilot of {source.rows:,} rows, drawn from all by their length",
        "run": printable(f"answers   judged by {source.rows:,} rows of {source.folder}"),
        "settled": f"answers   judged by {source.rows:,} rows that are settled",
        "none": "answers   not known: only the most that they can come to",
    }[source.kind if estimate.output is None or source.kind != "none" else "settled"]
    if estimate.settled:
        paid = "" if estimate.paid is None else f", for {money(estimate.paid)} {_currency(estimate)}"
        yield f"settled   {estimate.settled:,} rows have their outcome{paid}: it is in the figures below"


def _tokens(estimate: Estimate) -> Table:
    table = _table()
    table.add_column("tokens and requests")
    for name in ("expected", "90 % interval", "at most"):
        table.add_column(name, justify="right")
    table.add_row("input tokens", *_interval(estimate.input), "")
    most = "no bound" if estimate.most_output is None else f"{estimate.most_output:,.0f}"
    output = estimate.output
    table.add_row("output tokens", *(_interval(output) if output else (_UNKNOWN, "")), most)
    if estimate.reasoning is not None and estimate.reasoning.high:
        table.add_row("  of them reasoning", *_interval(estimate.reasoning), "")
    table.add_row("requests", *_interval(estimate.requests), "")
    return table


def _costs(estimate: Estimate) -> Table:
    table = _table()
    table.add_column("model")
    table.add_column("route")
    for name in ("cost", "90 % interval", "at most"):
        table.add_column(name, justify="right")
    table.add_column("currency")
    table.add_column("time at the limits")
    home = estimate.provider
    for cost in estimate.costs:
        name = cost.model if cost.provider == home else f"{cost.provider}/{cost.model}"
        table.add_row(
            printable(name),
            cost.route,
            *_money(cost),
            cost.currency or "",
            "" if cost.time_s is None else f"{_time(cost.time_s)} ({cost.bound_by})",
            style="bold" if cost.own else None,
        )
    return table


def _money(cost: Cost) -> tuple[str, str, str]:
    if cost.currency is None:
        return "not known", "", ""
    most = "no bound" if cost.most is None else money(cost.most)
    if cost.expected is None:
        return _UNKNOWN, "" if cost.least is None else f"at least {money(cost.least)}", most
    return money(cost.expected.value), _range(money(cost.expected.low), money(cost.expected.high)), most


def _notes(estimate: Estimate) -> Iterator[str]:
    yield from _break_even(estimate)
    if estimate.failed_share:
        yield f"{estimate.failed_share:.1%} of the rows looked at failed"
    if estimate.source.kind == "none" and estimate.output is None:
        yield "at most: every answer as long as its parameters or its model allow, asked once"
    yield from dict.fromkeys(note for cost in estimate.costs for note in cost.notes)
    for note in estimate.notes:
        yield f"note: {note}"
    for problem in estimate.problems:
        yield f"not sendable: {problem}"


def _break_even(estimate: Estimate) -> Iterator[str]:
    """The routes of one share in one sentence: their prices are the same."""
    shares = dict.fromkeys((one.cached_share, one.seen_share) for one in estimate.break_even)
    for share, seen in shares:
        routes = " and ".join(
            one.route for one in estimate.break_even if (one.cached_share, one.seen_share) == (share, seen)
        )
        be = "are" if " and " in routes else "is"
        until = (
            "whatever share of the prompt tokens is cached"
            if share is None
            else f"while less than {share:.0%} of the prompt tokens are cached"
        )
        found = "" if seen is None else f"; {seen:.0%} were in the rows looked at"
        yield f"{routes} {be} cheaper than realtime {until}{found}"


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))


def _interval(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:,.0f}", _range(f"{interval.low:,.0f}", f"{interval.high:,.0f}")


def _range(low: str, high: str) -> str:
    return "counted" if low == high else f"{low} to {high}"


def interval_said(interval: Interval) -> str:
    """An interval of counts in words."""
    low, high = f"{interval.low:,.0f}", f"{interval.high:,.0f}"
    return low if low == high else f"{interval.value:,.0f} ({low} to {high})"


def money(nano: float) -> str:
    """An amount given in billionths, to four places, or to two digits where it is less."""
    value = amount(nano)
    if value == 0 or abs(value) >= Decimal("0.01"):
        return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.2f}"
    return f"{value:.2g}" if abs(value) >= Decimal("0.0001") else f"{value:.9f}".rstrip("0")


def _time(time_s: float) -> str:
    return "under a second" if time_s < 1 else clock(time_s)


def _currency(estimate: Estimate) -> str:
    return estimate.costs[0].currency or ""
