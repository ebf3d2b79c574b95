"""The server of the figures over HTTP: answers every request with the canned answer, and costs as little as it can.

    python -m benchmarks.stub_server [--delay-ms 200]

Prints its port, then the monotonic time of its first request. Ends when its standard input does, and then prints as JSON how many
requests it answered, when the last came, how many connections it held at most, and how many requests a second came between the
first and the last turn of all connections.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from typing import cast

import uvloop

from benchmarks.support import ANSWER, ANSWER_HEADERS
from benchmarks.workload import SERVER_CORE, pin

_HEAD = "".join(f"{name}: {value}\r\n" for name, value in ANSWER_HEADERS.items())
_REPLY = f"HTTP/1.1 200 OK\r\n{_HEAD}content-length: {len(ANSWER)}\r\n\r\n".encode() + ANSWER
_LENGTH = b"content-length:"


class Stub:
    """What all connections have in common: the delay of each answer, and a count of them."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self.answered = 0
        self.connections = self.most_connections = 0
        self._came_s: list[float] = []  # each request, where answers take their time
        self.last_s: float | None = None

    def answer(self, transport: asyncio.Transport) -> None:
        if not self.answered:
            print(time.monotonic(), flush=True)
        self.answered += 1
        self.last_s = self._loop.time()
        if self._delay_s:
            self._came_s.append(self.last_s)
            self._loop.call_later(self._delay_s, _reply, transport)
        else:
            transport.write(_REPLY)

    def settled_per_s(self) -> float | None:
        between = self._came_s[self.most_connections : -self.most_connections]
        return (len(between) - 1) / (between[-1] - between[0]) if len(between) > 1 else None


class Connection(asyncio.Protocol):
    """One kept-alive connection. Requests carry a content-length; nothing else of them is looked at."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._held = b""
        self._stub.connections += 1
        self._stub.most_connections = max(self._stub.most_connections, self._stub.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stub.connections -= 1

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
            self._stub.answer(self._transport)
        self._held = held


def _reply(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.write(_REPLY)


async def main(delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    stub = Stub(delay_s)
    server = await loop.create_server(lambda: Connection(stub), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()
    seen = {
        "answered": stub.answered,
        "last_s": stub.last_s,
        "most_connections": stub.most_connections,
        "settled_per_s": stub.settled_per_s(),
    }
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delay-ms", type=float, default=0, help="how long each answer is held back")
    options = parser.parse_args()
    pin(SERVER_CORE)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(options.delay_ms / 1000))
