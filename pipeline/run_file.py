"""What a run leaves in writing of itself: run.json when it begins and ends, its summary, and the last of its metrics."""

import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pipeline import __version__
from pipeline.live import metrics_may_fail
from pipeline.loop_lag import LoopLag
from pipeline.metrics import MetricsFile
from pipeline.opening import Opened
from pipeline.pricing import from_nano
from pipeline.progress import Counters
from pipeline.records import Status
from pipeline.summary import RunSummary, Stop, ending
from pipeline.totals import Totals


class RunFacts(NamedTuple):
    """What is known of a run once its folder is open."""

    opened: Opened
    run_id: str
    started: datetime


def summed_up(
    facts: RunFacts, counters: Counters, stop: Stop | None, elapsed_s: float, lag: LoopLag | None
) -> RunSummary:
    """The summary of a run that has come to its end."""
    opened, totals = facts.opened, counters.totals
    folder, job = opened.folder, opened.plan.job.file
    priced = opened.plan.price is not None
    paid, maybe = folder.journal.spend()
    cap = job.budget.max_cost
    code, reason = ending(stop, totals, counters.rows, job.budget.error_threshold)
    if code == 0 and counters.rows < opened.rows:
        reason = "every row of the pilot has its outcome"
    return RunSummary(
        job=job.name,
        run_id=facts.run_id,
        exit_code=code,
        exit_reason=reason,
        rows=opened.rows,
        done=totals.rows,
        status={status: totals.status[status] for status in Status},
        errors=dict(totals.errors),
        tokens=dict(totals.tokens),
        cost=None if totals.known_cost is None else str(totals.known_cost),
        unpriced=totals.unpriced,
        spent=f"{from_nano(paid + maybe):f}" if priced else None,
        maybe_cost=f"{from_nano(maybe):f}" if priced else None,
        max_cost=None if cap is None else str(cap),
        currency=opened.layout.currency,
        attempts=totals.attempts,
        maybe_paid=None if folder.forgot else totals.maybe_paid + folder.journal.maybe_paid(),
        sent=counters.sent,
        reused=counters.reused,
        deduplicated=counters.deduplicated,
        changed=opened.changed,
        damaged=folder.damage,
        streamed=opened.plan.stream,
        elapsed_s=round(elapsed_s, 3),
        loop_lag_p99_ms=None if lag is None else lag.percentile_ms(0.99),
        run_folder=str(folder.path),
        results=opened.layout.results.where,
    )


def write_run_file(facts: RunFacts, totals: Totals, summary: RunSummary | None) -> None:
    """Replace run.json: the job without secrets, its paths as they were resolved, versions and totals."""
    opened = facts.opened
    job = opened.plan.job
    opened.folder.write_run_file(
        {
            "run_id": facts.run_id,
            "promptmill": __version__,
            "python": sys.version.split()[0],
            "started": facts.started.isoformat(),
            "job_file": str(job.source),
            "input": job.input_path,
            "output": job.output,
            "state": str(job.output_path),
            "root": None if job.input_root is None else str(job.input_root),
            "job": job.file.model_dump(by_alias=True, exclude_none=True, exclude={"headers", "transport"}),
            "price_version": opened.layout.price_version,
            "prices": opened.prices,
            "rows": opened.rows,
            "totals": totals.to_json(),
            "summary": None if summary is None else asdict(summary),
        }
    )


def open_metrics(facts: RunFacts, path: Path | None) -> MetricsFile | None:
    """The metrics file of a run that is asked to keep one."""
    if path is None:
        return None
    job = facts.opened.plan.job.file
    last = facts.opened.folder.journal.manifest().get("last_success_s")
    return MetricsFile(
        path=path,
        labels={"job": job.name, "provider": job.model.provider, "model": job.model.name},
        currency=facts.opened.layout.currency,
        started_s=facts.started.timestamp(),
        last_success_s=None if last is None else float(last),
    )


def close_metrics(
    facts: RunFacts, metrics: MetricsFile | None, counters: Counters, summary: RunSummary, ended: datetime
) -> None:
    """Write the last metrics, and remember a success for those of later runs."""
    if summary.exit_code == 0 and summary.done == summary.rows:  # no pilot
        facts.opened.folder.journal.write_manifest({"last_success_s": str(ended.timestamp())})
    if metrics is not None:
        with metrics_may_fail(metrics):
            metrics.close(summary, counters, ended.timestamp())
