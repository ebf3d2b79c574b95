"""What a run says of itself: run.log in its folder, and notes on stderr; each as text or as one JSON object a line."""

import contextlib
import logging
import logging.handlers
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

from pipeline.errors import Interrupted, PromptmillError
from pipeline.private import private_opener
from pipeline.streams import json_line

LOG_FILE = "run.log"
LogFormat = Literal["text", "json"]
log = logging.getLogger("promptmill")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Says things on stderr, to who looks on or to a collector of logs; where it is `quiet`, only what must be known."""

    stream: TextIO
    quiet: bool
    format: LogFormat
    now: Callable[[], datetime]

    def say(self, message: str, *, level: str = "info", always: bool = False, **figures: Any) -> None:
        """Say a sentence, `always` even where it is quiet; `figures` go along where the format has room for them."""
        if self.quiet and not always:
            return
        if self.format == "json":
            message = json_line(self.now(), level, message, figures)
        self.stream.write(message + "\n")
        self.stream.flush()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # Its text where there is one already: cleared of secrets (`masking.py`).
        trace = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else None)
        figures = {"traceback": trace} if trace else {}
        time = datetime.fromtimestamp(record.created).astimezone()
        return json_line(time, record.levelname.lower(), record.getMessage(), figures)


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log that a full disk leaves incomplete, instead of a traceback on stderr for each line.

    Where it was moved away (logrotate), it is begun anew; where it was cut to nothing, it goes on from there.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # its folder is gone
            super().emit(record)

    def _open(self) -> TextIOWrapper:
        return open(
            self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=private_opener
        )

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class RunLog:
    """run.log while the block runs; what ends it unexpectedly is logged there with its traceback."""

    def __init__(self, folder: Path, log_format: LogFormat) -> None:
        self._handler = _LogFile(folder / LOG_FILE)
        text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
        self._handler.setFormatter(text if log_format == "text" else _JsonFormatter())

    def __enter__(self) -> None:
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)
        log.propagate = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PromptmillError):
            log.error("%s", error)
        elif isinstance(error, KeyboardInterrupt | Interrupted):
            log.info("interrupted before the first row")
        elif error is not None:
            log.critical("a bug", exc_info=error)
        log.removeHandler(self._handler)
        self._handler.close()
