"""The estimate as it is handed over: plain values, and their form in JSON."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pipeline.pricing import from_nano
from pipeline.sampling import Interval

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the figures of the answers come from: rows of a pilot, of a run, or from nowhere (`none`)."""

    kind: Literal["pilot", "run", "settled", "none"]
    rows: int = 0
    folder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the job comes to with one model on one route, amounts in billionths of the currency unit.

    `expected` is None where no answer or no price is known; then `least` is what the prompts alone cost. `most` is
    what it comes to if every answer is as long as it may be, None where nothing bounds it. `time_s` is how long the limits make
    it take, and `bound_by` the one that does; None where none is known.
    """

    provider: str
    model: str
    route: str
    own: bool
    currency: str | None
    price_version: str | None
    expected: Interval | None
    least: float | None
    most: float | None
    time_s: float | None
    bound_by: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """From which share of cached prompt tokens on real time is cheaper than a batch; None: never.

    `seen_share` is the share that was cached in the rows looked at.
    """

    route: str
    cached_share: float | None
    seen_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job will come to. Intervals are of nine cases in ten; what is known is its own interval.

    `rows` is the whole input: `unsendable` of them cannot become requests, `repeated` share the answer of an identical prompt,
    `settled` have their outcome already, for which `paid` was paid (in billionths). `counted` prompts were counted. `output` and
    `reasoning` (a part of it) are None where nothing is known of the answers; `most_output` is the most that they can be.
    """

    job: str
    provider: str
    model: str
    rows: int
    unsendable: Interval
    repeated: int
    settled: int
    paid: int | None
    counted: int
    source: Source
    input: Interval
    output: Interval | None
    reasoning: Interval | None
    most_output: float | None
    requests: Interval
    failed_share: float | None
    costs: list[Cost]
    break_even: list[BreakEven] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def amount(nano: float) -> Decimal:
    """Billionths as an amount of the currency unit, to as many places."""
    return from_nano(round(nano))


def as_json(estimate: Estimate) -> dict[str, Any]:
    """The estimate for other programs: counts as whole numbers, amounts as text, what is not known as null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "job": estimate.job,
        "provider": estimate.provider,
        "model": estimate.model,
        "rows": estimate.rows,
        "unsendable": _whole(estimate.unsendable),
        "repeated": estimate.repeated,
        "settled": estimate.settled,
        "paid": None if estimate.paid is None else f"{amount(estimate.paid):f}",
        "counted": estimate.counted,
        "source": {
            "kind": estimate.source.kind,
            "rows": estimate.source.rows,
            "folder": estimate.source.folder,
        },
        "tokens": {
            "input": _whole(estimate.input),
            "output": _whole(estimate.output),
            "reasoning": _whole(estimate.reasoning),
            "most_output": None if estimate.most_output is None else round(estimate.most_output),
        },
        "requests": _whole(estimate.requests),
        "failed_share": estimate.failed_share,
        "costs": [_cost(cost) for cost in estimate.costs],
        "break_even": [
            {"route": one.route, "cached_share": one.cached_share, "seen_share": one.seen_share}
            for one in estimate.break_even
        ],
        "notes": estimate.notes,
        "problems": estimate.problems,
    }


def _whole(interval: Interval | None) -> dict[str, int] | None:
    return None if interval is None else {name: round(value) for name, value in interval._asdict().items()}


def _cost(cost: Cost) -> dict[str, Any]:
    def said(interval: Interval | None) -> dict[str, str] | None:
        if interval is None:
            return None
        return {name: f"{amount(value):f}" for name, value in interval._asdict().items()}

    return {
        "provider": cost.provider,
        "model": cost.model,
        "route": cost.route,
        "own": cost.own,
        "currency": cost.currency,
        "price_version": cost.price_version,
        "cost": said(cost.expected),
        "least_cost": None if cost.least is None else f"{amount(cost.least):f}",
        "most_cost": None if cost.most is None else f"{amount(cost.most):f}",
        "time_s": None if cost.time_s is None else round(cost.time_s, 1),
        "bound_by": cost.bound_by,
        "notes": list(cost.notes),
    }
