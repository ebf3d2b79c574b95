"""Answers that a run folder paid for and no part holds, by the content key of what was asked. Tables of the journal.

`kept` are those of earlier work in this folder: a job or dataset that has changed since. An answer whose question is asked
again becomes the outcome of the row that asks, once, in the transaction that records the outcome; the others stay, so that
to take a change back costs nothing. `shared` are those of this work that identical prompts may share (`[response] dedupe`).

Their order is the input's: of several answers to one question the first goes to the first row that asks.
"""

import sqlite3
from collections.abc import Iterable
from zlib import crc32

import msgspec

from pipeline.records import Outcome

KEPT_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY, key TEXT NOT NULL, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS kept_key ON kept (key);
CREATE TABLE IF NOT EXISTS shared (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
"""
_encode = msgspec.msgpack.Encoder(decimal_format="string").encode
_decode = msgspec.msgpack.Decoder(Outcome).decode
_SUM_BYTES = 4


def encode(outcome: Outcome) -> bytes:
    """An outcome as it is kept. SQLite does not check what a value holds, so its checksum stands behind it."""
    data = _encode(outcome)
    return data + crc32(data).to_bytes(_SUM_BYTES)


def decode(data: bytes) -> Outcome:
    """An outcome out of the journal, whose values were looked over when it was opened."""
    return _decode(memoryview(data)[:-_SUM_BYTES])


def is_intact(data: bytes) -> bool:
    """Whether an outcome is still as it was kept."""
    return crc32(memoryview(data)[:-_SUM_BYTES]) == int.from_bytes(data[-_SUM_BYTES:])


class KeptAnswers:
    """The kept and shared answers of one open journal. `any` says whether there is one to look for at all."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._taken: dict[int, int] = {}  # by row index, the answer that becomes its outcome
        self._taken_numbers: set[int] = set()
        self._shared: dict[str, bytes] = {}
        self.any = self.count() > 0

    def count(self) -> int:
        """How many answers no row of the present work has taken."""
        (count,) = self._db.execute("SELECT count(*) FROM kept").fetchone()
        return int(count)

    def keep(self, outcomes: Iterable[Outcome]) -> None:
        """Keep answers, within the caller's transaction. What was never asked has no key, and is left out."""
        rows = [(outcome.key, encode(outcome)) for outcome in outcomes if outcome.key is not None]
        self._db.executemany("INSERT INTO kept (key, data) VALUES (?, ?)", rows)
        self.any = self.any or bool(rows)

    def take(self, key: str, index: int, row_id: str) -> Outcome | None:
        """A kept answer to this question as the outcome of a row, which the journal must then record."""
        for number, data in self._db.execute("SELECT id, data FROM kept WHERE key = ? ORDER BY id", (key,)):
            if number not in self._taken_numbers and is_intact(data):
                self._taken[index] = number
                self._taken_numbers.add(number)
                outcome = decode(data)
                outcome.index, outcome.row_id = index, row_id
                return outcome
        return None

    def share(self, key: str, outcome: Outcome) -> None:
        """Let identical prompts have this answer, durably from the next commit on."""
        self._shared[key] = encode(outcome)

    def shared(self, key: str) -> Outcome | None:
        """The answer that identical prompts share."""
        data = self._shared.get(key)
        if data is None:
            row = self._db.execute("SELECT data FROM shared WHERE key = ?", (key,)).fetchone()
            data = row and row[0]
        return decode(data) if data is not None and is_intact(data) else None

    def settle(self, indexes: Iterable[int]) -> None:
        """Within the transaction that records these rows: what they took is theirs now, what is shared is kept."""
        if self._taken:
            moved = [self._taken.pop(index) for index in indexes if index in self._taken]
            self._db.executemany("DELETE FROM kept WHERE id = ?", [(number,) for number in moved])
            self._taken_numbers.difference_update(moved)
        if self._shared:
            self._db.executemany("INSERT OR REPLACE INTO shared VALUES (?, ?)", self._shared.items())
            self._shared.clear()

    def forget_shared(self) -> None:
        """Let go of the shared answers, once no row is left that could ask."""
        self._db.execute("DELETE FROM shared")
