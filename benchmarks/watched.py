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
    """What it took. `exit_code` is None where it was ended at the cap; times are monotonic seconds.

    `waited_s` is how long its main thread was ready to run while the core did other work: nothing on a machine of its own.
    """

    exit_code: int | None
    began_s: float
    ended_s: float
    waited_s: float
    cpu_s: float
    peak_mib: float


class Look(NamedTuple):
    """One process just now: CPU seconds with those of children it waited for, peak memory, seconds waited for a core."""

    pid: int
    cpu_s: float
    peak_mib: float
    waited_s: float


def watch(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, cap_s: float) -> Watched:
    """Run it on the clients' core, its output into `log`, and kill it with its children `cap_s` seconds later, waits left out.

    CPU is the kernel's account of the process and the children it waited for, or the last look at /proc where that is more.
    Memory is the sum over its processes of each one's peak, looked at five times a second.
    """
    cpu_s = peak_mib = waited_s = 0.0
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
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                break
            looks = list(_group(process.pid))
            cpu_s = max(cpu_s, sum(look.cpu_s for look in looks))
            peak_mib = max(peak_mib, sum(look.peak_mib for look in looks))
            waited_s = max([waited_s, *(look.waited_s for look in looks if look.pid == process.pid)])
            if time.monotonic() - began_s - waited_s > cap_s:
                break
            time.sleep(LOOK_EVERY_S)
    finally:
        exit_code = process.returncode
        if exit_code is None:
            os.killpg(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    cpu_s = max(cpu_s, usage.ru_utime + usage.ru_stime)
    return Watched(exit_code, began_s, time.monotonic(), waited_s, cpu_s, peak_mib)


def _group(leader: int) -> Iterator[Look]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[2]) != leader:
                continue
            lines = (folder / "status").read_text().splitlines()
            waited_ns = int((folder / "schedstat").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        peak = next((line for line in lines if line.startswith("VmHWM")), None)
        yield Look(
            int(folder.name),
            sum(map(int, stat[11:15])) / _TICKS,
            int(peak.split()[1]) / 1024 if peak else 0.0,
            waited_ns / 1e9,
        )
