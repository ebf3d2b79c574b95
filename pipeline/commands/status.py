"""`promptmill status`."""

from pathlib import Path

import click

from pipeline.progress import facts
from pipeline.status import read_status


@click.command(
    "status",
    epilog="""\b
Examples:
  promptmill status runs/review-sentiment
  watch -n 5 promptmill status runs/review-sentiment""",
)
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> int:
    """Show how far the run in the folder RUN is; works from another terminal while it goes on."""
    status = read_status(run)
    share = status.totals.rows / status.rows if status.rows else 1.0
    state = "running" if status.running else "finished" if status.totals.rows == status.rows else "stopped"
    click.echo(
        f"{status.name}: {state}, {status.totals.rows:,} of {status.rows:,} rows ({share:.1%}), {status.parts:,} parts"
    )
    for name, count in sorted(status.totals.status.items()):
        click.echo(f"  {name:<10} {count:>12,}")
    for kind, count in status.totals.errors.most_common():
        click.echo(f"  {kind:<24} {count:>12,}  (failure kind)")
    for name, count in status.totals.tokens.items():
        click.echo(f"  {name:<24} {count:>12,}")
    click.echo(f"  {status.cost_said()}")
    if status.live is not None:
        click.echo(f"  now: {', '.join(facts(status.live))}")
    elif status.in_flight:
        click.echo(f"  {status.in_flight:,} requests were in flight when it died; they will be asked again")
    if state == "stopped":
        click.echo("  run the same command again to go on")
    return 0
