"""What this process asks the system to open, seen by an audit hook: to prove that something is never opened."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_watched: list[str] | None = None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _watched is not None:
        _watched.append(os.fsdecode(args[0]) if isinstance(args[0], str | bytes) else str(args[0]))


sys.addaudithook(_watch)  # it stays for the process, and does nothing outside `opened_names`


@contextmanager
def opened_names() -> Iterator[list[str]]:
    """The names that are handed to the system to be opened inside the block, by anything."""
    global _watched  # noqa: PLW0603 - an audit hook cannot be taken out again
    _watched = names = []
    try:
        yield names
    finally:
        _watched = None
