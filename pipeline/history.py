"""How a run went over time: a figure of each kind every ten seconds, and each change of pace with its reason.

Two tables of the journal. Counters only grow within a run, and its first and last moment stay, so that moments may be thinned out
without a sum going wrong. `report` draws them, `status` shows the latest events.
"""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from pipeline.databases import Transaction, reading

HISTORY_SCHEMA = """
CREATE TABLE IF NOT EXISTS moments (at_us INTEGER NOT NULL, run_id TEXT NOT NULL, sent INTEGER NOT NULL,
    refused INTEGER NOT NULL, rows INTEGER NOT NULL, tokens INTEGER NOT NULL, spent INTEGER,
    in_flight INTEGER NOT NULL, ceiling INTEGER NOT NULL, requests_per_minute REAL, tokens_per_minute REAL,
    cooling INTEGER NOT NULL, lag_p99_ms REAL);
CREATE TABLE IF NOT EXISTS events (at_us INTEGER NOT NULL, run_id TEXT NOT NULL, reason TEXT NOT NULL);
"""
EVERY_S = 10.0
MOST_MOMENTS = 4_000  # eleven hours; what is longer is kept at twice the distance, and so on
MOST_RUNS = 500  # of a folder that is gone on with for ever
MOST_EVENTS = 2_000  # run.log has those before
_DROP_OLD_RUNS = """
DELETE FROM moments WHERE run_id NOT IN (SELECT run_id FROM moments GROUP BY run_id ORDER BY max(rowid) DESC LIMIT ?)"""
# The first of each run in each span of so many microseconds stays, and the last of each run.
_DROP_BETWEEN = """
DELETE FROM moments WHERE rowid NOT IN (
    SELECT min(rowid) FROM moments GROUP BY run_id, at_us / ?1
    UNION ALL SELECT max(rowid) FROM moments GROUP BY run_id)"""


class Moment(NamedTuple):
    """A run at one instant, in microseconds of Unix time.

    `sent` and `refused` (asked to slow down) count requests of this run; `rows`, `tokens` (in and out) and `spent` (billionths of
    the currency unit, None where there is no price) are those of the whole folder. The rates are what may go at most, None for
    any number. `cooling` says whether nothing was sent at all, `lag_p99_ms` how late the event loop was since the moment before.
    """

    at_us: int
    run_id: str
    sent: int
    refused: int
    rows: int
    tokens: int
    spent: int | None
    in_flight: int
    ceiling: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    cooling: bool
    lag_p99_ms: float | None


class Event(NamedTuple):
    """A change of pace, of the ceiling or a cool-down, with its reason in words."""

    at_us: int
    run_id: str
    reason: str


class History:
    """The history of one open journal. What is told here is kept with the next `keep`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._told: list[Event] = []
        self.every_s = EVERY_S  # from one moment to the next

    def tell(self, event: Event) -> None:
        """Add an event; of a storm of them the first of each second is enough."""
        if not self._told or event.at_us - self._told[-1].at_us >= 1_000_000 or len(self._told) < 100:
            self._told.append(event)

    def keep(self, moment: Moment | None = None) -> None:
        """Write the events told so far, and a moment where there is one.

        Raises sqlite3.Error where it cannot; what was told then goes with the next.
        """
        if not self._told and moment is None:
            return
        with Transaction(self._db):
            if self._told:
                self._db.executemany("INSERT INTO events VALUES (?, ?, ?)", self._told)
                self._db.execute(
                    "DELETE FROM events WHERE rowid <= (SELECT max(rowid) FROM events) - ?", (MOST_EVENTS,)
                )
            if moment is not None:
                self._db.execute("INSERT INTO moments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", moment)
                self._thin_out()
        self._told.clear()

    def _thin_out(self) -> None:
        """Where there are too many moments, they are brought to a distance at which three quarters are left at most.

        It is the same for all runs of the folder, or each that goes on would thin out those before it anew. From now on as few
        come.
        """
        (count,) = self._db.execute("SELECT count(*) FROM moments").fetchone()
        if count <= MOST_MOMENTS:
            return
        count -= self._db.execute(_DROP_OLD_RUNS, (MOST_RUNS,)).rowcount
        # Two moments of each run always stay, which are fewer.
        while count > 3 * MOST_MOMENTS // 4:
            self.every_s *= 2
            count -= self._db.execute(_DROP_BETWEEN, (int(self.every_s * 1_000_000),)).rowcount


def events_of(db: sqlite3.Connection, last: int) -> list[Event]:
    """The latest events, oldest first; none in a journal of before."""
    if not _has(db, "events"):
        return []
    rows = db.execute("SELECT at_us, run_id, reason FROM events ORDER BY rowid DESC LIMIT ?", (last,))
    return [Event(*row) for row in rows][::-1]


def read_history(journal: Path) -> tuple[list[Moment], list[Event]]:
    """All that a journal file holds of the past, in order of time. Raises sqlite3.Error where it cannot be read."""
    with reading(journal) as db:
        moments: list[Moment] = []
        if _has(db, "moments"):
            for row in db.execute("SELECT * FROM moments ORDER BY rowid"):
                moment = Moment(*row)
                moments.append(moment._replace(cooling=bool(moment.cooling)))
        return moments, events_of(db, MOST_EVENTS)


def _has(db: sqlite3.Connection, table: str) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None
