"""The lock of a run folder, and the question whether somebody holds it."""

import contextlib
import fcntl
import os
import platform
from pathlib import Path

from pipeline.errors import RunFolderBusy
from pipeline.private import private_opener

LOCK_NAME = "run.lock"


class RunLock:
    """The lock of a run folder: held by the kernel for this process alone, so a dead holder never blocks."""

    def __init__(self, folder: Path, *, note: str) -> None:
        self._path = folder / LOCK_NAME
        self._file = open(self._path, "a+b", buffering=0, opener=private_opener)  # noqa: SIM115  (held)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(0)
            self._file.write(f"pid {os.getpid()} on {platform.node()}, {note}\n".encode())
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().decode(errors="replace").strip() or "another process"
            self._file.close()
            raise RunFolderBusy(
                f"another run holds {folder}: {holder}. Watch it with `promptmill status {folder}`, or wait for its end"
            ) from None
        except OSError:
            self._file.close()
            raise

    def release(self) -> None:
        with contextlib.suppress(OSError):  # it only says who held it
            self._file.truncate(0)
        self._file.close()


def is_held(folder: Path) -> bool:
    """Whether a living process holds the folder's lock."""
    try:
        with (folder / LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False
