"""What a report knows of one run: sums, spreads, extremes and examples, each of bounded size. Only shapes and how they add up.

Unknown is None, never 0: a sum of tokens or cost stands beside the number of answers that told theirs.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from pipeline.history import Event, Moment
from pipeline.report.spread import Spread
from pipeline.repricing import Elsewhere, Repriced, Unpriced
from pipeline.sampling import Interval

MEASURES = ("latency_ms", "first_token_ms", "queue_ms", "prompt_tokens", "completion_tokens")
MOST_NAMES = 100
OTHERS = "(others)"
MOST_EXTREMES = 10
MOST_EXAMPLES = 50
MOST_MOMENTS = 2_000
# Seconds; each divides the next, so that moments can be put together.
_WIDTHS_S = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 21600, 86400)


class Cell(NamedTuple):
    """What rows have in common whose figures are summed. `day` is that of UTC in which they were first sent; None if never."""

    day: date | None
    model: str | None
    route: str | None
    currency: str | None
    status: str
    finish_reason: str | None
    error_kind: str | None


@dataclass(slots=True)
class Sums:
    """Sums over rows. `answers` counts those with an answer; `tokens` and `told` are by token kind, `told` counts answers.

    `cost` sums the priced answers, `unpriced` counts the others: a cost is whole only where that is 0.
    """

    rows: int = 0
    answers: int = 0
    attempts: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    cost: Decimal = Decimal(0)
    unpriced: int = 0

    def merge(self, other: "Sums") -> None:
        self.rows += other.rows
        self.answers += other.answers
        self.attempts += other.attempts
        self.tokens.update(other.tokens)
        self.told.update(other.told)
        self.cost += other.cost
        self.unpriced += other.unpriced

    def known_tokens(self, kind: str) -> int | None:
        """The sum of a kind; None where no answer told it, though there are some."""
        return self.tokens[kind] if self.told[kind] or not self.answers else None

    @property
    def known_cost(self) -> Decimal | None:
        """The cost of the priced answers; None where none is priced, though there are some."""
        return self.cost if self.unpriced < self.answers or not self.answers else None


class ExtremeRow(NamedTuple):
    """A row that stands out: the slowest, the dearest."""

    row_id: str
    input_index: int
    model: str | None
    status: str
    latency_ms: float | None
    attempts: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: Decimal | None
    currency: str | None
    content: str | None


class FailureExample(NamedTuple):
    """The failures of one kind and code: how many rows, and one of them."""

    kind: str
    code: str | None
    rows: int
    row_id: str
    http_status: int | None
    message: str | None


class Extremes:
    """The few rows that stand out most, by a figure that is not None."""

    def __init__(self, figure: Callable[[ExtremeRow], Any]) -> None:
        self._figure = figure
        self.rows: list[ExtremeRow] = []

    def offer(self, rows: Iterable[ExtremeRow]) -> None:
        """Keep those of the rows that stand out; of equals the one that stands first in the input."""
        self.rows = heapq.nlargest(
            MOST_EXTREMES, [*self.rows, *rows], key=lambda row: (self._figure(row), -row.input_index)
        )


@dataclass(slots=True)
class MomentSums:
    """What was settled in a span of time."""

    rows: int = 0
    failed: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)

    def merge(self, other: "MomentSums") -> None:
        self.rows += other.rows
        self.failed += other.failed
        self.tokens += other.tokens
        self.cost += other.cost


class Moments:
    """Figures over time: spans of equal width, put together to wider ones where there come to be too many."""

    def __init__(self) -> None:
        self._level = 0
        self.spans: dict[int, MomentSums] = {}

    @property
    def width_s(self) -> int:
        return _WIDTHS_S[self._level]

    def add(self, second: int, sums: MomentSums) -> None:
        """Add what was settled in a second of Unix time."""
        start = second - second % self.width_s
        self.spans.setdefault(start, MomentSums()).merge(sums)
        while len(self.spans) > MOST_MOMENTS and self._level < len(_WIDTHS_S) - 1:
            self._level += 1
            finer, self.spans = self.spans, {}
            for at, one in finer.items():
                self.add(at, one)

    def binned(self, most: int) -> list[tuple[int, int, MomentSums]]:
        """All time from the first span to the last in at most so many bins: start and width in seconds, and what was settled."""
        if not self.spans:
            return []
        first, last = min(self.spans), max(self.spans)
        width = self.width_s * -(-((last - first) // self.width_s + 1) // most)
        bins = [MomentSums() for _ in range((last - first) // width + 1)]
        for start, span in self.spans.items():
            bins[(start - first) // width].merge(span)
        return [(first + number * width, width, sums) for number, sums in enumerate(bins)]

    def busiest_minute(self, figure: Literal["rows", "tokens"]) -> float:
        """The most rows or tokens in any 60 seconds; where spans are wider, a minute's share of the busiest."""
        if self.width_s >= 60:
            most = max((getattr(span, figure) for span in self.spans.values()), default=0)
            return float(most) * 60 / self.width_s
        last: deque[tuple[int, int]] = deque()
        within = most = 0
        for start, span in sorted(self.spans.items()):
            last.append((start, getattr(span, figure)))
            within += last[-1][1]
            while last[0][0] <= start - 60:
                within -= last.popleft()[1]
            most = max(most, within)
        return float(most)


class Names:
    """Names that a provider chose: so many different ones as a report can show, all further ones as one."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, name: str | None) -> str | None:
        if name is None or name in self._known:
            return name
        if len(self._known) >= MOST_NAMES:
            return OTHERS
        self._known.add(name)
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFacts:
    """What a labelling run came to. `pairs` counts (known label, given label), where the row's label is known.

    A known label that is none of the job's is OTHERS, a row without a valid label is given None.
    """

    labels: tuple[str, ...]
    given: Counter[str | None] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str | None]] = field(default_factory=Counter)


@dataclass(slots=True)
class RepricedFacts:
    """What the answers would have cost elsewhere; `unpriced` counts those without a cost there, by the reason."""

    where: Elsewhere
    answered: int = 0
    known_cost: Decimal = Decimal(0)
    unpriced: Counter[Unpriced] = field(default_factory=Counter)

    def add(self, more: Repriced) -> None:
        self.answered += more.answered
        self.known_cost += more.known_cost
        self.unpriced.update(more.unpriced)

    @property
    def priced_cost(self) -> Decimal | None:
        """The cost of the priced answers; None where none is priced, though there are some."""
        return self.known_cost if self.unpriced.total() < self.answered or not self.answered else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """What a job was estimated to come to, as a whole; None where that was not known. `cost` is in `currency`.

    `source` is where the figures of the answers came from (pilot, run, settled, none), of so many rows.
    """

    source: str
    source_rows: int
    input: Interval | None
    output: Interval | None
    requests: Interval | None
    cost: Interval | None
    currency: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a run says of itself: run.json, journal and job. None where it does not say.

    `rows` is the whole input. `limits` are the job's own (None: the catalogue's or none). `spent` and `maybe` cover all attempts,
    whether a row holds their answer or not. `open_rows` are settled, though their part is not written yet.
    """

    folder: str
    job: str
    provider: str | None
    model: str | None
    route: str | None
    started: datetime | None
    running: bool
    exit_code: int | None
    exit_reason: str | None
    elapsed_s: float | None
    rows: int
    open_rows: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_concurrency: int | None
    max_cost: Decimal | None
    currency: str | None
    spent: Decimal | None
    maybe: Decimal | None
    maybe_paid: int | None


@dataclass(slots=True, kw_only=True)
class RunFacts:
    """All that a report shows of one run folder; every part of it is of bounded size.

    `spreads` are by (day, measure); `moments` count a row where its last answer came, as far as its columns tell. What the
    journal kept of the way is in `moments_kept` and `events`.
    """

    about: About
    cells: dict[Cell, Sums] = field(default_factory=dict)
    spreads: dict[tuple[date | None, str], Spread] = field(default_factory=dict)
    attempts: Counter[int] = field(default_factory=Counter)
    failures: dict[tuple[str, str | None], FailureExample] = field(default_factory=dict)
    slowest: Extremes = field(default_factory=lambda: Extremes(lambda row: row.latency_ms))
    dearest: Extremes = field(default_factory=lambda: Extremes(lambda row: row.cost))
    moments: Moments = field(default_factory=Moments)
    labels: LabelFacts | None = None
    repriced: RepricedFacts | None = None
    estimate: Estimated | None = None
    moments_kept: Sequence[Moment] = ()
    events: Sequence[Event] = ()

    def total(self) -> Sums:
        return total_of(self.cells)

    def spread(self, measure: str) -> Spread:
        """How a measure spreads over all days."""
        return merged(self.spreads, measure)


def summed(cells: dict[Cell, Sums], by: Callable[[Cell], Any]) -> dict[Any, Sums]:
    """The sums of cells that are alike in what `by` says of them, in the order of their first."""
    found: dict[Any, Sums] = {}
    for cell, sums in cells.items():
        found.setdefault(by(cell), Sums()).merge(sums)
    return found


def total_of(cells: dict[Cell, Sums]) -> Sums:
    """The sums of all cells together."""
    return summed(cells, lambda cell: None).get(None, Sums())


def merged(spreads: dict[tuple[date | None, str], Spread], measure: str) -> Spread:
    """How a measure spreads over all days."""
    whole = Spread()
    for (_, name), spread in spreads.items():
        if name == measure:
            whole.merge(spread)
    return whole
