"""The transport seam without sockets: endpoints, what each fault becomes, httpx transports of others."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from pipeline.errors import JobError, SetupError
from pipeline.records import Failure, FailureKind, Request, Response
from pipeline.transport import KEPT_HEADERS, Endpoint, FastTransport, HttpxTransport, open_transport
from pipeline.transport.seam import Exchange, Fault, connect_failure, failure, kept, refusal, tls_context

SECRET = "sk-never-shown"


def endpoint(**changes: object) -> Endpoint:
    given = {"url": "https://api.example/v1", "headers": {"Authorization": f"Bearer {SECRET}"}}
    return Endpoint(**{**given, "max_connections": 4, **changes})  # type: ignore[arg-type]


def send(respond: Callable[[httpx.Request], httpx.Response], **changes: object) -> Response | Failure:
    async def main() -> Response | Failure:
        transport = HttpxTransport(endpoint(**changes), httpx.MockTransport(respond))
        try:
            return await transport.send(Request(index=0, row_id="0", key="k", body=b"{}", tokens_estimate=1))
        finally:
            await transport.aclose()

    return asyncio.run(main())


# The endpoint


def test_an_endpoint_shows_neither_its_key_nor_a_password_nor_a_query() -> None:
    one = endpoint(url="https://api.example/v1?token=hunter2", proxy="http://me:hunter2@proxy.corp:3128")
    for text in (repr(one), str(one), one.where):
        assert SECRET not in text
        assert "hunter2" not in text
    assert "Authorization" in repr(one)
    assert one.where == "api.example (through the proxy proxy.corp:3128)"


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "api.example/v1"},
        {"url": "ftp://api.example/v1"},
        {"url": "https:///v1"},
        {"url": "https://api.example:99999/v1"},
        {"url": "https://no..such..host/v1"},
        {"url": f"https://me:{SECRET}@api.example/v1"},
        {"proxy": "socks5://proxy.corp:1080"},
        {"proxy": f"https://me:{SECRET}@proxy.corp:3128"},
        {"headers": {"Authorization": f"Bearer {SECRET}\n"}},
        {"headers": {"Authorization": f"Bearer {SECRET}é"}},
        {"headers": {"not a name": SECRET}},
        {"max_connections": 0},
        {"idle_timeout_s": 0},
        {"max_response_bytes": -1},
    ],
    ids=str,
)
def test_an_endpoint_nothing_could_be_sent_to_is_refused_without_its_secrets(
    changes: dict[str, object],
) -> None:
    with pytest.raises(JobError) as refused:
        endpoint(**changes)
    assert SECRET not in str(refused.value)


def test_the_jobs_headers_win_but_compression_stays_off() -> None:
    headers = endpoint(headers={"User-Agent": "mine", "Accept-Encoding": "gzip"}).wire_headers()
    assert headers["user-agent"] == "mine"
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SetupError, match=r"authority\.pem"):
        tls_context(endpoint(ca_file=file))


def test_without_a_list_of_the_system_mozillas_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert tls_context(endpoint()).cert_store_stats()["x509_ca"] > 50


def test_each_core_opens_by_its_name() -> None:
    async def main() -> None:
        fast, plain = open_transport("fast", endpoint()), open_transport("httpx", endpoint())
        assert isinstance(fast, FastTransport)
        assert isinstance(plain, HttpxTransport)
        await fast.aclose()
        await plain.aclose()

    asyncio.run(main())


# From a fault to a failure

CONNECTING = {
    Fault.DNS,
    Fault.CONNECT_REFUSED,
    Fault.CONNECT_RESET,
    Fault.CONNECT_FAILED,
    Fault.CONNECT_TIMEOUT,
    Fault.TLS,
    Fault.CERTIFICATE,
    Fault.PROXY,
}


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_has_a_sentence_that_names_the_server(fault: Fault) -> None:
    told = failure(endpoint(), Exchange(), fault, "the detail")
    assert told.code == fault.value
    assert "api.example" in told.message
    assert told.message.endswith(".")
    assert "{" not in told.message
    assert not told.maybe_paid


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in CONNECTING])
def test_what_was_written_may_be_paid_unless_a_redirect_answered_it(fault: Fault) -> None:
    told = failure(endpoint(), Exchange(written=True), fault)
    assert told.maybe_paid is (fault is not Fault.REDIRECT)


@pytest.mark.parametrize("fault", Fault)
def test_only_a_kept_alive_connection_lost_before_the_head_is_uncounted(fault: Fault) -> None:
    lost = fault in (Fault.CONNECTION_CLOSED, Fault.RESET, Fault.UNASKED)
    assert failure(endpoint(), Exchange(written=True), fault).uncounted is lost
    assert not failure(endpoint(), Exchange(written=True, fresh=True), fault).uncounted
    assert not failure(endpoint(), Exchange(written=True, status=200, headers={}), fault).uncounted
    assert not failure(endpoint(), Exchange(), fault).uncounted


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def caused(*chain: BaseException) -> BaseException:
    for outer, inner in pairwise(chain):
        outer.__cause__ = inner
    return chain[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (caused(httpx.ConnectError(""), socket.gaierror(-2, "unknown")), "dns"),
        (caused(httpx.ConnectError(""), ConnectionRefusedError()), "connect_refused"),
        (caused(httpx.ConnectError(""), ConnectionResetError(), ssl.SSLWantReadError()), "connect_reset"),
        (caused(httpx.ConnectError(""), ssl.SSLEOFError()), "connect_reset"),
        (caused(httpx.ConnectTimeout(""), TimeoutError(), ssl.SSLWantReadError()), "connect_timeout"),
        (caused(httpx.ConnectError(""), ssl.SSLError(1, "wrong version")), "tls"),
        (caused(httpx.ConnectError(""), os_error(113)), "connect_failed"),
        (httpx.ConnectError("no cause at all"), "connect_failed"),
        (
            caused(
                httpx.ConnectError(""),
                OSError("All connection attempts failed"),
                ExceptionGroup("both", [os_error(101), ConnectionRefusedError()]),
            ),
            "connect_refused",
        ),
    ],
    ids=str,
)
def test_a_connection_that_failed_is_named_by_its_first_telling_cause(
    error: BaseException, code: str
) -> None:
    told = connect_failure(endpoint(), Exchange(), error)
    assert (told.code, told.maybe_paid) == (code, False)


def test_too_many_open_files_is_said() -> None:
    error = caused(httpx.ConnectError(""), os_error(24))
    assert os.strerror(24) in connect_failure(endpoint(), Exchange(), error).message


def test_a_connection_that_failed_without_a_cause_behind_a_proxy_is_the_proxys() -> None:
    one = endpoint(proxy="http://proxy.corp:3128")
    assert connect_failure(one, Exchange(), httpx.RemoteProtocolError("gone")).code == "proxy"


def test_only_the_headers_we_act_on_travel() -> None:
    assert kept(dict.fromkeys(KEPT_HEADERS, "1") | {"set-cookie": "a"}) == dict.fromkeys(KEPT_HEADERS, "1")


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://u:p@other.example/x?k=1", "other.example"),
        ("/v2", "another path"),
        ("", "another path"),
        ("http://[", "an address that cannot be read"),
    ],
)
def test_a_redirect_names_where_to(location: str, named: str) -> None:
    told = refusal(endpoint(), Exchange(written=True, status=307), {"location": location})
    assert told is not None
    assert f"redirects to {named}:" in told.message


# httpx transports of others


def test_any_httpx_transport_carries_the_request() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert request.method == "POST"
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        return httpx.Response(201, headers={"X-Request-Id": "r"}, content=request.content)

    sent = send(respond)
    assert isinstance(sent, Response)
    assert (sent.status, sent.headers, sent.body) == (201, {"x-request-id": "r"}, b"{}")


def subclasses(base: type[httpx.TransportError]) -> set[type[httpx.TransportError]]:
    ours = [
        one for one in base.__subclasses__() if one.__module__.partition(".")[0] == "httpx"
    ]  # plugins add their own
    return {base}.union(*(subclasses(one) for one in ours))


UNSENT = {
    httpx.ConnectError: "connect_failed",
    httpx.ConnectTimeout: "connect_timeout",
    httpx.PoolTimeout: "connect_timeout",
    httpx.ProxyError: "proxy",
    httpx.UnsupportedProtocol: "connect_failed",
    httpx.LocalProtocolError: "connect_failed",
}
MAYBE_SENT = {
    httpx.TransportError: "connection_closed",
    httpx.ProtocolError: "connection_closed",
    httpx.RemoteProtocolError: "connection_closed",
    httpx.NetworkError: "reset",
    httpx.ReadError: "reset",
    httpx.WriteError: "reset",
    httpx.CloseError: "reset",
    httpx.TimeoutException: "idle_timeout",
    httpx.ReadTimeout: "idle_timeout",
    httpx.WriteTimeout: "idle_timeout",
}


def test_the_tables_name_every_error_of_an_httpx_transport() -> None:
    assert subclasses(httpx.TransportError) == set(UNSENT) | set(MAYBE_SENT)


@pytest.mark.parametrize("raised", sorted(subclasses(httpx.TransportError), key=str))
def test_each_error_of_a_foreign_transport_has_its_failure(raised: type[httpx.TransportError]) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        raise raised(f"as {SECRET} says", request=request)

    told = send(respond)
    assert isinstance(told, Failure)
    assert told.code == (UNSENT | MAYBE_SENT)[raised]
    assert told.kind is (FailureKind.TIMEOUT if "timeout" in told.code else FailureKind.TRANSPORT)
    assert told.maybe_paid is (raised in MAYBE_SENT)
    assert not told.uncounted
    assert SECRET not in repr(told)


def test_a_body_of_a_foreign_transport_that_breaks_is_cut() -> None:
    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            raise httpx.RemoteProtocolError("gone")

    told = send(lambda request: httpx.Response(200, stream=Broken()))
    assert isinstance(told, Failure)
    assert (told.code, told.http_status, told.maybe_paid) == ("cut_body", 200, True)


def test_a_body_of_a_foreign_transport_is_bounded() -> None:
    told = send(lambda request: httpx.Response(200, content=b"x" * 11), max_response_bytes=10)
    assert isinstance(told, Failure)
    assert told.code == "response_too_large"
