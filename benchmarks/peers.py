"""What one would write by hand: a task a row behind a semaphore, the answers into a list.

    python -m benchmarks.peers httpx ROWS_FILE --url http://127.0.0.1:PORT/v1 --connections 64

What these do not do: retries, rate limits, a journal to resume from, part files, token and cost sums, label checks.
"""

import argparse
import asyncio
import importlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson

from benchmarks.support import CLIENT_CORE, KEY, MODEL, SYSTEM, USER, Spent, peak_mib, pin

Ask = Callable[[str], Awaitable[str | None]]


async def by_httpx(dataset: Path, url: str, connections: int) -> Spent:
    """One `httpx.AsyncClient` with as many connections as the semaphore lets through."""
    async with _client(connections) as client:

        async def ask(user: str) -> str | None:
            answer = await client.post(
                f"{url}/chat/completions", json=_body(user), headers={"Authorization": f"Bearer {KEY}"}
            )
            answer.raise_for_status()
            content: str = answer.json()["choices"][0]["message"]["content"]
            return content

        return await _loop(ask, dataset, connections)


async def by_openai(dataset: Path, url: str, connections: int) -> Spent:
    """One `AsyncOpenAI` without retries, over the same httpx client."""
    openai = importlib.import_module("openai")  # only here: it weighs on the memory of the other
    http = _client(connections)
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, http_client=http) as client:

        async def ask(user: str) -> str | None:
            answer = await client.chat.completions.create(**_body(user))
            content: str | None = answer.choices[0].message.content
            return content

        return await _loop(ask, dataset, connections)


async def _loop(ask: Ask, dataset: Path, connections: int) -> Spent:
    semaphore = asyncio.Semaphore(connections)
    answers: list[dict[str, Any]] = []

    async def one(row: dict[str, Any]) -> None:
        async with semaphore:
            label = await ask(USER.format(row["text"]))
        answers.append({**row, "answer": label})

    wall_s, cpu_s = time.perf_counter(), time.process_time()
    with dataset.open("rb") as lines:
        await asyncio.gather(*(one(orjson.loads(line)) for line in lines))
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    assert all(answer["answer"] == "positive" for answer in answers)
    return Spent(len(answers), cpu_s, wall_s, peak_mib())


def _client(connections: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(limits=limits, timeout=300, trust_env=False)


def _body(user: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 16}


PEERS = {"httpx": by_httpx, "openai": by_openai}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, required=True)
    options = parser.parse_args()
    pin(CLIENT_CORE)
    spent = asyncio.run(PEERS[options.peer](options.dataset, options.url, options.connections))
    print(json.dumps(spent._asdict()))


if __name__ == "__main__":
    main()
