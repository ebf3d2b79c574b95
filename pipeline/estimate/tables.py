"""The estimate as tables, for a terminal and for a page: what it rests on, its tokens and requests, its costs, and the notes."""

from collections.abc import Iterator
from decimal import Decimal

from pipeline.estimate.figures import Cost, Estimate, amount
from pipeline.progress import clock
from pipeline.report.shown import Column, Kind, Table, Value, share
from pipeline.report.shown import amount as amount_said
from pipeline.sampling import Interval

_LIKELY = "90 % interval: from"


def tables_of(estimate: Estimate) -> Iterator[Table]:
    """All of them, in order."""
    title = f"{estimate.job}: {estimate.model} at {estimate.provider}"
    yield Table(title, (Column(""), Column("")), list(_basis(estimate)))
    yield Table("Tokens and requests", _columns(("of the whole job",), Kind.COUNT), list(_tokens(estimate)))
    costs = (
        *_columns(("model", "route"), Kind.AMOUNT),
        Column("currency"),
        Column("time at the limits"),
        Column("set by"),
    )
    most = (
        ""
        if _known(estimate)
        else "From: the prompts alone. At most: every answer as long as its parameters or its model allow, asked once."
    )
    yield Table("Cost", costs, [_cost(estimate, cost) for cost in estimate.costs], most)
    if notes := list(_notes(estimate)):
        yield Table("To know", (Column(""),), [(note,) for note in notes])


def cost_said(cost: Cost) -> str:
    """What the job costs with one model on one route, in a few words."""
    if cost.expected is None:
        return "not known"
    low, high = (amount_said(amount(value)) for value in (cost.expected.low, cost.expected.high))
    return f"{low if low == high else f'{low} to {high}'} {cost.currency}"


def interval_said(interval: Interval) -> str:
    """An interval of counts in a few words."""
    low, high = f"{interval.low:,.0f}", f"{interval.high:,.0f}"
    return low if low == high else f"{interval.value:,.0f} ({low} to {high})"


def _known(estimate: Estimate) -> bool:
    return estimate.output is not None


def _basis(estimate: Estimate) -> Iterator[tuple[str, str]]:
    source = estimate.source
    rows = [f"{estimate.rows:,} rows"]
    if estimate.unsendable.high:
        rows.append(f"{interval_said(estimate.unsendable)} of them cannot become requests")
    if estimate.repeated:
        rows.append(f"{estimate.repeated:,} share the answer of an identical prompt")
    asked = estimate.rows - estimate.repeated - estimate.unsendable.low
    counted = "all prompts" if estimate.counted >= asked else f"{estimate.counted:,} prompts"
    yield "input", f"{', '.join(rows)}; {counted} counted"
    answers = {
        "pilot": f"judged by a pilot of {source.rows:,} rows, drawn from all by their length",
        "run": f"judged by {source.rows:,} rows of {source.folder}",
        "settled": f"judged by {source.rows:,} rows that are settled",
        "none": "all known" if _known(estimate) else "not known: only the most that they can come to",
    }
    yield "answers", answers[source.kind]
    if estimate.settled:
        paid = ""
        if estimate.paid is not None:
            paid = f", for {amount_said(amount(estimate.paid))} {estimate.costs[0].currency}"
        yield "settled", f"{estimate.settled:,} rows have their outcome{paid}: it is in the figures below"


def _columns(names: tuple[str, ...], kind: Kind) -> tuple[Column, ...]:
    figures = ("expected", _LIKELY, "to", "at most")
    return (*map(Column, names), *(Column(name, kind) for name in figures))


def _tokens(estimate: Estimate) -> Iterator[tuple[Value, ...]]:
    yield "input tokens", *_interval(estimate.input), None
    most = None if estimate.most_output is None else round(estimate.most_output)
    yield "output tokens", *_interval(estimate.output), most
    if estimate.reasoning is not None and estimate.reasoning.high:
        yield "reasoning tokens, of them", *_interval(estimate.reasoning), None
    yield "requests", *_interval(estimate.requests), None


def _interval(interval: Interval | None) -> tuple[Value, Value, Value]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)


def _cost(estimate: Estimate, cost: Cost) -> tuple[Value, ...]:
    expected: tuple[Decimal | None, ...] = (None, None if cost.least is None else amount(cost.least), None)
    if cost.expected is not None:
        expected = tuple(map(amount, cost.expected))
    return (
        cost.model if cost.provider == estimate.provider else f"{cost.provider}/{cost.model}",
        cost.route,
        *expected,
        None if cost.most is None else amount(cost.most),
        cost.currency,
        None if cost.time_s is None else "under a second" if cost.time_s < 1 else clock(cost.time_s),
        cost.bound_by,
    )


def _notes(estimate: Estimate) -> Iterator[str]:
    yield from _break_even(estimate)
    if estimate.failed_share:
        yield f"{share(estimate.failed_share)} of the rows looked at failed"
    yield from dict.fromkeys(note for cost in estimate.costs for note in cost.notes)
    yield from estimate.notes
    for problem in estimate.problems:
        yield f"cannot be sent: {problem}"


def _break_even(estimate: Estimate) -> Iterator[str]:
    """The routes of one share in one sentence: their prices are the same."""
    shares = dict.fromkeys((one.cached_share, one.seen_share) for one in estimate.break_even)
    for least, seen in shares:
        routes = " and ".join(
            one.route for one in estimate.break_even if (one.cached_share, one.seen_share) == (least, seen)
        )
        be = "are" if " and " in routes else "is"
        until = (
            "whatever share of the prompt tokens is cached"
            if least is None
            else f"while less than {share(least)} of the prompt tokens are cached"
        )
        found = "" if seen is None else f"; {share(seen)} were in the rows looked at"
        yield f"{routes} {be} cheaper than realtime {until}{found}"
