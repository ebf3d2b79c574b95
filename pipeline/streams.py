"""stderr as schedulers and collectors of logs meet it: one that nobody reads, one that was closed, one of JSON lines."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

_OBJECT = '{"time": '


def json_line(time: datetime, level: str, message: str, figures: Mapping[str, Any]) -> str:
    """One event as a JSON object in one line, ASCII alone: whatever the locale, it can be written."""
    said = {"time": time.isoformat(timespec="milliseconds"), "level": level, "message": message, **figures}
    return json.dumps(said, default=str)


class Forgiving:
    """A stderr that goes on where nobody reads it any more: words may be lost, never the run or its exit code."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class JsonLines(Forgiving):
    """A stderr on which every line is a JSON object: what is none becomes the message of one, of level error.

    So no sentence, whoever says it, is lost on a collector of logs that reads JSON. Progress comes as objects already.
    """

    def __init__(self, stream: TextIO, now: Callable[[], datetime]) -> None:
        super().__init__(stream)
        self._now = now
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            said = line if line.startswith(_OBJECT) else json_line(self._now(), "error", line, {})
            super().write(said + "\n")
        return len(text)


def open_closed_streams() -> None:
    """Open what the caller closed (`2>&-`, some daemons): else a file of ours would get its number, and words meant for it."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (open to the end)
