"""The command line: names of commands, and where each is. A command's module is imported only when it is called.

Thin: every command hands over to the library and prints what comes back. stdout carries results alone, stderr all else.
"""

import importlib
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import click

from pipeline import __version__
from pipeline.errors import PromptmillError

_COMMANDS = {
    "run": "Run a job, or resume it: the same command goes on where it stopped.",
    "check": "Look a job over: every prompt rendered, the first requests shown, nothing sent.",
    "status": "Progress and spend of a run, while it goes on or after.",
    "export": "Write a run's results as one .parquet, .jsonl or .csv file.",
    "simulate": "Serve a DashScope-like API on loopback, with limits, latency and faults as asked.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when called, so that --help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"pipeline.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; the commands are {', '.join(_COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command has its own help with examples: promptmill run --help",
)
@click.version_option(__version__, prog_name="promptmill")
def cli() -> None:
    """Run prompt datasets as bulk chat requests and write the answers to Parquet: nothing lost, nothing paid twice."""


def main(args: list[str] | None = None) -> NoReturn:
    """The entry point: exit codes as in the README; an operator's error is a sentence, never a traceback."""
    sys.excepthook = _bug
    try:
        code: Any = cli.main(args, standalone_mode=False)
    except PromptmillError as error:
        click.echo(f"promptmill: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A sentence instead of a traceback; the interpreter then exits 1."""
    last = traceback.extract_tb(trace)[-1] if trace else None
    where = f" ({Path(last.filename).name}:{last.lineno})" if last else ""
    click.echo(
        f"promptmill: a bug of ours: {kind.__name__}: {error}{where}. Nothing that was committed is lost; "
        "please report it with run.log from the run folder",
        err=True,
    )
