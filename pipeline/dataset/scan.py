"""What a whole dataset holds, before anything is sent: rows, bad lines, columns, missing and repeated ids.

One pass over the rows, a second one only where ids seem to repeat; memory does not grow with their number.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pipeline.dataset.files import Cursor
from pipeline.dataset.ids import id_problem, id_text
from pipeline.dataset.repeats import HashSpill, RepeatedIds
from pipeline.errors import DatasetError
from pipeline.records import Row

EXAMPLES = 5
MAX_COLUMNS = 1000
PROGRESS_ROWS = 10_000


class Finding(NamedTuple):
    """A row that something is wrong with: `where` is file:line."""

    where: str
    problem: str


class Duplicate(NamedTuple):
    """A row id that stands in two places, each file:line; `id` is cut to 200 characters."""

    id: str
    first: str
    again: str


@dataclass(slots=True, kw_only=True)
class DatasetScan:
    """What was found; the examples are the first few of their count.

    `rows` includes unreadable ones, which count in neither `missing_ids` nor `duplicate_ids`. `columns`
    stand in order of first appearance. `duplicate_ids` counts the rows whose id an earlier row has: exact
    up to 20,000 repeated ids, those beyond by a 64-bit hash.
    """

    rows: int = 0
    empty_lines: int = 0
    unreadable: int = 0
    unreadable_examples: list[Finding] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    missing_ids: int = 0
    missing_id_examples: list[Finding] = field(default_factory=list)
    duplicate_ids: int = 0
    duplicate_examples: list[Duplicate] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """What to look for. `read` starts reading anew at each call; `wanted` None asks for all columns."""

    read: Callable[[Cursor], Iterator[Row]]
    id_column: str | None
    limit: int | None
    wanted: frozenset[str] | None
    on_progress: Callable[[int], None] | None


def scan_rows(request: ScanRequest) -> DatasetScan:
    """Read all rows, or the first `limit`, and return what they hold.

    Raises DatasetError: no row has the id column; more than 1,000 distinct columns and none named.
    """
    with TemporaryDirectory(prefix="promptmill-scan-") as folder:
        spill = HashSpill(Path(folder))
        scan = _first_pass(request, spill)
        candidates = spill.candidates()
    if candidates.hashes:
        _confirm(request, RepeatedIds(candidates), scan)
    return scan


def _first_pass(request: ScanRequest, spill: HashSpill) -> DatasetScan:
    scan = DatasetScan()
    columns = _Columns(request.wanted)
    id_column = request.id_column
    id_column_seen = False
    cursor = Cursor()
    for row in _limited(request, cursor):
        scan.rows += 1
        if request.on_progress and scan.rows % PROGRESS_ROWS == 0:
            request.on_progress(scan.rows)
        if row.problem is not None:
            scan.unreadable += 1
            if scan.unreadable <= EXAMPLES:
                scan.unreadable_examples.append(Finding(row.where, row.problem))
            continue
        columns.add(row)
        if id_column is None:
            continue
        text = id_text(row.columns.get(id_column))
        if text is not None:
            spill.add(text)
            id_column_seen = True
            continue
        id_column_seen = id_column_seen or id_column in row.columns
        scan.missing_ids += 1
        if scan.missing_ids <= EXAMPLES:
            scan.missing_id_examples.append(Finding(row.where, id_problem(row.columns, id_column)))
    if request.on_progress:
        request.on_progress(scan.rows)
    scan.empty_lines = cursor.empty_lines
    scan.columns = columns.names
    if id_column is not None and not id_column_seen and scan.rows > scan.unreadable:
        raise DatasetError(no_id_column(id_column, columns.names))
    return scan


def _confirm(request: ScanRequest, repeated: RepeatedIds, scan: DatasetScan) -> None:
    id_column = request.id_column or ""
    for row in _limited(request, Cursor()):
        text = id_text(row.columns.get(id_column))
        if text is None:
            continue
        first = repeated.first_place(text, row.where)
        if first is not None and len(scan.duplicate_examples) < EXAMPLES:
            scan.duplicate_examples.append(Duplicate(text[:200], first, row.where))
    scan.duplicate_ids = repeated.count


def _limited(request: ScanRequest, cursor: Cursor) -> Iterator[Row]:
    return islice(request.read(cursor), request.limit)


def no_id_column(id_column: str, columns: Collection[str]) -> str:
    """Say that `input.id` names no column, and which there are."""
    shown = ", ".join(list(columns)[:20]) or "none"
    return f'input.id names "{id_column}", which no row has; the columns are: {shown}.'


class _Columns:
    """Column names in order of first appearance, all of them or those wanted."""

    def __init__(self, wanted: frozenset[str] | None) -> None:
        self._wanted = wanted
        self._seen: dict[str, None] = {}

    @property
    def names(self) -> list[str]:
        return list(self._seen)

    def add(self, row: Row) -> None:
        if row.columns.keys() <= self._seen.keys():
            return
        for name in row.columns:
            if self._wanted is None or name in self._wanted:
                self._seen[name] = None
        if self._wanted is None and len(self._seen) > MAX_COLUMNS:
            raise DatasetError(
                f"The rows have more than {MAX_COLUMNS:,} different columns by {row.where}; "
                "name the ones to carry along in output.columns."
            )
