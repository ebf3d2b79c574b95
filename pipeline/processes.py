"""Which process this is, and whether another one still lives: for what processes of one machine leave for each other.

A process number alone is no name: it is given again, after a restart and within one, and a container counts from 1.
"""

import os
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class ProcessName(NamedTuple):
    """What names a process on one machine: the machine's start, the space its number is of, the number, and its own start."""

    boot: str
    space: int
    pid: int
    started: str


def this_process() -> ProcessName:
    return ProcessName(boot_name(), _space(), os.getpid(), _started(os.getpid()))


def boot_name() -> str:
    """What names this start of the machine; empty where it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def has_ended(other: ProcessName) -> bool | None:
    """Whether another process of this start of the machine has ended; None where that cannot be seen from here."""
    if other.space != _space():
        return None
    return _started(other.pid) != other.started


def _space() -> int:
    """What names the space of process numbers, which a container has of its own; 0 where there is but one."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _started(pid: int) -> str:
    """When a process was started, in ticks of the machine; empty where there is none, or it only waits to be buried."""
    try:
        said = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "" if (_PROC / "self").exists() or not _answers(pid) else "running"
    fields = said.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if fields[0] in "ZX" else fields[19]  # the 22nd in all: proc(5)


def _answers(pid: int) -> bool:
    """For systems without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
