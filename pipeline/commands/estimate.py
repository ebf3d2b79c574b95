"""`promptmill estimate`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.commands.job import catalogue, now, read_plan
from pipeline.commands.report import placed, write_whole
from pipeline.engine import RunOptions, run_job
from pipeline.errors import JobError
from pipeline.estimate import as_json, count_all, count_some, judge, options_of, read_other, read_own
from pipeline.estimate.judging import Known
from pipeline.estimate.page import page_of
from pipeline.estimate.population import Population
from pipeline.estimate.progress import counting_bar
from pipeline.estimate.tables import tables_of
from pipeline.plan import Plan, scan_dataset
from pipeline.progress import counting
from pipeline.report.foreseen import ESTIMATE_FILE
from pipeline.report.terminal import show
from pipeline.run_folder import StorageError
from pipeline.run_log import Notes
from pipeline.stopping import signals_interrupt
from pipeline.storage import LocalFiles


def carry_out(
    job: Path,
    overrides: tuple[str, ...],
    *,
    input_path: str | None,
    output_path: str | None,
    limit: int | None,
    prices: Path | None,
    sample: int | None,
    pilot: int | None,
    from_run: Path | None,
    compare: str | None,
    seed: int,
    as_json_line: bool,
    html: str | None,
    quiet: bool,
) -> int:
    """Estimate a job; the estimate goes to stdout, all else to stderr."""
    notes = Notes(stream=sys.stderr, quiet=quiet, format="text", now=now)
    with signals_interrupt():
        plan = read_plan(
            job,
            overrides,
            input_path=input_path,
            output_path=output_path,
            prices=prices,
            need_key=pilot is not None,
        )
        _refuse_together(pilot, from_run, sample)
        compared = [name.strip() for name in compare.split(",")] if compare else []
        options = options_of(plan, compared, catalogue(prices).load)
        other = None if from_run is None else read_other(plan, from_run, options)
        if other is not None and len(other.others) < 2:
            raise JobError(f"--from {from_run}: it has no two answers with a bill to judge by. Use --pilot")
        population = _population(plan, limit=limit, sample=sample, seed=seed, notes=notes)
        code = 0 if pilot is None else _ask(plan, population.draw(pilot, seed), limit=limit, notes=notes)
        found = judge(
            Known(
                plan=plan,
                population=population,
                options=options,
                own=read_own(plan, options, limit=limit),
                other=other,
                other_folder=None if from_run is None else str(from_run),
            )
        )
    if pilot is not None and not code:
        _keep(plan, as_json(found))
    if html is not None:
        write_whole(placed(html), page_of(found, now()).encode("utf-8", "backslashreplace"))
    if as_json_line:
        click.echo(json.dumps(as_json(found)))
    elif html is None:
        show(tables_of(found), sys.stdout)
    return code


def _keep(plan: Plan, said: dict[str, Any]) -> None:
    """Leave the estimate in the run folder that the pilot made: `report` sets it beside what the run came to."""
    folder = plan.job.output_path
    try:
        LocalFiles(folder).put(ESTIMATE_FILE, memoryview(json.dumps(said).encode()))
    except OSError as error:
        raise StorageError(folder, error) from error


def _refuse_together(pilot: int | None, from_run: Path | None, sample: int | None) -> None:
    if from_run is not None and pilot is not None:
        raise JobError("--pilot and --from both say what answers are judged by: leave one out")
    if from_run is not None and sample is not None:
        raise JobError(
            "--from needs the tokens of every prompt, which --sample does not count: leave one out"
        )


def _population(plan: Plan, *, limit: int | None, sample: int | None, seed: int, notes: Notes) -> Population:
    scan = scan_dataset(plan, limit=limit, on_progress=counting(notes, "looking the input over"))
    if not scan.rows:
        raise JobError(f"{plan.job.input_path} has no rows: there is nothing to estimate")
    what = "counting prompts" if sample is None else "looking at rows"
    with counting_bar(notes, what, scan.rows) as on_progress:
        if sample is None:
            population = count_all(plan, limit=limit, on_progress=on_progress)
        else:
            population = count_some(plan, sample, limit=limit, seed=seed, on_progress=on_progress)
    if changed := plan.dataset.changed():
        raise JobError(changed)
    return population


def _ask(plan: Plan, drawn: list[int], *, limit: int | None, notes: Notes) -> int:
    """Ask the rows of a pilot, and return the exit code of the run it was."""
    options = RunOptions(limit=limit, deadline_s=plan.job.file.budget.deadline, notes=notes, pilot=drawn)
    summary = run_job(plan, options, now=now)
    if summary.exit_code:
        notes.say(f"promptmill: the pilot: {summary.exit_reason}", level="error", always=True)
    return summary.exit_code
