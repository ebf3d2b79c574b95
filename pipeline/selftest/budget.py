"""Promise 4: what is billed never passes the cap, whatever is in flight, over kills, resumes and runs that share a month.

One run with a cap, at a provider that loses answers, is killed twice and goes on until nothing more fits; then it and another job
share the rest of a month. The invoice is written from the simulator's ledger, whose tokens are what was generated, whether the
answer arrived or not, by the catalogue's prices.
"""

import asyncio
import random
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from pipeline.catalog import load
from pipeline.errors import RunFolderError
from pipeline.journal_view import view
from pipeline.pricing import cost, price
from pipeline.records import Usage
from pipeline.selftest.place import JOB, Place, Server, rows, sets
from pipeline.selftest.verdict import Unproven, Verdict, breaches

_ROWS = 700
_AT_ONCE = 24
_KILLS = 2
_CAP = Decimal("0.035")
_MONTH = Decimal("0.06")
# More than any row here can cost: 450 bytes of prompt, what a template adds, and 32 tokens of answer with what may overrun.
_ONE_ROW = Decimal("0.001")
_FAULTS = {"reset": 0.01, "cut": 0.01, "500": 0.03, "empty": 0.01}
_RUN = ("run", JOB, "--quiet", *sets("output.rows_per_part=40", f"limits.max_concurrency={_AT_ONCE}"))


class Stage(NamedTuple):
    """What one cap came to: `billed` and `spent` are the invoice and what the runs say, `codes` their exit codes."""

    cap: Decimal
    billed: Decimal
    spent: Decimal
    codes: list[int]


class Evidence(NamedTuple):
    kills: int
    capped: Stage
    month: Stage


async def check(place: Place) -> Verdict:
    return judge(await gather(place))


async def gather(place: Place) -> Evidence:
    kills = 0
    capped = (*_RUN, "--max-cost", str(_CAP))
    month = (*_RUN, *sets(f"budget.max_cost_per_month={_MONTH}"))
    async with place.simulator(latency="uniform:20ms-60ms", faults=_FAULTS) as server:
        place.write_job(server, rows((f"r{n}", f"text of r{n}") for n in range(_ROWS)))
        for number in range(_KILLS):
            kills += await _killed(place, capped, f"killed-{number}")
        ended = (await place.promptmill(*capped, name="capped")).expect(0, 5)
        first = Stage(_CAP, await _billed(server), Decimal(ended.summary["spent"]), [ended.code])
        one = (await place.promptmill(*month, name="month")).expect(0, 5)
        other = (await place.promptmill(*month, "--output", "other", name="month-other")).expect(0, 5)
        spent = Decimal(one.summary["spent"]) + Decimal(other.summary["spent"])
        second = Stage(_MONTH, await _billed(server), spent, [one.code, other.code])
    return Evidence(kills, first, second)


def judge(evidence: Evidence) -> Verdict:
    one, month = evidence.capped, evidence.month
    return Verdict(
        f"{evidence.kills} kills: {_share(one)} of max_cost billed, {_share(month)} of max_cost_per_month by two jobs",
        breaches(
            *(
                found
                for name, stage in (("max_cost", one), ("max_cost_per_month", month))
                for found in (
                    (stage.billed > stage.cap, f"{name} is {stage.cap}, and {stage.billed} is billed"),
                    (
                        stage.billed > stage.spent,
                        f"{stage.billed} is billed, and the runs count {stage.spent}",
                    ),
                    (5 not in stage.codes, f"no run was stopped by {name}: exit codes {stage.codes}"),
                    (
                        5 in stage.codes and stage.cap - stage.spent > _ONE_ROW,
                        f"{name} stopped a run with {stage.cap - stage.spent} left, more than any row can cost",
                    ),
                )
            ),
            (evidence.kills < _KILLS, f"only {evidence.kills} kills met a run that was still going on"),
        ),
    )


def _share(stage: Stage) -> str:
    return f"{stage.billed / stage.cap:.0%}"


async def _killed(place: Place, arguments: tuple[str, ...], name: str) -> bool:
    """Start the run and kill it some time after its first answers; whether it was still going on then."""
    before = _settled(place.run_folder)
    async with place.started(*arguments, name=name) as running:
        while running.alive and _settled(place.run_folder) <= before:
            await running.a_moment()
        await asyncio.sleep(random.uniform(0, 0.3))  # noqa: S311  (any moment will do)
        alive = running.alive
        await running.kill()
    return alive


def _settled(run: Path) -> int:
    """How many rows have their outcome."""
    try:
        journal = view(run)
    except RunFolderError:  # it is being made
        return 0
    return len(journal.outcomes) + sum(part.rows for part in journal.parts)


async def _billed(server: Server) -> Decimal:
    found = price(load("dashscope"), "qwen-plus", "realtime")
    if found is None:
        raise Unproven("the catalogue has no price for qwen-plus")
    ledger = await server.ledger(entries=True)
    usages = [Usage(entry["prompt_tokens"], entry["completion_tokens"]) for entry in ledger["entries"]]
    return sum((cost(found, usage, has_reasoning=False) or Decimal(0) for usage in usages), Decimal(0))
