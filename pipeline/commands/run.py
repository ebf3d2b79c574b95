"""`promptmill run`."""

import sys
from pathlib import Path

import click

from pipeline.commands.job import job_options, now, read_plan
from pipeline.engine import RunOptions, run_job
from pipeline.errors import JobError
from pipeline.jobspec import seconds
from pipeline.labels import label_lines


@click.command(
    "run",
    epilog="""\b
Examples:
  promptmill run jobs/review-sentiment.toml
  promptmill run jobs/review-sentiment.toml --limit 100 --output runs/trial
  promptmill run jobs/review-sentiment.toml --set model.provider=dashscope --set model.name=qwen-plus
  promptmill run jobs/nightly.toml --deadline 6h --quiet > summary.json

\b
Exit codes: 0 done, 1 a bug or a full disk, 2 wrong job or input (nothing sent), 3 too many rows failed,
4 stopped by the provider, 6 deadline, 75 another run holds the folder, 130/143 stopped by a signal.
After 4, 6, 130 and 143 the same command goes on where it stopped.""",
)
@job_options
@click.option(
    "--deadline", metavar="DURATION", help="Stop feeding after this long, such as 90s, 2h or 1h30m."
)
@click.option("--quiet", is_flag=True, help="Show no progress; the summary line on stdout stays.")
def command(
    job: Path,
    overrides: tuple[str, ...],
    *,
    input_path: str | None,
    output_path: str | None,
    limit: int | None,
    deadline: str | None,
    quiet: bool,
) -> int:
    """Run the job in the file JOB, or resume it: the same command always continues where it stopped.

    stdout gets one line of JSON when the run ends, and nothing else; progress goes to stderr.
    """
    plan = read_plan(job, overrides, input_path=input_path, output_path=output_path)
    deadline_s = plan.job.file.budget.deadline
    if deadline is not None:
        try:
            deadline_s = seconds(deadline)
        except ValueError as error:
            raise JobError(f"--deadline: {error}") from None
    options = RunOptions(limit=limit, deadline_s=deadline_s, quiet=quiet, stderr=sys.stderr)
    summary = run_job(plan, options, now=now)
    if not quiet:
        if summary.exit_code:
            click.echo(f"promptmill: {summary.exit_reason}", err=True)
        for line in label_lines(Path(summary.results), plan.job.file.response):
            click.echo(line, err=True)
        click.echo(
            f"results: {summary.results}/*.parquet ({summary.done:,} of {summary.rows:,} rows)", err=True
        )
    click.echo(summary.to_json())
    return summary.exit_code
