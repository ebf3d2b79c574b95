"""Where whole files lie: a folder on this machine that takes a file entirely or not at all.

Here is how bytes become a file that survives: temporary name, fsync, rename, fsync of the folder. What the bytes are (a part,
run.json) is the callers' business. Everything that reaches the disk goes through `Disk`, four verbs that a test replaces by
ones that fail or stop at the n-th call. SQLite looks after its own files.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pipeline.private import PRIVATE_FILE, PRIVATE_FOLDER

SCRATCH_SUFFIX = ".tmp"
RESULTS = "results"
DAMAGED = "damaged"


class Storage(Protocol):
    """A flat place for whole files. Every verb raises OSError where the place refuses.

    A stamp tells whether a file is still the one that was put: as long as it is the same, so is the file.
    """

    @property
    def where(self) -> str:
        """The place as a user would name it, to read from or to put a file back."""

    def prepare(self) -> None:
        """Make the place where there is none, and see that it takes files."""

    def put(self, name: str, data: memoryview) -> str:
        """Make a file of these bytes, whole and durable, in place of one of that name; return its stamp."""

    def stamps(self) -> dict[str, str]:
        """The stamp of each file there is, by name; files that are being written are not among them."""

    def read(self, name: str) -> bytes: ...

    def remove(self, name: str) -> None: ...

    def set_aside(self, name: str) -> str:
        """Move a damaged file out of the place, never over another, and say where it lies now."""

    def clear_scratch(self) -> None:
        """Remove what a killed process left half-written."""


class Disk:
    """The four verbs by which files here change."""

    def write(self, path: Path, data: memoryview) -> None:
        """Make a new file that nobody else may read."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
        with open(handle, "wb", buffering=0) as file:  # noqa: PTH123  (a handle)
            while data:
                data = data[file.write(data) :]

    def sync(self, path: Path) -> None:
        """Make a file's bytes, or a folder's names, survive the loss of power."""
        handle = os.open(path, os.O_RDONLY)
        try:
            if sys.platform == "darwin":
                fcntl.fcntl(handle, fcntl.F_FULLFSYNC)  # fsync alone leaves it in the drive's cache
            else:
                os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, path: Path, to: Path) -> None:
        path.replace(to)

    def remove(self, path: Path) -> None:
        path.unlink()


def make_folder(path: Path, disk: Disk) -> None:
    """Make a folder that nobody else may read, and those above it; each new one survives the loss of power."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    for folder in reversed(new):
        disk.sync(folder.parent)


def set_aside(paths: Sequence[Path], into: Path, disk: Disk) -> list[Path]:
    """Move files that belong together into a folder, under names with one number where theirs are taken; return these."""
    make_folder(into, disk)
    number = 1
    while any((into / numbered(path.name, number)).exists() for path in paths):
        number += 1
    moved = [into / numbered(path.name, number) for path in paths]
    for path, to in zip(paths, moved, strict=True):
        disk.rename(path, to)
    for folder in {into, *(path.parent for path in paths)}:
        disk.sync(folder)
    return moved


def numbered(name: str, number: int) -> str:
    """A file's name with a number before its ending, from 2 on."""
    stem, dot, rest = name.partition(".")
    return name if number == 1 else f"{stem}.{number}{dot}{rest}"


class LocalFiles:
    """A `Storage` in a folder of this machine. What is damaged goes to the folder `damaged` beside it."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder = folder
        self._disk = disk or Disk()

    @property
    def where(self) -> str:
        return str(self.folder)

    def prepare(self) -> None:
        make_folder(self.folder, self._disk)

    def put(self, name: str, data: memoryview) -> str:
        path = self.folder / name
        scratch = path.with_name(name + SCRATCH_SUFFIX)
        try:
            self._disk.write(scratch, data)
            self._disk.sync(scratch)
            self._disk.rename(scratch, path)
        except OSError:
            with contextlib.suppress(OSError):  # where the disk is full, what was written of it is in the way
                self._disk.remove(scratch)
            raise
        self._disk.sync(self.folder)
        return _stamp(path.stat())

    def stamps(self) -> dict[str, str]:
        with os.scandir(self.folder) as entries:
            return {
                entry.name: _stamp(entry.stat())
                for entry in entries
                if entry.is_file() and not entry.name.endswith(SCRATCH_SUFFIX)
            }

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def remove(self, name: str) -> None:
        self._disk.remove(self.folder / name)

    def set_aside(self, name: str) -> str:
        (moved,) = set_aside([self.folder / name], self.folder.parent / DAMAGED, self._disk)
        return str(moved)

    def clear_scratch(self) -> None:
        for scratch in self.folder.glob(f"*{SCRATCH_SUFFIX}"):
            self._disk.remove(scratch)


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"
