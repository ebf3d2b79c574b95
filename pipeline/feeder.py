"""Rows in order to the workers that ask for them, and the ranges they belong to.

A range opens when its first row is fed and closes when its part is written; only a few are open at once, so that memory
and journal stay small however many rows there are. Rows whose outcome the journal kept are settled here and never fed.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, Protocol

from pipeline.dataset import Dataset
from pipeline.errors import DatasetError
from pipeline.journal import Journal
from pipeline.parts import Layout, OpenRange
from pipeline.progress import Counters
from pipeline.records import Outcome, Row, Status
from pipeline.totals import PartRecord, Totals

MAX_OPEN_RANGES = 16


class Fed(NamedTuple):
    """A row to ask, and the open range it belongs to. `old` is the outcome it has already, where it is asked again."""

    row: Row
    range: OpenRange
    old: Outcome | None = None


class Again(NamedTuple):
    """What is asked again: rows whose status is among `statuses`, in any range, and `parts` that are to be written anew for it.

    `read` gives the outcomes of a part that stands.
    """

    statuses: frozenset[Status]
    parts: Mapping[int, PartRecord]
    read: Callable[[int], list[Outcome]]


class Feeding(Protocol):
    """What a runner takes its rows from, and gives their outcomes to."""

    on_full: Callable[[OpenRange], None]
    on_no_room: Callable[[], None]

    @property
    def exhausted(self) -> bool: ...
    async def take(self) -> Fed | None: ...
    def settle(self, outcome: Outcome, range_: OpenRange) -> None: ...
    def written(self, range_: OpenRange) -> None: ...
    def close(self) -> None: ...


class Feeder:
    """Feeds the first `counters.rows` rows of a dataset, but for those of ranges that have their part already.

    `on_full` is told of each range whose last outcome is in; `on_no_room` is called before rows wait for a range's end.
    """

    def __init__(
        self, dataset: Dataset, layout: Layout, journal: Journal, counters: Counters, again: Again
    ) -> None:
        self._dataset = dataset
        self._total = counters.rows
        self._layout = layout
        self._journal = journal
        self._counters = counters
        self._again = again
        self._old: dict[int, Outcome] = {}
        self._done: Collection[int] = frozenset()
        self._rows: Iterator[Row] = iter(())
        self._held: Row | None = None
        self._open: dict[int, OpenRange] = {}
        self._kept: dict[int, Outcome] = {}
        self._room = asyncio.Event()
        self._closed = False
        self._fed_to = 0
        self.on_full: Callable[[OpenRange], None] = lambda _: None
        self.on_no_room: Callable[[], None] = lambda: None

    @property
    def exhausted(self) -> bool:
        """Whether every row was fed and every range has its part."""
        return self._closed and self._fed_to >= self._total and not self._open

    def start(self, done: Collection[int]) -> None:
        """Begin at the first row that has no part; `done` are the numbers of the parts there are."""
        self._done = done
        size = self._layout.rows_per_part
        first = next(n for n in range(len(done) + 1) if n not in done) * size
        self._fed_to = first
        self._rows = islice(self._dataset.rows(start=first), max(self._total - first, 0))

    async def take(self) -> Fed | None:
        """The next row to ask, or None when there is none left. Raises DatasetError where the input is not what it was."""
        while not self._closed:
            row = self._held or next(self._rows, None)
            self._held = None
            if row is None:
                self._closed = True
                self._check_whole()
                break
            number = row.index // self._layout.rows_per_part
            self._fed_to = row.index + 1
            if number in self._done:
                continue
            range_ = self._open.get(number)
            if range_ is None:
                if len(self._open) >= MAX_OPEN_RANGES:
                    self._held = row
                    self._room.clear()
                    self.on_no_room()
                    await self._room.wait()
                    continue
                range_ = self._opened(number)
            range_.carry(row.index, row.columns)
            kept = self._kept.pop(row.index, None)
            if kept is None:
                return Fed(row, range_, self._old.pop(row.index, None))
            self.settle(kept, range_)
        return None

    def settle(self, outcome: Outcome, range_: OpenRange) -> None:
        """Put a row's outcome into its range."""
        if range_.settle(outcome):
            self.on_full(range_)

    def written(self, range_: OpenRange) -> None:
        """Let go of a range whose part is written."""
        del self._open[range_.number]
        self._room.set()

    def close(self) -> None:
        """Feed no more rows."""
        self._closed = True
        self._room.set()

    def _opened(self, number: int) -> OpenRange:
        size = self._layout.rows_per_part
        first = number * size
        range_ = OpenRange(self._layout, number, min(size, self._total - first))
        self._open[number] = range_
        kept = self._journal.outcomes(first, first + range_.size)
        if (part := self._again.parts.get(number)) is not None:
            kept = self._part_opened_again(part, kept)
        if old := {i: outcome for i, outcome in kept.items() if outcome.status in self._again.statuses}:
            self._journal.ask_again(old)
            self._counters.take_back(list(old.values()))
            self._old |= old
        self._kept |= {index: outcome for index, outcome in kept.items() if index not in old}
        return range_

    def _part_opened_again(self, part: PartRecord, newer: dict[int, Outcome]) -> dict[int, Outcome]:
        """The outcomes of a part that stands, which is to be written anew; those settled since win."""
        outcomes = {outcome.index: outcome for outcome in self._again.read(part.number)} | newer
        self._counters.replace(Totals.from_json(part.totals), list(outcomes.values()))
        self._journal.reopen(part)
        return outcomes

    def _check_whole(self) -> None:
        changed = self._dataset.changed()
        if changed is None and self._fed_to < self._total:
            changed = f"The dataset ended at row {self._fed_to:,}, though it had {self._total:,} when the run began."
        if changed is not None:
            raise DatasetError(f"{changed} The input must not change while a run reads it.")
