"""`promptmill` as a user meets it: a process of its own, in a folder of its own, with a clean environment.

Waiting is on pipes and processes, never on time alone: every wait ends early when the process does, and has a bound. Each
process carries a mark in its environment, which its children inherit: so a test can find what was left behind.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

PROMPTMILL = Path(sys.executable).with_name("promptmill")
PATIENCE_S = 60.0
_LOOK_AGAIN_S = 0.05
_MARK = "PROMPTMILL_TEST_MARK"
# Signals that are ignored where the tests run (nohup, a job in the background) would be ignored by the program, too.
_HEEDING_SIGNALS = ("/usr/bin/env", "--default-signal=INT,TERM,HUP")


class Ended(NamedTuple):
    """A command that has come to its end."""

    code: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """The one line of JSON that `run` says on stdout; anything else there fails the test."""
        assert self.stdout.count("\n") == 1 and self.stdout.endswith("\n"), self
        summary: dict[str, Any] = json.loads(self.stdout)
        assert summary["exit_code"] == self.code
        return summary


@dataclass
class Running:
    """A command under way; `said` is its stderr so far."""

    process: subprocess.Popen[bytes]
    said: str = ""
    _stdout: bytes = b""
    _open: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)

    def __post_init__(self) -> None:
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                self._open.register(stream, selectors.EVENT_READ)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Go on when the condition holds; it is looked at whenever the process says something, and often besides."""
        for _ in range(int(PATIENCE_S / _LOOK_AGAIN_S)):
            if condition():
                return
            assert self._listen(_LOOK_AGAIN_S), f"it ended before {what}: {self.said}"
        raise AssertionError(f"waited {PATIENCE_S:g} s for {what}: {self.said}")

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.said, f"it said {text!r}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, patience_s: float = PATIENCE_S) -> Ended:
        """Wait for its end."""
        for _ in range(int(patience_s / _LOOK_AGAIN_S)):
            if not self._listen(_LOOK_AGAIN_S):
                break
        return Ended(self.process.wait(PATIENCE_S), self._stdout.decode(), self.said)

    def kill(self) -> None:
        """Kill it as nothing can withstand, and wait until it is gone."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def _listen(self, timeout_s: float) -> bool:
        """Take in what it says; False once all its pipes are closed."""
        for key, _ in self._open.select(timeout_s):
            data = os.read(key.fd, 65_536)
            if not data:
                self._open.unregister(key.fileobj)
            elif key.fileobj is self.process.stdout:
                self._stdout += data
            else:
                self.said += data.decode(errors="replace")
        return bool(self._open.get_map())


@dataclass
class CommandLine:
    """Starts `promptmill` in `folder`; its environment holds nothing but what stands here and in `env`."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    umask: int = -1  # the test's own
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, *arguments: str | Path, **env: str) -> Ended:
        """Run a command to its end."""
        with self.started(*arguments, **env) as running:
            return running.end()

    @contextmanager
    def started(self, *arguments: str | Path, **env: str) -> Iterator[Running]:
        """Start a command; what is left of it at the end of the block is killed."""
        with self.popen(arguments, env, stderr=subprocess.PIPE) as process:
            try:
                yield Running(process)
            finally:
                process.kill()

    def popen(
        self,
        arguments: Sequence[str | Path],
        env: dict[str, str],
        *,
        stderr: int,
        stdout: int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*_HEEDING_SIGNALS, PROMPTMILL, *arguments],
            cwd=self.folder,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            umask=self.umask,
        )

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        clean = {"PATH": os.defpath, "HOME": str(self.folder), "LANG": "C.UTF-8", "TERM": "xterm-256color"}
        return {**clean, "PYTHONWARNINGS": "error", _MARK: self.mark, **self.env, **more}

    def alive(self) -> list[int]:
        """The processes that carry this mark, children of children included."""
        mark = f"{_MARK}={self.mark}".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parent.name))
            except OSError:  # gone meanwhile, or another user's
                continue
        return found

    def wait_all_gone(self) -> None:
        """Wait until no process carries the mark any more."""
        for pid in self.alive():
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                with selectors.DefaultSelector() as ends:
                    ends.register(handle, selectors.EVENT_READ)
                    assert ends.select(PATIENCE_S), f"process {pid} is still there"
            finally:
                os.close(handle)
