"""Tiny raw servers on loopback: a script of a few lines plays one connection, byte for byte.

Only sockets live here, and just enough HTTP to read one request; what a client must make of it stands in
the tests.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

OK_BODY = b'{"ok":true}'
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n" + OK_BODY


@dataclass(slots=True)
class RawRequest:
    """A request as it came over the wire; header names in lower case."""

    line: str
    headers: dict[str, str]
    head: bytes
    body: bytes


@dataclass(slots=True)
class Connection:
    """One accepted connection, played by a script; when the script returns the connection is closed."""

    server: "RawServer"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_head(self) -> RawRequest:
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (one.split(":", 1) for one in fields)
        return RawRequest(line, {name.lower(): value.strip() for name, value in pairs}, head, b"")

    async def read_request(self) -> RawRequest:
        request = await self.read_head()
        request.body = await self.reader.readexactly(int(request.headers.get("content-length", "0")))
        self.server.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        if self.writer.transport.is_closing():  # the loops do not agree on what a write then raises
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Ends the connection by a TCP reset, not by an orderly close."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def wait_closed(self) -> None:
        """Returns once the client has closed its side, whatever it still sent."""
        self.server.stalled.set()
        with suppress(ConnectionError, ssl.SSLError):
            while await self.reader.read(65_536):
                pass
        self.server.closed_by_client.set()


Script = Callable[[Connection], Awaitable[None]]


@dataclass(slots=True)
class RawServer:
    """What a server saw: `connections` counts the accepted ones, `requests` are those read whole.

    `stalled` is set where a script has nothing more to say, `closed_by_client` where it saw the client go.
    """

    host: str
    port: int
    scheme: str
    connections: int = 0
    requests: list[RawRequest] = field(default_factory=list)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    closed_by_client: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/v1/chat/completions"


@asynccontextmanager
async def serve(
    script: Script, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[RawServer]:
    """Serves on a loopback port, a free one for 0, until the block ends; scripts still running then are cancelled."""
    scripts: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []
    server = RawServer(host="localhost" if tls else "127.0.0.1", port=0, scheme="https" if tls else "http")

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Connection(server, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client went away: scripts say what they wait for
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        writers.append(writer)
        one = asyncio.ensure_future(play(reader, writer))
        scripts.add(one)
        one.add_done_callback(scripts.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for one in list(scripts):
            one.cancel()
        await asyncio.gather(*scripts, return_exceptions=True)
        for writer in writers:
            writer.close()
        await listener.wait_closed()


def answering(*answers: bytes) -> Script:
    """Reads a request for each answer, in order, on one connection; the last answer repeats."""

    async def script(conn: Connection) -> None:
        for answer in answers:
            await conn.read_request()
            await conn.send(answer)
        while True:
            await conn.read_request()
            await conn.send(answers[-1])

    return script


def closing_after(answer: bytes) -> Script:
    """Reads one request, sends these bytes and closes in good order."""

    async def script(conn: Connection) -> None:
        await conn.read_request()
        await conn.send(answer)

    return script


def resetting_after(answer: bytes) -> Script:
    """Reads one request, sends these bytes and resets."""

    async def script(conn: Connection) -> None:
        await conn.read_request()
        await conn.send(answer)
        conn.reset()

    return script


def stalling_after(answer: bytes) -> Script:
    """Reads one request, sends these bytes, then nothing until the client goes."""

    async def script(conn: Connection) -> None:
        await conn.read_request()
        await conn.send(answer)
        await conn.wait_closed()

    return script


async def dripping(conn: Connection) -> None:
    """Announces a long body, then sends a byte of it every 20 ms until the client goes."""
    await conn.read_request()
    await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while not conn.server.closed_by_client.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await conn.wait_closed()
                return
        await conn.send(b" ")


async def silent(conn: Connection) -> None:
    """Accepts, and never says a word."""
    await conn.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError), closing(writer):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


async def proxying(conn: Connection) -> None:
    """A proxy: tunnels CONNECT, forwards a plain request in absolute form; remembers the heads it saw."""
    request = await conn.read_head()
    conn.server.requests.append(request)
    method, target, _ = request.line.split(" ", 2)
    if method == "CONNECT":
        host, port = target.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        await conn.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    else:
        url = urlsplit(target)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(request.head.replace(target.encode(), url.path.encode(), 1))
    await asyncio.gather(_pump(conn.reader, writer), _pump(reader, conn.writer))


def refused_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
