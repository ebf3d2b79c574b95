"""A run of very many rows: memory over its length, how soon it goes on after a kill, and how soon `status` answers.

    python -m benchmarks.scale [--rows 10_000_000] [--folder FOLDER]

Everything is as in a real run but the transport, which answers at once. The run is killed (SIGKILL) at nine tenths of its rows,
looked at by `status`, and begun again. Ten million rows take about half an hour and 15 GB.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.ours import read_plan, write_job
from benchmarks.overhead import StubTransport
from benchmarks.support import ROOT, silence, table, write_reviews
from pipeline.commands.job import now
from pipeline.engine import RunOptions, run_job
from pipeline.records import Failure, Request, Response
from pipeline.transport import Sink

TARGET_MIB, TARGET_GROWTH, TARGET_RESUME_S, TARGET_STATUS_S = 300, 0.10, 10, 1
FROM_ROWS = 100_000  # memory is flat from here on
URL = "http://127.0.0.1:9/v1"
PROMPTMILL = Path(sys.executable).parent / "promptmill"


class Mark(NamedTuple):
    """Resident memory after so many requests of a process."""

    requests: int
    mib: float


class Scale(NamedTuple):
    """What was seen. Times are from the start of the process."""

    rows: int
    marks: list[Mark]
    status_s: float
    resume_s: float
    resumed: list[Mark]

    @property
    def holds(self) -> bool:
        sizes = [mark.mib for mark in self.marks if mark.requests >= FROM_ROWS]
        return (
            max(sizes) < TARGET_MIB
            and max(sizes) <= sizes[0] * (1 + TARGET_GROWTH)
            and self.status_s < TARGET_STATUS_S
            and self.resume_s < TARGET_RESUME_S
        )


class Marking(StubTransport):
    """Tells of its first request, and of each further 100,000 how much memory the process has."""

    requests = 0

    async def send(self, request: Request, sink: Sink | None = None) -> Response | Failure:
        if self.requests % FROM_ROWS == 0:
            print(self.requests, f"{_rss_mib(os.getpid()):.1f}", flush=True)
        self.requests += 1
        return await super().send(request, sink)


def measure(rows: int, folder: Path) -> Scale:
    """Run, kill, look, and run again, in `folder`."""
    dataset = folder / "reviews.jsonl"
    if not dataset.exists():
        write_reviews(dataset, rows)
    shutil.rmtree(folder / "run", ignore_errors=True)
    write_job(folder, dataset, base_url=URL, in_flight=256)
    marks = []
    with _running(folder) as process:
        for mark in _marks(process):
            marks.append(mark)
            print(f"{mark.requests:>12,} requests  {mark.mib:6.1f} MiB", file=sys.stderr, flush=True)
            if mark.requests >= 0.9 * rows:
                process.send_signal(signal.SIGKILL)
                break
    status_s = min(_status_s(folder) for _ in range(3))
    began_s = time.perf_counter()
    with _running(folder) as process:
        resumed = [next(found := _marks(process))]
        resume_s = time.perf_counter() - began_s
        resumed += list(found)
    return Scale(rows, marks, status_s, resume_s, resumed)


def as_table(found: Scale) -> str:
    sizes = [mark for mark in found.marks if mark.requests >= FROM_ROWS]
    first, most = sizes[0], max(sizes, key=lambda mark: mark.mib)
    return table(
        (f"{found.rows:,} rows", "found", "target"),
        [
            (f"resident memory at {first.requests:,} rows", f"{first.mib:.0f} MiB", ""),
            (
                f"the most, at {most.requests:,} rows",
                f"{most.mib:.0f} MiB ({most.mib / first.mib - 1:+.1%})",
                f"< {TARGET_MIB} MiB, +-{TARGET_GROWTH:.0%}",
            ),
            ("`status` after the kill", f"{found.status_s:.2f} s", f"< {TARGET_STATUS_S} s"),
            ("from start to first request, on resume", f"{found.resume_s:.1f} s", f"< {TARGET_RESUME_S} s"),
            ("resident memory then", f"{found.resumed[0].mib:.0f} MiB", f"< {TARGET_MIB} MiB"),
        ],
    )


def _running(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale", "--child", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def _marks(process: "subprocess.Popen[str]") -> Iterator[Mark]:
    assert process.stdout is not None
    for line in process.stdout:
        requests, mib = line.split()
        yield Mark(int(requests), float(mib))


def _status_s(folder: Path) -> float:
    began_s = time.perf_counter()
    subprocess.run([PROMPTMILL, "status", folder / "run"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began_s


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to work; what is there already is used again")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asked = RunOptions(limit=None, deadline_s=None, notes=silence())
        run_job(read_plan(options.child / "job.toml"), asked, now=now, connect=Marking)
        return
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(options.rows, folder)
    print(as_table(found))
    sys.exit(0 if found.holds else 1)


if __name__ == "__main__":
    main()
