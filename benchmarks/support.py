"""What the figures have in common: rows, canned answer, stub server, child processes, tables.

Nothing is measured here, and nothing of the program is imported: peers use this too. Every measured program is a process of
its own, so that none inherits another's heap or modules.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipeline.run_log import Notes

ROOT = Path(__file__).resolve().parents[1]
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

# Shaped as the compatible mode answers (chat completion object, usage with its details).
ANSWER = orjson.dumps(
    {
        "choices": [
            {
                "message": {"role": "assistant", "content": "positive"},
                "finish_reason": "stop",
                "index": 0,
                "logprobs": None,
            }
        ],
        "object": "chat.completion",
        "usage": {
            "prompt_tokens": 182,
            "completion_tokens": 1,
            "total_tokens": 183,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "created": 1764000000,
        "system_fingerprint": None,
        "model": MODEL,
        "id": "chatcmpl-0f3c8a51-3b52-9d0e-9f3e-7a4f1f0f9d11",
    }
)
ANSWER_HEADERS = {
    "content-type": "application/json",
    "x-request-id": "0f3c8a51-3b52-9d0e-9f3e-7a4f1f0f9d11",
    "x-dashscope-call-gateway": "true",
    "req-cost-time": "412",
    "req-arrive-time": "1764000000000",
    "resp-start-time": "1764000000412",
    "date": "Sun, 22 Nov 2026 10:00:00 GMT",
    "server": "istio-envoy",
}


def write_reviews(path: Path, rows: int) -> Path:
    """Write a JSONL dataset: the sample reviews again and again, each under an id of its own."""
    samples = ROOT / "data/samples/reviews.jsonl"
    reviews = [orjson.loads(line) for line in samples.read_bytes().splitlines() if line]
    with path.open("wb") as file:
        for number, review in enumerate(islice(cycle(reviews), rows)):
            file.write(orjson.dumps(review | {"review_id": f"r{number:09d}"}) + b"\n")
    return path


class Spent(NamedTuple):
    """What a run over so many rows took; peak memory is that of its whole process.

    `yardstick_us` says how fast the machine was just then: `yardstick_us` before and after the run, their mean.
    """

    rows: int
    cpu_s: float
    wall_s: float
    peak_mib: float
    yardstick_us: float = 0.0

    @property
    def us_a_row(self) -> float:
        return self.cpu_s / self.rows * 1e6


def pin(core: int) -> None:
    """Keep this process on one core, where there is more than one."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > core:
        os.sched_setaffinity(0, {core})


def peak_mib() -> float:
    """This process's own peak of resident memory. `ru_maxrss` would count the process it was started from."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def child(module: str, *args: object) -> dict[str, Any]:
    """Run a module in a process of its own and return the JSON object it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class StubServer(NamedTuple):
    """A running stub server; `first_request_s` waits for its first request and gives its monotonic time."""

    url: str
    process: "subprocess.Popen[str]"

    def first_request_s(self) -> float:
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())


@contextmanager
def stub_server() -> Iterator[StubServer]:
    """A server in a process of its own that answers every request at once with ANSWER."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stub_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield StubServer(f"http://127.0.0.1:{port}/v1", process)
    finally:
        process.stdin.close()  # it ends with its standard input
        process.wait(timeout=10)
        process.stdout.close()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it also reads in a terminal; columns after the first stand to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    return "\n".join([row(lines[0]), row(rule), *map(row, lines[1:])])


def yardstick_us() -> float:
    """CPU microseconds of one turn of a fixed loop of plain Python, the median of a few: how fast the machine is just now."""
    turns = 100_000
    took = []
    for _ in range(5):
        kept: dict[int, tuple[int, str]] = {}
        began = time.process_time()
        for number in range(turns):
            kept[number % 1000] = (number, str(number))
        took.append((time.process_time() - began) / turns * 1e6)
    return statistics.median(took)


def machine() -> str:
    """What the figures were taken on; no names of hosts or people."""
    names = ("aiohttp", "httpx", "openai", "uvloop", "orjson", "pyarrow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{datetime.now():%d %B %Y}; {os.cpu_count()} cores, {_cpu_model()}; {platform.system()} "
        f"{platform.release().split('-')[0]}; Python {platform.python_version()}; "
        f"promptmill {version('promptmill')}, {versions}."
    )


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def silence() -> Notes:
    """Notes that nobody hears."""
    return Notes(stream=sys.stderr, quiet=True, format="text", now=datetime.now)
