"""The budget of one run: made from its job, the journal's sums and the ledger of months, looked over before a row is asked."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice

from pipeline.budget import Budget, BudgetSpec, said
from pipeline.errors import JobError, SetupError
from pipeline.monthly import LEDGER_NAME, MonthlyLedger, Scope, month_of
from pipeline.plan import Plan
from pipeline.pricing import to_nano
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Failure
from pipeline.run_folder import RunFolder
from pipeline.totals import Totals

# Enough to know what rows are like; their pictures are read for it.
_LOOKED_AT_ROWS = 20


@contextmanager
def spending(plan: Plan, folder: RunFolder, totals: Totals, now: Callable[[], datetime]) -> Iterator[Budget]:
    """The budget while rows are asked; at the end the ledger has what was spent. `totals` are what the results cost so far.

    Raises SetupError where the ledger cannot be used, JobError where its scope counts in another currency.
    """
    section = plan.job.file.budget
    ledger = _ledger(plan, folder, now) if section.max_cost_per_month is not None else None
    spec = BudgetSpec(
        cap=None if section.max_cost is None else to_nano(section.max_cost),
        currency=plan.price.currency if plan.price else None,
        cost=plan.nano_cost,
        month=lambda: month_of(now()),
        note=folder.journal.add_spent,
    )
    budget = Budget(spec, folder.journal.spent.sums(), ledger)
    if folder.forgot:  # what it kept of earlier spend is gone with it, or part of it
        budget.at_least(to_nano(totals.cost))
    if ledger is None:
        yield budget
        return
    try:
        ledger.begin(budget.months, exact=not folder.forgot)
        yield budget
    finally:
        ledger.close(budget.months)


def look_at_caps(plan: Plan, warn: Callable[[str], None]) -> None:
    """Raise JobError where a cap does not fit even one of the first rows; warn where one of them does not fit."""
    section = plan.job.file.budget
    caps = {"max_cost": section.max_cost, "max_cost_per_month": section.max_cost_per_month}
    known = {name: to_nano(cap) for name, cap in caps.items() if cap is not None}
    if not known:
        return
    most = list(_first_worst_cases(plan))
    unit = plan.price.currency if plan.price else ""
    for name, cap in known.items():
        if most and min(most) > cap:
            raise JobError(
                f"[budget] {name} = {said(cap)} {unit} is less than one row may cost: of the first {len(most)} rows none fits, "
                f"the cheapest may cost up to {said(min(most))}. Nothing was sent. Raise it, or bound answers by max_tokens"
            )
        if most and max(most) > cap:
            warn(
                f"one of the first {len(most)} rows may cost up to {said(max(most))} {unit} by itself, more than {name} = "
                f"{said(cap)}: the run will stop before it"
            )


def _first_worst_cases(plan: Plan) -> Iterator[int]:
    for row in islice(plan.dataset.rows(), _LOOKED_AT_ROWS):
        prompt = plan.renderer.render(row)
        if not isinstance(prompt, Failure):
            with suppress(EncodeError):  # it becomes a failed row, unsent
                yield plan.encode(prompt).most_cost


def _ledger(plan: Plan, folder: RunFolder, now: Callable[[], datetime]) -> MonthlyLedger:
    section, state = plan.job.file.budget, plan.job.shared_state
    if state is None:
        raise SetupError(
            "[budget] max_cost_per_month is kept in a ledger in your state folder, and the environment names none: set "
            "XDG_STATE_HOME or HOME to an absolute path. Nothing was sent"
        )
    cap, price = section.max_cost_per_month, plan.price
    assert cap is not None and price is not None  # noqa: S101  (a cap without prices is refused)
    manifest = folder.journal.manifest()
    name = manifest.get("folder") or uuid.uuid4().hex
    if "folder" not in manifest:
        folder.journal.write_manifest({"folder": name})
    return MonthlyLedger(
        state / LEDGER_NAME,
        Scope(
            name=section.scope,
            cap=to_nano(cap),
            currency=price.currency,
            folder=name,
            path=folder.path,
            job=plan.job.file.name,
        ),
        now,
    )
