"""`promptmill selftest`."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.selftest.lines import Lines, as_json, closing, header
from pipeline.selftest.machine import look_at
from pipeline.selftest.promises import PROMISES, Mark, Promise, Told, forget, try_promises, working_folder
from pipeline.stopping import signals_stop
from pipeline.summary import Stop

NOT_ALL_HOLD = 3


def carry_out(folder: Path | None, *, as_json_line: bool, promises: Sequence[Promise] = PROMISES) -> int:
    """Try the promises; the verdicts are the result, so they go to stdout."""
    lines = Lines(sys.stdout, sys.stderr, quiet=as_json_line)
    place = working_folder(folder or Path.cwd())
    keep = False
    try:
        machine = look_at(place)
        lines.write(header(machine))
        with asyncio.Runner() as loop:
            told, elapsed_s, stop = loop.run(_tried(promises, place, lines))
        if stop is not None:
            click.echo("promptmill: selftest was stopped; nothing is left of it", err=True)
            return stop.exit_code
        keep = any(one.mark is Mark.FAILED for one in told)
        lines.write(closing(told, elapsed_s, place))
        if as_json_line:
            click.echo(as_json(machine, told, elapsed_s, kept=keep))
        return NOT_ALL_HOLD if keep else 0
    finally:
        if not keep:
            forget(place)


async def _tried(
    promises: Sequence[Promise], place: Path, lines: Lines
) -> tuple[list[Told], float, Stop | None]:
    """What became of the promises, how long that took, and the signal that stopped it, if one did."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    trying = asyncio.create_task(try_promises(promises, place, os.environ, lines))
    stopped: list[Stop] = []

    def interrupt(stop: Stop) -> None:
        stopped.append(stop)
        trying.cancel()

    with signals_stop(interrupt):
        await asyncio.wait([trying])
    lines.running([])
    if stopped:
        return [], loop.time() - began_s, stopped[0]
    return trying.result(), loop.time() - began_s, None
