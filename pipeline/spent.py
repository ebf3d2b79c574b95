"""What all attempts of a run folder cost, by month. A table of the journal, and what it holds in `attempts`.

No change of the job, no lost part and no answer that leaves the results takes anything off it: it was paid. An attempt under way
holds its worst case in the journal's `attempts`; what a killed run held is moved here, as what may have been paid. Amounts are
billionths of the currency unit, months as 202611.
"""

import sqlite3

SPENT_SCHEMA = """
CREATE TABLE IF NOT EXISTS spend (month INTEGER PRIMARY KEY, paid INTEGER NOT NULL, maybe INTEGER NOT NULL);
"""
_ADD = """
INSERT INTO spend VALUES (?, ?, ?)
ON CONFLICT (month) DO UPDATE SET paid = paid + excluded.paid, maybe = maybe + excluded.maybe"""

_HELD = """
SELECT month, sum(held) FROM attempts
WHERE open = 1 AND NOT EXISTS (SELECT 1 FROM outcomes WHERE outcomes.idx = attempts.idx) GROUP BY month"""


class Spent:
    """The sums of one open journal; `any` says whether some wait to be kept."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._new: dict[int, tuple[int, int]] = {}

    @property
    def any(self) -> bool:
        return bool(self._new)

    def add(self, month: int, paid: int, maybe: int) -> None:
        """Add what an attempt came to, durably from the next commit on."""
        before = self._new.get(month, (0, 0))
        self._new[month] = (before[0] + paid, before[1] + maybe)

    def settle(self) -> None:
        """Keep what was added, within the caller's transaction."""
        if self._new:
            self._db.executemany(_ADD, ((month, *sums) for month, sums in self._new.items()))

    def settled(self) -> None:
        """What was added is kept, or never will be."""
        self._new.clear()

    def lose_held(self) -> None:
        """Add what the open attempts hold, which nobody will settle, within the caller's transaction."""
        held = self._db.execute(_HELD).fetchall()
        self._db.executemany(_ADD, [(month, 0, amount) for month, amount in held if amount])

    def sums(self) -> dict[int, tuple[int, int]]:
        """By month, what was paid and what may have been; without what is under way."""
        rows = self._db.execute("SELECT month, paid, maybe FROM spend")
        return {month: (paid, maybe) for month, paid, maybe in rows}


def spend(db: sqlite3.Connection) -> tuple[int, int]:
    """What was paid, and may have been without an answer: open attempts count as the latter. A journal of before may not tell."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'spend'").fetchone() is None:
        return 0, 0
    sums = Spent(db).sums().values()
    held = sum(amount for _, amount in db.execute(_HELD))
    return sum(paid for paid, _ in sums), sum(maybe for _, maybe in sums) + held
