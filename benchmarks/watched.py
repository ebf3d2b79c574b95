"""A program run to its end or to a cap, and what it took with all the processes it starts. Read from /proc: Linux alone."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.workload import CLIENT_CORE, pin

LOOK_EVERY_S = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")


class Watched(NamedTuple):
    """What it took. `exit_code` is None where it was ended at the cap; times are monotonic seconds."""

    exit_code: int | None
    began_s: float
    ended_s: float
    cpu_s: float
    peak_mib: float


def watch(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, cap_s: float) -> Watched:
    """Run it on the clients' core, its output into `log`, and kill it with its children after `cap_s`.

    CPU is the kernel's account of the process and the children it waited for, or the last look at /proc where that is more.
    Memory is the sum over its processes of each one's peak, looked at five times a second.
    """
    looked_cpu_s = peak_mib = 0.0
    exit_code: int | None = None
    began_s = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    pin(CLIENT_CORE, process.pid)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            exit_code = os.waitstatus_to_exitcode(status)
            break
        looks = list(_group(process.pid))
        looked_cpu_s = max(looked_cpu_s, sum(cpu_s for cpu_s, _ in looks))
        peak_mib = max(peak_mib, sum(mib for _, mib in looks))
        if time.monotonic() - began_s > cap_s:
            os.killpg(process.pid, signal.SIGKILL)
            _, _, usage = os.wait4(process.pid, 0)
            break
        time.sleep(LOOK_EVERY_S)
    process.returncode = -1 if exit_code is None else exit_code  # waited for here, not by it
    cpu_s = max(looked_cpu_s, usage.ru_utime + usage.ru_stime)
    return Watched(exit_code, began_s, time.monotonic(), cpu_s, peak_mib)


def _group(leader: int) -> Iterator[tuple[float, float]]:
    """CPU seconds, with those of children it waited for, and peak MiB of each process of a group."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[2]) != leader:
                continue
            lines = (folder / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        peak = next((line for line in lines if line.startswith("VmHWM")), None)
        yield sum(map(int, stat[11:15])) / _TICKS, int(peak.split()[1]) / 1024 if peak else 0.0
