"""The server of the figures over HTTP: answers every request at once with the canned answer, and costs as little as it can.

Prints its port, then the monotonic time of its first request; ends when its standard input does.
"""

import asyncio
import sys
import time

import uvloop

from benchmarks.support import ANSWER, ANSWER_HEADERS, SERVER_CORE, pin

_HEAD = "".join(f"{name}: {value}\r\n" for name, value in ANSWER_HEADERS.items())
_REPLY = f"HTTP/1.1 200 OK\r\n{_HEAD}content-length: {len(ANSWER)}\r\n\r\n".encode() + ANSWER
_LENGTH = b"content-length:"
_first = True


class Stub(asyncio.Protocol):
    """One kept-alive connection. Requests carry a content-length; nothing else of them is looked at."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        held = self._held + data
        while (end := held.find(b"\r\n\r\n")) >= 0:
            head = held[:end].lower()
            at = head.find(_LENGTH)
            length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(held) < whole:
                break
            held = held[whole:]
            self._transport.write(_REPLY)  # type: ignore[attr-defined]
            _note_first()
        self._held = held


def _note_first() -> None:
    global _first  # noqa: PLW0603
    if _first:
        _first = False
        print(time.monotonic(), flush=True)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()


if __name__ == "__main__":
    pin(SERVER_CORE)
    uvloop.run(main())
