"""What both cores do with a sink: a stream goes there piece by piece, and everything else comes whole."""

import asyncio

import pytest

from pipeline.records import Failure, Response
from tests.support.clients import CLIENTS, Client, request
from tests.support.servers import Connection, answering, resetting_after, serve, stalling_after

STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream;charset=UTF-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
CHUNK = b"data: one\n\n"
FRAMED = b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK)
END = b"0\r\n\r\n"


@pytest.fixture(params=CLIENTS, ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    one: Client = request.param
    return one


def test_a_stream_goes_to_the_sink_and_the_body_stays_empty(client: Client) -> None:
    async def main() -> None:
        async with (
            serve(answering(STREAM + FRAMED * 3 + END)) as server,
            client.open(server.url) as transport,
        ):
            pieces: list[bytes] = []
            reply = await transport.send(request(), pieces.append)
            assert isinstance(reply, Response)
            assert (reply.status, reply.body, b"".join(pieces)) == (200, b"", CHUNK * 3)

    client.run(main())


def test_a_piece_reaches_the_sink_before_the_next_one_is_sent(client: Client) -> None:
    first = asyncio.Event()

    async def script(conn: Connection) -> None:
        await conn.read_request()
        await conn.send(STREAM + FRAMED)
        await first.wait()
        await conn.send(FRAMED + END)

    async def main() -> None:
        async with serve(script) as server, client.open(server.url) as transport:
            reply = await transport.send(request(), lambda _: first.set())
            assert isinstance(reply, Response)

    client.run(main())


@pytest.mark.parametrize(
    "body",
    [
        b"B\r\n%b\r\n0011\r\n%b%b\r\n0\r\n\r\n" % (CHUNK, CHUNK, CHUNK[:6]),
        b"b;size=11\r\n%b\r\n11\r\n%b%b\r\n0\r\n\r\n" % (CHUNK, CHUNK, CHUNK[:6]),
        b"b\r\n%b\r\n11;last\r\n%b%b\r\n0;end\r\n\r\n" % (CHUNK, CHUNK, CHUNK[:6]),
        b"b\r\n%b\r\n11\r\n%b%b\r\n0\r\nx-trailer: yes\r\n\r\n" % (CHUNK, CHUNK, CHUNK[:6]),
    ],
    ids=["plain", "extension at once", "extension later", "trailer"],
)
@pytest.mark.parametrize("apart", [1, 7, 10_000])
def test_a_stream_is_read_however_it_is_framed_and_cut(client: Client, body: bytes, apart: int) -> None:
    async def script(conn: Connection) -> None:
        while await conn.read_request():
            await conn.send(STREAM)
            for at in range(0, len(body), apart):
                await conn.send(body[at : at + apart])
                await asyncio.sleep(0)

    async def main() -> None:
        async with serve(script) as server, client.open(server.url) as transport:
            for _ in range(2):
                pieces: list[bytes] = []
                reply = await transport.send(request(), pieces.append)
                assert isinstance(reply, Response)
                assert (reply.body, b"".join(pieces)) == (b"", CHUNK * 2 + CHUNK[:6])
            assert server.connections == 1

    client.run(main())


@pytest.mark.parametrize("end", [b"\r\n", b"zz\r\n", b"5\r\nabcdeXX0\r\n\r\n", b"-5\r\nabcde\r\n0\r\n\r\n"])
def test_a_stream_with_broken_framing_is_a_failure_that_may_be_paid(client: Client, end: bytes) -> None:
    async def main() -> None:
        async with (
            serve(answering(STREAM + FRAMED + end)) as server,
            client.open(server.url, idle_timeout_s=5) as transport,
        ):
            reply = await transport.send(request(), lambda _: None)
            assert isinstance(reply, Failure)
            assert reply.code in ("cut_body", "bad_http")
            assert reply.maybe_paid

    client.run(main())


def test_what_a_sink_raises_is_raised_where_the_answer_is_awaited(client: Client) -> None:
    def sink(_: bytes) -> None:
        raise ArithmeticError("a bug")

    async def main() -> None:
        async with (
            serve(answering(STREAM + FRAMED * 3 + END)) as server,
            client.open(server.url) as transport,
        ):
            with pytest.raises(ArithmeticError):
                await transport.send(request(), sink)

    client.run(main())


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/event-stream\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n",
    ],
)
def test_what_is_no_stream_comes_whole_even_with_a_sink(client: Client, head: bytes) -> None:
    async def main() -> None:
        answer = head + b"content-length: 2\r\n\r\n{}"
        async with serve(answering(answer)) as server, client.open(server.url) as transport:
            pieces: list[bytes] = []
            reply = await transport.send(request(), pieces.append)
            assert isinstance(reply, Response)
            assert (reply.body, pieces) == (b"{}", [])

    client.run(main())


def test_a_stream_that_breaks_or_falls_silent_is_a_failure_after_its_pieces(client: Client) -> None:
    async def main() -> None:
        for script, codes in (
            (resetting_after(STREAM + FRAMED), {"cut_body", "reset"}),
            (stalling_after(STREAM + FRAMED), {"idle_timeout"}),
        ):
            async with serve(script) as server, client.open(server.url, idle_timeout_s=0.2) as transport:
                pieces: list[bytes] = []
                reply = await transport.send(request(), pieces.append)
                assert isinstance(reply, Failure)
                assert reply.code in codes
                assert reply.maybe_paid

    client.run(main())


def test_a_stream_is_bounded_as_a_whole_answer_is(client: Client) -> None:
    async def main() -> None:
        async with (
            serve(answering(STREAM + FRAMED * 100 + END)) as server,
            client.open(server.url, max_response_bytes=200) as transport,
        ):
            pieces: list[bytes] = []
            reply = await transport.send(request(), pieces.append)
            assert isinstance(reply, Failure)
            assert reply.code == "response_too_large"
            assert len(b"".join(pieces)) <= 200

    client.run(main())
