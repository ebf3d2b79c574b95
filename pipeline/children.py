"""Servers that a run starts for itself as child processes, and how they end with it.

What such a server is does not matter here (`llama_server.py` and `simulator/` know). The agreement between the two sides:

    stdin    a pipe that carries nothing; at its end the child exits. The kernel closes our end however we die, kill -9
             included, so a child cannot outlive its run.
    stdout   one JSON line, {"url": "http://127.0.0.1:PORT/v1"}, once requests are answered; nothing else ever.
    stderr   its log.

PR_SET_PDEATHSIG would say the same a second time, but on the death of the *thread* that forked: the pipe alone is right.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ServerStartError
from pipeline.private import make_private_folder, private_opener

_TAIL_LINES = 8
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to start.

    `name` is for messages ("the simulator"). The log is kept only where `log_path` names a file, at whose end it is
    added. `env` None is our own environment. `grace_s` is the time to exit in after the end of stdin, and once more after
    SIGTERM.
    """

    argv: list[str]
    name: str
    ready_timeout_s: float
    log_path: Path | None = None
    env: Mapping[str, str] | None = field(default=None, repr=False)
    grace_s: float = 5.0


class ChildServer:
    """A child server that answers requests at `url` (it ends in /v1)."""

    def __init__(self, url: str, process: Process) -> None:
        self.url = url
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; negative where a signal ended it."""
        return self._process.returncode


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the argv that runs a module of this package with this interpreter.

    `-P` keeps the working directory out of the child's import path: a user's own folder `pipeline/` must not be taken
    for this package.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


@contextlib.asynccontextmanager
async def start_child(spec: ChildSpec) -> AsyncIterator[ChildServer]:
    """Start a child server, wait until it is ready, and stop it on the way out.

    It leads its own session, so that Ctrl-C at the terminal reaches the run alone, which drains while the child still
    answers. Raises ServerStartError where it cannot be started, ends early or is not ready in time.
    """
    log = _open_log(spec)
    with log:
        start = log.tell()
        try:
            process = await _spawned(spec, log)
        except OSError as error:
            raise ServerStartError(
                f"{_sentence(spec.name)} could not be started: {error}. Check that {spec.argv[0]} can be run."
            ) from error
        try:
            problem = None
            try:
                async with asyncio.timeout(spec.ready_timeout_s):
                    announced = await _first_line(process)
                    url = _url_in(announced)
                    if not announced:
                        problem = f"ended with exit code {await process.wait()} before it was ready"
                    elif url is None:
                        problem = f"announced {announced[:200]!r} where a JSON line with its url was expected"
            except TimeoutError:
                problem = f"was not ready within {spec.ready_timeout_s:g} s"
            if problem is not None or url is None:
                raise ServerStartError(_start_message(spec, problem or "did not start", _tail(log, start)))
            yield ChildServer(url, process)
        finally:
            await _stop(process, spec.grace_s)


async def _spawned(spec: ChildSpec, log: BinaryIO) -> Process:
    """The child process. Who cancels it meanwhile waits for it, and it is stopped: half started, nobody could stop it."""
    start = asyncio.create_subprocess_exec(
        *spec.argv, stdin=PIPE, stdout=PIPE, stderr=log, env=spec.env, start_new_session=True
    )
    spawning = asyncio.ensure_future(start)
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await _stop(await spawning, spec.grace_s)
        raise


async def _first_line(process: Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 - asked for as a pipe
    try:
        return await process.stdout.readline()
    except ValueError:  # asyncio's word for a line beyond its bound
        return b"(a very long line)"


def _url_in(line: bytes) -> str | None:
    try:
        announced = json.loads(line)
    except ValueError:
        return None
    url = announced.get("url") if isinstance(announced, dict) else None
    return url if isinstance(url, str) else None


async def _stop(process: Process, grace_s: float) -> None:
    """End the child by the mildest means that works; returns when it is gone."""
    try:
        if process.stdin is not None:
            process.stdin.close()
        for harsher in (process.terminate, process.kill):
            try:
                async with asyncio.timeout(grace_s):
                    await process.wait()
                    return
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    harsher()
        await process.wait()
    finally:
        if process.returncode is None:  # cancelled while waiting
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _open_log(spec: ChildSpec) -> BinaryIO:
    if spec.log_path is None:
        return tempfile.TemporaryFile()
    try:
        make_private_folder(spec.log_path.parent)
        log = open(spec.log_path, "a+b", opener=private_opener)  # noqa: SIM115  (the caller closes it)
    except OSError as error:
        raise ServerStartError(
            f"The log of {spec.name} cannot be written: {error}. Make {spec.log_path.parent} writable."
        ) from error
    log.seek(0, os.SEEK_END)
    return log


def _tail(log: BinaryIO, start: int) -> list[str]:
    end = log.seek(0, os.SEEK_END)
    log.seek(max(start, end - _TAIL_BYTES))
    return log.read().decode(errors="replace").split("\n")[-_TAIL_LINES - 1 :]


def _start_message(spec: ChildSpec, problem: str, tail: list[str]) -> str:
    said = "\n".join(f"  {line.rstrip()}" for line in tail if line.strip())
    where = (
        f"The whole log is {spec.log_path}." if spec.log_path else "It is started so: " + " ".join(spec.argv)
    )
    return f"{_sentence(spec.name)} {problem}. {where}" + (
        f" Its last lines:\n{said}" if said else " It logged nothing."
    )


def _sentence(name: str) -> str:
    return name[:1].upper() + name[1:]
