"""What a stream of chunks is read with: between the connection and aiohttp's response handler, so that neither a queue nor a
timer is touched for each chunk.

aiohttp's parser has the head of the answer and the end of the body; only what lies between is taken out here, where it
comes exactly as servers write it (RFC 9112, section 7.1, without extensions). At anything else the handler is given the rest:
no framing is judged in two places.
"""

import asyncio
import re

from aiohttp.client_proto import ResponseHandler

from pipeline.transport.seam import Sink

_HEAD = b"HTTP/1.1 200 "
_STREAMED = b"\r\ncontent-type: text/event-stream"
_CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"
_OTHERWISE = (b"\r\ncontent-length:", b"\r\ncontent-encoding:")
# What stands before a chunk: the end of the one before, and the size. Where it begins a read, it may have come in part.
_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,8})\r\n").match
_PART_OF_SIZE = re.compile(rb"\r(?:\n[0-9A-Fa-f]{0,8}\r?)?").fullmatch
_MOST_OF_SIZE = 11
_LAST_CHUNK = b"0\r\n\r\n"


class StreamTap(asyncio.Protocol):
    """Gives the chunks of one answer to `sink` as they come, up to `most_bytes`; the handler has all else.

    `too_large` and `error` say why the sink was given no more: the answer passed the bound, or what the sink raised. The
    handler is told then that the body has ended.
    """

    def __init__(self, handler: ResponseHandler, sink: Sink, most_bytes: int) -> None:
        self._handler = handler
        self._sink = sink
        self.left = most_bytes
        self.too_large = False
        self.error: Exception | None = None
        self._receive = self._begin
        self._rest = 0  # bytes of the present chunk that have not come
        self._held = b"\r\n"  # of the next chunk's beginning; the first one ends none

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def eof_received(self) -> None:
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def _begin(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or not _is_stream(data[: end - 2]):
            self._hand_over(data)
            return
        self._receive = self._chunks
        rest = self._take(data[end:])
        # An answer that has come whole is one piece for the handler, too.
        self._handler.data_received(data[:end] if rest is None else data[:end] + rest)

    def _chunks(self, data: bytes) -> None:
        rest = self._take(data)
        if rest is None:
            self._handler.start_timeout()
        else:
            self._handler.data_received(rest)

    def _take(self, data: bytes) -> bytes | None:
        """Give on what these bytes hold; what the handler is to have from now on, once that is so."""
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        at, size = self._rest, len(data)
        if at:
            pieces.append(data[:at])
        beyond: bytes | None = None
        while at < size:
            match = _SIZE(data, at)
            if match is None:
                if size - at <= _MOST_OF_SIZE and _PART_OF_SIZE(data, at):
                    self._held = data[at:]
                else:
                    beyond = data[at:]
                break
            length, start = int(match[1], 16), match.end()
            if length == 0:
                beyond = data[at:]
                break
            at = start + length
            pieces.append(data[start:at])
        self._rest = max(at - size, 0)
        if pieces and not self._give(pieces[0] if len(pieces) == 1 else b"".join(pieces)):
            self._receive = _nowhere
            return _LAST_CHUNK
        if beyond is None:
            return None
        self._receive = self._handler.data_received
        # It has seen no chunk, so it waits for one's size; what does not end the chunk before must not pass for it.
        return beyond[2:] if beyond.startswith(b"\r\n") else b"\r\n" + beyond

    def _give(self, data: bytes) -> bool:
        """Whether the sink may be given more after this."""
        self.left -= len(data)
        self.too_large = self.left < 0
        if self.too_large:
            return False
        try:
            self._sink(data)
        except Exception as error:  # noqa: BLE001  (`send` raises it: the event loop would only log it)
            self.error = error
        return self.error is None

    def _hand_over(self, data: bytes) -> None:
        self._receive = self._handler.data_received
        self._receive(data)


def _nowhere(data: bytes) -> None:
    """The connection is about to be closed."""


def _is_stream(head: bytes) -> bool:
    if not head.startswith(_HEAD):
        return False
    lower = head.lower()
    return _STREAMED in lower and _CHUNKED in lower and not any(other in lower for other in _OTHERWISE)
