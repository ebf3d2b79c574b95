"""`promptmill export`."""

from pathlib import Path

import click

from pipeline.export import export


@click.command(
    "export",
    epilog="""\b
Examples:
  promptmill export runs/review-sentiment -o reviews.parquet
  promptmill export runs/review-sentiment -o reviews.csv
  promptmill export runs/review-sentiment -o reviews.jsonl""",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The file: .parquet, .jsonl or .csv.",
)
@click.option(
    "--formulas", is_flag=True, help="CSV: leave text that a spreadsheet would run as a formula as it is."
)
def command(run: Path, output: Path, *, formulas: bool) -> int:
    """Write the results of the run in the folder RUN as one file, in input order."""
    rows = export(run, output, formulas=formulas, on_note=lambda note: click.echo(f"note: {note}", err=True))
    click.echo(f"{rows:,} rows written to {output}", err=True)
    return 0
