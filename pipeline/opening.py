"""Opens a run folder for a job: recognises its own work or what changed since, looks the input over, makes the layout.

Where job or dataset changed, the answers of the folder are taken over by their content keys before anything is asked, and what
changed is said. Nothing is sent here.
"""

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.answers import keep_answers
from pipeline.billing import keep_price
from pipeline.dataset import DatasetScan
from pipeline.errors import JobError, RunFolderError
from pipeline.parts import Layout
from pipeline.plan import Plan, scan_dataset
from pipeline.pricing import Price
from pipeline.records import Failure
from pipeline.run_folder import Identity, RunFolder
from pipeline.storage import RESULTS

log = logging.getLogger("promptmill")
_PREFLIGHT_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run folder that is this job's, and how its rows become part files.

    `changed` says what is new since the folder's last run, `kept` how many answers of before wait for their question, and
    `unsettled` how many requests the last run left in flight. `prices` are those that the folder's runs were priced by, one
    after another, as JSON; the last one is this run's.
    """

    folder: RunFolder
    plan: Plan
    rows: int
    layout: Layout
    changed: list[str]
    kept: int
    unsettled: int
    prices: list[dict[str, Any]]


def open_work(
    folder: RunFolder, plan: Plan, *, limit: int | None, on_progress: Callable[[int], None] | None
) -> Opened:
    """Open a folder for a plan. Raises DatasetError, JobError and RunFolderError before anything is changed or sent."""
    with folder.storage_errors():
        manifest = folder.what_it_was()
    _refuse_another_place(folder, manifest)
    identity = Identity(plan.job.identity(), plan.dataset.fingerprint())
    before = Identity.from_manifest(manifest)
    changed = [] if before is None else identity.changes(before)
    scan = None if changed else _known_scan(manifest, limit)
    if scan is None:
        scan = scan_dataset(plan, limit=limit, on_progress=on_progress)
        _preflight(plan)
    rows_per_part = plan.rows_per_part(scan, limited=limit is not None)
    if not changed:
        rows_per_part = int(manifest.get("rows_per_part", rows_per_part))
    layout = plan.layout(scan, folder.results, rows_per_part=rows_per_part, fingerprint=identity.fingerprint)
    columns = [column.name for column in layout.inputs]
    if not changed and json.loads(manifest.get("columns", "null")) not in (None, columns):
        changed.append("the input's columns")  # fewer rows were looked at before, which had fewer
    unsettled = folder.journal.take_open_attempts()
    moving = before is not None and bool(changed or manifest.get("moving"))
    prices = _settle_prices(folder, plan, manifest, moving=moving)
    if before is not None and moving:
        with folder.storage_errors():
            _take_over(folder, before, int(manifest["rows_per_part"]))
    if folder.forgot:
        folder.journal.write_manifest({"forgot": "yes"})
    folder.journal.write_manifest(
        {
            **identity.to_manifest(),
            "results": folder.elsewhere,
            "name": plan.job.file.name,
            "rows": str(scan.rows),
            "rows_per_part": str(rows_per_part),
            "columns": json.dumps(columns),
            "scan": json.dumps({"limit": limit, "rows": scan.rows, "columns": scan.columns}),
            "prices": json.dumps(prices),
        }
    )
    return Opened(
        folder=folder,
        plan=plan,
        rows=scan.rows,
        layout=layout,
        changed=changed,
        kept=folder.journal.kept.count(),
        unsettled=unsettled,
        prices=prices,
    )


def _refuse_another_place(folder: RunFolder, manifest: dict[str, str]) -> None:
    """Parts that this folder's journal knows lie where they were written; looked for elsewhere they would seem lost."""
    before = manifest.get("results", "")
    if folder.journal.parts() and before != folder.elsewhere:
        raise RunFolderError(
            f"the parts that the run folder {folder.path} knows of lie in {before or folder.path / RESULTS}; output.path now "
            f"says {folder.results.where}. Set it as it was, or give another output.state"
        )


def _settle_prices(
    folder: RunFolder, plan: Plan, manifest: dict[str, str], *, moving: bool
) -> list[dict[str, Any]]:
    """The prices of the folder's runs, with this one's; where it is new, or answers move, what was paid keeps the one before."""
    known: list[dict[str, Any]] = json.loads(manifest.get("prices", "[]"))
    now = {
        "model": plan.target.model_name,
        "route": plan.job.file.model.route,
        "price": None if plan.price is None else plan.price.to_json(),
    }
    if known and (moving or known[-1] != now):
        before = known[-1]["price"]
        price = None if before is None else Price.from_json(before)
        with folder.storage_errors():
            folder.journal.change_outcomes(functools.partial(keep_price, price))
    return known if known and known[-1] == now else [*known, now]


def _take_over(folder: RunFolder, before: Identity, rows_per_part: int) -> None:
    """Make the answers of earlier work ready to be found by their questions."""
    if not folder.journal.manifest().get("moving"):
        folder.adopt_parts(folder.results, before.fingerprint, rows_per_part)
    folder.lose_damaged(folder.results, folder.journal.parts().values(), rows_per_part)
    keep_answers(folder.journal, folder.results, rows_per_part)


def _known_scan(manifest: dict[str, str], limit: int | None) -> DatasetScan | None:
    """What an earlier run saw of the same files, so that a resume need not read them all first."""
    known = json.loads(manifest.get("scan", "null"))
    if known is None or known["limit"] != limit:
        return None
    return DatasetScan(rows=known["rows"], columns=known["columns"])


def _preflight(plan: Plan) -> None:
    """Refuse a job whose first rows all fail to render: no row of it would ever be sent."""
    reasons = []
    for row in islice(plan.dataset.rows(), _PREFLIGHT_ROWS):
        prompt = plan.renderer.render(row)
        if not isinstance(prompt, Failure):
            return
        reasons.append(prompt.message)
    if reasons:
        raise JobError(
            f"none of the first {len(reasons)} rows becomes a prompt; the first: {reasons[0]}. "
            "Nothing was sent. Try `promptmill check` on the job"
        )
