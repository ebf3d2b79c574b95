"""How a run went over time, by the moments that its journal keeps: rates between two moments, and figures at each.

Counters of a moment begin anew with each run of the folder, so nothing is told across two runs.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

from pipeline.history import Event, Moment
from pipeline.pricing import from_nano
from pipeline.report import drawing
from pipeline.report.drawing import Axis, Chart, Point
from pipeline.report.facts import About, RunFacts
from pipeline.report.shown import Column, Table, Value

_POINTS = 200
_EVENTS_SHOWN = 25
_US = 1_000_000


class Rates(NamedTuple):
    """What went a minute between two moments of one run, which are in Unix seconds."""

    start_s: float
    end_s: float
    sent: float
    refused: float
    tokens: float


def rates(moments: Sequence[Moment]) -> list[Rates]:
    """The rates between each two neighbouring moments of the same run."""
    found = []
    for before, after in pairwise(moments):
        minutes = (after.at_us - before.at_us) / _US / 60
        if before.run_id == after.run_id and minutes > 0:
            found.append(
                Rates(
                    before.at_us / _US,
                    after.at_us / _US,
                    (after.sent - before.sent) / minutes,
                    (after.refused - before.refused) / minutes,
                    max(after.tokens - before.tokens, 0)
                    / minutes,  # rows that are asked again are taken back
                )
            )
    return found


def charts(facts: RunFacts) -> Iterator[Chart]:
    """The charts that only moments tell; none of a run too short to have two."""
    moments, about = _thinned(facts.moments_kept), facts.about
    went = rates(moments)
    if not went:
        return
    chosen = [Point(m.at_us / _US, m.requests_per_minute, "chosen rate") for m in moments]
    most = max(one.sent for one in went)
    limit = drawing.near(about.requests_per_minute, most)
    sent = _broken(went, lambda one: one.sent - one.refused, "sent")
    refused = _broken(went, lambda one: one.refused, "refused")
    picture = drawing.over_time(
        [*sent, *refused],
        Axis("requests / min"),
        limit=limit,
        stacked=True,
        lines=_seen(chosen, most),
    )
    yield Chart(
        "Requests and refusals (429) a minute", picture, drawing.limit_note(about.requests_per_minute, limit)
    )
    chosen = [Point(m.at_us / _US, m.tokens_per_minute, "chosen rate") for m in moments]
    most = max(one.tokens for one in went)
    limit = drawing.near(about.tokens_per_minute, most)
    used = _broken(went, lambda one: one.tokens, "tokens")
    picture = drawing.over_time(
        used, Axis("tokens / min"), limit=limit, stacked=True, lines=_seen(chosen, most)
    )
    yield Chart("Tokens a minute", picture, drawing.limit_note(about.tokens_per_minute, limit))
    flight = [Point(m.at_us / _US, m.in_flight, "in flight") for m in moments]
    flight += [Point(m.at_us / _US, m.ceiling, "at most") for m in moments]
    yield Chart("Requests in flight", drawing.over_time(flight, Axis("requests")))
    yield from _spend(moments, about)
    lags = [Point(m.at_us / _US, m.lag_p99_ms, "p99") for m in moments if m.lag_p99_ms is not None]
    if len(lags) > 1:
        yield Chart("Lag of the event loop, p99", drawing.over_time(lags, Axis("ms", whole=False)))


def _spend(moments: Sequence[Moment], about: About) -> Iterator[Chart]:
    spent = [Point(m.at_us / _US, float(from_nano(m.spent)), "spent") for m in moments if m.spent is not None]
    if not any(point.value for point in spent):
        return
    cap = None if about.max_cost is None else float(about.max_cost)
    limit = drawing.near(cap, max(point.value or 0 for point in spent))
    picture = drawing.over_time(spent, Axis(about.currency or "spent", whole=False), limit=limit)
    note = "all attempts, those that may have been billed without an answer included"
    yield Chart("Spent over time", picture, note if limit is None else f"{note}; the line across is max_cost")


def _thinned(moments: Sequence[Moment]) -> list[Moment]:
    """As many moments as a chart can show, the last of each run among them: counters lose nothing by it."""
    every = len(moments) // _POINTS + 1
    return [
        moment
        for number, moment in enumerate(moments)
        if number % every == 0 or number + 1 == len(moments) or moments[number + 1].run_id != moment.run_id
    ]


def _broken(went: Sequence[Rates], figure: Callable[[Rates], float], series: str) -> list[Point]:
    """A figure from the start of each span on, with nothing between two runs."""
    points: list[Point] = []
    for number, one in enumerate(went):
        points.append(Point(one.start_s, figure(one), series))
        if number + 1 == len(went) or went[number + 1].start_s > one.end_s:
            points += [Point(one.end_s, figure(one), series), Point(one.end_s, 0.0, series)]
    return points


def _seen(chosen: Sequence[Point], most: float) -> list[Point]:
    """A chosen rate where it is near enough to what went to be drawn with it."""
    points = [
        point if drawing.near(point.value, most) is not None else point._replace(value=None)
        for point in chosen
    ]
    return points if any(point.value is not None for point in points) else []


def tables(facts: RunFacts) -> Iterator[Table]:
    """The figures and the latest events of a run's way; none where its journal keeps no moments."""
    moments, events = facts.moments_kept, facts.events
    if len(moments) > 1:
        yield _figures(moments, facts.about)
    if events:
        yield _events(events)


def _figures(moments: Sequence[Moment], about: About) -> Table:
    went = rates(moments)
    last_of_run = {moment.run_id: moment for moment in moments}.values()
    sent, refused = (sum(getattr(one, name) for one in last_of_run) for name in ("sent", "refused"))
    lags = [moment.lag_p99_ms for moment in moments if moment.lag_p99_ms is not None]
    cooling = sum(moment.cooling for moment in moments) / len(moments)
    rows: list[tuple[Value, ...]] = [
        ("requests sent", f"{sent:,}"),
        ("of these refused (429)", f"{refused:,}"),
        (
            "most requests a minute",
            f"{max((one.sent for one in went), default=0):,.0f}{_of(about.requests_per_minute)}",
        ),
        (
            "most tokens a minute",
            f"{max((one.tokens for one in went), default=0):,.0f}{_of(about.tokens_per_minute)}",
        ),
        ("most in flight, of those moments", f"{max(one.in_flight for one in moments):,}"),
        ("cooling down", f"{cooling:.1%} of the time"),
        ("event loop's lag, p99", f"{max(lags):,.1f} ms at worst" if lags else None),
    ]
    return Table("How it went", (Column("what"), Column("is")), rows)


def _of(limit: float | None) -> str:
    return "" if limit is None else f" of {limit:,.0f}"


def _events(events: Sequence[Event]) -> Table:
    shown = events[-_EVENTS_SHOWN:]
    rows = [
        (datetime.fromtimestamp(event.at_us / _US, UTC).strftime("%Y-%m-%d %H:%M:%S"), event.reason)
        for event in shown
    ]
    note = f"the last {len(shown):,} of {len(events):,}" if len(shown) < len(events) else ""
    return Table("Changes of pace", (Column("UTC"), Column("what and why")), rows, note)
