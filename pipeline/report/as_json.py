"""The report as JSON: the same figures as the tables show, unrounded. The schema stands in docs/reports.md.

Amounts of money are text, exact to the billionth; times are milliseconds; unknown is null.
"""

import json
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

from pipeline import __version__
from pipeline.report.facts import (
    MEASURES,
    About,
    Cell,
    LabelFacts,
    RepricedFacts,
    RunFacts,
    Sums,
    summed,
    total_of,
)
from pipeline.report.foreseen import compared
from pipeline.report.labelled import agreement, per_label
from pipeline.report.many import Together
from pipeline.report.spread import Spread
from pipeline.report.tables import PERCENTS, state
from pipeline.totals import TOKEN_KINDS

SCHEMA_VERSION = 1
Json = dict[str, Any]


def document(runs: Sequence[RunFacts], made: datetime) -> Json:
    """Everything about the runs, and about all of them together."""
    together = Together(runs)
    return {
        "schema_version": SCHEMA_VERSION,
        "promptmill": __version__,
        "made": made.isoformat(),
        "runs": [_run(facts) for facts in runs],
        "together": _figures(together.cells, together.spread),
    }


def to_text(content: Json) -> str:
    """One JSON document; ASCII alone, whatever the locale of a cron run."""
    return json.dumps(content, indent=2, default=str)


def _run(facts: RunFacts) -> Json:
    return {
        **_about(facts.about),
        "state": state(facts.about, facts.total().rows),
        **_figures(facts.cells, facts.spread),
        "attempts_a_row": {str(attempts): count for attempts, count in sorted(facts.attempts.items())},
        "failures": [one._asdict() for one in facts.failures.values()],
        "slowest": [row._asdict() for row in facts.slowest.rows],
        "dearest": [row._asdict() for row in facts.dearest.rows],
        "labels": None if facts.labels is None else _labels(facts.labels),
        "elsewhere": None if facts.repriced is None else _repriced(facts.repriced),
        "estimate": None if facts.estimate is None else _estimate(facts),
        "moments": [moment._asdict() for moment in facts.moments_kept],
        "events": [event._asdict() for event in facts.events],
        "over_time": {
            "width_s": facts.moments.width_s,
            "spans": [
                {
                    "start_s": start,
                    "rows": one.rows,
                    "failed": one.failed,
                    "tokens": one.tokens,
                    "cost": one.cost,
                }
                for start, one in sorted(facts.moments.spans.items())
            ],
        },
    }


def _about(about: About) -> Json:
    said = {name: getattr(about, name) for name in About.__dataclass_fields__}
    said["started"] = about.started and about.started.isoformat()
    said["rows_wanted"] = said.pop("rows")
    return said


def _figures(cells: dict[Cell, Sums], spread_of: Callable[[str], Spread]) -> Json:
    total = total_of(cells)
    days = summed(cells, lambda cell: (cell.day, cell.currency))
    return {
        **_sums(total),
        "status": _counts(cells, lambda cell: cell.status),
        "finish_reason": _counts(cells, lambda cell: cell.finish_reason or ""),
        "by_model": [
            {"model": model, "route": route, "currency": currency, **_sums(sums)}
            for (model, route, currency), sums in summed(
                cells, lambda cell: (cell.model, cell.route, cell.currency)
            ).items()
        ],
        "by_day": [
            {"day": day, "currency": currency, **_sums(sums)}
            for (day, currency), sums in sorted(days.items(), key=lambda one: _day_order(*one[0]))
        ],
        "spreads": {measure: _spread(spread_of(measure)) for measure in MEASURES},
    }


def _day_order(day: date | None, currency: str | None) -> tuple[bool, date, str]:
    return day is None, day or date.min, currency or ""


def _sums(sums: Sums) -> Json:
    """Cost is that of the priced answers, null where none is; tokens likewise of those that told theirs."""
    return {
        "rows": sums.rows,
        "answers": sums.answers,
        "attempts": sums.attempts,
        "tokens": {kind: sums.known_tokens(kind) for kind in TOKEN_KINDS},
        "answers_without_tokens": {kind: sums.answers - sums.told[kind] for kind in TOKEN_KINDS},
        "cost": sums.known_cost,
        "unpriced": sums.unpriced,
    }


def _counts(cells: dict[Cell, Sums], by: Callable[[Cell], str]) -> dict[str, int]:
    return {name: sums.rows for name, sums in summed(cells, by).items()}


def _spread(spread: Spread) -> Json:
    return {
        "count": spread.count,
        "mean": spread.mean,
        "least": spread.least if spread.count else None,
        **{f"p{percent}": spread.percentile(percent) for percent in PERCENTS},
        "most": spread.most if spread.count else None,
    }


def _repriced(facts: RepricedFacts) -> Json:
    where = facts.where
    return {
        "provider": where.provider.name,
        "model": where.model_name,
        "route": where.route,
        "currency": where.price and where.price.currency,
        "price_version": where.price and where.price.version,
        "answers": facts.answered,
        "cost": facts.priced_cost,
        "unpriced": {reason.name.lower(): count for reason, count in facts.unpriced.items()},
    }


def _estimate(facts: RunFacts) -> Json:
    estimate = facts.estimate
    return {
        "source": estimate and estimate.source,
        "source_rows": estimate and estimate.source_rows,
        "figures": [
            {"figure": one.figure, **one.expected._asdict(), "actual": one.actual, "within": one.holds}
            for one in compared(facts)
        ],
    }


def _labels(facts: LabelFacts) -> Json:
    agreed = agreement(facts)
    return {
        "given": {label: facts.given[label] for label in facts.labels},
        "without_valid_label": facts.given[None],
        "scores": [score._asdict() for score in per_label(facts)] if agreed else None,
        "accuracy": agreed and agreed.accuracy,
        "macro_f1": agreed and agreed.mean.f1,
        "known": agreed.known if agreed else 0,
        "agreed": agreed.agreed if agreed else 0,
        "confusion": [
            {"known": known, "given": given, "rows": count} for (known, given), count in facts.pairs.items()
        ],
    }
