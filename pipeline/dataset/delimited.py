"""CSV with a header row: commas, double quotes doubled within quotes, every value text.

A row that breaks these rules becomes a row that says why, and reading goes on at the next line.
"""

import csv
from collections.abc import Iterator
from itertools import chain

from pipeline.dataset.files import ByteStream, Cursor
from pipeline.dataset.lines import TooLong, line_blocks, not_utf8_problem, too_long_problem
from pipeline.errors import DatasetError
from pipeline.records import Row


class _RowTooLong(Exception):
    """Raised through the csv reader, which then starts afresh at the next line."""


class _Lines:
    """Feeds the csv reader one line at a time and watches the row that they add up to."""

    def __init__(self, lines: Iterator[bytes | TooLong], max_row_bytes: int) -> None:
        self._lines = lines
        self._max_row_bytes = max_row_bytes
        self.number = 0  # of the last line fed, from 1
        self.start_row()

    def start_row(self) -> None:
        self._row_bytes = 0
        self._quotes = 0
        self.problem: str | None = None

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._next_line()
        if isinstance(line, TooLong) or self._row_bytes > self._max_row_bytes + 1:
            # In a well-formed row an odd number of quotes means that the line's end is still inside a value.
            while self._quotes % 2:
                self._next_line()
            raise _RowTooLong
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError as error:
            self.problem = self.problem or not_utf8_problem(error)
            return line.decode(errors="replace") + "\n"

    def _next_line(self) -> bytes | TooLong:
        line = next(self._lines)
        self.number += 1
        if isinstance(line, TooLong):
            self._quotes += line.quotes
        else:
            self._quotes += line.count(b'"')
            self._row_bytes += len(line) + 1  # with its end, which a value may hold
        return line


def read_csv(stream: ByteStream, name: str, cursor: Cursor, max_line_bytes: int) -> Iterator[Row]:
    """Yield the rows of one file from `cursor.start` on; those before it are parsed but not built.

    Empty lines are counted in `cursor.empty_lines` and are no rows. `max_line_bytes` bounds a whole row,
    which may span lines. Raises DatasetError where the header row is missing or ambiguous.
    """
    # The csv module's bound is one for the whole process; ours, on the row, must be met before it.
    csv.field_size_limit(max(csv.field_size_limit(), max_line_bytes + 1))
    lines = _Lines(chain.from_iterable(line_blocks(stream, name, max_line_bytes)), max_line_bytes)
    header: list[str] | None = None
    for first_line, fields, broken in _split_rows(lines, max_line_bytes):
        if not fields and broken is None:
            cursor.empty_lines += 1
            continue
        if header is None:
            header = _header(fields, broken, name)
            continue
        index = cursor.index
        cursor.index = index + 1
        if index < cursor.start:
            continue
        problem = broken
        if problem is None and len(fields) != len(header):
            problem = f"{len(fields)} values where the header has {len(header)} columns"
        columns = {} if problem else dict(zip(header, fields, strict=True))
        yield Row(index, columns, name, first_line, problem)
    if header is None:
        raise DatasetError(f"{name} is empty; expected a header row with the names of the columns.")


def _split_rows(lines: _Lines, max_row_bytes: int) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield first line, values and problem of each row; an empty line has neither values nor problem."""
    reader = csv.reader(lines, strict=True)
    while True:
        lines.start_row()
        first_line = lines.number + 1
        fields: list[str] = []
        problem = None
        try:
            fields = next(reader)
            problem = lines.problem
        except StopIteration:
            return
        except _RowTooLong:
            problem = too_long_problem("row", max_row_bytes)
        except csv.Error as error:
            problem = lines.problem or _csv_problem(str(error), lines.number - first_line)
        yield first_line, fields, problem


def _csv_problem(message: str, more_lines: int) -> str:
    if message == "unexpected end of data":
        return f"a quote opens here and is not closed by the end of the file, {more_lines:,} lines on"
    if message.startswith("new-line character"):
        return "not valid CSV: a carriage return within a value that is not quoted"
    return f"not valid CSV: {message}"


def _header(fields: list[str], problem: str | None, name: str) -> list[str]:
    if problem:
        raise DatasetError(f"{name}: the header row cannot be read: {problem}.")
    if len(fields) == 1 and (other := next((c for c in ";\t|" if c in fields[0]), None)):
        raise DatasetError(f"{name}: the header row is separated by {other!r}; expected commas.")
    # pandas writes its index under an empty name, so an empty one must not stop the dataset.
    names = [field or f"column_{position}" for position, field in enumerate(fields, 1)]
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise DatasetError(f'{name}: the header row names "{twice}" twice; each column needs its own name.')
    return names
