"""`promptmill status`."""

import json
from datetime import datetime
from pathlib import Path

import click

from pipeline.progress import facts
from pipeline.status import local, read_status

_GO_ON = "run the same command again to go on"


def carry_out(run: Path, *, as_json_line: bool = False) -> int:
    """Print how far a run is; that is the result, so it goes to stdout."""
    status = read_status(run)
    if as_json_line:
        click.echo(json.dumps(status.to_json()))  # ASCII alone, as the summary
        return 0
    if not status.is_looked_over:
        so_far = "looking its input over" if status.running else "nothing was asked; run.log says why"
        click.echo(f"{status.name}: {so_far}")
        return 0
    done, parts = status.totals.rows, status.parts
    percent = 1000 * done // status.rows / 10 if status.rows else 100.0  # rounded down: 100 % is all of them
    click.echo(
        f"{status.name}: {status.state}, {done:,} of {status.rows:,} rows ({percent:.1f}%), "
        f"{parts:,} {'part' if parts == 1 else 'parts'}"
    )
    for name, count in sorted(status.totals.status.items()):
        click.echo(f"  {name:<24} {count:>12,}")
    for kind, count in status.totals.errors.most_common():
        click.echo(f"  {kind:<24} {count:>12,}  (failure kind)")
    for name, count in status.totals.tokens.items():
        click.echo(f"  {name:<24} {count:>12,}")
    click.echo(f"  {status.cost_said()}")
    if (spent := status.spend_said()) is not None:
        click.echo(f"  {spent}")
    if status.live is not None:
        click.echo(f"  now: {', '.join(facts(status.live))}")
    elif status.in_flight:
        click.echo(f"  {status.in_flight:,} requests were in flight when it died; they will be asked again")
    if status.state != "finished":
        today = datetime.now().astimezone().date()
        for event in status.events:
            at = local(event)
            day = "" if at.date() == today else f"{at:%Y-%m-%d} "
            click.echo(f"  {day}{at:%H:%M:%S}  {event.reason}")
    if status.state == "stopped":
        if status.reason is not None:
            click.echo(f"  {status.reason}")
        if status.reason is None or not status.reason.endswith(_GO_ON):
            click.echo(f"  {_GO_ON}")
    return 0
