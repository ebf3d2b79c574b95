"""The tables about several runs: by run, day, job and model, and where it is going."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.records import Status
from pipeline.report.facts import Cell, RunFacts, Sums, merged, summed, total_of
from pipeline.report.shown import Column, Kind, Table, Value
from pipeline.report.spread import Spread
from pipeline.report.tables import change, cost, latency, ratio, repriced, state, tokens

_BARS = "▁▂▃▄▅▆▇█"
_MOST_BARS = 30
_FIGURES = (
    Column("rows", Kind.COUNT),
    Column("ok", Kind.SHARE),
    Column("failed", Kind.COUNT),
    Column("tokens", Kind.COUNT),
    Column("cost", Kind.AMOUNT),
    Column("", Kind.TEXT),  # its currency
    Column("per 1,000", Kind.AMOUNT),
)
_TIMES = (Column("p50", Kind.MS), Column("p99", Kind.MS))
_TREND = Column("cost a day")
_CHANGE = Column("change", Kind.CHANGE)


def several_runs(runs: Sequence[RunFacts]) -> Iterator[Table]:
    """All tables about several runs together."""
    together = Together(runs)
    yield _by_run(runs)
    yield _by_day(together)
    yield _by_job(runs)
    yield _by_model(together)
    yield tokens(together.total())
    yield cost(together.cells)
    if any(facts.repriced is not None for facts in runs):
        yield repriced(runs)
    yield latency(together.spread)


class Together:
    """Several runs as one: their sums and spreads."""

    def __init__(self, runs: Sequence[RunFacts]) -> None:
        self.cells: dict[Cell, Sums] = {}
        self._spreads: dict[tuple[date | None, str], Spread] = {}
        for facts in runs:
            for cell, sums in facts.cells.items():
                self.cells.setdefault(cell, Sums()).merge(sums)
            for key, spread in facts.spreads.items():
                self._spreads.setdefault(key, Spread()).merge(spread)

    def total(self) -> Sums:
        return total_of(self.cells)

    def spread(self, measure: str) -> Spread:
        """How a measure spreads over all days."""
        return merged(self._spreads, measure)

    def days(self) -> list[date]:
        """The days on which rows were sent, in order."""
        return sorted({cell.day for cell in self.cells if cell.day is not None})

    def of_day(self, day: date | None, measure: str) -> Spread:
        """How a measure spreads on one day."""
        return self._spreads.get((day, measure), Spread())


def _figures(cells: dict[Cell, Sums]) -> tuple[Value, ...]:
    """The values of _FIGURES over some cells. An amount over several currencies is none."""
    total = total_of(cells)
    by_status = summed(cells, lambda cell: cell.status)
    told = (total.known_tokens("prompt_tokens"), total.known_tokens("completion_tokens"))
    currencies = {cell.currency for cell in cells if cell.currency is not None}
    priced = total.answers - total.unpriced
    of_one = len(currencies) <= 1
    return (
        total.rows,
        ratio(by_status.get(Status.OK, Sums()).rows, total.rows),
        by_status.get(Status.FAILED, Sums()).rows,
        None if None in told else sum(filter(None, told)),
        total.known_cost if of_one else None,
        " + ".join(sorted(currencies)),
        ratio(total.cost * 1000, priced) if of_one else None,
    )


def _split(cells: dict[Cell, Sums], by: Callable[[Cell], Any]) -> dict[Any, dict[Cell, Sums]]:
    found: dict[Any, dict[Cell, Sums]] = {}
    for cell, sums in cells.items():
        found.setdefault(by(cell), {})[cell] = sums
    return found


def _by_run(runs: Sequence[RunFacts]) -> Table:
    def started(facts: RunFacts) -> tuple[bool, float, str]:
        at = facts.about.started
        return at is None, 0.0 if at is None else at.timestamp(), facts.about.folder

    rows = []
    above, short_paths = _without_common([facts.about.folder for facts in runs])
    for facts in sorted(runs, key=started):
        latency_ms = facts.spread("latency_ms")
        rows.append(
            (
                short_paths[facts.about.folder],
                facts.about.started and facts.about.started.astimezone(),
                state(facts.about, facts.total().rows),
                *_figures(facts.cells),
                latency_ms.percentile(50),
                latency_ms.percentile(99),
            )
        )
    columns = (Column("run folder"), Column("started"), Column("state"), *_FIGURES, *_TIMES)
    return Table(f"{len(runs):,} runs{above}", columns, rows)


def _without_common(folders: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Folders by what tells them apart, and the folder they all lie in, in words."""
    parents = [Path(folder).parent for folder in folders]
    alike = len({parent.is_absolute() for parent in parents}) == 1
    above = os.path.commonpath(parents) if alike else ""
    if not above:
        return "", {folder: folder for folder in folders}
    return f" in {above}", {folder: str(Path(folder).relative_to(above)) for folder in folders}


def _by_day(together: Together) -> Table:
    rows: list[tuple[Value, ...]] = []
    before: Decimal | None = None
    for day, cells in sorted(
        _split(together.cells, lambda cell: cell.day).items(), key=lambda one: (one[0] is None, one[0])
    ):
        figures = _figures(cells)
        spent = figures[4] if isinstance(figures[4], Decimal) else None
        latency_ms = together.of_day(day, "latency_ms")
        rows.append(
            (
                day or "(never sent)",
                *figures,
                change(before, spent),
                latency_ms.percentile(50),
                latency_ms.percentile(99),
            )
        )
        before = spent
    note = "days of UTC, by when a row was first sent; change: of the cost against the day before"
    return Table("By day", (Column("day"), *_FIGURES, _CHANGE, *_TIMES), rows, note)


def _by_job(runs: Sequence[RunFacts]) -> Table:
    by_job: dict[str, list[RunFacts]] = {}
    for facts in runs:
        by_job.setdefault(facts.about.job, []).append(facts)
    rows = []
    for job, of_job in sorted(by_job.items()):
        together = Together(of_job)
        rows.append((job, len(of_job), *_figures(together.cells), *_trend(together.cells)))
    columns = (Column("job"), Column("runs", Kind.COUNT), *_FIGURES, _TREND, _CHANGE)
    return Table("By job", columns, rows, _TREND_NOTE)


def _by_model(together: Together) -> Table:
    rows = [
        (model or "(no answer)", *_figures(cells), *_trend(cells))
        for model, cells in sorted(
            _split(together.cells, lambda cell: cell.model).items(), key=lambda one: one[0] or ""
        )
    ]
    return Table("By model", (Column("model"), *_FIGURES, _TREND, _CHANGE), rows, _TREND_NOTE)


_TREND_NOTE = (
    "cost a day: the latest days there were; change: of the last one against the mean of those before"
)


def _trend(cells: dict[Cell, Sums]) -> tuple[Value, Value]:
    """The cost of the latest days as bars, and how the last differs from the mean of those before."""
    days = sorted(
        (day, sums.cost) for day, sums in summed(cells, lambda cell: cell.day).items() if day is not None
    )
    costs = [spent for _, spent in days][-_MOST_BARS:]
    if len(costs) < 2 or not any(costs):
        return None, None
    most = max(costs)
    bars = "".join(_BARS[min(int(spent / most * len(_BARS)), len(_BARS) - 1)] for spent in costs)
    return bars, change(sum(costs[:-1], Decimal(0)) / (len(costs) - 1), costs[-1])
