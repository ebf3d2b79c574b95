"""What the command line is made of beyond click's own: its group, and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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
