"""The lives of a run: `promptmill` in a process of its own that may be killed at any moment, and told by its exit code.

Most of a command's first second goes into Python and imports. A fork server that has imported them starts the same program,
from `main` on, in milliseconds: so a campaign of a thousand kills takes minutes. `COMMAND_LINE` lives start from nothing.
"""

import contextlib
import multiprocessing
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from pipeline.cli import main
from tests.support.cli import PATIENCE_S, CommandLine, Ended

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["pipeline.commands.run", "tests.support.lives"])


class How(StrEnum):
    COMMAND_LINE = "from the command line"
    FORKED = "forked"


class Life:
    """One process. `wait` of it takes its exit code, negative where a signal ended it."""

    def __init__(self, pid: int, wait: Callable[[], int | None], stdout: Path, stderr: Path) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)
        self._wait = wait
        self._stdout, self._stderr = stdout, stderr

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
        code = self._wait()
        assert code is not None, f"process {self.pid} is still there: {self._stderr.read_text()}"
        return Ended(code, self._stdout.read_text(), self._stderr.read_text())

    def close(self) -> None:
        os.close(self._handle)


@contextmanager
def begun(how: How, command: CommandLine, arguments: Sequence[str | Path], name: str) -> Iterator[Life]:
    """A life of this command; what it says goes to files of this name. What is left of it at the end is killed."""
    stdout, stderr = (command.folder / f"{name}.{stream}" for stream in ("stdout", "stderr"))
    stdout.write_bytes(b"")
    stderr.write_bytes(b"")
    life = (_by_command_line if how is How.COMMAND_LINE else _forked)(command, arguments, stdout, stderr)
    try:
        yield life
    finally:
        life.kill()
        life.close()


def _by_command_line(
    command: CommandLine, arguments: Sequence[str | Path], stdout: Path, stderr: Path
) -> Life:
    with stdout.open("ab") as out, stderr.open("ab") as err:
        process = command.popen(arguments, {}, stdout=out.fileno(), stderr=err.fileno())

    def wait() -> int | None:
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return None

    return Life(process.pid, wait, stdout, stderr)


def _forked(command: CommandLine, arguments: Sequence[str | Path], stdout: Path, stderr: Path) -> Life:
    words = [str(argument) for argument in arguments]
    process = _FORKING.Process(
        target=_enter, args=(words, command.folder, command.environment({}), stdout, stderr)
    )
    process.start()
    assert process.pid is not None

    def wait() -> int | None:
        process.join(PATIENCE_S)
        return process.exitcode

    return Life(process.pid, wait, stdout, stderr)


def _enter(arguments: list[str], folder: Path, env: dict[str, str], stdout: Path, stderr: Path) -> None:
    """What a forked life does first: become the process that a shell would have started, then run the program."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, path in ((0, Path(os.devnull)), (1, stdout), (2, stderr)):
        handle = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    sys.argv = ["promptmill", *arguments]
    main()
