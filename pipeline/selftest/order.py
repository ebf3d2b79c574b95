"""Promise 8: same input, job and answers give the same part files, whatever the completion order.

The same rows three times, at different concurrency; the simulator answers alike each time and takes another time for it. What
says when, by whom and by which request a row was answered may differ, nothing else.
"""

import hashlib
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.selftest.place import JOB, Place, rows, sets
from pipeline.selftest.results import part_paths, read_table
from pipeline.selftest.verdict import Verdict, breaches, some

_ROWS = 400
_ROWS_PER_PART = 64
_AT_ONCE = (32, 32, 7)
_LATENCY = "uniform:0ms-80ms"
_MAY_DIFFER = frozenset({"started_at", "latency_ms", "first_token_ms", "queue_ms", "run_id", "request_id"})


class Run(NamedTuple):
    """One run: a digest of each column of each part, by part and column, and the order in which its requests ended."""

    parts: Mapping[str, Mapping[str, str]]
    order: list[str]


async def check(place: Place) -> Verdict:
    return judge(await gather(place))


async def gather(place: Place) -> list[Run]:
    runs = []
    async with place.simulator(latency=_LATENCY) as server:
        place.write_job(server, rows((f"r{n}", f"text {n}") for n in range(_ROWS)))
        for number, at_once in enumerate(_AT_ONCE, 1):
            name = f"run-{number}"
            settings = sets(f"output.rows_per_part={_ROWS_PER_PART}", f"limits.max_concurrency={at_once}")
            await _run(place, name, settings)
            entries = (await server.ledger(entries=True))["entries"]
            runs.append(Run(_digests(place.folder / name), _order(entries, number)))
    return runs


def judge(runs: list[Run]) -> Verdict:
    differ: set[str] = set()
    for first, second in combinations(runs, 2):
        differ |= {f"{part} is missing" for part in first.parts.keys() ^ second.parts.keys()}
        for part in first.parts.keys() & second.parts.keys():
            one, other = first.parts[part], second.parts[part]
            if list(one) != list(other):
                differ.add(f"{part}: other columns")
            differ |= {f"{part}: {name}" for name in one.keys() & other.keys() if one[name] != other[name]}
    orders = {tuple(run.order) for run in runs}
    parts, columns = runs[0].parts, next(iter(runs[0].parts.values()), {})
    return Verdict(
        f"{len(orders)} completion orders: {len(parts)} parts with {len(differ)} differences in {len(columns)} columns "
        "(all but times and ids)",
        breaches(
            (differ, f"what differs: {some(sorted(differ))}"),
            (not parts, "no part was written"),
            (len(orders) < len(runs), "two runs completed in the same order, so that nothing was proven"),
        ),
    )


async def _run(place: Place, name: str, settings: list[str]) -> None:
    (await place.promptmill("run", JOB, "--quiet", "--output", name, *settings, name=name)).expect(0)


def _digests(run: Path) -> dict[str, dict[str, str]]:
    found = {}
    for part in part_paths(run):
        table = read_table(part)
        found[part.name] = {
            field.name: _digest(str(field.type), table.column(field.name).to_pylist())
            for field in table.schema
            if field.name not in _MAY_DIFFER
        }
    return found


def _digest(kind: str, values: list[Any]) -> str:
    return hashlib.blake2b(repr((kind, values)).encode(), digest_size=16).hexdigest()


def _order(entries: list[dict[str, Any]], seen: int) -> list[str]:
    """The bodies of the requests that came for the `seen`-th time, as they ended."""
    return [entry["key"] for entry in entries if entry["seen"] == seen]
