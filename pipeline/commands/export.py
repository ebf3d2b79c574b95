"""`promptmill export`."""

import os
from pathlib import Path

import click

from pipeline.export import export
from pipeline.s3 import S3Settings


def carry_out(run: Path, output: Path, *, formulas: bool) -> int:
    """Write a run's results as one file; stdout stays empty."""
    rows = export(
        run,
        output,
        formulas=formulas,
        s3=S3Settings.from_env(os.environ),
        on_note=lambda note: click.echo(f"note: {note}", err=True),
    )
    click.echo(f"{rows:,} rows written to {output}", err=True)
    return 0
