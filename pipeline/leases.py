"""Leases: how the limits of one account are shared between the processes of one user on one machine.

A small SQLite file in the user's state folder. Each run that names the account has a row with what it wants and what it holds, a
share of the whole between 0 and 1. Once a second it says that it lives and takes the share it may have now:

    fair:  weighted max-min: who wants less than its part leaves the rest to the others
    safe:  the others' shares + its own <= 1; what it is to have more it takes when they have let go of it, a beat later

A process that is gone (kill -9) holds nothing from the next beat of another on; one that is silent, and cannot be seen from here,
after `SILENT_S`. A pause that one was told (`Retry-After`) holds for all. Times are the machine's, since it was started.
"""

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.databases import Transaction, is_damage
from pipeline.errors import SetupError
from pipeline.private import make_private_file, make_private_folder

LEASES_NAME = "limits.sqlite"
BEAT_S = 1.0
SILENT_S = 5.0
FREE = 0.01  # of the whole stays free, for what is on its way while shares change hands
_PATIENCE_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS members (account TEXT NOT NULL, run TEXT NOT NULL, boot TEXT NOT NULL, space INTEGER NOT NULL,
    pid INTEGER NOT NULL, started TEXT NOT NULL, beat_s REAL NOT NULL, weight REAL NOT NULL, wants REAL NOT NULL,
    share REAL NOT NULL, limits TEXT NOT NULL, PRIMARY KEY (account, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pauses (account TEXT PRIMARY KEY, boot TEXT NOT NULL, until_s REAL NOT NULL) WITHOUT ROWID;
"""


class Wish(NamedTuple):
    """What a run would use of the whole, from 0 to 1, and how much it matters beside the others."""

    wants: float
    weight: float


class Lease(NamedTuple):
    """What a run has from now on: its share, a pause until a time of `machine_s` (0: none), and how many runs share.

    `limits` are those that another run of the account names, where they are not its own.
    """

    share: float
    pause_until_s: float
    members: int
    limits: str | None


def fair_shares(wishes: Mapping[str, Wish]) -> dict[str, float]:
    """Shares whose sum is 1 at most: each gets what it wants, or as much by its weight as all others that want more.

    What nobody wants is spread by weight, so that who begins to want more has some at once.
    """
    shares: dict[str, float] = {}
    left, open_ = 1.0, dict(wishes)
    while open_:
        weights = sum(wish.weight for wish in open_.values())
        content = {
            name: wish.wants for name, wish in open_.items() if wish.wants <= left * wish.weight / weights
        }
        if not content:
            return shares | {name: left * wish.weight / weights for name, wish in open_.items()}
        shares |= content
        left = max(left - sum(content.values()), 0.0)
        open_ = {name: wish for name, wish in open_.items() if name not in content}
    weights = sum(wish.weight for wish in wishes.values())
    return {name: share + left * wishes[name].weight / weights for name, share in shares.items()}


def machine_s() -> float:
    """Seconds since the machine was started, asleep or not, the same for all its processes."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Leases:
    """The file of leases as one run uses it. Each method is a transaction of about a millisecond; any thread may call them."""

    def __init__(self, file: Path, account: str, run: str, *, weight: float, limits: str) -> None:
        """Open the file, or make it. Raises SetupError where it cannot be used."""
        self._account = account
        self._run = run
        self._weight = weight
        self._limits = limits
        self._boot, self._space, self._pid = _boot(), _pid_space(), os.getpid()
        self._started = _started(self._pid)
        try:
            make_private_folder(file.parent)
            make_private_file(file)
            self._db = sqlite3.connect(
                file, isolation_level=None, timeout=_PATIENCE_S, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = OFF")  # after a loss of power nobody holds anything
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            damaged = isinstance(error, sqlite3.Error) and is_damage(error)
            advice = "Remove it while no run goes on" if damaged else "Make it writable"
            raise SetupError(
                f"the file by which runs share their limits, {file}, cannot be used: {error}. Nothing was sent. "
                f"{advice}, or take [limits] account out"
            ) from error

    def beat(self, wants: float, pause_until_s: float = 0.0, now_s: float | None = None) -> Lease:
        """Say that this run lives and what it would use of the whole; the share it has from now on. Raises sqlite3.Error."""
        now_s = machine_s() if now_s is None else now_s
        with Transaction(self._db):
            self._let_go_of_the_gone(now_s)
            held = self._others()
            wishes = {run: Wish(others_wants, weight) for run, others_wants, weight, _, _ in held}
            wishes[self._run] = Wish(min(max(wants, 0.0), 1.0), self._weight)
            fair = fair_shares(wishes)[self._run] * (1 - FREE)
            share = max(min(fair, 1 - sum(other[3] for other in held)), 0.0)
            self._db.execute(
                "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(self._account, self._run, self._boot, self._space, self._pid, self._started, now_s),
                    *(self._weight, wishes[self._run].wants, share, self._limits),
                ),
            )
            pause_s = self._pause(pause_until_s, now_s)
        other_limits = next((limits for *_, limits in held if limits != self._limits), None)
        return Lease(share, pause_s, len(wishes), other_limits)

    def close(self) -> None:
        """Give the share back."""
        with suppress(sqlite3.Error):  # it falls to the others all the same, once this process has ended
            self._db.execute("DELETE FROM members WHERE account = ? AND run = ?", (self._account, self._run))
        self._db.close()

    def _others(self) -> list[tuple[str, float, float, float, str]]:
        return self._db.execute(
            "SELECT run, wants, weight, share, limits FROM members WHERE account = ? AND run <> ?",
            (self._account, self._run),
        ).fetchall()

    def _pause(self, until_s: float, now_s: float) -> float:
        row = self._db.execute(
            "SELECT boot, until_s FROM pauses WHERE account = ?", (self._account,)
        ).fetchone()
        told_s = row[1] if row is not None and row[0] == self._boot else 0.0
        if until_s > max(told_s, now_s):
            self._db.execute(
                "INSERT OR REPLACE INTO pauses VALUES (?, ?, ?)", (self._account, self._boot, until_s)
            )
        return max(told_s, until_s)

    def _let_go_of_the_gone(self, now_s: float) -> None:
        members = self._db.execute(
            "SELECT run, boot, space, pid, started, beat_s FROM members WHERE account = ? AND run <> ?",
            (self._account, self._run),
        ).fetchall()
        for run, boot, space, pid, started, beat_s in members:
            gone = boot != self._boot or not -1 <= now_s - beat_s <= SILENT_S
            if not gone and space == self._space:
                gone = _started(pid) != started
            if gone:
                self._db.execute("DELETE FROM members WHERE account = ? AND run = ?", (self._account, run))


def _boot() -> str:
    """What names this start of the machine; empty where it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_space() -> int:
    """What names the space of process numbers, which containers have of their own; 0 where there is but one."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _started(pid: int) -> str:
    """When a process was started, so that another of the same number is not taken for it; empty where there is none."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "" if not _lives(pid) else "?"
    fields = said.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]  # the 22nd in all (proc(5)); a zombie does nothing more


def _lives(pid: int) -> bool:
    if Path("/proc/self/stat").exists():
        return False
    try:  # no /proc: macOS
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
