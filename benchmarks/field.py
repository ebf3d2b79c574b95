"""Ours beside others that ask a model about many rows, in one run on one machine, each in an environment of its own.

    python -m benchmarks.field [--rows 20_000] [--only promptmill,httpx] [--write]

Each environment is made with pip, by the package's name, below `.venv/field`; ours is installed from this folder. All get the
same rows and the same server, on a core of its own, that answers at once or after 200 ms. What is measured is the whole program,
from starting the process to its exit: seconds to the first request, rows a second from there on, CPU and peak memory of all its
processes. `waited` is the share of the time in which a client was ready to run while its core did other work: nothing on a
machine of its own, and where it is more, only CPU and memory can be compared. One that is not done after five minutes, such
waits left out, is ended, and what it has by then is counted. `--write` puts the tables into docs/performance.md. Takes about
twenty minutes on an idle machine; exits 1 where a client failed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.ours import write_job
from benchmarks.support import ROOT, hardware, stub_server, table, write_between, write_reviews
from benchmarks.watched import Watched, watch
from benchmarks.workload import KEY

ROWS, CAP_S = 20_000, 300
ENVIRONMENTS = ROOT / ".venv/field"
PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- field: written by `python -m benchmarks.field --write` -->", "<!-- end of field -->"


class Setting(NamedTuple):
    """How long the server holds an answer back, and how many requests each client may have in flight."""

    delay_ms: int
    in_flight: int


# At once: few connections, as more gain nobody anything. With a delay: as many as a bulk run needs to use its quota.
SETTINGS = (Setting(0, 64), Setting(200, 256))


class Entry(NamedTuple):
    """One of the field: what to install (None: this folder), and how the tables call it."""

    package: str | None
    title: str

    @property
    def distribution(self) -> str:
        return (self.package or "promptmill").partition("[")[0]


OURS = "promptmill"
FIELD = {
    OURS: Entry(None, "promptmill"),
    "aiohttp": Entry("aiohttp", "aiohttp, semaphore"),
    "httpx": Entry("httpx", "httpx, semaphore"),
    "openai": Entry("openai", "openai SDK, semaphore"),
    "openai-aiohttp": Entry("openai[aiohttp]", "openai SDK over aiohttp, semaphore"),
    "litellm": Entry("litellm", "litellm acompletion, semaphore"),
    "langchain": Entry("langchain-openai", "langchain ChatOpenAI.abatch"),
    "curator": Entry("bespokelabs-curator", "curator LLM"),
}


class Work(NamedTuple):
    """What each client is given, and the seconds it may take."""

    dataset: Path
    rows: int
    cap_s: float


class Line(NamedTuple):
    """One client under one setting. `answered` counts what the server answered, rows asked twice and trial requests too."""

    title: str
    rows: int
    answered: int
    first_s: float | None
    spent: Watched

    @property
    def rows_per_s(self) -> float:
        """From the first request to the end of the program."""
        return min(self.answered, self.rows) / (self.spent.ended_s - (self.first_s or self.spent.began_s))

    @property
    def waited(self) -> float:
        return self.spent.waited_s / (self.spent.ended_s - self.spent.began_s)

    @property
    def outcome(self) -> str:
        if self.spent.exit_code is None:
            return f"cut off, {self.answered:,} rows"
        if self.spent.exit_code:
            return f"failed after {self.answered:,} rows"
        return "done" if self.answered == self.rows else f"done in {self.answered:,} requests"


def environment(name: str) -> Path:
    """Make the environment of one, where its package is not installed there yet, and return its folder of programs."""
    folder = ENVIRONMENTS / name
    programs = folder / "bin"
    package = FIELD[name].package
    stamp = folder / "installed"
    if package and stamp.exists() and stamp.read_text() == package:
        return programs
    print(f"installing {package or ROOT}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", package or str(ROOT)], check=True, stdout=sys.stderr)
    stamp.write_text(package or "")
    return programs


def version_of(name: str, programs: Path) -> str:
    """The version that is installed in its environment."""
    say = f"import importlib.metadata as m; print(m.version({FIELD[name].distribution!r}))"
    return subprocess.run(
        [programs / "python", "-c", say], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def run_one(name: str, programs: Path, work: Work, setting: Setting) -> Line:
    """Run one of the field once, in a folder of its own, against a server of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="promptmill-bench-") as scratch,
        stub_server(setting.delay_ms) as server,
    ):
        folder = Path(scratch)
        if name == OURS:
            job = write_job(folder, work.dataset, base_url=server.url, in_flight=setting.in_flight)
            argv = [str(programs / "promptmill"), "run", str(job), "--quiet"]
            env = {"DASHSCOPE_API_KEY": KEY}
        else:
            argv = [str(programs / "python"), "-m", "benchmarks.peers", name, str(work.dataset)]
            argv += ["--url", server.url, "--connections", str(setting.in_flight)]
            env = {
                "OPENAI_API_KEY": KEY,
                "CURATOR_CACHE_DIR": scratch,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it begins by fetching one
                "CURATOR_DISABLE_RICH_DISPLAY": "1",
                "TELEMETRY_ENABLED": "false",
            }
        log = folder / "output.log"
        spent = watch(argv, cwd=ROOT, env={**os.environ, **env}, log=log, cap_s=work.cap_s)
        served = server.ended()
        if spent.exit_code:
            print(log.read_text(errors="replace")[-2_000:], file=sys.stderr)
    return Line(FIELD[name].title, work.rows, served.answered, served.first_s, spent)


def as_table(setting: Setting, lines: Sequence[Line]) -> str:
    """The lines of one setting, fastest first."""
    ideal = f"{setting.in_flight * 1000 / setting.delay_ms:,.0f}" if setting.delay_ms else ""

    def cells(line: Line) -> tuple[str, ...]:
        start = f"{line.first_s - line.spent.began_s:.1f}" if line.first_s else ""
        us = f"{line.spent.cpu_s / min(line.answered, line.rows) * 1e6:,.0f}" if line.answered else ""
        speed = f"{line.rows_per_s:,.0f}"
        return (
            line.title,
            line.outcome,
            start,
            speed,
            us,
            f"{line.spent.peak_mib:.0f}",
            f"{line.waited:.0%}",
        )

    head = (
        f"{setting.in_flight} in flight, {setting.delay_ms} ms"
        + (f" (ideal: {ideal} rows/s)" if ideal else ""),
        f"{lines[0].rows:,} rows",
        "start s",
        "rows/s",
        "CPU us a row",
        "peak MiB",
        "waited",
    )
    return table(head, map(cells, sorted(lines, key=lambda line: -line.rows_per_s)))


def measure(names: Iterable[str], rows: int, cap_s: float, failed: list[str]) -> Iterator[str]:
    """Yield the sections of the page: the machine and versions, then a table a setting. `failed` gets who failed."""
    programs = {name: environment(name) for name in names}
    versions = {
        f"{FIELD[name].distribution} {version_of(name, where)}": None for name, where in programs.items()
    }
    yield f"{hardware()}; {', '.join(versions)}."
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as scratch:
        work = Work(write_reviews(Path(scratch) / "reviews.jsonl", rows), rows, cap_s)
        for setting in SETTINGS:
            lines = []
            for name, where in programs.items():
                lines.append(run_one(name, where, work, setting))
                print(setting, lines[-1], file=sys.stderr, flush=True)
            failed += [line.title for line in lines if line.spent.exit_code]
            yield as_table(setting, lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--cap-s", type=float, default=CAP_S, help="end a client that takes longer")
    parser.add_argument("--only", help=f"some of {','.join(FIELD)}")
    parser.add_argument(
        "--write", action="store_true", help=f"write the tables into {PAGE.relative_to(ROOT)}"
    )
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(FIELD)
    if unknown := [name for name in names if name not in FIELD]:
        parser.error(f"--only: {', '.join(unknown)} is none of {', '.join(FIELD)}")
    sections: list[str] = []
    failed: list[str] = []
    for section in measure(names, options.rows, options.cap_s, failed):
        print(f"{section}\n", flush=True)
        sections.append(section)
    if options.write:
        write_between(PAGE, BEGIN, END, sections)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
