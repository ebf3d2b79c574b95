"""What every command that takes a job has in common: reading it, with its overrides, into a plan."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.jobspec import load_job, resolve_target
from pipeline.plan import Plan, make_plan

_Command = TypeVar("_Command", bound=Callable[..., Any])


def job_options(command: _Command) -> _Command:
    """The job argument and the options that change a job from the command line."""
    for add in (
        click.option(
            "--input", "input_path", metavar="PATH", help="Another prompt dataset than the job's input.path."
        ),
        click.option(
            "--output", "output_path", metavar="FOLDER", help="Another run folder than the job's output.path."
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Set a key of the job file; repeatable. The value is read as TOML, else as text.",
        ),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows."),
        click.argument("job", type=click.Path(path_type=Path)),
    ):
        command = add(command)
    return command


def now() -> datetime:
    """The time of day, in the machine's zone."""
    return datetime.now().astimezone()


def read_plan(
    job: Path, overrides: Sequence[str], *, input_path: str | None = None, output_path: str | None = None
) -> Plan:
    """Read a job file, with overrides, into a plan. Paths from the command line start at the working folder."""
    changes = list(overrides)
    for key, path in (("input.path", input_path), ("output.path", output_path)):
        if path is not None:
            changes.append(f"{key}={_toml_text(str(Path.cwd() / path))}")
    spec = load_job(job, overrides=changes, env=os.environ, now=now())
    return make_plan(spec, resolve_target(spec, env=os.environ))


def _toml_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
