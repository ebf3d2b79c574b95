"""`promptmill simulate`."""

import click

from pipeline.simulator.__main__ import run_until_stopped
from pipeline.simulator.server import Simulator
from pipeline.simulator.settings import settings_from_options


@click.command(
    "simulate",
    epilog="""\b
Examples:
  promptmill simulate --port 8080
  promptmill simulate --latency lognormal:median=800ms,sigma=0.5 --requests-per-minute 1200
  promptmill simulate --fault 429=0.05 --fault reset=0.01 --seed 7
Then, in another terminal:
  promptmill run jobs/review-sentiment.toml --set model.provider=compatible \\
      --set model.name=qwen-plus --set model.base_url=http://127.0.0.1:8080/compatible-mode/v1""",
)
@click.option("--host", default=None, help="Address to listen on; loopback only.  [default: 127.0.0.1]")
@click.option("--port", type=int, default=None, help="Port; 0 takes a free one.  [default: 0]")
@click.option(
    "--allow-non-loopback", is_flag=True, default=None, help="Listen on other addresses too: anyone may ask."
)
@click.option("--seed", type=int, default=None, help="Seed of faults and latency.  [default: 0]")
@click.option(
    "--latency", default=None, help='"200ms", "uniform:100ms-400ms", "lognormal:median=800ms,sigma=0.5".'
)
@click.option("--requests-per-minute", type=int, default=None, help="Limit per model, kept second by second.")
@click.option(
    "--tokens-per-minute", type=int, default=None, help="Limit per model, prompt and answer together."
)
@click.option("--window", default=None, help="Length of the windows in which limits hold.  [default: 1s]")
@click.option(
    "--fault", multiple=True, metavar="KIND=RATE", help="A fault and its share of requests; repeatable."
)
@click.option("--api-key", default=None, help="Refuse every other key with the documented 401.")
def command(**options: object) -> int:
    """Serve a DashScope-like API on loopback until Ctrl-C. GET /_ledger tells what was asked and answered."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    settings = settings_from_options(given)

    def announce(simulator: Simulator) -> None:
        click.echo(
            f"simulator at {simulator.base_url} (ledger: {simulator.url}/_ledger); Ctrl-C ends it", err=True
        )

    run_until_stopped(settings, announce=announce, with_parent=False)
    return 0
