"""Sums over outcomes: rows by status, tokens, cost, attempts. One shape for parts, progress, status and the summary."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import compress
from operator import attrgetter
from typing import Any, NamedTuple

from pipeline.records import Outcome

# The token counts of `records.Usage`, in the order of the result columns.
TOKEN_KINDS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


# Prices outcomes, in order; None is unknown.
Costs = Callable[[Sequence[Outcome]], list[Decimal | None]]


@dataclass(slots=True)
class Totals:
    """Counts over any number of outcomes; every field adds.

    `tokens` sums what the provider reported, by kind. `cost` sums the priced answers; `unpriced` counts answers whose cost is
    unknown, so a cost is whole only where `unpriced` is 0. `errors` counts outcomes by failure kind.
    """

    rows: int = 0
    status: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    cost: Decimal = Decimal(0)
    unpriced: int = 0
    attempts: int = 0
    maybe_paid: int = 0

    def add(self, outcomes: Sequence[Outcome], costs: Sequence[Decimal | None]) -> None:
        """Add outcomes with their costs, in the same order; a cost of None is unknown."""
        self.rows += len(outcomes)
        self.status.update([outcome.status for outcome in outcomes])
        self.errors.update([outcome.failure.kind for outcome in outcomes if outcome.failure is not None])
        self.attempts += sum([outcome.attempts for outcome in outcomes])
        self.maybe_paid += sum([outcome.maybe_paid for outcome in outcomes])
        answered = [outcome.completion is not None for outcome in outcomes]
        usages = [outcome.completion.usage for outcome in outcomes if outcome.completion is not None]
        usages += [usage for outcome in compress(outcomes, answered) for usage in outcome.earlier]
        # A column at a time, as all that is done for every row: half the time of a row at a time.
        for name in TOKEN_KINDS:
            if count := sum(filter(None, map(attrgetter(name), usages))):
                self.tokens[name] += count
        paid = [cost for cost, one in zip(costs, answered, strict=True) if one]
        known = [cost for cost in paid if cost is not None]
        self.unpriced += len(paid) - len(known)
        self.cost = sum(known, self.cost)

    def merge(self, other: "Totals") -> None:
        self.rows += other.rows
        self.status.update(other.status)
        self.errors.update(other.errors)
        self.tokens.update(other.tokens)
        self.cost += other.cost
        self.unpriced += other.unpriced
        self.attempts += other.attempts
        self.maybe_paid += other.maybe_paid

    def subtract(self, other: "Totals") -> None:
        """Take away what was added before."""
        self.rows -= other.rows
        for counts, less in (
            (self.status, other.status),
            (self.errors, other.errors),
            (self.tokens, other.tokens),
        ):
            counts.subtract(less)
            for name in [name for name, count in counts.items() if count == 0]:
                del counts[name]
        self.cost -= other.cost
        self.unpriced -= other.unpriced
        self.attempts -= other.attempts
        self.maybe_paid -= other.maybe_paid

    @property
    def known_cost(self) -> Decimal | None:
        """The whole cost, or None where any answer's cost is unknown."""
        return None if self.unpriced else self.cost

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "status": dict(self.status),
            "errors": dict(self.errors),
            "tokens": dict(self.tokens),
            "cost": str(self.cost),
            "unpriced": self.unpriced,
            "attempts": self.attempts,
            "maybe_paid": self.maybe_paid,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Totals":
        counters = {name: Counter(data[name]) for name in ("status", "errors", "tokens")}
        return cls(**{**data, **counters, "cost": Decimal(data["cost"])})


class PartRecord(NamedTuple):
    """One part file that exists: its number, its rows, its totals (`Totals` as a dict), and what tells that it is unharmed.

    `stamp` is the storage's, `digest` that of its bytes.
    """

    number: int
    rows: int
    totals: dict[str, Any]
    stamp: str
    digest: str
