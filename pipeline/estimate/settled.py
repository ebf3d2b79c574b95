"""What is known of rows that have their outcome: their bills under every option, in the job's own run folder or in another.

Figures of one row stand in one list, whole numbers all: `FIGURES` first, then the cost under each option in billionths of its
currency unit. A row whose bill is not known whole has none.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import RunFolderError
from pipeline.estimate.options import Option
from pipeline.journal import FILE_NAME
from pipeline.journal_view import view
from pipeline.part_reading import reading_part
from pipeline.parts import part_names
from pipeline.pilot import is_pilot
from pipeline.plan import Plan
from pipeline.pricing import to_nano
from pipeline.records import Outcome, Usage
from pipeline.results import results_of
from pipeline.run_folder import RUN_FILE, Identity
from pipeline.storage import Storage

FIGURES = ("input", "output", "reasoning", "cached", "requests", "failed", "latency_ms")
_COLUMNS = (
    *(
        "input_index",
        "run_id",
        "status",
        "prompt_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "cached_tokens",
    ),
    *("cache_write_tokens", "cost", "attempts", "latency_ms"),
)
# More rows of an earlier run than this tell nothing more.
_MOST_OTHERS = 20_000


class Seen(NamedTuple):
    """A row that has its outcome; `prompt_tokens` are what its first answer was billed, `figures` all answers."""

    row: int
    prompt_tokens: int
    figures: list[int]


@dataclass(slots=True)
class Settled:
    """What the rows of a run folder came to.

    `sums` are the figures of the rows that runs settled, and `rows` tells which; of `unknown` rows among them the bill is not
    known. `others` are some of them, evenly. `pilot` are rows that pilots paid for; they are not in the sums.
    """

    rows: set[int] = field(default_factory=set)
    sums: list[int] = field(default_factory=list)
    unknown: int = 0
    pilot: list[Seen] = field(default_factory=list)
    others: list[Seen] = field(default_factory=list)
    model: str | None = None
    changed: list[str] = field(default_factory=list)


def read_own(plan: Plan, options: Sequence[Option], *, limit: int | None) -> Settled:
    """What the job's own run folder holds of it. Where the job changed since, its rows are only like those of now.

    Raises RunFolderError where it cannot be read.
    """
    folder = plan.job.output_path
    if not (folder / FILE_NAME).is_file():
        return Settled(sums=[0] * (len(FIGURES) + len(options)))
    manifest = view(folder).manifest
    before = Identity.from_manifest(manifest)
    now = Identity(plan.job.identity(), plan.dataset.fingerprint())
    changed = [] if before is None else now.changes(before)
    found = _read(plan, folder, options, limit)
    found.changed = changed
    if changed:
        found.others += found.pilot
        found.pilot, found.rows, found.unknown = [], set(), 0
        found.sums = [0] * len(found.sums)
    return found


def read_other(plan: Plan, folder: Path, options: Sequence[Option]) -> Settled:
    """What another run folder tells of rows like those of the job. Raises RunFolderError where it is none, or has no rows."""
    found = _read(plan, folder, options, None)
    found.others += found.pilot
    found.pilot = []
    return found


def _read(plan: Plan, folder: Path, options: Sequence[Option], limit: int | None) -> Settled:
    seen = view(folder)
    found = Settled(sums=[0] * (len(FIGURES) + len(options)))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
        found.model = json.loads((folder / RUN_FILE).read_bytes())["job"]["model"]["name"]
    results = results_of(folder, seen.manifest, plan.job.s3)
    try:
        names = part_names(results)
    except OSError as error:
        raise RunFolderError(f"the results in {results.where} cannot be read: {error}") from error
    rows = sum(part.rows for part in seen.parts) + len(seen.outcomes)
    every = max(1, rows // _MOST_OTHERS)
    in_parts: set[int] = set()
    for row in _of_parts(results, names):
        in_parts.add(row["input_index"])
        if limit is None or row["input_index"] < limit:
            _take(
                found, _of_row(row, options), row["input_index"], pilot=is_pilot(row["run_id"]), every=every
            )
    costs = plan.costs(seen.outcomes)
    for outcome, cost in zip(seen.outcomes, costs, strict=True):
        asked_for = limit is None or outcome.index < limit
        if asked_for and outcome.index not in in_parts:  # of a short part both have them
            pilot = is_pilot(outcome.run_id)
            _take(found, _of_outcome(outcome, cost, options), outcome.index, pilot=pilot, every=every)
    return found


def _take(found: Settled, row: Seen | None, index: int, *, pilot: bool, every: int) -> None:
    if pilot:
        if row is not None:
            found.pilot.append(row)
        return
    found.rows.add(index)
    if row is None:
        found.unknown += 1
        return
    for place, figure in enumerate(row.figures):
        found.sums[place] += figure
    if len(found.rows) % every == 0:
        found.others.append(row)


def _of_parts(results: Storage, names: Collection[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        with reading_part(results, name) as part:
            for batch in part.iter_batches(columns=list(_COLUMNS)):
                columns = [batch.column(place).to_pylist() for place in range(batch.num_columns)]
                for values in zip(*columns, strict=True):
                    yield dict(zip(batch.schema.names, values, strict=True))


def _of_row(row: dict[str, Any], options: Sequence[Option]) -> Seen | None:
    """A row of a part file, whose counts are those of all its answers together."""
    unbilled = row["prompt_tokens"] is None and row["completion_tokens"] is None and row["cost"] is None
    usages = (
        []
        if unbilled and row["status"] in ("failed", "blocked")
        else [
            Usage(
                prompt_tokens=row["prompt_tokens"],
                completion_tokens=row["completion_tokens"],
                cached_tokens=row["cached_tokens"],
                cache_write_tokens=row["cache_write_tokens"],
                reasoning_tokens=row["reasoning_tokens"],
            )
        ]
    )
    return _seen(
        _Bill(
            row["input_index"],
            usages,
            row["cost"],
            row["attempts"],
            row["status"] == "failed",
            row["latency_ms"],
        ),
        options,
    )


def _of_outcome(outcome: Outcome, cost: Decimal | None, options: Sequence[Option]) -> Seen | None:
    usages = list(outcome.earlier)
    if outcome.completion is not None:
        usages.insert(0, outcome.completion.usage)
        if outcome.completion.reasoning_content and not usages[0].reasoning_tokens:
            usages[0].reasoning_tokens = 1  # how many is not said: it is what decides the price
    failed = outcome.status == "failed"
    return _seen(_Bill(outcome.index, usages, cost, outcome.attempts, failed, outcome.latency_ms), options)


class _Bill(NamedTuple):
    """What one row was billed, answer by answer; `cost` is what it was recorded at."""

    row: int
    usages: Sequence[Usage]
    cost: Decimal | None
    attempts: int
    failed: bool
    latency_ms: float | None


def _seen(bill: _Bill, options: Sequence[Option]) -> Seen | None:
    usages = bill.usages
    if any(usage.prompt_tokens is None or usage.completion_tokens is None for usage in usages):
        return None
    costs: list[int] = []
    for option in options:
        if option.own and bill.cost is not None and usages:
            costs.append(to_nano(bill.cost))
            continue
        cost = 0
        for usage in usages:
            one = _nano_cost(option, usage)
            if one is None:
                return None
            cost += one
        costs.append(cost)
    figures = [
        sum(usage.prompt_tokens or 0 for usage in usages),
        sum(usage.completion_tokens or 0 for usage in usages),
        sum(usage.reasoning_tokens or 0 for usage in usages),
        sum(usage.cached_tokens or 0 for usage in usages),
        bill.attempts,
        int(bill.failed),
        round(bill.latency_ms or 0),
    ]
    return Seen(bill.row, (usages[0].prompt_tokens or 0) if usages else 0, [*figures, *costs])


def _nano_cost(option: Option, usage: Usage) -> int | None:
    if option.whole is None:
        return 0
    return option.whole.nano_cost(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )
