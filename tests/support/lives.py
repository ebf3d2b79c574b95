"""The lives of a run: `promptmill` in a process of its own that may be killed at any moment, and told by its exit code.

Most of a command's first second goes into Python and imports. A fork server that has imported them starts the same program,
from `main` on, in milliseconds: so a campaign of a thousand kills takes minutes, and so does a suite of hundreds of commands.
`COMMAND_LINE` lives start from nothing.
"""

import contextlib
import multiprocessing
import os
import selectors
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pipeline.cli import main
from tests.support.cli import PATIENCE_S, CommandLine, Ended

_FORKING = multiprocessing.get_context("forkserver")
_COMMANDS = [
    f"pipeline.commands.{name}" for name in ("run", "check", "estimate", "status", "report", "export")
]
_FORKING.set_forkserver_preload([*_COMMANDS, "tests.support.lives"])


class How(StrEnum):
    COMMAND_LINE = "from the command line"
    FORKED = "forked"


class Said(NamedTuple):
    """The files to which a process says what it has to say."""

    stdout: Path
    stderr: Path

    @classmethod
    def at(cls, path: Path) -> "Said":
        """Two empty files of this name."""
        said = cls(*(path.with_name(f"{path.name}.{stream}") for stream in cls._fields))
        for file in said:
            file.write_bytes(b"")
        return said

    def by(self, code: int | None) -> Ended:
        """What was said by a process with this exit code, which must have one by now."""
        said = self.stderr.read_bytes().decode(errors="replace")
        assert code is not None, f"it has not ended: {said}"
        return Ended(code, self.stdout.read_bytes().decode(), said)


class Life:
    """One process. `wait` of it takes its exit code, negative where a signal ended it."""

    def __init__(self, pid: int, wait: Callable[[], int | None], said: Said) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)
        self._wait = wait
        self._said = said

    def fileno(self) -> int:
        """Readable once it has ended."""
        return self._handle

    def ends_within(self, seconds: float) -> bool:
        with selectors.DefaultSelector() as ends:
            ends.register(self, selectors.EVENT_READ)
            return bool(ends.select(seconds))

    def kill(self) -> Ended:
        """Kill it as nothing can withstand; its exit code says whether it had ended before."""
        with contextlib.suppress(ProcessLookupError):  # it has ended, and was waited for
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        return self.end()

    def end(self) -> Ended:
        """Wait for its end."""
        return self._said.by(self._wait())

    def close(self) -> None:
        os.close(self._handle)


@contextmanager
def begun(how: How, command: CommandLine, arguments: Sequence[str | Path], name: str) -> Iterator[Life]:
    """A life of this command; what it says goes to files of this name. What is left of it at the end is killed."""
    said = Said.at(command.folder / name)
    life = (_by_command_line if how is How.COMMAND_LINE else _forked)(command, arguments, said)
    try:
        yield life
    finally:
        life.kill()
        life.close()


class ForkedCommandLine(CommandLine):
    """As `CommandLine`, but that a command which is only run to its end is forked; one that is `started` starts from nothing.

    A forked one ends as `main` does: what Python does after that, such as to run what modules left for its exit, it does not do.
    """

    def __call__(self, *arguments: str | Path, **env: str) -> Ended:
        with TemporaryDirectory() as folder:
            said = Said.at(Path(folder) / "it")
            process = _fork(self, arguments, env, said)
            try:
                process.join(PATIENCE_S)
                return said.by(process.exitcode)
            finally:
                process.kill()
                process.join()
                process.close()


def _by_command_line(command: CommandLine, arguments: Sequence[str | Path], said: Said) -> Life:
    with said.stdout.open("ab") as out, said.stderr.open("ab") as err:
        process = command.popen(arguments, {}, stdout=out.fileno(), stderr=err.fileno())

    def wait() -> int | None:
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return None

    return Life(process.pid, wait, said)


def _forked(command: CommandLine, arguments: Sequence[str | Path], said: Said) -> Life:
    process = _fork(command, arguments, {}, said)
    assert process.pid is not None

    def wait() -> int | None:
        process.join(PATIENCE_S)
        return process.exitcode

    return Life(process.pid, wait, said)


def _fork(
    command: CommandLine, arguments: Sequence[str | Path], env: dict[str, str], said: Said
) -> ForkServerProcess:
    words = [str(argument) for argument in arguments]
    process = _FORKING.Process(
        target=_enter, args=(words, command.folder, command.environment(env), command.umask, said)
    )
    process.start()
    return process


def _enter(arguments: list[str], folder: Path, env: dict[str, str], umask: int, said: Said) -> None:
    """What a forked life does first: become the process that a shell would have started, then run the program."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    if umask >= 0:
        os.umask(umask)
    for number, path in enumerate((Path(os.devnull), *said)):
        handle = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    # Ctrl-C reaches what a shell has started; and Python looked at PYTHONWARNINGS when the fork server started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if env.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    sys.argv = ["promptmill", *arguments]
    main()
