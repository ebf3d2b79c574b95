"""The contract of `Transport.send`, continued: faults while the request may be at the server, bounds, cancelling."""

import asyncio
from contextlib import suppress

import pytest

from pipeline.records import Failure, FailureKind, Response
from pipeline.transport import Endpoint, Sink
from tests.support.clients import CLIENTS, Client, answered, failed, request
from tests.support.servers import (
    OK,
    Connection,
    Script,
    answering,
    closing_after,
    dripping,
    resetting_after,
    serve,
    silent,
    stalling_after,
)
from tests.support.wire_faults import huge, respond

PARTIAL_HEAD = b"HTTP/1.1 200 OK\r\ncontent-ty"
PARTIAL_BODY = b"HTTP/1.1 200 OK\r\nx-request-id: r-1\r\ncontent-length: 100\r\n\r\n{"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LARGE_BODY = b"x" * 8_000_000  # more than the socket buffers take while nobody reads


@pytest.fixture(params=CLIENTS, ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    one: Client = request.param
    return one


async def reset_in_the_request(conn: Connection) -> None:
    await conn.reader.readexactly(1000)
    conn.reset()


async def close_in_the_request(conn: Connection) -> None:
    await conn.reader.readexactly(1000)


async def garble_after_the_head(conn: Connection) -> None:
    await conn.read_request()
    await conn.send(CHUNKED + b"2\r\n{}\r\n")
    await conn.send(b"zz\r\n")
    await conn.wait_closed()


# A reset overtakes what was sent before it, so its moment is the kernel's: those rows name both codes.
@pytest.mark.parametrize(
    ("script", "codes"),
    [
        pytest.param(reset_in_the_request, {"reset"}, id="reset in the request"),
        pytest.param(close_in_the_request, {"reset", "connection_closed"}, id="closed in the request"),
        pytest.param(closing_after(b""), {"connection_closed"}, id="closed before the answer"),
        pytest.param(resetting_after(b""), {"reset"}, id="reset before the answer"),
        pytest.param(closing_after(PARTIAL_HEAD), {"connection_closed"}, id="closed in the head"),
        pytest.param(resetting_after(PARTIAL_HEAD), {"reset"}, id="reset in the head"),
        pytest.param(closing_after(PARTIAL_BODY), {"cut_body"}, id="closed in the body"),
        pytest.param(resetting_after(PARTIAL_BODY), {"cut_body", "reset"}, id="reset in the body"),
        pytest.param(closing_after(CHUNKED + b"5\r\nhel"), {"cut_body"}, id="closed in a chunk"),
        pytest.param(
            closing_after(CHUNKED + b"2\r\n{}\r\n"), {"cut_body"}, id="closed before the last chunk"
        ),
        pytest.param(closing_after(CHUNKED + b"zz\r\nhel"), {"bad_http", "cut_body"}, id="bad chunk size"),
        pytest.param(garble_after_the_head, {"bad_http", "cut_body"}, id="bad chunk size later"),
        pytest.param(closing_after(b"SSH-2.0-nope\r\n\r\n"), {"bad_http"}, id="not HTTP"),
        pytest.param(closing_after(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), {"bad_http"}, id="bad header"),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
            {"bad_http"},
            id="two lengths",
        ),
        pytest.param(
            stalling_after(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            {"bad_http"},
            id="upgrade unasked",
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"),
            {"content_encoding"},
            id="compressed unasked",
        ),
    ],
)
def test_a_broken_answer_is_a_transport_failure_that_may_be_paid(
    client: Client, script: Script, codes: set[str]
) -> None:
    async def main() -> None:
        async with serve(script) as server:
            in_request = script in (reset_in_the_request, close_in_the_request)
            failure = await client.fail(server.url, LARGE_BODY if in_request else b"{}")
            assert failure.kind is FailureKind.TRANSPORT
            assert failure.code in codes
            assert failure.maybe_paid
            assert not failure.uncounted

    client.run(main())


def test_a_cut_body_keeps_what_the_head_told(client: Client) -> None:
    async def main() -> None:
        async with serve(closing_after(PARTIAL_BODY)) as server:
            failure = await client.fail(server.url)
            assert (failure.http_status, failure.request_id) == (200, "r-1")

    client.run(main())


# Kept-alive connections


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_kept_alive_connection_that_ends_before_the_answer_is_not_counted(client: Client, how: str) -> None:
    async def script(conn: Connection) -> None:
        await conn.read_request()
        await conn.send(OK)
        await conn.read_request()
        if how == "reset":
            conn.reset()

    async def main() -> None:
        async with serve(script) as server, client.open(server.url) as transport:
            await answered(transport)
            failure = await failed(transport)
            assert failure.code == ("reset" if how == "reset" else "connection_closed")
            assert failure.uncounted
            assert failure.maybe_paid
            assert server.connections == 1
            await answered(transport)
            assert server.connections == 2

    client.run(main())


def test_a_kept_alive_connection_closed_while_idle_costs_no_attempt(client: Client) -> None:
    async def main() -> None:
        async with serve(closing_after(OK)) as server, client.open(server.url) as transport:
            for _ in range(10):
                sent = await transport.send(request())
                assert isinstance(sent, Response) or sent.uncounted

    client.run(main())


def echoing(unasked: bytes, idle: asyncio.Event | None) -> Script:
    """Answers with the request's own body, and then, once `idle` is set, with something that nobody asked for."""

    async def script(conn: Connection) -> None:
        while True:
            asked = await conn.read_request()
            await conn.send(respond(asked.body) + (b"" if idle else unasked))
            if idle is not None:
                await idle.wait()
                idle.clear()
                await conn.send(unasked)

    return script


@pytest.mark.parametrize("at_once", [True, False], ids=["with the answer", "while it is idle"])
@pytest.mark.parametrize(
    "unasked",
    [
        respond(b'"of another row"'),
        respond(b"{}", status=b"408 Request Timeout"),  # as HAProxy says before it closes an idle connection
    ],
    ids=["answer", "timeout"],
)
def test_what_a_server_sends_unasked_is_never_another_request_s_answer(
    client: Client, unasked: bytes, at_once: bool
) -> None:
    async def main() -> None:
        idle = None if at_once else asyncio.Event()
        async with serve(echoing(unasked, idle)) as server, client.open(server.url) as transport:
            for n in range(4):
                asked = b"%d" % n
                reply = await transport.send(request(asked))
                while isinstance(reply, Failure):
                    assert (reply.code, reply.uncounted) == ("unasked_answer", True)
                    reply = await transport.send(request(asked))
                assert (reply.status, reply.body) == (200, asked)
                if idle is not None:
                    idle.set()
                    for _ in range(20):  # turns of the loop, in which it is sent and comes in
                        await asyncio.sleep(0)

    client.run(main())


def test_a_kept_alive_connection_cut_in_the_body_is_counted(client: Client) -> None:
    async def script(conn: Connection) -> None:
        await conn.read_request()
        await conn.send(OK)
        await conn.read_request()
        await conn.send(PARTIAL_BODY)

    async def main() -> None:
        async with serve(script) as server, client.open(server.url) as transport:
            await answered(transport)
            failure = await failed(transport)
            assert (failure.code, failure.uncounted) == ("cut_body", False)

    client.run(main())


# Timeouts


@pytest.mark.parametrize(
    "said", [b"", PARTIAL_HEAD, PARTIAL_BODY], ids=["nothing", "half a head", "half a body"]
)
def test_silence_ends_by_the_idle_timeout(client: Client, said: bytes) -> None:
    async def main() -> None:
        async with serve(stalling_after(said)) as server:
            failure = await client.fail(server.url, idle_timeout_s=0.1)
            assert (failure.kind, failure.code) == (FailureKind.TIMEOUT, "idle_timeout")
            assert failure.maybe_paid
            await asyncio.wait_for(server.closed_by_client.wait(), 5)

    client.run(main())


def test_a_server_that_never_reads_ends_by_a_timeout(client: Client) -> None:
    async def script(conn: Connection) -> None:
        conn.writer.transport.pause_reading()  # type: ignore[attr-defined]
        conn.server.stalled.set()
        await conn.server.closed_by_client.wait()

    async def main() -> None:
        async with serve(script) as server:
            failure = await client.fail(server.url, LARGE_BODY, idle_timeout_s=0.1, total_timeout_s=0.3)
            assert failure.kind is FailureKind.TIMEOUT
            assert failure.code == ("total_timeout" if client.core == "fast" else "idle_timeout")
            assert failure.maybe_paid

    client.run(main())


def test_silence_after_a_long_body_was_read_ends_by_the_idle_timeout(client: Client) -> None:
    async def script(conn: Connection) -> None:
        await conn.read_request()
        await conn.wait_closed()

    async def main() -> None:
        async with serve(script) as server:
            failure = await client.fail(server.url, LARGE_BODY, idle_timeout_s=0.2)
            assert failure.code == "idle_timeout"
            assert failure.maybe_paid
            await asyncio.wait_for(server.closed_by_client.wait(), 5)

    client.run(main())


def test_an_answer_that_drips_ends_by_the_total_timeout(client: Client) -> None:
    async def main() -> None:
        async with serve(dripping) as server:
            failure = await client.fail(server.url, total_timeout_s=0.2)
            assert (failure.kind, failure.code) == (FailureKind.TIMEOUT, "total_timeout")
            assert failure.maybe_paid

    client.run(main())


# Bounds


async def talk_for_ever(conn: Connection) -> None:
    await conn.read_request()
    await conn.send(CHUNKED)
    with suppress(ConnectionError):
        while True:
            await conn.send(b"400\r\n" + b"x" * 0x400 + b"\r\n")
    conn.server.closed_by_client.set()


@pytest.mark.parametrize(
    "script",
    [stalling_after(b"HTTP/1.1 200 OK\r\ncontent-length: 5001\r\n\r\nx"), talk_for_ever],
    ids=["announced", "endless"],
)
def test_an_answer_over_the_bound_is_given_up_and_its_connection_closed(
    client: Client, script: Script
) -> None:
    async def main() -> None:
        async with serve(script) as server, client.open(server.url, max_response_bytes=5000) as transport:
            failure = await failed(transport)
            assert (failure.kind, failure.code) == (FailureKind.TOO_LARGE, "response_too_large")
            assert failure.maybe_paid
            await asyncio.wait_for(server.closed_by_client.wait(), 5)

    client.run(main())


@pytest.mark.parametrize("sink", [None, lambda _: None], ids=["whole", "streamed"])
def test_of_300_mb_no_more_is_taken_than_the_bound(client: Client, sink: Sink | None) -> None:
    taken = 0

    async def script(conn: Connection) -> None:
        nonlocal taken
        await conn.read_request()
        kind = b"text/event-stream" if sink else b"application/json"
        for piece in huge(kind):
            await conn.send(piece)
            taken += len(piece)

    async def main() -> None:
        async with serve(script) as server, client.open(server.url) as transport:
            failure = await transport.send(request(), sink)
            assert isinstance(failure, Failure)
            assert (failure.kind, failure.code) == (FailureKind.TOO_LARGE, "response_too_large")

    client.run(main())
    bound = Endpoint(url="http://localhost", headers={}, max_connections=1).max_response_bytes
    assert taken < bound + 16 * 1024 * 1024, "the rest lies in the buffers of two sockets"


def test_an_answer_at_the_bound_is_whole(client: Client) -> None:
    async def main() -> None:
        async with (
            serve(answering(OK)) as server,
            client.open(server.url, max_response_bytes=11) as transport,
        ):
            await answered(transport)

    client.run(main())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed_and_names_the_target_host_alone(client: Client, status: int) -> None:
    async def main() -> None:
        async with serve(answering(OK)) as target:
            location = f"http://u:secret@127.0.0.1:{target.port}/elsewhere?token=secret"
            answer = f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
            async with serve(answering(answer.encode())) as server:
                failure = await client.fail(server.url)
            assert (failure.kind, failure.code) == (FailureKind.TRANSPORT, "redirect")
            assert (failure.http_status, failure.maybe_paid) == (status, False)
            assert "127.0.0.1" in failure.message
            assert "secret" not in failure.message
            assert target.connections == 0

    client.run(main())


# Cancellation


@pytest.mark.parametrize(
    "script",
    [stalling_after(b""), stalling_after(PARTIAL_BODY), silent],
    ids=["before the answer", "in the body", "in the handshake"],
)
def test_a_cancelled_send_leaves_no_connection_behind(client: Client, script: Script) -> None:
    async def main() -> None:
        async with serve(script) as server:
            url = server.url.replace("http:", "https:") if script is silent else server.url
            async with client.open(url) as transport:
                sending = asyncio.ensure_future(transport.send(request()))
                await asyncio.wait_for(server.stalled.wait(), 5)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                await asyncio.wait_for(server.closed_by_client.wait(), 2)

    client.run(main())


def test_after_a_cancelled_send_the_next_one_has_a_connection_of_its_own(client: Client) -> None:
    async def script(conn: Connection) -> None:
        if conn.server.connections == 1:
            await stalling_after(PARTIAL_BODY)(conn)
        await conn.read_request()
        await conn.send(OK)

    async def main() -> None:
        async with serve(script) as server, client.open(server.url, max_connections=1) as transport:
            sending = asyncio.ensure_future(transport.send(request()))
            await asyncio.wait_for(server.stalled.wait(), 5)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await answered(transport)
            assert server.connections == 2

    client.run(main())
