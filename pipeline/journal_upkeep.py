"""What keeps the journal's file small while a run goes on, a little at a time, so that the event loop is never held for long.

A part's rows leave the journal once it is written, and what is committed is brought from SQLite's write-ahead log into the
database file. Done at once, the first would hold the loop for 14 ms a part; the second waits for the disk, perhaps for seconds.
"""

import asyncio
import sqlite3
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pipeline.databases import checkpoint

LEAVE_AT_ONCE = 256  # rows
# A commit is about five pages: so often would SQLite do it by itself (1,000 pages).
COMMITS = 200
_LONG_LOG_FRAMES = 2048  # 32 MiB: from here on the log begins anew
MOST_FRAMES = 8192  # for SQLite itself, while no run goes on and nothing else does it

_LEFT_BEHIND = """
WITH size (n) AS (SELECT CAST(value AS INTEGER) FROM manifest WHERE name = 'rows_per_part')
DELETE FROM outcomes WHERE idx / (SELECT n FROM size) IN
    (SELECT number FROM parts, size WHERE rows = n AND number NOT IN (SELECT number FROM reopened))"""


class Leaving:
    """The rows of written parts that are still to leave the journal; `any` says whether there are some."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._ranges: deque[tuple[int, int, bool]] = deque()

    @property
    def any(self) -> bool:
        return bool(self._ranges)

    def add(self, first: int, end: int, *, outcomes_too: bool) -> None:
        """Let the attempts of rows [first, end) leave, and their outcomes where no short part needs them to grow."""
        self._ranges.append((first, end, outcomes_too))

    def some(self) -> None:
        """Within the caller's transaction, let some leave. No attempt stays without its outcome: it would count as in flight."""
        if not self._ranges:
            return
        first, end, outcomes_too = self._ranges[0]
        here = min(first + LEAVE_AT_ONCE, end)
        self._db.execute("DELETE FROM attempts WHERE idx >= ? AND idx < ?", (first, here))
        if outcomes_too:
            self._db.execute("DELETE FROM outcomes WHERE idx >= ? AND idx < ?", (first, here))
        if here < end:
            self._ranges[0] = (here, end, outcomes_too)
        else:
            self._ranges.popleft()

    def left_behind(self) -> None:
        """Within the caller's transaction, let all leave that a killed run had still to let leave; attempts are the caller's."""
        self._db.execute(_LEFT_BEHIND)


class Checkpoints:
    """Brings commits into a database file beside the event loop. Whoever commits counts `commits`.

    Whoever holds `undisturbed` keeps the last frames of a log from being moved. While they are, a commit would wait for the disk:
    better it waits until that is over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Of its own: were the threads that write parts two by turns, each would keep memory for a part.
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self.commits = 0
        self.undisturbed = asyncio.Lock()

    async def due(self) -> None:
        """A checkpoint in a thread, where it is time for one. Raises sqlite3.Error."""
        if self.commits < COMMITS:
            return
        self.commits = 0
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(self._thread, checkpoint, self._path) < _LONG_LOG_FRAMES:
            return
        # The log begins anew only where all of it was moved, and what came meanwhile was not.
        async with self.undisturbed:
            await loop.run_in_executor(self._thread, partial(checkpoint, self._path, restart=True))

    def close(self) -> None:
        """Wait for a checkpoint that is still under way."""
        self._thread.shutdown()
