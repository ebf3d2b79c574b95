"""The ledger of months: what all runs that name the same `[budget] scope` spent in a month, so that none passes the cap of all.

A SQLite file in the user's state folder, shared by every run of the user on this machine. Each run folder has one row a scope and
month: what it paid, what it may have paid, and what it is granted. A run spends within its grant without looking here, and asks
for more before it needs it, in one transaction over all rows:

    the others' grants + its own <= cap

So no two processes can spend the same money, and one that is killed leaves its grant standing: the same command takes the row
over with what the journal knows, and gives the rest back. Rows hold totals of a run folder, not of a run: pilots, retries and
resumed runs of a folder count once.

A month is one of UTC, the same for every job and machine, and an attempt belongs to the month in which it was begun.
"""

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from pipeline.budget import MonthSpend, said
from pipeline.databases import Transaction, is_damage, reading
from pipeline.errors import JobError, PromptmillError, SetupError
from pipeline.pricing import from_nano
from pipeline.private import make_private_file, make_private_folder

LEDGER_NAME = "ledger.sqlite"
_VERSION = 1
_SCHEMA = """
CREATE TABLE spend (scope TEXT NOT NULL, month INTEGER NOT NULL, folder TEXT NOT NULL, currency TEXT NOT NULL,
    path TEXT NOT NULL, job TEXT NOT NULL, paid INTEGER NOT NULL, maybe INTEGER NOT NULL, granted INTEGER NOT NULL,
    updated TEXT NOT NULL, PRIMARY KEY (scope, month, folder)) WITHOUT ROWID
"""
_PUT = "INSERT OR REPLACE INTO spend VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OTHERS = "SELECT coalesce(sum(max(granted, paid + maybe)), 0) FROM spend WHERE scope = ? AND month = ? AND folder <> ?"
# A grant is this share of what is left, so that a run asks some hundred times and others find room meanwhile.
_SHARE = 32
_PATIENCE_S = 30.0


class LedgerError(PromptmillError):
    """The ledger of months took no more writes; what is not in it is not spent."""


def month_of(moment: datetime) -> int:
    """The month that an aware moment belongs to, as 202611."""
    utc = moment.astimezone(UTC)
    return utc.year * 100 + utc.month


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose month it is, and who spends of it. `cap` is in billionths; `folder` is the run folder's own name for itself."""

    name: str
    cap: int
    currency: str
    folder: str
    path: Path
    job: str


class MonthlyLedger:
    """The ledger as one run writes it: its `Grants`. Every method is a transaction of a fraction of a millisecond."""

    def __init__(self, file: Path, scope: Scope, now: Callable[[], datetime]) -> None:
        """Open the ledger, or make it. Raises SetupError where it cannot be used."""
        self._file = file
        self._scope = scope
        self._now = now
        try:
            _make(file)
            self._db = sqlite3.connect(file, isolation_level=None, timeout=_PATIENCE_S)
            self._db.execute("PRAGMA synchronous = FULL")  # shared by all runs, and written seldom
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and is_damage(error):
                advice = "Put a copy of it back, or remove it: then what was spent this month is not counted"
            else:
                advice = "Make it writable, or take max_cost_per_month out"
            raise SetupError(
                f"the ledger of months {file} cannot be used: {error}. Nothing was sent. {advice}"
            ) from error
        if version != _VERSION:
            self._db.close()
            raise SetupError(
                f"the ledger of months {file} was written by another version of promptmill (ledger {version}, here {_VERSION}): "
                "use that version. Nothing was sent"
            )

    def begin(self, months: Iterable[MonthSpend], *, exact: bool) -> None:
        """Take this folder's rows over. `exact`: they are all it spent, and what a killed run was granted besides is free again.

        Raises JobError where the scope counts in another currency.
        """
        scope = self._scope
        with self._transaction():
            query = "SELECT currency, job FROM spend WHERE scope = ? AND currency <> ? LIMIT 1"
            if other := self._db.execute(query, (scope.name, scope.currency)).fetchone():
                raise JobError(
                    f'[budget] scope "{scope.name}" counts in {other[0]} (job {other[1]}), and this job is billed in '
                    f"{scope.currency}: sums of both mean nothing. Name another scope"
                )
            for spend in months:
                spend.granted = spend.spent if exact else max(spend.spent, self._granted(spend.month))
                self._put(spend)

    def grant(self, spend: MonthSpend, amount: int) -> int:
        with self._transaction():
            room = self._room(spend.month)
            needed = spend.spent + spend.held + amount
            if needed > room:
                return spend.granted
            spend.granted = max(spend.granted, min(room, needed + (room - needed) // _SHARE))
            self._put(spend)
        return spend.granted

    def room(self, month: int) -> int:
        with self._transaction():
            return self._room(month)

    def note(self, spend: MonthSpend) -> None:
        used = spend.spent + spend.held
        with self._transaction():
            # Between two of these a run may come to what it was granted: what is given back is only what it did not use for long.
            spend.granted = min(spend.granted, max(used, used + (self._room(spend.month) - used) // _SHARE))
            self._put(spend)

    def close(self, months: Iterable[MonthSpend]) -> None:
        """Give back all that is not spent, and close."""
        with closing(self._db), self._transaction():
            for spend in months:
                spend.granted = spend.spent + spend.held
                self._put(spend)

    def refusal(self, spend: MonthSpend, amount: int) -> str:
        scope = self._scope
        room = self.room(spend.month)
        return (
            f'max_cost_per_month is reached: of {said(scope.cap)} {scope.currency} for the scope "{scope.name}" in '
            f"{month_name(spend.month)} (UTC) other run folders have {said(scope.cap - room)} and this one has spent "
            f"{said(spend.spent)}; the next row may cost up to {said(amount)}. Raise max_cost_per_month, or run the same command "
            "again next month"
        )

    def _room(self, month: int) -> int:
        (others,) = self._db.execute(_OTHERS, (self._scope.name, month, self._scope.folder)).fetchone()
        return self._scope.cap - int(others)

    def _granted(self, month: int) -> int:
        query = "SELECT granted FROM spend WHERE scope = ? AND month = ? AND folder = ?"
        found = self._db.execute(query, (self._scope.name, month, self._scope.folder)).fetchone()
        return 0 if found is None else int(found[0])

    def _put(self, spend: MonthSpend) -> None:
        scope = self._scope
        updated = self._now().astimezone(UTC).isoformat(timespec="seconds")
        about = (scope.name, spend.month, scope.folder, scope.currency, str(scope.path), scope.job)
        self._db.execute(_PUT, (*about, spend.paid, spend.maybe, spend.granted, updated))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with Transaction(self._db):
                yield
        except sqlite3.Error as error:
            raise LedgerError(
                f"the ledger of months {self._file} cannot be written any more: {error}. Nothing more is sent; make it writable "
                "and run the same command again"
            ) from error


def _make(file: Path) -> None:
    """Make an empty ledger where there is none: whole or not at all, whoever else makes it at that moment."""
    if file.exists():
        return
    make_private_folder(file.parent)
    scratch = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        make_private_file(scratch)
        with closing(sqlite3.connect(scratch, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(_SCHEMA)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        with suppress(FileExistsError):
            os.link(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)


class LedgerRow(NamedTuple):
    """What one run folder spent in one month of a scope, in `currency`.

    `paid` is the cost of its answers, `maybe` what it may have paid without one. `reserved` is what a run that goes on, or was
    killed and not yet resumed, is granted besides: it counts against the cap. `month` is as 2026-11, `updated` ISO 8601 in UTC.
    """

    scope: str
    month: str
    currency: str
    job: str
    folder: Path
    paid: Decimal
    maybe: Decimal
    reserved: Decimal
    updated: str


def read_ledger(file: Path) -> list[LedgerRow]:
    """All rows of a ledger, by scope, month and run folder; empty where there is none yet. May be called while runs write it.

    Raises SetupError where it cannot be read.
    """
    if not file.exists():
        return []
    query = (
        "SELECT scope, month, currency, job, path, paid, maybe, max(granted - paid - maybe, 0), updated FROM spend "
        "ORDER BY scope, month, path"
    )
    try:
        with reading(file) as db:
            return [
                LedgerRow(
                    scope, month_name(month), currency, job, Path(path), *_amounts(paid, maybe, more), updated
                )
                for scope, month, currency, job, path, paid, maybe, more, updated in db.execute(query)
            ]
    except sqlite3.Error as error:
        raise SetupError(f"the ledger of months {file} cannot be read: {error}") from error


def _amounts(paid: int, maybe: int, reserved: int) -> tuple[Decimal, Decimal, Decimal]:
    return from_nano(paid), from_nano(maybe), from_nano(reserved)


def month_name(month: int) -> str:
    """A month as 2026-11."""
    return f"{month // 100}-{month % 100:02}"
