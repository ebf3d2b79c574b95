"""What a selftest was carried out on: the program, Python, the machine, and the disk of the folder."""

import os
import platform
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from pipeline import __version__

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Machine(NamedTuple):
    """`cores` are those that this process may use; `memory_bytes` and `file_system` are None where the system does not say."""

    promptmill: str
    python: str
    system: str
    cores: int
    memory_bytes: int | None
    folder: str
    file_system: str | None
    free_bytes: int


def look_at(folder: Path) -> Machine:
    return Machine(
        promptmill=__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        folder=str(folder),
        file_system=file_system(folder, _MOUNTS),
        free_bytes=shutil.disk_usage(folder).free,
    )


def file_system(folder: Path, mounts: Path) -> str | None:
    """The type of the file system a folder lies on, by the kernel's list of mounts (proc(5), mountinfo)."""
    try:
        listed = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    best, found = -1, None
    for line in listed:
        left, _, right = line.partition(" - ")
        mounted, kind = left.split()[4:5], right.split()[:1]
        if not mounted or not kind:
            continue
        where = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), mounted[0]))
        # Of two mounts at one place the later one is seen.
        if folder.resolve().is_relative_to(where) and len(where.parts) >= best:
            best, found = len(where.parts), kind[0]
    return found


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
