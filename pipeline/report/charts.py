"""Which charts a report shows of one run, and of several."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from itertools import accumulate

from pipeline.records import Status
from pipeline.report import drawing, foreseen, over_time
from pipeline.report.drawing import Axis, Chart, Point, limit_note, near
from pipeline.report.facts import Cell, MomentSums, RunFacts, Sums, summed
from pipeline.report.many import Together
from pipeline.report.spread import Spread, columns

_BINS = 80
_COLUMNS = 24
_MOST_BARS = 12


def of_one_run(facts: RunFacts) -> Iterator[Chart]:
    """The charts about one run; those that would be empty are left out.

    Where its journal keeps moments these tell tokens and spend over time, else the rows' own times do.
    """
    bins = facts.moments.binned(_BINS)
    kept = list(over_time.charts(facts))
    yield from kept
    if len(bins) > 1:
        yield _rows_a_minute(facts, bins)
        if not kept:
            yield from _by_rows(facts, bins)
    yield from foreseen.charts(facts)
    yield from _spreads(facts.spread)
    yield from _counts(facts.cells)


_Bins = list[tuple[int, int, MomentSums]]


def _rows_a_minute(facts: RunFacts, bins: _Bins) -> Chart:
    rows = [
        point
        for start, width, sums in bins
        for point in (
            Point(start, (sums.rows - sums.failed) * 60 / width, "answered"),
            Point(start, sums.failed * 60 / width, "failed"),
        )
    ]
    allowed = facts.about.requests_per_minute
    limit = near(allowed, facts.moments.busiest_minute("rows"))
    picture = drawing.over_time(rows, Axis("rows / min"), limit=limit, stacked=True)
    return Chart("Rows settled a minute", picture, limit_note(allowed, limit))


def _by_rows(facts: RunFacts, bins: _Bins) -> Iterator[Chart]:
    used = [Point(start, sums.tokens * 60 / width, "tokens") for start, width, sums in bins]
    allowed = facts.about.tokens_per_minute
    limit = near(allowed, facts.moments.busiest_minute("tokens"))
    picture = drawing.over_time(used, Axis("tokens / min"), limit=limit, stacked=True)
    yield Chart("Tokens a minute", picture, limit_note(allowed, limit))
    yield from _spend(facts, bins)


def of_several(runs: Sequence[RunFacts]) -> Iterator[Chart]:
    """The charts about several runs together."""
    together = Together(runs)
    yield from _by_day(together, runs)
    yield from _spreads(together.spread)
    yield from _counts(together.cells)


def _spend(facts: RunFacts, bins: _Bins) -> Iterator[Chart]:
    total = facts.total()
    if not total.cost:
        return
    ends = [bins[0][0], *(start + width for start, width, _ in bins)]
    so_far = accumulate((sums.cost for _, _, sums in bins), initial=Decimal(0))
    points = [Point(end, float(cost), "cost") for end, cost in zip(ends, so_far, strict=True)]
    about = facts.about
    cap = None if about.max_cost is None else float(about.max_cost)
    limit = near(cap, float(total.cost))
    note = "" if limit is None else "the line across is max_cost"
    if total.unpriced:
        note = f"without {total.unpriced:,} answers of unknown cost"
    picture = drawing.over_time(points, Axis(about.currency or "cost", whole=False), limit=limit)
    yield Chart("Cost of the answers over time", picture, note)


def _spreads(spread_of: Callable[[str], Spread]) -> Iterator[Chart]:
    for title, unit, scale, measures in (
        ("Times", "seconds", 1000.0, {"latency": "latency_ms", "first token": "first_token_ms"}),
        ("Prompt tokens a row", "tokens", 1.0, {"prompt": "prompt_tokens"}),
        ("Completion tokens a row", "tokens", 1.0, {"completion": "completion_tokens"}),
    ):
        spreads = {name: spread_of(measure) for name, measure in measures.items()}
        bins = [
            one._replace(low=one.low / scale, high=one.high / scale) for one in columns(spreads, _COLUMNS)
        ]
        if len(bins) > 1:
            yield Chart(title, drawing.distribution(bins, unit=unit))


def _counts(cells: dict[Cell, Sums]) -> Iterator[Chart]:
    for title, by in (
        ("Finish reasons", lambda cell: cell.finish_reason),
        ("Failures by kind", lambda cell: cell.error_kind),
    ):
        found = {name: sums.rows for name, sums in summed(cells, by).items() if name is not None}
        if found:
            most = sorted(found.items(), key=lambda one: -one[1])[:_MOST_BARS]
            yield Chart(title, drawing.bars(most, unit="rows"))


def _by_day(together: Together, runs: Sequence[RunFacts]) -> Iterator[Chart]:
    by_status = summed(together.cells, lambda cell: (cell.day, cell.status))
    order: dict[str, int] = {status: number for number, status in enumerate(Status)}
    rows = sorted(
        ((day.isoformat(), float(sums.rows), status) for (day, status), sums in by_status.items() if day),
        key=lambda one: (one[0], order[one[2]]),
    )
    if len(together.days()) < 2:
        return
    yield Chart("Rows by day", drawing.daily(rows, Axis("rows")))
    for currency in sorted({cell.currency for cell in together.cells if cell.currency is not None}):
        costs: dict[tuple[str, str], Decimal] = {}
        for facts in runs:
            for (day, of), sums in summed(facts.cells, lambda cell: (cell.day, cell.currency)).items():
                if day and of == currency:
                    at = day.isoformat(), facts.about.job
                    costs[at] = costs.get(at, Decimal(0)) + sums.cost
        days = [(day, float(cost), job) for (day, job), cost in sorted(costs.items())]
        yield Chart("Cost by day and job", drawing.daily(days, Axis(currency, whole=False)))
    points = [
        Point(datetime.combine(day, time(), UTC).timestamp(), percentile / 1000, f"p{percent}")
        for percent in (50, 99)
        for day in together.days()
        if (percentile := together.of_day(day, "latency_ms").percentile(percent)) is not None
    ]
    yield Chart("Latency by day", drawing.over_time(points, Axis("seconds", whole=False)))
