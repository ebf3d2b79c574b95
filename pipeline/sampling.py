"""Which rows to draw of a dataset, and what all of them come to, judged by those drawn.

Pure: sizes and figures in, indexes and intervals out. Rows are divided into strata by their size (prompt tokens, or another
figure that is known of every row); a stratum holds the same share of the measure "half by rows, half by size", so that a few
giant prompts are looked at as well as many small ones. Within a stratum rows are drawn at random by a number that a row keeps:
a larger draw of the same seed holds the smaller one.

The total is the combined regression estimator of stratified sampling, with the finite-population correction (Cochran,
"Sampling Techniques", 3rd edition, 7.10): in each stratum the mean of the drawn, moved along one common slope to the mean
size of the stratum. What was drawn is known and carries no uncertainty.
"""

import heapq
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import NamedTuple

STRATA = 10
# Fewer rows tell too little of how rows differ.
LEAST_DRAWN = 10
_ROWS_PER_STRATUM = 5
# An interval that is called one of 90 % is made as one of 95 %: answers are skewed, so that of the plain ones 85 to 90 of 100
# hold the truth (docs/estimates.md has what was measured).
_CONFIDENCE = 0.95
_MASK = (1 << 64) - 1


class Interval(NamedTuple):
    """What is expected, and between what it lies in nine of ten cases; all three are the same where it is known."""

    value: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Interval":
        return cls(value, value, value)

    def plus(self, known: float) -> "Interval":
        """The same with what is known added."""
        return Interval(self.value + known, self.low + known, self.high + known)


class Drawn(NamedTuple):
    """One row that was looked at: its size, and the figure found."""

    size: int
    figure: float


@dataclass(frozen=True, slots=True)
class Strata:
    """Strata by size; `edges` ascend, a size that equals an edge lies below it. `shares` are of the measure, and add up to 1."""

    edges: tuple[int, ...]
    shares: tuple[float, ...]

    def of(self, size: int) -> int:
        """The stratum that a row of this size lies in."""
        return bisect_left(self.edges, size)


def make_strata(histogram: Mapping[int, int], drawn: int) -> Strata:
    """Divide rows, given as sizes with their number, into strata from which so many are to be drawn. There must be rows."""
    rows = sum(histogram.values())
    whole = sum(size * count for size, count in histogram.items()) or 1
    wanted = max(1, min(STRATA, drawn // _ROWS_PER_STRATUM))
    edges: list[int] = []
    shares: list[float] = []
    so_far = share = 0.0
    last = 0
    for size in sorted(histogram):
        more = histogram[size] * (0.5 / rows + 0.5 * size / whole)
        # A cut before a size that would overshoot by more than it lacks.
        cut = (len(edges) + 1) / wanted
        if share and so_far + more / 2 > cut and len(edges) < wanted - 1:
            edges.append(last)
            shares.append(share)
            share = 0.0
        so_far += more
        share += more
        last = size
    return Strata(tuple(edges), (*shares, share))


def draw(sizes: Sequence[int], strata: Strata, count: int, seed: int) -> list[int]:
    """Draw rows and return their indexes in a random order, of which every beginning is a draw by itself.

    A row whose size is below 0 is not drawn; there must be as many as `count` others.
    """
    # Of each stratum the rows with the smallest numbers, the largest of them first in its heap.
    heaps: list[list[tuple[int, int]]] = [[] for _ in strata.shares]
    rows = [0] * len(heaps)
    for index, size in enumerate(sizes):
        if size < 0:
            continue
        place = bisect_left(strata.edges, size)
        rows[place] += 1
        number = _number(seed, index)
        heap = heaps[place]
        if len(heap) < count:
            heapq.heappush(heap, (-number, index))
        elif number < -heap[0][0]:
            heapq.heapreplace(heap, (-number, index))
    drawn: list[tuple[int, int]] = []
    for heap, take in zip(heaps, _allotted(strata.shares, rows, count), strict=True):
        drawn += heapq.nlargest(take, heap)
    return [index for _, index in sorted(drawn, reverse=True)]


def _number(seed: int, index: int) -> int:
    """A row's own random number: SplitMix64 (Steele, Lea and Flood, 2014) at the place `index` of the seed's stream."""
    z = (seed * 0xD1342543DE82EF95 + index * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _allotted(shares: Sequence[float], rows: Sequence[int], count: int) -> list[int]:
    """How many to draw of each stratum: by its share of the measure, at least 2, at most all its rows; `count` together."""
    taken = [min(2, there) for there in rows]
    while sum(taken) > count:  # so few that not every stratum can have two
        taken[taken.index(max(taken))] -= 1
    for _ in range(count - sum(taken)):
        # The next goes to whom the most is lacking.
        open_ = (place for place, there in enumerate(rows) if taken[place] < there)
        place = max(open_, key=lambda one: shares[one] * count - taken[one])
        taken[place] += 1
    return taken


class _Stratum(NamedTuple):
    """The rows of a stratum, their sizes' sum, and those that were looked at; `others` are no rows of it, but like them."""

    rows: int
    size: int
    drawn: list[Drawn]
    others: bool

    @property
    def whole(self) -> bool:
        return not self.rows or (not self.others and len(self.drawn) >= self.rows)

    @property
    def weight(self) -> float:
        """What its squared deviations count in the variance of the total."""
        n = len(self.drawn)
        if self.whole:
            return 0.0
        # Of rows that were not looked at, how they themselves fall out is uncertain too.
        share = n / self.rows if self.others else -n / self.rows
        return self.rows**2 * (1 + share) / (n * (n - 1))


def total(
    strata: Strata, histogram: Mapping[int, int], drawn: Sequence[Drawn], *, others: bool = False
) -> Interval:
    """The sum of a figure over all rows, given as sizes with their number, of which `drawn` were looked at.

    `others`: what was looked at are other rows, taken to be like these. Raises ValueError for fewer than two drawn, unless that
    is all there are.
    """
    parts = list(_filled(strata, histogram, drawn, others=others))
    open_ = [part for part in parts if not part.whole]
    known = 0.0 if others else math.fsum(one.figure for part in parts if part.whole for one in part.drawn)
    if not open_:
        return Interval.exactly(known)
    n = sum(len(part.drawn) for part in open_)
    means = [
        (fmean(one.size for one in part.drawn), fmean(one.figure for one in part.drawn)) for part in open_
    ]
    slope = 0.0
    free = n - len(open_)
    if free > 2:
        spread = together = 0.0
        for part, (size, figure) in zip(open_, means, strict=True):
            spread += part.weight * math.fsum((one.size - size) ** 2 for one in part.drawn)
            together += part.weight * math.fsum(
                (one.size - size) * (one.figure - figure) for one in part.drawn
            )
        if spread > 0:
            slope = together / spread
            free -= 1
    value, variances = known, []
    for part, (size, figure) in zip(open_, means, strict=True):
        value += part.rows * figure + slope * (part.size - part.rows * size)
        squares = math.fsum((one.figure - figure - slope * (one.size - size)) ** 2 for one in part.drawn)
        variances.append((part.weight * squares * (n - len(open_)) / free, len(part.drawn) - 1))
    half = _half_width(variances)
    # Never surer than by one row: what was not drawn may hold what no drawn row shows.
    rows = sum(part.rows for part in open_)
    half = max(half, abs(value - known) / rows)
    low = value - half
    if all(one.figure >= 0 for one in drawn):
        seen = known if others else known + math.fsum(one.figure for part in open_ for one in part.drawn)
        low = max(low, seen)
    return Interval(max(value, low), low, max(value, low) + half)


def _half_width(variances: Sequence[tuple[float, int]]) -> float:
    whole = math.fsum(variance for variance, _ in variances)
    if whole <= 0:
        return 0.0
    # Satterthwaite's degrees of freedom for a sum of variances (Cochran, 5.4).
    free = whole**2 / math.fsum(variance**2 / degrees for variance, degrees in variances)
    return t_quantile((1 + _CONFIDENCE) / 2, free) * math.sqrt(whole)


def _filled(
    strata: Strata, histogram: Mapping[int, int], drawn: Sequence[Drawn], *, others: bool
) -> Iterator[_Stratum]:
    """The strata with what was drawn of them; one of which too little was drawn is taken together with its neighbours."""
    rows = [0] * len(strata.shares)
    sizes = [0] * len(rows)
    looked_at: list[list[Drawn]] = [[] for _ in rows]
    for size, count in histogram.items():
        place = strata.of(size)
        rows[place] += count
        sizes[place] += size * count
    for one in drawn:
        looked_at[strata.of(one.size)].append(one)
    filled: list[_Stratum] = []
    nothing = held = _Stratum(0, 0, [], others)
    for part in map(_Stratum, rows, sizes, looked_at, [others] * len(rows)):
        if held.rows == 0 and part.whole:
            filled.append(part)
            continue
        held = _joined(held, part)
        if len(held.drawn) >= 2:
            filled.append(held)
            held = nothing
    if held.rows:
        while filled and len(held.drawn) < 2:
            held = _joined(filled.pop(), held)
        if len(held.drawn) < 2:
            raise ValueError(f"{len(held.drawn)} rows drawn: two are the least to judge others by")
        filled.append(held)
    return iter(filled)


def _joined(one: _Stratum, other: _Stratum) -> _Stratum:
    return _Stratum(one.rows + other.rows, one.size + other.size, [*one.drawn, *other.drawn], one.others)


def t_quantile(share: float, degrees: float) -> float:
    """A quantile of Student's distribution, by its expansion around the normal one (Abramowitz and Stegun, 26.7.5).

    Good to a percent from 3 degrees of freedom on; fewer count as 3.
    """
    z, v = NormalDist().inv_cdf(share), max(degrees, 3.0)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
