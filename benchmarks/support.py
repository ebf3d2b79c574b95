"""What the figures have in common: rows, canned answer, stub server, child processes, tables. `workload` has what peers share.

Nothing is measured here. Every measured program is a process of
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

from benchmarks.workload import MODEL
from pipeline.run_log import Notes

ROOT = Path(__file__).resolve().parents[1]
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


class Served(NamedTuple):
    """What a stub server saw: requests answered, and the monotonic times of the first and the last. None where none came.

    `settled_per_s` is the requests a second between the first and the last turn of all connections, None without a delay.
    """

    answered: int
    first_s: float | None
    last_s: float | None
    most_connections: int
    settled_per_s: float | None


class StubServer(NamedTuple):
    """A running stub server."""

    url: str
    process: "subprocess.Popen[str]"

    def first_request_s(self) -> float:
        """Wait for its first request and return that one's monotonic time."""
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())

    def ended(self) -> Served:
        """End it, where nobody asked for the first request's time before, and return what it saw."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        *first, last = self.process.stdout.read().splitlines()
        return Served(first_s=float(first[0]) if first else None, **json.loads(last))


@contextmanager
def stub_server(delay_ms: float = 0) -> Iterator[StubServer]:
    """A server in a process of its own that answers every request with ANSWER, at once or after a delay."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stub_server", "--delay-ms", str(delay_ms)],
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


def write_between(page: Path, begin: str, end: str, sections: Iterable[str]) -> None:
    """Replace what a page holds between two marks, which stay; ends the program where it lacks them."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} lacks its two marks, {begin} and {end}: put them back")
    page.write_text("\n\n".join([f"{before}{begin}", *sections, f"{end}{after}"]), encoding="utf-8")


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
    """What the figures were taken on, with the packages of this environment; no names of hosts or people."""
    names = ("promptmill", "aiohttp", "httpx", "openai", "uvloop", "orjson", "pyarrow")
    return f"{hardware()}; {', '.join(f'{name} {version(name)}' for name in names)}."


def hardware() -> str:
    """The day, the machine, its system and Python."""
    return (
        f"{datetime.now():%d %B %Y}; {os.cpu_count()} cores, {_cpu_model()}; {platform.system()} "
        f"{platform.release().split('-')[0]}; Python {platform.python_version()}"
    )


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def silence() -> Notes:
    """Notes that nobody hears."""
    return Notes(stream=sys.stderr, quiet=True, format="text", now=datetime.now)
