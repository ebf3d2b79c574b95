"""Moments in the life of a run at which to kill it: what can be seen happening in its folder, or at its provider."""

import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Protocol

from inotify_simple import INotify, flags

from tests.support.lives import Life

_PATIENCE_S = 60.0


class Moment(Protocol):
    """Something to wait for: when it is readable, `came` takes in what happened and says whether this was it."""

    def fileno(self) -> int: ...

    def came(self) -> bool: ...


class _Sign(NamedTuple):
    """What the kernel tells of: a change of a file whose name ends so, in the run folder or in its results."""

    results: bool
    change: int
    ending: str


class Change(Enum):
    """Changes in a run folder."""

    COMMIT = _Sign(False, flags.MODIFY, "journal.sqlite-wal")
    UPLOAD_KEPT = _Sign(False, flags.MODIFY, "uploads.sqlite-wal")
    RUN_FILE = _Sign(False, flags.CREATE, "run.json.tmp")
    PART_BEGUN = _Sign(True, flags.CREATE, ".parquet.tmp")
    PART_WRITTEN = _Sign(True, flags.MODIFY, ".parquet.tmp")
    PART_RENAMED = _Sign(True, flags.MOVED_TO, ".parquet")
    SCRATCH_CLEARED = _Sign(True, flags.DELETE, ".tmp")


class _Changes:
    """Becomes readable when files change; this moment is the `nth` change of its kind."""

    def __init__(self, out: Path, change: Change, nth: int) -> None:
        self._sign = change.value
        self._left = nth
        self._events = INotify(nonblocking=True)
        self._events.add_watch(out / "results" if self._sign.results else out, self._sign.change)

    def fileno(self) -> int:
        return int(self._events.fileno())

    def came(self) -> bool:
        for event in self._events.read(timeout=0):
            if event.name.endswith(self._sign.ending):
                self._left -= 1
        return self._left <= 0

    def close(self) -> None:
        self._events.close()


@contextmanager
def changed(out: Path, change: Change, nth: int) -> Iterator[Moment]:
    """The `nth` change of this kind in a run folder, which is made if it is not there: one cannot watch what is not."""
    (out / "results").mkdir(mode=0o700, parents=True, exist_ok=True)
    moment = _Changes(out, change, nth)
    try:
        yield moment
    finally:
        moment.close()


def lives_until(moment: Moment, life: Life) -> bool:
    """Wait for a moment; False where the life ended before it came."""
    with selectors.DefaultSelector() as both:
        both.register(moment, selectors.EVENT_READ)
        both.register(life, selectors.EVENT_READ)
        while ready := both.select(_PATIENCE_S):
            if any(key.fileobj is life for key, _ in ready):
                return False
            if moment.came():
                return True
    raise AssertionError(f"neither the moment nor the end of process {life.pid} came in {_PATIENCE_S:g} s")


def half_committed(wal: Path) -> bool:
    """Whether a write-ahead log ends in pages of a transaction that was never committed.

    The format is SQLite's (sqlite.org/fileformat2.html#walformat): a header of 32 bytes, then a page behind each frame header
    of 24, whose second number is 0 but for the last page of a transaction. Frames of an earlier round have other salts.
    """
    data = wal.read_bytes() if wal.exists() else b""
    if len(data) < 32:
        return len(data) > 0
    page = int.from_bytes(data[8:12], "big")
    salts, committed = data[16:24], True
    for start in range(32, len(data), 24 + page):
        frame = data[start : start + 24]
        if len(frame) < 24 or frame[8:16] != salts:
            return not committed or 0 < len(frame) < 24
        committed = frame[4:8] != b"\0\0\0\0" and start + 24 + page <= len(data)
    return not committed
