"""What the command line is made of beyond click's own: its group, options of several commands, and how errors are said."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click

from pipeline.masking import environment_secrets, printable, without_url_secrets

_MOST_SHOWN_CHARS = 20_000
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Group(click.Group):
    """Commands in the order of their declaration; an unknown one is told with the known ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; the commands are {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


class RunCommand(click.Command):
    """`run`, whose --retry-failed takes its value behind a `=` alone, so that the job may follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(
            ctx, ["--retry-failed=failed" if one == "--retry-failed" else one for one in args]
        )


PRICES = click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A catalogue file with prices and limits of your own; it wins over the built-in ones.",
)


def job_options(command: _Command) -> _Command:
    """The job argument and the options that change a job from the command line."""
    for add in reversed(
        (
            click.argument("job", type=click.Path(path_type=Path)),
            click.option(
                "--input",
                "input_path",
                metavar="PATH",
                help="Another prompt dataset than the job's input.path.",
            ),
            click.option(
                "--output",
                "output_path",
                metavar="FOLDER",
                help="Another run folder than the job's output.path.",
            ),
            click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows."),
            PRICES,
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="SECTION.KEY=VALUE",
                help="Set a key of the job file; repeatable. The value is read as TOML, else as text.",
            ),
        )
    ):
        command = add(command)
    return command


def estimate_options(command: _Command) -> _Command:
    """What `estimate` judges by, and how it says what it found."""
    for add in reversed(
        (
            click.option(
                "--pilot",
                type=click.IntRange(min=10),
                metavar="N",
                help="Ask N rows, drawn from all by their length, and judge the answers by theirs. They are part of the run: it "
                "does not ask them again.",
            ),
            click.option(
                "--from",
                "from_run",
                type=click.Path(path_type=Path),
                metavar="RUN",
                help="Judge the answers by those in another run folder.",
            ),
            click.option(
                "--sample",
                type=click.IntRange(min=10),
                metavar="N",
                help="Count the prompts of N rows, drawn from all by their length, instead of every one.",
            ),
            click.option(
                "--compare",
                metavar="MODEL,...",
                help="Show what the same tokens cost with these models: name, or provider/name.",
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Draw other rows."),
            click.option(
                "--json", "as_json_line", is_flag=True, help="One line of JSON instead of the table."
            ),
            click.option(
                "--html",
                metavar="FILE",
                help="Write the estimate to FILE as one page that needs nothing else.",
            ),
            click.option("--quiet", is_flag=True, help="Show no progress."),
        )
    ):
        command = add(command)
    return command


def shown(said: object) -> str:
    """The words of an error, which may be those of a dataset or a server: without keys, nor what a terminal obeys, nor end."""
    text = environment_secrets(os.environ).masked(str(said))
    return printable(without_url_secrets(text[:_MOST_SHOWN_CHARS]))


def tell_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A sentence instead of a traceback; the interpreter then exits 1."""
    last = traceback.extract_tb(trace)[-1] if trace else None
    where = f" ({Path(last.filename).name}:{last.lineno})" if last else ""
    click.echo(
        f"promptmill: a bug of ours: {kind.__name__}: {shown(error)}{where}. Nothing that was committed is lost; "
        "please report it with run.log from the run folder",
        err=True,
    )
