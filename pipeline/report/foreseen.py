"""The estimate of a job beside what its run came to, where the run folder has one: estimate.json, as of `estimate --json`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.report import drawing
from pipeline.report.drawing import Chart
from pipeline.report.facts import Estimated, RunFacts
from pipeline.report.shown import Column, Kind, Table, Value, written
from pipeline.sampling import Interval

ESTIMATE_FILE = "estimate.json"
_SCHEMA_VERSION = 1


class Compared(NamedTuple):
    """One figure: what was expected, and what it came to. None where that is not known (yet)."""

    figure: str
    kind: Kind
    expected: Interval
    actual: float | None

    @property
    def holds(self) -> bool | None:
        """Whether it came to lie within the interval."""
        return None if self.actual is None else self.expected.low <= self.actual <= self.expected.high


def read_estimate(folder: Path) -> Estimated | None:
    """The estimate in a run folder; None where there is none, or it is of another schema."""
    try:
        said = json.loads((folder / ESTIMATE_FILE).read_bytes())
        if said["schema_version"] != _SCHEMA_VERSION:
            return None
        own: dict[str, Any] = next((one for one in said["costs"] if one["own"]), {})
        return Estimated(
            source=str(said["source"]["kind"]),
            source_rows=int(said["source"]["rows"]),
            input=_interval(said["tokens"]["input"]),
            output=_interval(said["tokens"]["output"]),
            requests=_interval(said["requests"]),
            cost=_interval(own.get("cost")),
            currency=own.get("currency"),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _interval(said: dict[str, Any] | None) -> Interval | None:
    return None if said is None else Interval(*(float(said[name]) for name in Interval._fields))


def compared(facts: RunFacts) -> list[Compared]:
    """The figures that the estimate had; those of a run that is not done have come to nothing yet."""
    estimate, total = facts.estimate, facts.total()
    if estimate is None:
        return []
    done = total.rows >= facts.about.rows and not facts.about.running
    same_money = estimate.currency == facts.about.currency and not total.unpriced
    figures = (
        ("requests", Kind.COUNT, estimate.requests, total.attempts),
        ("input tokens", Kind.COUNT, estimate.input, total.known_tokens("prompt_tokens")),
        ("output tokens", Kind.COUNT, estimate.output, total.known_tokens("completion_tokens")),
        (f"cost, {estimate.currency}", Kind.AMOUNT, estimate.cost, total.known_cost if same_money else None),
    )
    return [
        Compared(name, kind, expected, float(actual) if done and actual is not None else None)
        for name, kind, expected, actual in figures
        if expected is not None
    ]


def tables(facts: RunFacts) -> Iterator[Table]:
    """The estimate against what it came to; none where there is no estimate."""
    rows: list[tuple[Value, ...]] = []
    for one in compared(facts):
        low, high = (written(bound, one.kind) for bound in (one.expected.low, one.expected.high))
        difference = (
            one.actual / one.expected.value - 1 if one.actual is not None and one.expected.value else None
        )
        said = {None: None, True: "yes", False: "no"}[one.holds]
        rows.append(
            (
                one.figure,
                written(one.expected.value, one.kind),
                f"{low} to {high}",
                written(one.actual, one.kind),
                difference,
                said,
            )
        )
    if rows and facts.estimate is not None:
        columns = (
            Column("figure"),
            Column("estimate"),
            Column("nine in ten cases"),
            Column("actual"),
            Column("difference", Kind.CHANGE),
            Column("within"),
        )
        source = facts.estimate.source
        by = (
            "nothing but the prompts"
            if source == "none"
            else f"{facts.estimate.source_rows:,} rows ({source})"
        )
        yield Table("Estimate against actual", columns, rows, f"answers were judged by {by}")


def charts(facts: RunFacts) -> Iterator[Chart]:
    """Each figure as a share of what was expected, its interval around it."""
    spans = [
        (one.figure, one.expected.low / one.expected.value, one.expected.high / one.expected.value, share)
        for one in compared(facts)
        if one.expected.value and (share := None if one.actual is None else one.actual / one.expected.value)
    ]
    if spans:
        note = "bar: the estimate's interval of nine in ten cases; mark: what it came to; 100 % is what was expected"
        yield Chart("Estimate against actual", drawing.spans(spans, unit="of the estimate"), note)
