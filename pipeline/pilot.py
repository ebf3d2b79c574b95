"""A pilot: a few rows of a job, drawn from all its dataset, asked before the others as part of the same run folder.

Their outcomes wait in the journal, where the run that follows finds them; no range is opened and no part written. Rows are
asked in the order in which they were drawn, so that those of a pilot that was stopped are a draw as well.
"""

from collections import deque
from collections.abc import Callable, Collection, Container, Sequence
from datetime import datetime
from uuid import uuid4

from pipeline.dataset import Dataset
from pipeline.feeder import Fed
from pipeline.journal import Journal
from pipeline.parts import Layout, OpenRange
from pipeline.records import Outcome, Row

_MARK = "pilot"


def new_run_id(started: datetime, *, pilot: bool) -> str:
    """A name for a run that begins now; that of a pilot says so, for `is_pilot`."""
    return "-".join([f"{started:%Y%m%dT%H%M%S}", *([_MARK] if pilot else []), uuid4().hex[:8]])


def is_pilot(run_id: str | None) -> bool:
    """Whether a row was paid for by a pilot."""
    return run_id is not None and f"-{_MARK}-" in run_id


def still_to_ask(
    drawn: Sequence[int], journal: Journal, parts: Container[int], rows_per_part: int
) -> list[int]:
    """Those of the drawn rows that have no outcome yet, in their order."""
    return [
        index
        for index in drawn
        if index // rows_per_part not in parts and not journal.outcomes(index, index + 1)
    ]


class PilotFeeder:
    """Feeds the rows of a pilot, as `Feeder` feeds those of a run."""

    def __init__(self, dataset: Dataset, layout: Layout, indexes: Sequence[int]) -> None:
        self._dataset = dataset
        self._indexes = indexes
        self._open = len(indexes)
        self._rows: deque[Row] = deque()
        self._closed = False
        self._range = OpenRange(layout, 0, 0)  # none of these rows goes into it
        self.on_full: Callable[[OpenRange], None] = lambda _: None
        self.on_no_room: Callable[[], None] = lambda: None

    @property
    def exhausted(self) -> bool:
        """Whether every row has its outcome."""
        return self._open == 0

    def start(self, done: Collection[int]) -> None:
        """Read the rows, of which none lies in a part that is `done`. Raises DatasetError as reading does."""
        wanted = set(self._indexes)
        read: dict[int, Row] = {}
        for row in self._dataset.rows():
            if row.index in wanted:
                read[row.index] = row
                if len(read) == len(wanted):
                    break
        self._rows.extend(read[index] for index in self._indexes)

    async def take(self) -> Fed | None:
        """The next row to ask, or None when there is none left."""
        return None if self._closed or not self._rows else Fed(self._rows.popleft(), self._range)

    def settle(self, outcome: Outcome, range_: OpenRange) -> None:
        """Note that a row has its outcome; the journal keeps it."""
        self._open -= 1

    def written(self, range_: OpenRange) -> None:
        """No part comes of a pilot."""

    def close(self) -> None:
        """Feed no more rows."""
        self._closed = True
