"""Rows per CPU-second over HTTP: the whole program against what one would write by hand.

    python -m benchmarks.over_http

The server answers at once, on a core of its own, so what counts is the client's CPU; the network of a real run adds the same
to everyone. All send the same rows to the same server, each in a process of its own, in alternating order. CPU is that of the
whole client process from the first row read to the last result kept; starting Python, importing and opening the client are
left out for all.

What the peers do not do, and ours does: retries, rate limits, a journal to resume from, part files, token and cost sums,
label checks. Each keeps its answers in a list.
"""

import argparse
import asyncio
import io
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import orjson

from benchmarks.support import (
    CLIENT_CORE,
    KEY,
    MODEL,
    SYSTEM,
    USER,
    child,
    peak_mib,
    pin,
    read_plan,
    stub_server,
    table,
    write_job,
    write_reviews,
)
from pipeline.engine import RunOptions, run_job

FEW, MANY = 64, 1_000
# Enough rows for seconds of CPU, as each is that fast.
ROWS = {"promptmill": 20_000, "httpx": 600, "openai": 600}
HTTPX_TARGET, OPENAI_TARGET, MANY_TARGET = 15, 10, 0.20


class OverHttp(NamedTuple):
    """Medians over the repeats: rows per CPU-second at 64 connections, and ours at 1,000."""

    ours: float
    ours_many: float
    httpx: float
    openai: float
    peak_mib: dict[str, float]

    @property
    def holds(self) -> bool:
        slower = abs(self.ours / self.ours_many - 1)
        return (
            self.ours >= HTTPX_TARGET * self.httpx
            and self.ours >= OPENAI_TARGET * self.openai
            and slower <= MANY_TARGET
        )


def measure(repeats: int = 3) -> OverHttp:
    """Run every client `repeats` times, the order turned round each time."""
    runs = [("promptmill", FEW), ("promptmill", MANY), ("httpx", FEW), ("openai", FEW)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {run: [] for run in runs}
    with stub_server() as server:
        for turn in range(repeats):
            for who, connections in runs if turn % 2 == 0 else runs[::-1]:
                one = child("over_http", "--who", who, "--connections", connections, "--url", server.url)
                found[who, connections].append(one)
    speed = {run: statistics.median(one["rows"] / one["cpu_s"] for one in all_) for run, all_ in found.items()}
    peak = {f"{who} {n}": statistics.median(one["peak_mib"] for one in all_) for (who, n), all_ in found.items()}
    return OverHttp(
        speed["promptmill", FEW], speed["promptmill", MANY], speed["httpx", FEW], speed["openai", FEW], peak
    )


def as_table(found: OverHttp) -> str:
    def line(name: str, key: str, rows_per_cpu_s: float, against: str) -> tuple[str, ...]:
        us = f"{1e6 / rows_per_cpu_s:,.0f}"
        return (name, f"{rows_per_cpu_s:,.0f}", us, against, f"{found.peak_mib[key]:.0f}")

    ours = found.ours
    return table(
        ("client", "rows per CPU-second", "CPU us a row", "ours against it", "peak MiB"),
        [
            line(f"promptmill, {FEW} connections", f"promptmill {FEW}", ours, ""),
            line(
                f"promptmill, {MANY:,} connections",
                f"promptmill {MANY}",
                found.ours_many,
                f"{(ours / found.ours_many - 1) * 100:+.0f} % CPU a row (+-{MANY_TARGET * 100:.0f} %)",
            ),
            line(
                f"httpx.AsyncClient + semaphore, {FEW}",
                f"httpx {FEW}",
                found.httpx,
                f"{ours / found.httpx:.1f}x (>= {HTTPX_TARGET}x)",
            ),
            line(
                f"openai SDK + semaphore, {FEW}",
                f"openai {FEW}",
                found.openai,
                f"{ours / found.openai:.1f}x (>= {OPENAI_TARGET}x)",
            ),
        ],
    )


def run_ours(folder: Path, dataset: Path, url: str, connections: int) -> float:
    """Run a job over the dataset; the CPU seconds it took."""
    plan = read_plan(write_job(folder, dataset, base_url=url, in_flight=connections))
    options = RunOptions(limit=None, deadline_s=None, quiet=True, stderr=io.StringIO())
    began = time.process_time()
    summary = run_job(plan, options, now=lambda: datetime.now().astimezone())
    spent = time.process_time() - began
    assert summary.exit_code == 0 and summary.status["ok"] == summary.rows, summary
    return spent


async def run_peer(ask: Callable[[str], Awaitable[str | None]], dataset: Path, connections: int) -> float:
    """The loop one would write: a task a row behind a semaphore, answers into a list."""
    semaphore = asyncio.Semaphore(connections)
    answers: list[dict[str, Any]] = []

    async def one(row: dict[str, Any]) -> None:
        async with semaphore:
            label = await ask(USER.format(row["text"]))
        answers.append({**row, "answer": label})

    began = time.process_time()
    with dataset.open("rb") as lines:
        await asyncio.gather(*(one(orjson.loads(line)) for line in lines))
    spent = time.process_time() - began
    assert all(answer["answer"] == "positive" for answer in answers)
    return spent


async def run_httpx(dataset: Path, url: str, connections: int) -> float:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as client:

        async def ask(user: str) -> str | None:
            answer = await client.post(
                f"{url}/chat/completions", json=_body(user), headers={"Authorization": f"Bearer {KEY}"}
            )
            answer.raise_for_status()
            content: str = answer.json()["choices"][0]["message"]["content"]
            return content

        return await run_peer(ask, dataset, connections)


async def run_openai(dataset: Path, url: str, connections: int) -> float:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    http = httpx.AsyncClient(limits=limits, timeout=300, trust_env=False)
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, http_client=http) as client:

        async def ask(user: str) -> str | None:
            answer = await client.chat.completions.create(**_body(user))
            return answer.choices[0].message.content

        return await run_peer(ask, dataset, connections)


def _body(user: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--who", choices=ROWS, help="run one client in this process and print JSON")
    parser.add_argument("--connections", type=int, default=FEW)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--url")
    options = parser.parse_args()
    if options.who is None:
        print(as_table(measure()))
        return
    pin(CLIENT_CORE)
    rows = options.rows or ROWS[options.who]
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        folder = Path(name)
        dataset = write_reviews(folder / "reviews.jsonl", rows)
        given = (dataset, options.url, options.connections)
        if options.who == "promptmill":
            cpu_s = run_ours(folder, *given)
        else:
            cpu_s = asyncio.run({"httpx": run_httpx, "openai": run_openai}[options.who](*given))
    print(json.dumps({"rows": rows, "cpu_s": cpu_s, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
