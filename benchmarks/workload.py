"""The work all clients are given: what to ask of which model, on which core, and what a run of it took.

The standard library alone: this also runs in the environments of the peers, which have neither this program nor its packages.
"""

import os
from pathlib import Path
from typing import NamedTuple

MODEL = "qwen-plus"
KEY = "sk-benchmark"
CLIENT_CORE, SERVER_CORE = 0, 1
SYSTEM = (
    "You are a careful annotator of product, book and hotel reviews in Chinese and English. Read the whole review, weigh what "
    "it praises against what it complains of, and decide which of the two prevails. Irony counts as what is meant, not as what "
    "is said. A review that only describes is judged by whether its writer would buy again. Answer with one word in lower "
    "case, positive or negative, without punctuation, quotes or explanation."
)
USER = "Is the sentiment of this review positive or negative?\n\nReview: {}"


class Spent(NamedTuple):
    """What a run over so many rows took; peak memory is that of its whole process.

    `yardstick_us` says how fast the machine was just then: `support.yardstick_us` before and after the run, their mean.
    `lag_p99_ms` is how late our event loop was.
    """

    rows: int
    cpu_s: float
    wall_s: float
    peak_mib: float
    yardstick_us: float = 0.0
    lag_p99_ms: float | None = None

    @property
    def us_a_row(self) -> float:
        return self.cpu_s / self.rows * 1e6


def pin(core: int, pid: int = 0) -> None:
    """Keep a process (0: this one), and those it starts from now on, on one core, where there is more than one."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > core:
        os.sched_setaffinity(pid, {core})


def peak_mib() -> float:
    """This process's own peak of resident memory. `ru_maxrss` would count the process it was started from."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
