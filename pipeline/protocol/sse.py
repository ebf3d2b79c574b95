"""Server-sent events, from bytes in any pieces to events: one parser for every server's dialect.

The format is the WHATWG HTML standard's ("Server-sent events": lines end in LF, CR or CRLF, a blank line ends an
event, a line that begins with a colon is a comment), and what servers make of it: DashScope's native format puts
the HTTP status into a comment (`:HTTP_STATUS/200`), others leave out the last blank line, or send a bare error.
What an event's data means is not known here. Pure: no I/O, no clock, and nothing is ever raised.
"""

import re
from typing import NamedTuple

MAX_EVENT_BYTES = 8 * 1024 * 1024
# Enough of a body that is no event stream to say what it is.
_MAX_STRAY_BYTES = 16 * 1024
_BOM = b"\xef\xbb\xbf"
# How DashScope's native frames and everybody else's begin, up to their only line of data.
_OPENING = re.compile(rb"(?:id:\d*\nevent:result\n:HTTP_STATUS/(200)\n)?data: ?")


class Event(NamedTuple):
    """One event: its data (lines joined by LF), its name, and the HTTP status it claims; empty and 0 if not given."""

    data: bytes
    name: bytes = b""
    status: int = 0


class EventParser:
    """Takes a stream's bytes as they come and gives its events; the result does not depend on the pieces.

    It holds one line and one event at most, both bounded by `max_event_bytes`: once one is `too_large`, all that
    follows is dropped. `between`: whole events have come, and nothing of the next one. `stray` is the beginning of
    what was no field of an event, such as a bare JSON error.
    """

    __slots__ = (
        "_after_cr",
        "_begun",
        "_data",
        "_data_bytes",
        "_line",
        "_line_bytes",
        "_max_event_bytes",
        "_name",
        "_status",
        "between",
        "stray",
        "too_large",
    )

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line: list[bytes] = []  # the pieces of a line whose end has not come
        self._line_bytes = 0
        self._data: list[bytes] = []  # the data lines of the event whose end has not come
        self._data_bytes = 0
        self._name = b""
        self._status = 0
        self._begun = False  # past the first line, which may bear a byte order mark
        self._after_cr = False  # an LF that comes next belongs to the CR before it
        self.between = False
        self.stray = b""
        self.too_large = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that end in this piece of the stream."""
        if self.between and chunk[-2:] == b"\n\n" and (opening := _OPENING.match(chunk)):
            # One event, as servers send them: what the rest would find, in a third of the time.
            start, end = opening.end(), len(chunk) - 2
            if chunk.find(10, start) == end and chunk.find(13) < 0 and end <= self._max_event_bytes - 2:
                data = chunk[start:end]
                return [Event(data, b"result", 200) if opening[1] else Event(data)]
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk or self.too_large:
            return []
        events: list[Event] = []
        if b"\n" in chunk or b"\r" in chunk:
            lines = b"".join([*self._line, chunk]).splitlines()  # of bytes: at LF, CR and CRLF alone
            ended = chunk[-1:] in (b"\n", b"\r")
            self._line = [] if ended else [lines.pop()]
            self._line_bytes = sum(map(len, self._line))
            self._after_cr = chunk[-1:] == b"\r"
            for line in lines:
                if not self.too_large:
                    self._take(line, events)
        else:
            self._line.append(chunk)
            self._line_bytes += len(chunk)
        if self._line_bytes > self._max_event_bytes:
            self._give_up()
        held = self._line or self._data or self._name or self._status or self._after_cr
        self.between = not (held or self.too_large)
        return events

    def close(self) -> list[Event]:
        """The event that only the stream's end ended, if there is one; nothing may be fed after."""
        events: list[Event] = []
        self._take(b"".join(self._line), events)
        self._take(b"", events)
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        if len(line) > self._max_event_bytes:
            self._give_up()
            return
        if not self._begun:
            line = line.removeprefix(_BOM)
            self._begun = True
        if not line:
            if self._data:
                events.append(Event(b"\n".join(self._data), self._name, self._status))
                self._data = []
                self._data_bytes = 0
            self._name = b""
            self._status = 0
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data_bytes += len(value) + 1
            self._data.append(value)
        elif not field:
            if value.startswith(b"HTTP_STATUS/"):
                self._status = _status(value[12:])
        elif field == b"event":
            self._name = value
        elif field == b"status":
            self._status = _status(value)
        elif field not in (b"id", b"retry") and len(self.stray) < _MAX_STRAY_BYTES:
            self.stray = (self.stray + line + b"\n")[:_MAX_STRAY_BYTES]
        if self._data_bytes > self._max_event_bytes:
            self._give_up()

    def _give_up(self) -> None:
        self.too_large = True
        self._line, self._line_bytes, self._data, self._data_bytes = [], 0, [], 0


def _status(value: bytes) -> int:
    return int(value) if len(value) == 3 and value.isdigit() else 0
