"""`promptmill report`."""

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.commands.job import catalogue, now
from pipeline.errors import JobError, RunFolderError, SetupError
from pipeline.jobspec import expand, shared_state
from pipeline.journal import FILE_NAME
from pipeline.masking import environment_secrets
from pipeline.monthly import LEDGER_NAME, read_ledger
from pipeline.report import as_parquet, months
from pipeline.report.as_json import document, to_text
from pipeline.report.compose import page_of, tables_of
from pipeline.report.read import Reading, read_run
from pipeline.report.terminal import show
from pipeline.s3 import S3Settings
from pipeline.storage import LocalFiles


def carry_out(
    runs: Sequence[str],
    *,
    as_json: bool = False,
    html: str | None = None,
    parquet: str | None = None,
    elsewhere: str | None = None,
    prices: Path | None = None,
    ledger: bool = False,
) -> int:
    """Print a report, or write the files that are asked for instead."""
    if ledger:
        if runs or html or parquet or elsewhere or prices:
            raise JobError(
                "--ledger shows the months of all runs on this machine: give it alone, or with --json"
            )
        return _show_ledger(as_json=as_json)
    if not runs:
        raise JobError("name a run folder (the job's output.path) or several, or ask for --ledger")
    how = Reading(
        s3=S3Settings.from_env(os.environ),
        secrets=environment_secrets(os.environ),
        load=catalogue(prices).load,
        elsewhere=elsewhere,
    )
    facts = [read_run(folder, how) for folder in _folders(runs)]
    if html is not None:
        write_whole(placed(html), page_of(facts, now()).encode("utf-8", "backslashreplace"))
    if parquet is not None:
        write_whole(placed(parquet), as_parquet.to_bytes(as_parquet.table(facts)))
    if as_json:
        click.echo(to_text(document(facts, now())))
    elif html is None and parquet is None:
        show(tables_of(facts), sys.stdout)
    return 0


def _show_ledger(*, as_json: bool) -> int:
    state = shared_state(os.environ)
    if state is None:
        raise SetupError(
            "neither XDG_STATE_HOME nor HOME names a folder, so there is no ledger of months: set one"
        )
    rows = read_ledger(state / LEDGER_NAME)
    if as_json:
        click.echo(to_text(months.document(rows)))
    elif rows:
        show(months.tables(rows), sys.stdout)
    else:
        click.echo(
            f"{state / LEDGER_NAME} has no rows: no run on this machine had a max_cost_per_month yet",
            err=True,
        )
    return 0


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; it holds what a model said, so it is its owner's alone."""
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        LocalFiles(path.absolute().parent).put(path.name, memoryview(content))
    except OSError as error:
        raise JobError(f"{path} cannot be written: {error}") from error
    if sys.stderr.isatty():  # cron would mail it
        click.echo(f"written to {path}", err=True)


def placed(path: str) -> Path:
    """A path with {today}, {yesterday}, {now:FORMAT} and {env:NAME} filled in, as in job files. What is there is meant so."""
    return Path(path) if Path(path).exists() else Path(expand(path, env=os.environ, now=now()))


def _folders(named: Sequence[str]) -> list[Path]:
    """The run folders that were named, each once. A pattern takes what is a run folder and passes over the rest."""
    found: dict[Path, None] = {}
    for name in (str(placed(name)) for name in named):
        if Path(name).exists() or not glob.has_magic(name):
            found[Path(name)] = None
            continue
        matched = [path for path in map(Path, sorted(glob.glob(name))) if (path / FILE_NAME).is_file()]  # noqa: PTH207
        if not matched:
            raise RunFolderError(
                f"no run folder matches {name}. Give the job's output.path, or a pattern of some"
            )
        found.update(dict.fromkeys(matched))
    return list(found)
