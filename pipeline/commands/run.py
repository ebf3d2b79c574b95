"""`promptmill run`."""

import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path

import click

from pipeline.commands.job import now, read_plan
from pipeline.engine import RunOptions, run_job
from pipeline.errors import JobError, RunFolderError
from pipeline.jobspec import seconds
from pipeline.labels import label_lines
from pipeline.records import Status
from pipeline.results import open_results
from pipeline.run_log import LogFormat, Notes
from pipeline.stopping import signals_interrupt


def carry_out(
    job: Path,
    overrides: tuple[str, ...],
    *,
    input_path: str | None,
    output_path: str | None,
    prices: Path | None,
    limit: int | None,
    deadline: str | None,
    max_cost: str | None,
    retry_failed: str | None,
    metrics: Path | None,
    log_format: LogFormat,
    quiet: bool,
) -> int:
    """Run or resume a job; the summary goes to stdout, all else to stderr."""
    notes = Notes(stream=sys.stderr, quiet=quiet, format=log_format, now=now)
    with signals_interrupt():
        if max_cost is not None:
            overrides = (*overrides, f"budget.max_cost={_amount(max_cost)}")
        plan = read_plan(job, overrides, input_path=input_path, output_path=output_path, prices=prices)
        options = RunOptions(
            limit=limit,
            deadline_s=plan.job.file.budget.deadline if deadline is None else _deadline_s(deadline),
            notes=notes,
            retry=_statuses(retry_failed),
            metrics=metrics,
        )
        for warning in plan.target.warnings:
            notes.say(f"promptmill: warning: {warning}", level="warning")
        summary = run_job(plan, options, now=now)
        click.echo(summary.to_json())  # first: whoever reads it gets it, whatever becomes of stderr
    if summary.exit_code:
        said = f"promptmill: {summary.exit_reason}"
        notes.say(said, level="error", always=True, exit_code=summary.exit_code)
    if quiet:
        return summary.exit_code
    try:
        for line in label_lines(open_results(summary.results, plan.job.s3), plan.job.file.response):
            notes.say(line)
    except RunFolderError as error:  # the run is over, and its exit code is said
        notes.say(f"promptmill: the labels are not counted: {error}", level="warning")
    notes.say(f"results: {summary.results}/*.parquet ({summary.done:,} of {summary.rows:,} rows)")
    return summary.exit_code


def _amount(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise JobError(f"--max-cost takes an amount such as 5 or 0.25; found {text!r}") from None


def _deadline_s(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise JobError(f"--deadline: {error}") from None


def _statuses(text: str | None) -> frozenset[Status]:
    """The statuses that --retry-failed names; any but ok, which nothing could better."""
    known = [status for status in Status if status is not Status.OK]
    names = [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise JobError(f"--retry-failed takes {', '.join(known)}, separated by commas; found {name!r}")
    return frozenset(map(Status, names))
