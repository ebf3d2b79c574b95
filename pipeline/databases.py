"""SQLite files of a run folder, looked over before they are opened for work: which are damaged, and what is lost with that.

SQLite finds what is wrong with its own structure; the content of a value it does not check (`kept.py` does). Of its write-ahead
log it silently leaves out everything behind the first frame whose checksum is wrong, so that is looked for here.
"""

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

# A database, its write-ahead log and its shared memory belong together.
COMPANIONS = ("-wal", "-shm")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# The log: a header, then frames of a header and a page (SQLite, "Database File Format", section 4).
_HEADER, _FRAME = 32, 24
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_WORTH_VACUUM_BYTES = 64 * 1024 * 1024


class Look(NamedTuple):
    """What a database is like: why it cannot be used, None where it can; and whether commits of its log are lost."""

    damage: str | None
    lost_commits: bool = False


class Transaction:
    """BEGIN ... COMMIT around a block; ROLLBACK where it raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:  # a full disk may have rolled it back already
                self._db.execute("ROLLBACK")


def checkpoint(path: Path, *, restart: bool = False) -> int:
    """Bring what is committed into the database file, for a thread beside the connection that writes; the frames of the log then.

    `restart` moves the last frame too, so that the log begins anew, and keeps writers out meanwhile. Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as db:
        how = "RESTART" if restart else "PASSIVE"
        _, frames, _ = db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
    return int(frames)


def give_back_space(db: sqlite3.Connection) -> None:
    """Make the file as small as what it holds, where that is worth the rewriting. Raises sqlite3.Error."""
    pages, free, page_bytes = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if free * page_bytes > _WORTH_VACUUM_BYTES and free > pages / 2:
        db.execute("VACUUM")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A database to look at in one transaction, while another process may be writing it. Raises sqlite3.Error."""
    with closing(_connect(path, "mode=ro")) as db:
        try:
            db.execute("BEGIN")
            db.execute("SELECT 1 FROM sqlite_master")
        except sqlite3.OperationalError as error:
            is_closed = not path.with_name(path.name + "-wal").exists()
            if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN or not is_closed:
                raise
            # A write-ahead log is read through shared memory, which cannot be made in a folder that takes no files.
            with closing(_connect(path, "immutable=1")) as frozen:
                yield frozen
                return
        yield db


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is not what SQLite wrote."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGE


def look(path: Path) -> Look:
    """Look over a database that nobody else writes. It takes about a quarter of a second a gigabyte.

    Raises sqlite3.Error for what is no damage: no permission, no room.
    """
    log = path.with_name(path.name + "-wal")
    if not path.exists():
        # A log without its database would be played into whatever database comes next.
        return Look("its write-ahead log is there without it" if log.exists() else None)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                return Look(str(found).strip().replace("\n", " "))
            db.execute("PRAGMA synchronous = FULL")
            # Frames that SQLite could verify, and are now in the database too.
            _, verified, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            return Look(None, lost_commits=log.exists() and _has_commits_behind(log, max(verified, 0)))
    except sqlite3.Error as error:
        if is_damage(error):
            return Look(str(error))
        raise


def _has_commits_behind(log: Path, verified: int) -> bool:
    """Whether a log holds commits behind its last frame that SQLite could verify.

    The last frame of all is not asked: a process that dies may leave it half-written, and any before it only without a commit.
    """
    with log.open("rb") as file:
        header = file.read(_HEADER)
        size = log.stat().st_size
        if size <= _HEADER:
            return False
        if not _is_sound(header):
            return True
        page_bytes, salts = struct.unpack(">I", header[8:12])[0], header[16:24]
        commits = []
        for start in range(
            _HEADER + verified * (_FRAME + page_bytes), size - _FRAME - page_bytes + 1, _FRAME + page_bytes
        ):
            file.seek(start)
            frame = file.read(_FRAME)
            if frame[8:16] != salts:  # left over from before the log began anew
                break
            commits.append(frame[4:8] != b"\0\0\0\0")
        return any(commits[:-1])


def _is_sound(header: bytes) -> bool:
    (magic,) = struct.unpack(">I", header[:4])
    if magic not in (_MAGIC_LITTLE, _MAGIC_BIG):
        return False
    words = struct.unpack("<6I" if magic == _MAGIC_LITTLE else ">6I", header[:24])
    first = second = 0
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return struct.unpack(">2I", header[24:]) == (first, second)
