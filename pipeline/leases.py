"""Leases: how the limits of one account are divided between the processes of one user on one machine.

A small SQLite file in the user's state folder. Each run that names the account has a row with what it wants and what it holds:
shares of the whole, of requests, tokens and requests in flight. Once a second it says that it lives and takes what it may have:

    fair:  `fair_shares`: by priority, and who wants less than its part leaves the rest to the others
    safe:  the others' shares + its own <= 1; what it is to have more it takes when they have let go of it, a beat later

Of a rate a run may hold a little more than it uses, to grow into; what it does not use counts as free, as the common pace holds
for all together. Of requests in flight all that is held counts.

A process that has ended (kill -9) holds nothing from the next beat of another on; one that is silent, after `SILENT_S`. Times are
the monotonic clock's, which all processes of a machine share and which stands still while it sleeps.

Who holds how much for seconds is decided here; which of them sends at this instant, in `common_pace.py`.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.databases import Transaction, is_damage
from pipeline.errors import SetupError
from pipeline.fair_shares import Shares, fair_shares
from pipeline.private import make_private_file, make_private_folder
from pipeline.processes import ProcessName, has_ended, this_process

LEASES_NAME = "limits.sqlite"
BEAT_S = 1.0
SILENT_S = 5.0
FREE = 0.01  # of the whole stays free, so that who comes can begin before the others' next beat
SPARE = Shares(1.25, 1.25, 1.0)  # times what is wanted, for who wants less than all
_PATIENCE_S = 2.0  # less than SILENT_S: who cannot say that it lives must know before others take its share
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS members (pool TEXT NOT NULL, run TEXT NOT NULL,
    boot TEXT NOT NULL, space INTEGER NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL,
    beat_s REAL NOT NULL, weight REAL NOT NULL, requests_per_minute REAL, tokens_per_minute REAL,
    wants_requests REAL NOT NULL, wants_tokens REAL NOT NULL, wants_in_flight REAL NOT NULL,
    requests REAL NOT NULL, tokens REAL NOT NULL, in_flight REAL NOT NULL,
    PRIMARY KEY (pool, run)) WITHOUT ROWID
"""
_PUT = "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OTHERS = "SELECT * FROM members WHERE pool = ? AND boot = ? AND run <> ?"
_DELETE = "DELETE FROM members WHERE pool = ? AND run = ?"


class Rates(NamedTuple):
    """Limits a minute; None where none is known."""

    requests_per_minute: float | None
    tokens_per_minute: float | None

    def __str__(self) -> str:
        requests, tokens = ("any number of" if rate is None else f"{rate:,.0f}" for rate in self)
        return f"{requests} requests and {tokens} tokens a minute"


class Party(NamedTuple):
    """A run that shares: the pool of limits it takes part in, its id, its weight beside others, and the limits its job names.

    At `most` so many of its requests may be in flight.
    """

    pool: str
    run: str
    weight: float
    rates: Rates
    most: int


class Lease(NamedTuple):
    """What a run has from now on: shares of `rates`, the least limits that any run of the pool names, and how many runs share.

    `part` is its weight among all; `others` are limits that another run names, where they are not this one's.
    """

    shares: Shares
    part: float
    rates: Rates
    members: int
    others: Rates | None


class _Member(NamedTuple):
    run: str
    process: ProcessName
    beat_s: float
    weight: float
    rates: Rates
    wants: Shares
    shares: Shares


class Leases:
    """The file of leases as one run uses it. Each method is a transaction of a fraction of a millisecond, from any one thread."""

    def __init__(self, file: Path, party: Party, process: ProcessName | None = None) -> None:
        """Open the file, or make it. Raises SetupError where it cannot be used."""
        self._file = file
        self._party = party
        self._process = this_process() if process is None else process
        try:
            self._open()
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except (OSError, sqlite3.Error) as error:
            raise unusable(file, error) from error
        if version != _VERSION:
            self._db.close()
            raise SetupError(
                f"runs share their limits by {file}, which another version of promptmill wrote (file {version}, here "
                f"{_VERSION}): wait for the end of its runs and remove the file. Nothing was sent"
            )

    def beat(self, wants: Shares, now_s: float) -> Lease:
        """Say that this run lives and what it would use of the whole; what it has from now on.

        Raises OSError and sqlite3.Error where the file takes nothing; what was held before is held on.
        """
        self._look_at_file()
        party = self._party
        wants = Shares(*(min(max(want, 0.0), 1.0) for want in wants))
        with Transaction(self._db):
            others = list(self._others(now_s))
            members = [
                *others,
                _Member(party.run, self._process, now_s, party.weight, party.rates, wants, wants),
            ]
            weights = {member.run: member.weight for member in members}
            shares = []
            for kind in range(len(Shares._fields)):
                wanted = {member.run: member.wants[kind] for member in others}
                fair = fair_shares(wanted | {party.run: min(wants[kind] * SPARE[kind], 1.0)}, weights)[
                    party.run
                ]
                lends = SPARE[kind] > 1
                free = 1 - sum(
                    min(other.shares[kind], other.wants[kind]) if lends else other.shares[kind]
                    for other in others
                )
                if lends and wants[kind] <= free:
                    free = 1.0  # what it has to grow into is lent
                shares.append(max(min(fair * (1 - FREE), free), 0.0))
            self._db.execute(
                _PUT,
                (party.pool, party.run, *self._process, now_s, party.weight, *party.rates, *wants, *shares),
            )
        return Lease(
            shares=Shares(*shares),
            part=party.weight / sum(weights.values()),
            rates=Rates(
                *(_least(member.rates[kind] for member in members) for kind in range(len(Rates._fields)))
            ),
            members=len(members),
            others=next((other.rates for other in others if other.rates != party.rates), None),
        )

    def close(self) -> None:
        """Give the shares back."""
        with suppress(sqlite3.Error):  # they fall to the others all the same, once this process has ended
            self._db.execute(_DELETE, (self._party.pool, self._party.run))
        self._db.close()

    def _open(self) -> None:
        make_private_folder(self._file.parent)
        make_private_file(self._file)
        inode = self._file.stat().st_ino
        self._db = sqlite3.connect(
            self._file, isolation_level=None, timeout=_PATIENCE_S, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(
            "PRAGMA synchronous = NORMAL"
        )  # nothing here outlasts the machine's start: no commit waits for the disk
        with Transaction(self._db):
            if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._inode = inode

    def _look_at_file(self) -> None:
        """Somebody may have removed the file: those who hold it open and those who come later must not share twice."""
        with suppress(FileNotFoundError):
            if self._file.stat().st_ino == self._inode:
                return
        self._db.close()
        self._open()

    def _others(self, now_s: float) -> Iterable[_Member]:
        """The others that live; rows of those that do not are removed.

        Rows of another start of the machine hold nothing: they are of before, or of another machine on the same network folder.
        """
        for row in self._db.execute(
            _OTHERS, (self._party.pool, self._process.boot, self._party.run)
        ).fetchall():
            member = _Member(
                run=row[1],
                process=ProcessName(*row[2:6]),
                beat_s=row[6],
                weight=row[7],
                rates=Rates(*row[8:10]),
                wants=Shares(*row[10:13]),
                shares=Shares(*row[13:16]),
            )
            if abs(now_s - member.beat_s) > SILENT_S or has_ended(member.process):
                self._db.execute(_DELETE, (self._party.pool, member.run))
            else:
                yield member


def unusable(file: Path, error: OSError | sqlite3.Error) -> SetupError:
    """What to tell who runs a job whose limits cannot be shared."""
    damaged = isinstance(error, sqlite3.Error) and is_damage(error)
    advice = "Remove it while no run goes on: nothing in it outlasts a run" if damaged else "Make it writable"
    return SetupError(
        f"runs share their limits by {file}, which cannot be used: {error}. Nothing was sent. {advice}, or take "
        "[limits] account out"
    )


def _least(rates: Iterable[float | None]) -> float | None:
    return min((rate for rate in rates if rate is not None), default=None)
