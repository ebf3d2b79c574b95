"""Every change that a run makes to its files, SQLite's own included, seen and refused one by one.

`Changes` counts them and decides; a test derives from it. `WatchedDisk` brings the files that promptmill writes itself,
`watched_sqlite` those that SQLite writes: by a VFS that hands each write, sync, truncation and removal to us first (SQLite,
"The SQLite OS Interface"). Only the machinery is here; what must hold after a refusal stands in the tests.
"""

import ctypes
import ctypes.util
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.storage import Disk

Kind = Literal["write", "sync", "truncate", "rename", "remove"]
_OK, _IOERR, _FULL = 0, 10, 13
_IOERR_OF: dict[Kind, int] = {"write": 778, "sync": 1034, "truncate": 1546, "remove": 2570, "rename": _IOERR}
_VFS_NAME = b"watched"
_ALIVE: list["_WatchedVfs"] = []


class Change(NamedTuple):
    """One change about to be made."""

    kind: Kind
    path: Path


class Refused(OSError):
    """The change does not happen; of a write, the first `keep` bytes do."""

    def __init__(self, number: int, *, keep: int = 0) -> None:
        super().__init__(number, os.strerror(number))
        self.keep = keep


class Changes:
    """Told of every change. `before` may raise Refused; both may be called on any thread, one at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.count = 0

    def before(self, change: Change, size: int) -> None:
        """A change is about to be made; `size` is that of a write."""
        self.count += 1

    def after(self, change: Change) -> None:
        """It was made."""


class WatchedDisk(Disk):
    """The disk of a run, with each verb told to `changes`."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def write(self, path: Path, data: memoryview) -> None:
        with self._changes.lock:
            try:
                self._changes.before(Change("write", path), len(data))
            except Refused as refused:
                if refused.keep:
                    super().write(path, data[: refused.keep])
                raise
            super().write(path, data)
            self._changes.after(Change("write", path))

    def sync(self, path: Path) -> None:
        with self._changes.lock:
            self._changes.before(Change("sync", path), 0)
            super().sync(path)
            self._changes.after(Change("sync", path))

    def rename(self, path: Path, to: Path) -> None:
        with self._changes.lock:
            self._changes.before(Change("rename", to), 0)
            super().rename(path, to)
            self._changes.after(Change("rename", to))

    def remove(self, path: Path) -> None:
        with self._changes.lock:
            self._changes.before(Change("remove", path), 0)
            super().remove(path)
            self._changes.after(Change("remove", path))


_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_OPEN = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _pointer, _int, ctypes.POINTER(_int))
_DELETE = ctypes.CFUNCTYPE(_int, _pointer, ctypes.c_char_p, _int)
_CLOSE = ctypes.CFUNCTYPE(_int, _pointer)
_WRITE = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int, _long)
_TRUNCATE = ctypes.CFUNCTYPE(_int, _pointer, _long)
_SYNC = ctypes.CFUNCTYPE(_int, _pointer, _int)


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs` of sqlite3.h."""

    _fields_ = (
        ("version", _int),
        ("file_bytes", _int),
        ("max_path", _int),
        ("next", _pointer),
        ("name", ctypes.c_char_p),
        ("app_data", _pointer),
        ("open", _pointer),
        ("delete", _pointer),
        ("others", _pointer * 16),
    )


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods` of sqlite3.h."""

    _fields_ = (
        ("version", _int),
        ("close", _pointer),
        ("read", _pointer),
        ("write", _pointer),
        ("truncate", _pointer),
        ("sync", _pointer),
        ("others", _pointer * 13),
    )


def _address(function: Any) -> int:
    found = ctypes.cast(function, ctypes.c_void_p).value
    assert found is not None
    return found


class _WatchedVfs:
    """SQLite's own VFS with four functions of ours before its own. Must live as long as a connection uses it."""

    def __init__(self, library: ctypes.CDLL, changes: Changes) -> None:
        self._changes = changes
        self._paths: dict[int, Path] = {}  # by the address of SQLite's open file
        self._plain = ctypes.cast(library.sqlite3_vfs_find(None), ctypes.POINTER(_Vfs)).contents
        self.vfs = _copy(self._plain)
        self.vfs.name = _VFS_NAME
        self._functions = (_OPEN(self._open), _DELETE(self._delete))
        self.vfs.open, self.vfs.delete = map(_address, self._functions)
        self._watched: dict[int, tuple[_Methods, tuple[Any, ...]]] = {}  # by the address of the plain methods

    @property
    def open_files(self) -> list[Path]:
        return list(self._paths.values())

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
        code = int(_OPEN(self._plain.open)(ctypes.addressof(self._plain), name, file, flags, out))
        slot = ctypes.cast(file, ctypes.POINTER(ctypes.c_void_p))
        if code == _OK and name is not None and slot[0]:
            self._paths[file] = Path(
                os.fsdecode(ctypes.string_at(name))
            )  # SQLite goes on using the very pointer
            slot[0] = ctypes.addressof(self._methods(slot[0]))
        return code

    def _methods(self, address: int) -> _Methods:
        """The methods of a file with ours in the place of some. SQLite has one such table for each way of locking."""
        if address not in self._watched:
            plain = ctypes.cast(address, ctypes.POINTER(_Methods)).contents
            own = _copy(plain)
            close, write = _CLOSE(plain.close), _WRITE(plain.write)
            truncate, sync = _TRUNCATE(plain.truncate), _SYNC(plain.sync)

            def our_close(file: int) -> int:
                self._paths.pop(file, None)
                return int(close(file))

            def our_write(file: int, data: int, size: int, offset: int) -> int:
                part = lambda keep: write(file, data, keep, offset)  # noqa: E731
                return self._told(
                    "write", self._paths[file], lambda: write(file, data, size, offset), size, part
                )

            def our_truncate(file: int, size: int) -> int:
                return self._told("truncate", self._paths[file], lambda: truncate(file, size))

            def our_sync(file: int, flags: int) -> int:
                return self._told("sync", self._paths[file], lambda: sync(file, flags))

            functions = (_CLOSE(our_close), _WRITE(our_write), _TRUNCATE(our_truncate), _SYNC(our_sync))
            own.close, own.write, own.truncate, own.sync = map(_address, functions)
            self._watched[address] = own, functions
        return self._watched[address][0]

    def _delete(self, vfs: int, name: bytes, sync_folder: int) -> int:
        plain = _DELETE(self._plain.delete)
        delete = lambda: plain(ctypes.addressof(self._plain), name, sync_folder)  # noqa: E731
        return self._told("remove", Path(os.fsdecode(name)), delete)

    def _told(self, kind: Kind, path: Path, make: Any, size: int = 0, make_part: Any = None) -> int:
        with self._changes.lock:
            try:
                self._changes.before(Change(kind, path), size)
            except Refused as refused:
                if refused.keep and make_part is not None:
                    make_part(refused.keep)
                return _FULL if refused.errno == errno.ENOSPC else _IOERR_OF[kind]
            code = int(make())
            if code == _OK:
                self._changes.after(Change(kind, path))
            return code


def _copy(plain: Any) -> Any:
    return type(plain).from_buffer_copy(bytes(plain))


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("sqlite3") or "libsqlite3.so.0")
    library.sqlite3_vfs_find.restype = ctypes.c_void_p
    library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    library.sqlite3_vfs_register.argtypes = [ctypes.c_void_p, _int]
    library.sqlite3_vfs_unregister.argtypes = [ctypes.c_void_p]
    return library


@contextmanager
def watched_sqlite(changes: Changes) -> Iterator[None]:
    """Within the block every connection that is opened is watched; they must all be closed by its end."""
    library = _library()
    watched = _WatchedVfs(library, changes)
    _ALIVE.append(watched)  # a connection that a failed test leaves open may be closed at any time
    library.sqlite3_vfs_register(ctypes.addressof(watched.vfs), 1)
    try:
        yield
    finally:
        library.sqlite3_vfs_unregister(ctypes.addressof(watched.vfs))
    assert not watched.open_files, f"left open: {watched.open_files}"


def sqlite_can_be_watched() -> bool:
    """Whether Python's sqlite3 uses the system's library, which can be given a VFS, and not one built into it."""
    try:
        library = _library()
    except (OSError, AttributeError):
        return False
    watched = _WatchedVfs(library, Changes())
    library.sqlite3_vfs_register(ctypes.addressof(watched.vfs), 0)
    try:
        sqlite3.connect(f"file::memory:?vfs={_VFS_NAME.decode()}", uri=True).close()
    except sqlite3.OperationalError:
        return False
    finally:
        library.sqlite3_vfs_unregister(ctypes.addressof(watched.vfs))
    return True
