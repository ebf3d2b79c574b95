"""The journal: a SQLite file (WAL) in the run folder that survives the process at any moment.

It owns the manifest (what this folder is a run of), the attempts and outcomes of ranges that have no part file yet, the
list of parts, the answers that this folder paid for and no part holds (kept from before the job or dataset changed, or
shared by identical prompts), what all its attempts cost, and how its runs went over time. An attempt is committed before it
is sent, an outcome when it comes; both in group commits: what gathers within two milliseconds is one transaction. A part's rows
leave with the transaction that records the part and those that follow, some at a time. What another process may see of it is in
`journal_view.py`.

What an attempt row means after a crash:

    no row, no outcome     never sent
    open = 1, no outcome   was in flight: may have been paid; asked again and counted as `maybe_paid`
    open = 0, no outcome   had failed and waited for its next attempt: asked again; `maybe_paid` counts those of its
                           failed attempts that may have been paid
    outcome                settled: never asked again

An open attempt holds its worst case (`held`, in billionths of the currency unit), which counts as spent until it is settled: what
it came to is added to the sums of `spent.py` in the same commit.

A range whose part stands already may be open again, to have some rows asked again (`reopened`): its part stays in place, and
counts, until another is renamed over it; outcomes here win over those in the part.

Commits survive the death of the process (kill -9). A journal that is `durable` fsyncs each of them besides, so that they also
survive the loss of power; one that is not may then lack its last commits, but is never torn.
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipeline.databases import Transaction, give_back_space
from pipeline.errors import RunFolderError
from pipeline.history import HISTORY_SCHEMA, History
from pipeline.journal_upkeep import MOST_FRAMES, Checkpoints, Leaving
from pipeline.kept import KEPT_SCHEMA, KeptAnswers, decode, encode, is_intact
from pipeline.private import make_private_file
from pipeline.records import Outcome
from pipeline.spent import SPENT_SCHEMA, Spent, spend
from pipeline.totals import PartRecord

JOURNAL_VERSION = 4
FILE_NAME = "journal.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS manifest (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts (idx INTEGER PRIMARY KEY, open INTEGER NOT NULL, maybe_paid INTEGER NOT NULL,
    held INTEGER NOT NULL, month INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (idx INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS parts (number INTEGER PRIMARY KEY, rows INTEGER NOT NULL, totals TEXT NOT NULL,
    stamp TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS reopened (number INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS asked_again (idx INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""
_BEGIN_ATTEMPT = """
INSERT INTO attempts VALUES (?, 1, 0, ?, ?)
ON CONFLICT (idx) DO UPDATE SET open = 1, held = excluded.held, month = excluded.month"""
_END_ATTEMPT = "UPDATE attempts SET open = 0, maybe_paid = maybe_paid + ? WHERE idx = ?"
# A part that is shorter than the others keeps its rows here.
OPEN_OUTCOMES = """
WITH size (n) AS (SELECT CAST(value AS INTEGER) FROM manifest WHERE name = 'rows_per_part')
SELECT data FROM outcomes, size LEFT JOIN parts ON parts.number = outcomes.idx / size.n
WHERE parts.rows IS NULL OR outcomes.idx % size.n >= parts.rows
ORDER BY idx"""
_UNSETTLED = "FROM attempts WHERE NOT EXISTS (SELECT 1 FROM outcomes WHERE outcomes.idx = attempts.idx)"
_MAYBE_PAID = f"SELECT coalesce(sum(open + maybe_paid), 0) {_UNSETTLED}"
IN_FLIGHT = f"SELECT coalesce(sum(open), 0) {_UNSETTLED}"
_OUTCOMES_AT_ONCE = 1000
_SOME_OUTCOMES = "SELECT data FROM outcomes WHERE idx > ? ORDER BY idx LIMIT ?"
# A transaction costs 50 us whatever it holds, as much as all else that is done for a row; no provider answers in 2 ms.
# Also after a pause: what the gate let go evenly is to leave evenly.
_GATHER_S = 0.002
_WAIT_S = 60.0
log = logging.getLogger("promptmill")


class Journal:
    """The journal opened for writing by the one run that holds the lock. Every method runs on the event loop's thread."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        path = folder / FILE_NAME
        make_private_file(path)
        # Only a checkpoint of ours may be in the way: a slow disk is waited for, as within a commit, and ends no run.
        self._db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path, durable)
        except (sqlite3.Error, RunFolderError):
            self._db.close()
            raise
        self._begun: list[tuple[int, int, int]] = []
        self._failed: list[tuple[int, int]] = []
        self._recorded: list[tuple[int, bytes]] = []
        self.kept = KeptAnswers(self._db)
        self.spent = Spent(self._db)
        self.history = History(self._db)
        self._leaving = Leaving(self._db)
        self._checkpoints = Checkpoints(path)
        # To be held around what is committed at once, so that the event loop does not wait there for a checkpoint.
        self.undisturbed = self._checkpoints.undisturbed
        self._waiting: list[asyncio.Future[None]] = []
        self._scheduled = False
        self._broken: sqlite3.Error | None = None

    def _prepare(self, path: Path, durable: bool) -> None:
        self._db.execute("PRAGMA page_size = 16384")  # outcomes are a kilobyte: fewer, larger pages cost less
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {MOST_FRAMES}")
        # With a write-ahead log NORMAL syncs it at checkpoints alone, FULL after each commit (SQLite, "PRAGMA synchronous").
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute(
            "PRAGMA fullfsync = ON"
        )  # macOS: fsync alone leaves it in the drive's cache; elsewhere nothing
        self._db.executescript(_SCHEMA + KEPT_SCHEMA + SPENT_SCHEMA + HISTORY_SCHEMA)
        version = self.manifest().setdefault("journal_version", str(JOURNAL_VERSION))
        if version != str(JOURNAL_VERSION):
            raise RunFolderError(
                f"{path} was written by another version of promptmill (journal {version}, here {JOURNAL_VERSION}); "
                "use that version, or another output.path"
            )
        self.write_manifest({"journal_version": version})

    # The manifest

    def manifest(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, value FROM manifest"))

    def write_manifest(self, values: dict[str, str]) -> None:
        with Transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO manifest VALUES (?, ?)", values.items())

    # One row's way

    def begin_attempt(self, index: int, held: int = 0, month: int = 0) -> asyncio.Future[None]:
        """Note that a row is about to be sent; await the answer before sending. Raises sqlite3.Error if it cannot be kept.

        `held` is the attempt's worst case in billionths, `month` the one it counts in.
        """
        self._soon()
        self._begun.append((index, held, month))
        # One future a caller: a cancelled task cancels what it awaits, which must not be what others await.
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append(kept)
        return kept

    def attempt_failed(self, index: int, *, maybe_paid: bool) -> None:
        """Note that the row's attempt came to its end and failed; the row has no outcome yet."""
        self._soon()
        self._failed.append((int(maybe_paid), index))

    def add_spent(self, month: int, paid: int, maybe: int) -> None:
        """Add to what this folder paid, and may have paid, in a month; call it where the attempt's end is noted."""
        self._soon()
        self.spent.add(month, paid, maybe)

    def record(self, outcome: Outcome) -> None:
        """Keep a row's outcome."""
        self._soon()
        self._recorded.append((outcome.index, encode(outcome)))

    def _soon(self) -> None:
        if self._broken is not None:
            raise self._broken
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._gathered)

    def _gathered(self) -> None:
        if not self.undisturbed.locked():
            self.commit()

    def commit(self) -> None:
        """Write all that has gathered in one transaction and wake those who wait for it."""
        self._scheduled = False
        waiting, self._waiting = self._waiting, []
        if self._broken is None and (
            self._begun or self._failed or self._recorded or self._leaving.any or self.spent.any
        ):
            try:
                with Transaction(self._db):
                    # In this order: an attempt that ends was begun in an earlier commit, and its row may begin the next in this.
                    if self._failed:
                        self._db.executemany(_END_ATTEMPT, self._failed)
                    if self._begun:
                        self._db.executemany(_BEGIN_ATTEMPT, self._begun)
                    if self._recorded:
                        self._db.executemany("INSERT OR REPLACE INTO outcomes VALUES (?, ?)", self._recorded)
                        self.kept.settle(index for index, _ in self._recorded)
                    self.spent.settle()
                    self._leaving.some()
            except sqlite3.Error as error:
                # Nothing unrecorded may be sent, and nothing later may pretend to be kept.
                self._broken = error
            self._checkpoints.commits += 1
            self._begun.clear()
            self.spent.settled()
            self._failed.clear()
            self._recorded.clear()
        for one in waiting:
            if one.done():  # its row was cancelled
                continue
            if self._broken is None:
                one.set_result(None)
            else:
                one.set_exception(self._broken)

    def flush(self) -> None:
        """Commit now. Raises sqlite3.Error where this commit or an earlier one failed: then something is not kept."""
        self.commit()
        if self._broken is not None:
            raise self._broken

    async def checkpoint(self) -> None:
        """Bring commits into the database file, where enough has gathered; nothing else waits for the disk meanwhile.

        Raises sqlite3.Error.
        """
        try:
            await self._checkpoints.due()
        finally:
            if self._scheduled:  # and perhaps had to wait
                self.commit()

    def spend(self) -> tuple[int, int]:
        """What the folder paid, and may have paid without an answer, in billionths: open attempts count as the latter."""
        return spend(self._db)

    # Ranges and parts

    def outcomes(self, first: int, end: int) -> dict[int, Outcome]:
        """The outcomes kept for rows [first, end) of a range that has no part yet."""
        rows = self._db.execute("SELECT idx, data FROM outcomes WHERE idx >= ? AND idx < ?", (first, end))
        return {index: decode(data) for index, data in rows}

    def open_outcomes(self) -> Iterator[list[Outcome]]:
        """All outcomes kept for rows that have no part, in input order, some at a time."""
        rows = self._db.execute(OPEN_OUTCOMES)
        while some := rows.fetchmany(_OUTCOMES_AT_ONCE):
            yield [decode(data) for (data,) in some]

    def change_outcomes(self, change: Callable[[Outcome], None]) -> None:
        """Change every outcome that is not in a part alone, in one transaction."""
        last = -1
        with Transaction(self._db):
            while some := self._db.execute(_SOME_OUTCOMES, (last, _OUTCOMES_AT_ONCE)).fetchall():
                outcomes = [decode(data) for (data,) in some]
                for outcome in outcomes:
                    change(outcome)
                self._db.executemany(
                    "UPDATE outcomes SET data = ? WHERE idx = ?",
                    [(encode(one), one.index) for one in outcomes],
                )
                last = outcomes[-1].index

    def parts(self) -> dict[int, PartRecord]:
        return {part.number: part for part in parts_of(self._db)}

    def add_part(self, part: PartRecord, first: int, *, keep_rows: bool) -> None:
        """Record a part file that now exists, and let go of its rows from now on: with this transaction and the next ones.

        `keep_rows` keeps the outcomes of a part that is shorter than the others, so that it can grow with the dataset.
        """
        self.flush()
        with Transaction(self._db):
            self._db.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)",
                (part.number, part.rows, json.dumps(part.totals), part.stamp, part.digest),
            )
            end = first + part.rows
            self._db.execute("DELETE FROM asked_again WHERE idx >= ? AND idx < ?", (first, end))
            self._db.execute("DELETE FROM reopened WHERE number = ?", (part.number,))
            self._leaving.add(first, end, outcomes_too=not keep_rows)
            self._leaving.some()

    def restamp(self, part: PartRecord) -> None:
        """Note that a part's file has another stamp, and is the same."""
        with Transaction(self._db):
            self._db.execute("UPDATE parts SET stamp = ? WHERE number = ?", (part.stamp, part.number))

    def drop_part(self, part: PartRecord, *, rows_kept: bool) -> None:
        """Let go of a part's record. Unless its rows are kept here, what it may have paid for is counted here from now on."""
        with Transaction(self._db):
            if not rows_kept:
                self._count_maybe_paid(part.totals.get("maybe_paid", 0))
            self._drop_part(part.number)

    def _drop_part(self, number: int) -> None:
        self._db.execute("DELETE FROM parts WHERE number = ?", (number,))
        self._db.execute("DELETE FROM reopened WHERE number = ?", (number,))

    def drop_damaged(self) -> int:
        """Let go of the outcomes that are not as they were kept, and say how many: their rows have none any more."""
        dropped = 0
        with Transaction(self._db):
            for table in ("outcomes", "asked_again"):
                rows = self._db.execute(f"SELECT idx, data FROM {table}")  # noqa: S608  (fixed names)
                damaged = [(index,) for index, data in rows if not is_intact(data)]
                self._db.executemany(f"DELETE FROM {table} WHERE idx = ?", damaged)  # noqa: S608
                self._let_go_of_held(damaged)
                dropped += len(damaged)
        return dropped

    # Rows asked again

    def reopened(self) -> set[int]:
        """The parts that stand and are being written anew."""
        return {number for (number,) in self._db.execute("SELECT number FROM reopened")}

    def reopen(self, part: PartRecord) -> None:
        """Note that a part's range is open again. What it may have paid for is counted here from now on: no column tells it."""
        self.flush()
        with Transaction(self._db):
            self._db.execute("INSERT OR IGNORE INTO reopened VALUES (?)", (part.number,))
            self._count_maybe_paid(part.totals.get("maybe_paid", 0))
            totals = json.dumps({**part.totals, "maybe_paid": 0})
            self._db.execute("UPDATE parts SET totals = ? WHERE number = ?", (totals, part.number))

    def ask_again(self, indexes: Iterable[int]) -> None:
        """Take the outcomes of rows back, should they be here, until they have new ones or the next run opens the folder."""
        self.flush()
        with Transaction(self._db):
            rows = [(index,) for index in indexes]
            self._db.executemany(
                "INSERT OR REPLACE INTO asked_again SELECT * FROM outcomes WHERE idx = ?", rows
            )
            self._db.executemany("DELETE FROM outcomes WHERE idx = ?", rows)
            self._let_go_of_held(rows)

    def _let_go_of_held(self, rows: list[tuple[int]]) -> None:
        """Rows that had their outcome, and so were settled, lose it: nothing of them is under way."""
        self._db.executemany("UPDATE attempts SET held = 0 WHERE idx = ?", rows)

    # Answers that no part holds

    def keep_part(self, part: PartRecord, first: int, outcomes: Iterable[Outcome]) -> None:
        """Move a part's answers here, in one transaction; its file may then go."""
        with Transaction(self._db):
            self.kept.keep(outcomes)
            self._count_maybe_paid(part.totals.get("maybe_paid", 0))
            self._db.execute("DELETE FROM outcomes WHERE idx >= ? AND idx < ?", (first, first + part.rows))
            self._drop_part(part.number)

    def keep_outcomes(self) -> None:
        """Keep the answers of all rows that have no part; after it no row is settled."""
        while some := self._db.execute("SELECT data FROM outcomes LIMIT ?", (_OUTCOMES_AT_ONCE,)).fetchall():
            outcomes = [decode(data) for (data,) in some]
            with Transaction(self._db):
                self.kept.keep(outcomes)
                self._count_maybe_paid(sum(outcome.maybe_paid for outcome in outcomes))
                self._db.executemany("DELETE FROM outcomes WHERE idx = ?", [(o.index,) for o in outcomes])

    def _count_maybe_paid(self, more: int) -> None:
        count = int(self.manifest().get("maybe_paid", "0")) + more
        self._db.execute("INSERT OR REPLACE INTO manifest VALUES ('maybe_paid', ?)", (str(count),))

    def maybe_paid(self) -> int:
        """How many requests for rows without outcome may have been paid: those of earlier runs and those still open."""
        (count,) = self._db.execute(_MAYBE_PAID).fetchone()
        return int(count) + int(self.manifest().get("maybe_paid", "0"))

    def take_open_attempts(self) -> int:
        """Count what an earlier run sent and never got settled, and clear it: those rows will be asked again.

        Their worst cases are spent from now on, as what may have been paid. Outcomes that were leaving with their part have left.
        """
        with Transaction(self._db):
            (count,) = self._db.execute(_MAYBE_PAID).fetchone()
            self._db.execute(
                "INSERT OR REPLACE INTO manifest VALUES ('maybe_paid', ?)", (str(self.maybe_paid()),)
            )
            self.spent.lose_held()
            self._db.execute("DELETE FROM attempts")
            self._leaving.left_behind()
            # Rows that an earlier run began to ask again, and did not settle anew, have their old outcome.
            self._db.execute("INSERT OR IGNORE INTO outcomes SELECT * FROM asked_again")
            self._db.execute("DELETE FROM asked_again")
        return int(count)

    def close(self) -> None:
        """Commit and close. What could not be kept has been told before: here nothing is raised."""
        self._checkpoints.close()
        self.commit()
        while self._leaving.any and self._broken is None:
            self.commit()
        if self._broken is None:
            try:
                give_back_space(self._db)
            except sqlite3.Error as error:
                log.warning("the journal is larger than it need be: %s", error)
        self._db.close()


def parts_of(db: sqlite3.Connection) -> Iterator[PartRecord]:
    for number, rows, totals, stamp, digest in db.execute("SELECT * FROM parts ORDER BY number"):
        yield PartRecord(number, rows, json.loads(totals), stamp, digest)
