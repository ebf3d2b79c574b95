"""How any number of values spread, in bounded memory: counts in buckets whose edges grow by a constant factor.

The buckets are those of DDSketch (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019): a percentile is within `ACCURACY` of the true one, and spreads add up exactly. Count, sum, least and most
are exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

_FACTOR = 1.02
_LOG_FACTOR = math.log(_FACTOR)
ACCURACY = (_FACTOR - 1) / (_FACTOR + 1)
# Where a value of nothing, or less, is counted: no logarithm has it.
_NOTHING = -(10**6)


def bucket_of(column: str) -> pl.Expr:
    """The bucket of each value of a numeric column; null where it has none, or is no number."""
    value = pl.col(column).cast(pl.Float64)
    bucket = (value.log() / _LOG_FACTOR).ceil().cast(pl.Int32, strict=False)
    return (
        pl.when(value.is_null() | value.is_nan() | value.is_infinite())
        .then(None)
        .when(value <= 0)
        .then(_NOTHING)
        .otherwise(bucket)
    )


@dataclass(slots=True)
class Spread:
    """The values of one measure; `buckets` counts them by bucket."""

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, bucket: int, count: int, total: float, least: float, most: float) -> None:
        """Add so many values of one bucket, their sum and extremes."""
        self.count += count
        self.total += total
        self.least = min(self.least, least)
        self.most = max(self.most, most)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def merge(self, other: "Spread") -> None:
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def percentile(self, percent: float) -> float | None:
        """The value that so many percent are no larger than (nearest rank); None of no values."""
        if not self.count:
            return None
        rank = max(math.ceil(self.count * percent / 100), 1)
        if rank == self.count:
            return self.most
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min(max(_middle(bucket), self.least), self.most)
        raise AssertionError(f"{self.count} values, but {seen} in buckets")

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


class Bin(NamedTuple):
    """How many values of one series lie between two edges."""

    low: float
    high: float
    rows: int
    series: str


def columns(spreads: Mapping[str, Spread], most: int) -> list[Bin]:
    """The values above 0 of some series in at most so many columns, the same for all, ascending; empty ones left out."""
    above = [bucket for spread in spreads.values() for bucket in spread.buckets if bucket != _NOTHING]
    if not above:
        return []
    first = min(above)
    together = (max(above) - first) // most + 1
    counts: dict[tuple[str, int], int] = {}
    for series, spread in spreads.items():
        for bucket, count in sorted(spread.buckets.items()):
            if bucket != _NOTHING:
                at = series, (bucket - first) // together
                counts[at] = counts.get(at, 0) + count
    edge = first - 1  # a bucket begins where the one before it ends
    return [
        Bin(_FACTOR ** (edge + n * together), _FACTOR ** (edge + (n + 1) * together), count, series)
        for (series, n), count in counts.items()
    ]


def _middle(bucket: int) -> float:
    """The value that is equally far, in proportion, from both edges."""
    return 0.0 if bucket == _NOTHING else 2 * _FACTOR**bucket / (_FACTOR + 1)
