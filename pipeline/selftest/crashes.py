"""Promise 2: killed at any moment, the same command loses no answered row, and pays for none again.

One run is killed again and again: as soon as its journal exists, while a part is being written (where it is caught at it), and
at moments between. At each kill we look at which answers journal and parts hold. What the run then did, the ledger tells: a
request is known there by its body, so that one asked again shows.
"""

import asyncio
import random
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.errors import RunFolderError
from pipeline.journal import FILE_NAME
from pipeline.journal_view import view
from pipeline.records import Status
from pipeline.selftest.place import JOB, Place, Running, answers, rows, sets
from pipeline.selftest.results import Row, part_paths, read_rows
from pipeline.selftest.verdict import Unproven, Verdict, breaches, some
from pipeline.storage import SCRATCH_SUFFIX

_ROWS = 640
_ROWS_PER_PART = 40
_AT_ONCE = 24
_LATENCY = "uniform:30ms-90ms"
_LONGEST_S = 0.15  # after a part that a kill waits for
_LEAST_KILLS = 4
_RUN = (
    "run",
    JOB,
    "--quiet",
    *sets(f"output.rows_per_part={_ROWS_PER_PART}", f"limits.max_concurrency={_AT_ONCE}"),
)


class Moment(NamedTuple):
    """When to kill: as soon as it begins; or once it has written so many parts, then while it writes one, or some time on."""

    aim: Literal["beginning", "writing", "between"]
    parts: int = 0


_MOMENTS = (
    Moment("beginning"),
    Moment("between"),
    Moment("writing", 1),
    Moment("between", 2),
    Moment("writing", 1),
    Moment("writing", 2),
    Moment("between", 1),
    Moment("writing", 1),
)


class Kill(NamedTuple):
    """What a killed run left: the request id of each answer it had kept, by row; the requests that were on the wire."""

    kept: dict[int, str]
    in_flight: int
    writing: bool


class Asked(NamedTuple):
    """One request as the ledger has it: `body` names what was asked, `seen` counts it; `billed`: an answer was made."""

    body: str
    seen: int
    request_id: str | None
    billed: bool


class Evidence(NamedTuple):
    """`maybe_paid` is what the last run's summary counts; `asked` all requests of all runs."""

    row_ids: list[str]
    at_once: int
    kills: list[Kill]
    rows: list[Row]
    maybe_paid: int
    asked: list[Asked]


async def check(place: Place) -> Verdict:
    return judge(await gather(place))


async def gather(place: Place) -> Evidence:
    row_ids = [f"r{n}" for n in range(_ROWS)]
    async with place.simulator(latency=_LATENCY) as server:
        place.write_job(server, rows((name, f"text of {name}") for name in row_ids))
        kills = [
            kill
            for number, moment in enumerate(_MOMENTS)
            if (kill := await _killed(place, moment, f"killed-{number}")) is not None
        ]
        last = (await place.promptmill(*_RUN, name="last")).expect(0)
        ledger = await server.ledger(entries=True)
    return Evidence(
        row_ids,
        _AT_ONCE,
        kills,
        read_rows(place.run_folder),
        int(last.summary["maybe_paid"]),
        [_asked(entry) for entry in ledger["entries"]],
    )


def judge(evidence: Evidence) -> Verdict:
    # One that was killed when all was done shows nothing.
    kills = [kill for kill in evidence.kills if len(kill.kept) < len(evidence.row_ids)]
    out = {row.input_index: row for row in evidence.rows}
    lost = [
        name
        for index, name in enumerate(evidence.row_ids)
        if (row := out.get(index)) is None
        or row.row_id != name
        or row.status != Status.OK
        or row.content not in answers(name)
    ]
    forgotten = {
        evidence.row_ids[index]
        for kill in kills
        for index, request_id in kill.kept.items()
        if index not in out or out[index].request_id != request_id
    }
    last_seen: defaultdict[str, int] = defaultdict(int)
    for asked in evidence.asked:
        last_seen[asked.body] = max(last_seen[asked.body], asked.seen)
    by_id = {asked.request_id: asked for asked in evidence.asked}
    paid_for = [row.request_id for row in evidence.rows]
    again = [
        row.row_id
        for row in evidence.rows
        if (asked_for := by_id.get(row.request_id)) is None or last_seen[asked_for.body] > asked_for.seen
    ]
    sent_again = len(evidence.asked) - len(last_seen)
    in_flight = sum(kill.in_flight for kill in kills)
    unkept = sum(asked.billed and asked.request_id not in set(paid_for) for asked in evidence.asked)
    doubled = [
        str(index) for index, count in Counter(r.input_index for r in evidence.rows).items() if count > 1
    ]
    return Verdict(
        f"{len(kills)} kills, {sum(kill.writing for kill in kills)} in a part write: {len(lost)} of {len(evidence.row_ids)} "
        f"rows lost, {len(again)} answers asked for again; {sent_again} in flight sent again, maybe_paid {evidence.maybe_paid}",
        breaches(
            (lost, f"rows without their answer: {some(lost)}"),
            (doubled, f"rows that stand twice in the results: {some(doubled)}"),
            (forgotten, f"answers that were kept when it was killed, and are not in the results: {some(sorted(forgotten))}"),
            (again, f"rows asked again although their answer was there: {some(again)}"),
            (sent_again > in_flight, f"{sent_again} requests were sent again, more than the {in_flight} in flight"),
            (
                any(kill.in_flight > evidence.at_once for kill in kills),
                f"more than {evidence.at_once} requests were in flight at a kill",
            ),
            (
                unkept > evidence.maybe_paid,
                f"{unkept} answers were made and never kept, and maybe_paid says {evidence.maybe_paid}",
            ),
            (
                evidence.maybe_paid > in_flight,
                f"maybe_paid says {evidence.maybe_paid}, and {in_flight} requests were in flight at the kills",
            ),
            (len(kills) < _LEAST_KILLS, f"only {len(kills)} kills met a run that was still going on"),
        ),
    )  # fmt: skip


def _asked(entry: dict[str, Any]) -> Asked:
    return Asked(entry["key"], entry["seen"], entry["request_id"], entry["completion_tokens"] > 0)


async def _killed(place: Place, moment: Moment, name: str) -> Kill | None:
    """Start the run and kill it at the moment; None where it came to its end before."""
    async with place.started(*_RUN, name=name) as running:
        await _until(running, moment, place.run_folder)
        finished = not running.alive
        await running.kill()
    if finished:
        (await running.end()).expect(0)
        return None
    return _left(place.run_folder)


async def _until(running: Running, moment: Moment, run: Path) -> None:
    """Return at the moment, or when the run has ended."""
    before = len(part_paths(run))

    def written() -> int:
        return len(part_paths(run)) - before

    if moment.aim == "beginning":
        while running.alive and not (run / FILE_NAME).exists():
            await running.a_moment()
    elif moment.aim == "writing":
        while running.alive and written() < moment.parts:
            await running.a_moment()
        # A part is on its way to the disk for a millisecond or some: after two that were missed, any moment will do.
        while running.alive and not _is_writing(run) and written() < moment.parts + 2:
            await running.a_moment()
    else:
        while running.alive and written() < moment.parts:
            await running.a_moment()
        while running.alive and written() == 0 and not _in_flight(run):
            await running.a_moment()
        await asyncio.sleep(random.uniform(0, _LONGEST_S))  # noqa: S311  (any moment will do)


def _is_writing(run: Path) -> bool:
    with suppress(FileNotFoundError):
        return any(path.suffix == SCRATCH_SUFFIX for path in (run / "results").iterdir())
    return False


def _in_flight(run: Path) -> int:
    try:
        return view(run).in_flight
    except RunFolderError:  # it is being made
        return 0


def _left(run: Path) -> Kill:
    kept = {row.input_index: row.request_id for row in read_rows(run) if row.request_id is not None}
    try:
        journal = view(run)
    except RunFolderError as error:
        if kept:
            raise Unproven(f"after a kill the journal cannot be read: {error}") from error
        return Kill({}, 0, writing=False)  # killed before it was made
    kept |= {
        outcome.index: outcome.completion.request_id
        for outcome in journal.outcomes
        if outcome.completion is not None and outcome.completion.request_id is not None
    }
    return Kill(kept, journal.in_flight, _is_writing(run))
