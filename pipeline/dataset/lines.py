"""Bounded lines out of a byte stream: what JSONL and CSV have in common below their syntax.

Lines end with LF (a CR before it is left to the caller). A byte order mark is dropped, UTF-16 is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.dataset.files import ByteStream
from pipeline.errors import DatasetError

BLOCK_BYTES = 1024 * 1024
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BLANK_FIRST, _BLANK = re.compile(rb"[ \t\r\x0b\x0c]*\n"), re.compile(rb"\n[ \t\r\x0b\x0c]*\n")


class TooLong(NamedTuple):
    """Stands for a line over the bound, whose bytes were dropped; `quotes` counts its `"`."""

    quotes: int


@dataclass(slots=True)
class Skip:
    """So many lines may be passed over without being looked at; those that were, since it was last set to 0, are `passed`."""

    left: int = 0
    passed: int = 0

    def take(self, block: bytes) -> bytes | None:
        """What is behind the last line of a block, once the lines are passed over; None where they have to be looked at.

        Blank lines have to: they are none in JSONL.
        """
        lines = block.count(b"\n") if self.left else 0
        if not 0 < lines <= self.left or _BLANK_FIRST.match(block):
            return None
        objects = block.count(b"\n{") + block.endswith(
            b"\n"
        )  # behind each line but the last: several times faster to tell
        if objects != lines and _BLANK.search(block):
            return None
        self.left -= lines
        self.passed += lines
        return block[block.rfind(b"\n") + 1 :]


def line_blocks(
    stream: ByteStream, name: str, max_line_bytes: int, skip: Skip | None = None
) -> Iterator[list[bytes | TooLong]]:
    """Yield the lines of `stream`, without their LF, a block's worth at a time, but for those that `skip` passes over.

    Holds at most one block and `max_line_bytes`, whatever the line's length. A last line needs no LF.
    Raises DatasetError where the text is UTF-16.
    """
    block_bytes = min(BLOCK_BYTES, max_line_bytes)
    partial = _PartialLine(max_line_bytes)
    block = _text_start(stream, name, block_bytes)
    while block:
        if skip is not None and (behind := skip.take(block)) is not None:
            partial.clear()
            partial.add(behind)
            block = stream.read(block_bytes)
            continue
        first, *rest = block.split(b"\n")
        partial.add(first)
        if rest:
            last = rest.pop()
            yield [partial.take(), *rest]
            partial.add(last)
        block = stream.read(block_bytes)
    if not partial.is_empty:
        yield [partial.take()]


def _text_start(stream: ByteStream, name: str, block_bytes: int) -> bytes:
    """Return the first bytes of text; b"" only at the end of the stream."""
    head = b""
    while len(head) < len(UTF8_MARK) and (more := stream.read(max(block_bytes, len(UTF8_MARK)))):
        head += more
    if head.startswith(UTF16_MARKS):
        raise DatasetError(f"{name} is UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8.")
    return head.removeprefix(UTF8_MARK) or stream.read(block_bytes)


class _PartialLine:
    """The pieces of a line that spans blocks; forgets them once they pass the bound."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self.clear()

    def clear(self) -> None:
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._quotes = 0

    @property
    def is_empty(self) -> bool:
        return self._size_bytes == 0

    def add(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        self._pieces.append(piece)
        if self._size_bytes > self._max_line_bytes:
            self._quotes += sum(p.count(b'"') for p in self._pieces)
            self._pieces.clear()

    def take(self) -> bytes | TooLong:
        too_long = self._size_bytes > self._max_line_bytes
        line = TooLong(self._quotes) if too_long else b"".join(self._pieces)
        self.clear()
        return line


def too_long_problem(what: str, max_bytes: int) -> str:
    """Say that a line or row passes the bound."""
    size = f"{max_bytes / 2**20:g} MiB" if max_bytes >= 2**20 else f"{max_bytes:,} bytes"
    return f"the {what} is longer than {size}"


def not_utf8_problem(error: UnicodeDecodeError) -> str:
    """Say where a line stops being UTF-8; bytes count from 1."""
    return f"not UTF-8 at byte {error.start + 1} of the line"
