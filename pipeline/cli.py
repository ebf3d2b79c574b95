"""The command line as users meet it: every command with its options, help and examples; exit codes as in the README.

Only words and types stand here, so that every --help is quick. What a command does stands in the module of its name in
`commands/`, imported when it is called. stdout carries results alone, stderr all else.
"""

import gc
import importlib
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from pipeline import __version__
from pipeline.cli_parts import PRICES, Group, RunCommand, estimate_options, job_options, shown, tell_bug
from pipeline.errors import Interrupted, PromptmillError
from pipeline.streams import Forgiving, JsonLines, open_closed_streams


def _carry_out(command: str, options: dict[str, Any]) -> int:
    gc.disable()  # what is imported stays: to look through it for garbage meanwhile takes a tenth of a second
    module = importlib.import_module(f"pipeline.commands.{command}")
    gc.enable()
    code: int = module.carry_out(**options)
    return code


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command has its own help with examples: promptmill run --help",
)
@click.version_option(__version__, prog_name="promptmill")
def cli() -> None:
    """Run prompt datasets as bulk chat requests and write the answers to Parquet: nothing lost, nothing paid twice."""


@cli.command(
    "run",
    cls=RunCommand,
    short_help="Run a job, or resume it: the same command goes on where it stopped.",
    epilog="""\b
Examples:
  promptmill run jobs/review-sentiment.toml
  promptmill run jobs/review-sentiment.toml --limit 100 --output runs/trial
  promptmill run jobs/review-sentiment.toml --set model.provider=dashscope --set model.name=qwen-plus
  promptmill run jobs/review-sentiment.toml --deadline 6h --quiet > summary.json
  promptmill run jobs/review-sentiment.toml --max-cost 5
  promptmill run jobs/review-sentiment.toml --retry-failed
  promptmill run jobs/review-sentiment.toml --retry-failed=failed,truncated

\b
Exit codes: 0 done, 1 a bug or a full disk, 2 wrong job or input (nothing sent), 3 too many rows failed,
4 stopped by the provider, 5 budget reached, 6 deadline, 75 another run holds the folder, 130/143 stopped by a signal.
After 4, 5, 6, 130 and 143 the same command goes on where it stopped.""",
)
@job_options
@click.option(
    "--deadline", metavar="DURATION", help="Stop feeding after this long, such as 90s, 2h or 1h30m."
)
@click.option(
    "--max-cost",
    metavar="AMOUNT",
    help="Spend no more than this over the whole run folder, in the provider's currency; instead of the job's [budget] max_cost.",
)
@click.option(
    "--retry-failed",
    metavar="[=STATUS,...]",
    help="Ask rows that failed once more; or those that ended otherwise: failed, blocked, invalid, truncated. "
    "The old outcome stays where the new one is no better.",
)
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep the run's figures in FILE, for Prometheus's textfile collector.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How run.log and stderr are written; json is one object a line.",
)
@click.option("--quiet", is_flag=True, help="Show no progress; errors and the summary line on stdout stay.")
def run(**options: Any) -> int:
    """Run the job in the file JOB, or resume it: the same command always continues where it stopped.

    stdout gets one line of JSON when the run ends, and nothing else; progress goes to stderr.
    """
    if options["log_format"] == "json":
        sys.stderr = JsonLines(sys.stderr, lambda: datetime.now().astimezone())
    return _carry_out("run", options)


@cli.command(
    "check",
    short_help="Look a job over: every prompt rendered, the first requests shown, nothing sent.",
    epilog="""\b
Examples:
  promptmill check jobs/review-sentiment.toml
  promptmill check jobs/review-sentiment.toml --limit 1000 --show 3
  promptmill check jobs/review-sentiment.toml --input data/samples/duplicates.jsonl

\b
Exit codes: 0 all is well, 2 the job or its input is wrong, 3 some rows cannot become prompts.""",
)
@job_options
@click.option(
    "--show", default=1, show_default=True, type=click.IntRange(min=0), help="Requests to show in full."
)
def check(**options: Any) -> int:
    """Look the job in the file JOB over: job file, dataset and every rendered prompt. Sends nothing and needs no network."""
    return _carry_out("check", options)


@cli.command(
    "estimate",
    short_help="What a job will cost and how long it will take, before it is run.",
    epilog="""\b
Examples:
  promptmill estimate jobs/review-sentiment.toml
  promptmill estimate jobs/review-sentiment.toml --pilot 100
  promptmill estimate jobs/review-sentiment.toml --sample 10000 --json
  promptmill estimate jobs/review-sentiment.toml --from runs/yesterday --compare qwen-flash,qwen3-max

\b
Exit codes: 0 estimated, 2 wrong job, input or run folder; those of `run` where a pilot came to no end.""",
)
@job_options
@estimate_options
def estimate(**options: Any) -> int:
    """Say what the job in the file JOB will come to: tokens, requests, cost on every route, and time at the limits.

    Nothing is sent, but for a pilot. What is settled in the job's run folder counts as known.
    """
    return _carry_out("estimate", options)


@cli.command(
    "status",
    short_help="Progress and spend of a run, while it goes on or after.",
    epilog="""\b
Examples:
  promptmill status runs/review-sentiment
  watch -n 5 promptmill status runs/review-sentiment
  promptmill status runs/review-sentiment --json""",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json_line", is_flag=True, help="One line of JSON instead (docs/limits.md).")
def status(**options: Any) -> int:
    """Show how far the run in the folder RUN is; works from another terminal while it goes on."""
    return _carry_out("status", options)


@cli.command(
    "report",
    short_help="What runs came to: outcomes, tokens, cost, times, failures; one run or many.",
    epilog="""\b
Examples:
  promptmill report runs/review-sentiment
  promptmill report runs/review-sentiment --json > report.json
  promptmill report runs/review-sentiment --html report.html
  promptmill report runs/review-sentiment --as model=qwen-flash,route=batch-chat
  promptmill report 'runs/daily-*' --parquet daily.parquet
  promptmill report --ledger

\b
Several runs are told by run, by day, by job and by model. A pattern in quotes takes what is a run folder and passes
over the rest. RUN and FILE may hold {today}, {yesterday}, {now:FORMAT} and {env:NAME}, as paths in job files.""",
)
@click.argument("runs", metavar="RUN...", nargs=-1)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON document instead of tables (docs/reports.md)."
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write a page with charts instead, in one file that needs nothing else.",
)
@click.option(
    "--parquet",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the sums instead, one row a run, day, model and outcome, for notebooks.",
)
@click.option(
    "--as",
    "elsewhere",
    metavar="KEY=VALUE,...",
    help="Say also what the same tokens would have cost elsewhere; keys are model, provider, region and route.",
)
@PRICES
@click.option(
    "--ledger",
    is_flag=True,
    help="Show what runs with a max_cost_per_month spent by month instead; give no RUN.",
)
def report(**options: Any) -> int:
    """Report on the run in the folder RUN, while it goes on or after; on several, also together.

    Unknown is shown as –, and no total hides it: beside each stands how many answers did not tell theirs.
    """
    return _carry_out("report", options)


@cli.command(
    "export",
    short_help="Write a run's results as one .parquet, .jsonl or .csv file.",
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
def export(**options: Any) -> int:
    """Write the results of the run in the folder RUN as one file, in input order."""
    return _carry_out("export", options)


@cli.command(
    "simulate",
    short_help="Serve a DashScope-like API on loopback, with limits, latency and faults as asked.",
    epilog="""\b
Examples:
  promptmill simulate --port 8080
  promptmill simulate --latency lognormal:median=800ms,sigma=0.5 --requests-per-minute 1200
  promptmill simulate --fault 429=0.05 --fault reset=0.01 --seed 7
Then, in another terminal:
  promptmill run jobs/review-sentiment.toml --set model.provider=compatible \\
      --set model.name=qwen-plus --set model.base_url=http://127.0.0.1:8080/compatible-mode/v1""",
)
@click.option("--host", help="Address to listen on; loopback only.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one.  [default: 0]")
@click.option(
    "--allow-non-loopback", is_flag=True, default=None, help="Listen on other addresses too: anyone may ask."
)
@click.option("--seed", type=int, help="Seed of faults and latency.  [default: 0]")
@click.option("--latency", help='"200ms", "uniform:100ms-400ms", "lognormal:median=800ms,sigma=0.5".')
@click.option("--requests-per-minute", type=int, help="Limit per model, kept second by second.")
@click.option("--tokens-per-minute", type=int, help="Limit per model, prompt and answer together.")
@click.option("--window", help="Length of the windows in which limits hold.  [default: 1s]")
@click.option(
    "--fault", multiple=True, metavar="KIND=RATE", help="A fault and its share of requests; repeatable."
)
@click.option("--api-key", help="Refuse every other key with the documented 401.")
def simulate(**options: Any) -> int:
    """Serve a DashScope-like API on loopback until Ctrl-C. GET /_ledger tells what was asked and answered."""
    return _carry_out("simulate", options)


@cli.command(
    "prices",
    short_help="The model catalogue: prices by tier, limits, when they were checked and where.",
    epilog="""\b
Examples:
  promptmill prices
  promptmill prices 'qwen*-flash' --region cn-beijing
  promptmill prices qwen-plus --route batch-chat
  promptmill prices --region dashscope-intl --json
  promptmill prices --prices my-prices.toml

\b
Columns: prices of input, output, and output with reasoning; of cached prompt tokens, those held by a cache mark, and
those written by one; what a batch route costs of it; requests and tokens a minute; the day the entry was checked.
A dash is not known.""",
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--region", metavar="REGION", help="Of a region, such as cn-beijing, or a provider, such as openai."
)
@click.option(
    "--route",
    type=click.Choice(["realtime", "batch-chat", "batch-file"]),
    help="The prices on a route, of the models that have one there.  [default: realtime, and models without a price]",
)
@PRICES
@click.option("--json", "as_json_text", is_flag=True, help="JSON with all that is known of each model.")
def prices(**options: Any) -> int:
    """Show the catalogue, or its entries whose names match MODEL (a pattern such as 'qwen3*'), your own files laid over it."""
    return _carry_out("prices", options)


@cli.command(
    "selftest",
    short_help="Try the promises on this machine and disk, against the simulator: a verdict each.",
    epilog="""\b
Examples:
  promptmill selftest
  promptmill selftest --folder /mnt/data
  promptmill selftest --json > selftest.json

\b
Exit codes: 0 all promises hold, 2 no such folder or none can be made in it, 3 some do not hold (what was run is kept),
130/143 stopped by a signal.""",
)
@click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Work on the disk of this folder.  [default: the current one]",
)
@click.option("--json", "as_json_line", is_flag=True, help="One line of JSON instead of the verdict lines.")
def selftest(**options: Any) -> int:
    """Try what the README promises on this machine: real runs that are killed, limited and met with faults, in under a minute.

    Nothing leaves the machine and no key is used. It works in a new folder that it removes again, unless a promise fails.
    """
    return _carry_out("selftest", options)


def main(args: list[str] | None = None) -> NoReturn:
    """The entry point: an operator's error is a sentence on stderr, never a traceback."""
    sys.excepthook = tell_bug
    open_closed_streams()
    sys.stderr = Forgiving(sys.stderr)
    try:
        code: Any = cli.main(args, prog_name="promptmill", standalone_mode=False)
    except (PromptmillError, Interrupted) as error:
        click.echo(f"promptmill: {shown(error)}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        click.UsageError(shown(error.format_message()), getattr(error, "ctx", None)).show()
        code = error.exit_code
    except click.Abort:
        click.echo("promptmill: interrupted", err=True)
        code = 130
    except OSError as error:
        if error.filename is not None:  # a file's trouble that nobody foresaw
            raise
        click.echo(f"promptmill: stdout cannot be written: {error.strerror}", err=True)
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (it would fail again at the exit)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
