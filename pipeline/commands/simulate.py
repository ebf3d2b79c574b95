"""`promptmill simulate`."""

import click

from pipeline.simulator.__main__ import run_until_stopped
from pipeline.simulator.server import Simulator
from pipeline.simulator.settings import settings_from_options


def carry_out(**options: object) -> int:
    """Serve until Ctrl-C; the address goes to stderr."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    settings = settings_from_options(given)

    def announce(simulator: Simulator) -> None:
        click.echo(
            f"simulator at {simulator.base_url} (ledger: {simulator.url}/_ledger); Ctrl-C ends it", err=True
        )

    run_until_stopped(settings, announce=announce, with_parent=False)
    return 0
