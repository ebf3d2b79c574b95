"""The contract of `Transport.send` that both cores pass, on both loops: answers, TLS, proxies, connecting."""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from pipeline.records import FailureKind, Response
from tests.support.clients import CLIENTS, KEY, PASSWORD, Client, answered, request
from tests.support.servers import (
    OK,
    OK_BODY,
    Connection,
    RawServer,
    Script,
    answering,
    closing_after,
    proxying,
    refused_port,
    serve,
    silent,
)

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=CLIENTS, ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    one: Client = request.param
    return one


@dataclass(frozen=True)
class Authority:
    """A certificate authority of our own: its file, and a server context with a certificate for localhost."""

    file: Path
    server: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    ca = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    return Authority(file, context)


# Answers


def test_an_answer_comes_back_whole_with_the_headers_we_keep(client: Client) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-Id: r-1\r\n"
        b"X-DashScope-PartialResponse: true\r\nServer: any\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}"
    )

    async def main() -> None:
        async with serve(answering(answer)) as server, client.open(server.url) as transport:
            response = await answered(transport)
            assert (response.status, response.body) == (200, b"{}")
            assert response.headers == {
                "content-type": "application/json",
                "x-request-id": "r-1",
                "x-dashscope-partialresponse": "true",
            }
            assert response.latency_ms >= 0  # uvloop's clock counts whole milliseconds

    client.run(main())


def test_the_request_is_a_post_with_our_headers_and_exactly_our_bytes(client: Client) -> None:
    async def main() -> None:
        async with serve(answering(OK)) as server, client.open(server.url) as transport:
            await answered(transport)
            await answered(transport)
            sent = server.requests[0]
            assert sent.line == "POST /v1/chat/completions HTTP/1.1"
            assert sent.body == b'{"model":"m"}'
            assert sent.headers.pop("host") == f"{server.host}:{server.port}"
            assert sent.headers.pop("connection", "keep-alive").lower() == "keep-alive"
            assert sent.headers == {
                "authorization": KEY,
                "accept": "application/json",
                "accept-encoding": "identity",
                "content-type": "application/json",
                "content-length": "13",
                "user-agent": "promptmill",
            }
            assert server.requests[1].headers.get("cookie") is None

    client.run(main())


def test_an_error_answer_is_a_response_and_keeps_what_it_says_about_waiting(client: Client) -> None:
    answer = (
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nx-ratelimit-reset-tokens: 1s\r\n"
        b"content-length: 4\r\n\r\nslow"
    )

    async def main() -> None:
        async with serve(answering(answer)) as server, client.open(server.url) as transport:
            response = await answered(transport)
            assert (response.status, response.body) == (429, b"slow")
            assert response.headers == {"retry-after": "2", "x-ratelimit-reset-tokens": "1s"}

    client.run(main())


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK, OK_BODY),
        (CHUNKED + b"2\r\n{}\r\n3;x=y\r\n   \r\n0\r\n\r\n", b"{}   "),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
    ids=["after interim answers", "chunked", "ended by the close", "empty"],
)
def test_each_lawful_framing_is_read(client: Client, answer: bytes, body: bytes) -> None:
    async def main() -> None:
        async with serve(closing_after(answer)) as server, client.open(server.url) as transport:
            assert (await answered(transport)).body == body

    client.run(main())


def test_an_answer_that_comes_before_the_body_was_read_is_the_answer(client: Client) -> None:
    async def script(conn: Connection) -> None:
        await conn.read_head()
        await conn.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        await conn.wait_closed()

    async def main() -> None:
        async with serve(script) as server, client.open(server.url) as transport:
            response = await transport.send(request(b"x" * 8_000_000))
            assert isinstance(response, Response), response
            assert response.status == 413

    client.run(main())


def test_one_connection_serves_many_requests_and_aclose_ends_it(client: Client) -> None:
    async def script(conn: Connection) -> None:
        for _ in range(3):
            await conn.read_request()
            await conn.send(OK)
        await conn.wait_closed()

    async def main() -> None:
        async with serve(script) as server:
            async with client.open(server.url) as transport:
                for _ in range(3):
                    await answered(transport)
            await asyncio.wait_for(server.closed_by_client.wait(), 5)
            assert server.connections == 1

    client.run(main())


def test_no_more_connections_are_opened_than_allowed(client: Client) -> None:
    async def main() -> None:
        async with serve(answering(OK)) as server, client.open(server.url, max_connections=2) as transport:
            await asyncio.gather(*(answered(transport) for _ in range(12)))
            assert server.connections <= 2

    client.run(main())


# TLS and proxies


def test_a_certificate_of_the_given_authority_is_trusted(client: Client, authority: Authority) -> None:
    async def main() -> None:
        async with (
            serve(answering(OK), tls=authority.server) as server,
            client.open(server.url, ca_file=authority.file) as transport,
        ):
            assert (await answered(transport)).body == OK_BODY

    client.run(main())


@pytest.mark.parametrize("case", ["unknown authority", "another host name"])
def test_a_certificate_that_proves_nothing_ends_the_attempt_unsent(
    client: Client, authority: Authority, case: str
) -> None:
    async def main() -> None:
        async with serve(answering(OK), tls=authority.server) as server:
            if case == "unknown authority":
                failed = await client.fail(server.url)
            else:
                failed = await client.fail(
                    server.url.replace("localhost", "127.0.0.1"), ca_file=authority.file
                )
            assert (failed.kind, failed.code) == (FailureKind.CERTIFICATE, "certificate_untrusted")
            assert not failed.maybe_paid
            assert server.requests == []

    client.run(main())


def test_a_plain_request_goes_through_the_proxy(client: Client) -> None:
    async def main() -> None:
        async with serve(answering(OK)) as server, serve(proxying) as proxy:
            async with client.open(server.url, proxy=with_password(proxy)) as transport:
                assert (await answered(transport)).body == OK_BODY
            assert proxy.requests[0].line == f"POST {server.url} HTTP/1.1"
            assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
            assert server.requests[0].body == b'{"model":"m"}'

    client.run(main())


def test_a_tls_request_tunnels_and_the_proxy_never_sees_the_key(client: Client, authority: Authority) -> None:
    async def main() -> None:
        async with serve(answering(OK), tls=authority.server) as server, serve(proxying) as proxy:
            more = {"proxy": with_password(proxy), "ca_file": authority.file}
            async with client.open(server.url, **more) as transport:
                await answered(transport)
                await answered(transport)
            (tunnel,) = proxy.requests
            assert tunnel.line == f"CONNECT localhost:{server.port} HTTP/1.1"
            assert tunnel.headers["proxy-authorization"].startswith("Basic ")
            assert "authorization" not in tunnel.headers
            assert server.requests[1].headers["authorization"] == KEY

    client.run(main())


@pytest.mark.parametrize(
    "refusal",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
        b"SSH-2.0-nope\r\n\r\n",
        b"",
    ],
    ids=["asks for a password", "forbids", "is no proxy", "hangs up"],
)
def test_a_tunnel_that_is_not_built_is_the_proxys_fault_and_free(client: Client, refusal: bytes) -> None:
    async def main() -> None:
        async with serve(closing_after(refusal)) as proxy:
            failed = await client.fail("https://api.example:443/v1", proxy=with_password(proxy))
            assert (failed.kind, failed.code) == (FailureKind.TRANSPORT, "proxy")
            assert not failed.maybe_paid
            assert f"127.0.0.1:{proxy.port}" in failed.message

    client.run(main())


def test_a_proxy_that_asks_for_a_password_answers_for_itself_on_plain_http_too(client: Client) -> None:
    async def main() -> None:
        async with serve(closing_after(b"HTTP/1.1 407 Auth\r\ncontent-length: 0\r\n\r\n")) as proxy:
            failed = await client.fail("http://api.example/v1", proxy=with_password(proxy))
            assert (failed.code, failed.http_status, failed.maybe_paid) == ("proxy", 407, False)

    client.run(main())


def with_password(proxy: RawServer) -> str:
    return f"http://someone:{PASSWORD}@127.0.0.1:{proxy.port}"


# Faults before the request could be written: never paid


def test_a_refused_connection_is_free(client: Client) -> None:
    async def main() -> None:
        failed = await client.fail(f"http://127.0.0.1:{refused_port()}/v1")
        assert (failed.kind, failed.code) == (FailureKind.TRANSPORT, "connect_refused")
        assert not failed.maybe_paid

    client.run(main())


def test_a_proxy_that_is_not_there_is_free_and_named(client: Client) -> None:
    async def main() -> None:
        port = refused_port()
        proxy = f"http://someone:{PASSWORD}@127.0.0.1:{port}"
        for url in ("http://api.example/v1", "https://api.example/v1"):
            failed = await client.fail(url, proxy=proxy)
            assert (failed.code, failed.maybe_paid) == ("connect_refused", False)
            assert f"through the proxy 127.0.0.1:{port}" in failed.message

    client.run(main())


def test_a_host_name_that_does_not_resolve_is_free(client: Client) -> None:
    too_long_to_be_asked_for = ".".join(["a" * 60] * 5)  # so no query leaves this machine

    async def main() -> None:
        failed = await client.fail(f"http://{too_long_to_be_asked_for}/v1")
        assert (failed.kind, failed.code) == (FailureKind.TRANSPORT, "dns")
        assert not failed.maybe_paid

    client.run(main())


def test_a_connection_that_is_not_accepted_times_out_free(client: Client) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            full = [socket.socket() for _ in range(4)]
            for one in full:
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            port = listener.getsockname()[1]
            failed = await client.fail(f"http://127.0.0.1:{port}/v1", connect_timeout_s=0.1)
            for one in full:
                one.close()
        assert (failed.kind, failed.code) == (FailureKind.TIMEOUT, "connect_timeout")
        assert not failed.maybe_paid

    client.run(main())


def test_a_tls_handshake_that_is_never_answered_times_out_free(client: Client) -> None:
    async def main() -> None:
        async with serve(silent) as server:
            failed = await client.fail(server.url.replace("http:", "https:"), connect_timeout_s=0.1)
            assert (failed.kind, failed.code) == (FailureKind.TIMEOUT, "connect_timeout")
            assert not failed.maybe_paid

    client.run(main())


def test_a_tunnel_that_is_never_built_times_out_free(client: Client) -> None:
    async def main() -> None:
        async with serve(silent) as proxy:
            failed = await client.fail(
                "https://api.example/v1",
                proxy=with_password(proxy),
                connect_timeout_s=0.1,
                idle_timeout_s=0.1,
            )
            assert (failed.kind, failed.code) == (FailureKind.TIMEOUT, "connect_timeout")
            assert not failed.maybe_paid

    client.run(main())


async def hang_up(conn: Connection) -> None:
    await conn.reader.read(1)


async def hang_up_hard(conn: Connection) -> None:
    await conn.reader.read(1)
    conn.reset()


async def speak_plainly(conn: Connection) -> None:
    await conn.reader.read(65_536)
    await conn.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await conn.wait_closed()


@pytest.mark.parametrize(
    ("script", "codes"),
    [(hang_up, {"connect_reset"}), (hang_up_hard, {"connect_reset"}), (speak_plainly, {"tls"})],
)
def test_a_tls_handshake_that_breaks_is_free(client: Client, script: Script, codes: set[str]) -> None:
    async def main() -> None:
        async with serve(script) as server:
            failed = await client.fail(server.url.replace("http:", "https:"))
            assert failed.kind is FailureKind.TRANSPORT
            assert failed.code in codes
            assert not failed.maybe_paid

    client.run(main())
