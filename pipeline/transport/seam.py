"""The transport seam: the endpoint of a run, the one verb `send`, and what each fault on the wire becomes.

Only what both cores share lives here: no sockets, no retries, no meaning of an answer's body. A core
reports how far an attempt has come (`Exchange`) and which `Fault` it met; from the two, `failure` decides
whether the provider may bill it. That is never read from an exception's name alone: in other stacks the
same name stands for another moment.
"""

import os
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, urlsplit

import certifi

from pipeline.errors import JobError, SetupError
from pipeline.records import Failure, FailureKind, Request, Response

KEPT_HEADERS = frozenset(
    {
        "content-type",
        "retry-after",
        "retry-after-ms",
        "x-dashscope-partialresponse",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "x-request-id",
        "x-should-retry",
    }
)

# llama.cpp's server closes a connection idle for 5 s: left before that, it is never closing while we send.
KEEP_ALIVE_S = 4.0

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


# Takes the pieces of a streamed body as they come.
Sink = Callable[[bytes], None]


class Transport(Protocol):
    """Sends one request and brings back its whole answer, or why there is none; it never retries.

    No fault on the wire is raised. Cancelling `send` closes its connection: nothing half-used goes back
    to the pool.
    """

    async def send(self, request: Request, sink: Sink | None = None) -> Response | Failure:
        """With a sink, the body of a 200 of type text/event-stream goes there chunk by chunk, and `body` is empty."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Endpoint:
    """Where every request of a run is posted, with which headers and bounds.

    Times are in seconds: `connect_timeout_s` covers the wait for a free connection, its TLS and its
    tunnel; `idle_timeout_s` the silence between two reads (an answer that is not streamed is silent until
    it is ready; in the fast core a stalled upload is left to the total); `total_timeout_s` a whole
    attempt. The defaults outlast the 300 s after which DashScope hands out a partial answer. `proxy` is
    http://[user:password@]host:port; `ca_file` holds PEM certificates trusted besides the usual ones.
    Raises JobError for what nothing could be sent with. Neither its messages nor `repr` show a header's
    value, user info or a query.
    """

    url: str
    headers: Mapping[str, str]
    max_connections: int
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 330.0
    total_timeout_s: float = 660.0
    max_response_bytes: int = 32 * 1024 * 1024
    proxy: str | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        _check_url(self.url, "The model's base_url", "http", "https")
        if urlsplit(self.url).username is not None:
            raise JobError("The model's base_url holds a user name: keys belong in an environment variable.")
        if self.proxy is not None:
            _check_url(self.proxy, "The proxy", "http")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise JobError(
                    f"The header {name!r} holds a line break or a character that HTTP cannot carry: "
                    "look for a stray newline in the variable that holds the key."
                )
        bounds = (self.connect_timeout_s, self.idle_timeout_s, self.total_timeout_s)
        if min(*bounds, self.max_connections, self.max_response_bytes) <= 0:
            raise JobError("Timeouts, max_connections and max_response_bytes must be above zero.")

    def __repr__(self) -> str:
        names = ", ".join(sorted(self.headers))
        return f"Endpoint({shown(self.url)}, headers: {names}, proxy: {shown(self.proxy)})"

    @property
    def is_tls(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    @property
    def where(self) -> str:
        """The server as an operator knows it, with the proxy on the way."""
        via = "" if self.proxy is None else f" (through the proxy {_host(urlsplit(self.proxy))})"
        return _host(urlsplit(self.url)) + via

    def wire_headers(self) -> dict[str, str]:
        """The headers of each request, names in lower case; no compression, as that hides the size."""
        ours = {"content-type": "application/json", "accept": "application/json", "user-agent": "promptmill"}
        return ours | {k.lower(): v for k, v in self.headers.items()} | {"accept-encoding": "identity"}


class Fault(StrEnum):
    """What can go wrong on the wire; the value is the failure's code."""

    DNS = "dns"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_RESET = "connect_reset"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS = "tls"
    CERTIFICATE = "certificate_untrusted"
    PROXY = "proxy"
    CONNECTION_CLOSED = "connection_closed"
    RESET = "reset"
    UNASKED = "unasked_answer"
    CUT_BODY = "cut_body"
    BAD_HTTP = "bad_http"
    CONTENT_ENCODING = "content_encoding"
    REDIRECT = "redirect"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    RESPONSE_TOO_LARGE = "response_too_large"


class _Rule(NamedTuple):
    kind: FailureKind
    message: str  # {where} is the server, {detail} the core's own words


_NET, _TIME = FailureKind.TRANSPORT, FailureKind.TIMEOUT
_RULES: dict[Fault, _Rule] = {
    Fault.DNS: _Rule(_NET, "The host name of {where} was not found: check base_url and the network."),
    Fault.CONNECT_REFUSED: _Rule(
        _NET, "{where} refused the connection: check that the server runs and that base_url is right."
    ),
    Fault.CONNECT_RESET: _Rule(_NET, "{where} closed the connection while it was being set up."),
    Fault.CONNECT_FAILED: _Rule(_NET, "No connection to {where}{detail}: check the network."),
    Fault.CONNECT_TIMEOUT: _Rule(
        _TIME, "No connection to {where} in time: check the network, or raise the connect timeout."
    ),
    Fault.TLS: _Rule(_NET, "No TLS connection to {where}{detail}: check that base_url should be https."),
    Fault.CERTIFICATE: _Rule(
        FailureKind.CERTIFICATE,
        "The certificate of {where} is not trusted{detail}: name your own authority's file as ca_file.",
    ),
    Fault.PROXY: _Rule(
        _NET, "The proxy on the way to {where} refused{detail}: check its address and password."
    ),
    Fault.CONNECTION_CLOSED: _Rule(_NET, "{where} closed the connection before it answered."),
    Fault.RESET: _Rule(_NET, "{where} reset the connection before it answered."),
    Fault.UNASKED: _Rule(_NET, "{where} sent an answer that nobody had asked for."),
    Fault.CUT_BODY: _Rule(_NET, "{where} broke off or garbled its answer."),
    Fault.BAD_HTTP: _Rule(_NET, "{where} answered something that is not HTTP/1.1: check base_url."),
    Fault.CONTENT_ENCODING: _Rule(
        _NET, "{where} compressed its answer unasked: switch compression off there or in the proxy."
    ),
    Fault.REDIRECT: _Rule(
        _NET,
        "{where} redirects to {detail}: not followed, as the key would travel along. Set base_url to it.",
    ),
    Fault.IDLE_TIMEOUT: _Rule(
        _TIME, "{where} was silent for too long: raise the idle timeout, or ask for shorter answers."
    ),
    Fault.TOTAL_TIMEOUT: _Rule(
        _TIME, "{where} did not finish in time: raise the total timeout, or ask for shorter answers."
    ),
    Fault.RESPONSE_TOO_LARGE: _Rule(
        FailureKind.TOO_LARGE,
        "{where} answered more than {detail} bytes: raise max_response_bytes if it should.",
    ),
}


@dataclass(slots=True)
class Exchange:
    """How far one attempt has come.

    `fresh`: a connection was opened for it, so it did not meet one kept alive. `written`: the connection
    stood, TLS and tunnel included, and the request was being handed to it: from here on the provider may
    have it. `status` and `headers` are the answer's, once its head was whole.
    """

    fresh: bool = False
    written: bool = False
    status: int | None = None
    headers: Mapping[str, str] | None = None


def failure(endpoint: Endpoint, exchange: Exchange, fault: Fault, detail: str = "") -> Failure:
    """The failure of an attempt that met this fault.

    It may be paid if the request was being written and no whole answer came; a redirect is whole, and
    costs nothing. It is uncounted if a kept-alive connection ended before the head of the answer was
    whole, or brought an answer to nobody's request: a server may close an idle connection at any time, and
    what it left there was another's, so that says nothing about the request.
    """
    lost = fault in (Fault.CONNECTION_CLOSED, Fault.RESET, Fault.UNASKED)
    if lost and exchange.status is not None:
        fault, lost = Fault.CUT_BODY, False
    kind, message = _RULES[fault]
    if detail and fault is not Fault.REDIRECT and fault is not Fault.RESPONSE_TOO_LARGE:
        detail = f" ({detail})"
    return Failure(
        kind=kind,
        code=fault.value,
        message=message.format(where=endpoint.where, detail=detail),
        http_status=exchange.status,
        request_id=exchange.headers.get("x-request-id") if exchange.headers else None,
        maybe_paid=exchange.written and fault not in (Fault.REDIRECT, Fault.PROXY),
        uncounted=lost and exchange.written and not exchange.fresh,
    )


def refusal(endpoint: Endpoint, exchange: Exchange, headers: Mapping[str, str]) -> Failure | None:
    """The failure that an answer's head alone decides; `headers` finds names in any case."""
    status = exchange.status or 0
    if 300 <= status < 400:
        return failure(endpoint, exchange, Fault.REDIRECT, _target(headers.get("location", "")))
    if status == 407:
        return failure(endpoint, exchange, Fault.PROXY, "it asks for a password")
    if headers.get("content-encoding", "identity").lower() != "identity":
        return failure(endpoint, exchange, Fault.CONTENT_ENCODING)
    if status < 200:  # an upgrade we never asked for; other interim answers end in the core
        return failure(endpoint, exchange, Fault.BAD_HTTP)
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > endpoint.max_response_bytes:
        return too_large(endpoint, exchange)
    return None


def collector(exchange: Exchange, sink: Sink | None, chunks: list[bytes]) -> Sink:
    """Where the pieces of this answer's body go: to the sink if it is a stream that was asked for, else to `chunks`."""
    kind = (exchange.headers or {}).get("content-type", "")
    if sink is not None and exchange.status == 200 and kind.lower().startswith("text/event-stream"):
        return sink
    return chunks.append


def too_large(endpoint: Endpoint, exchange: Exchange) -> Failure:
    """The failure of an answer that passes the bound."""
    return failure(endpoint, exchange, Fault.RESPONSE_TOO_LARGE, f"{endpoint.max_response_bytes:,}")


def connect_failure(endpoint: Endpoint, exchange: Exchange, error: BaseException) -> Failure:
    """The failure of an attempt that never had a connection, from the causes of the core's exception."""
    for cause in causes(error):
        match cause:
            case TimeoutError():
                return failure(endpoint, exchange, Fault.CONNECT_TIMEOUT)
            case socket.gaierror():
                return failure(endpoint, exchange, Fault.DNS)
            case ssl.SSLCertVerificationError():
                reason = getattr(cause, "verify_message", "")  # set by OpenSSL alone
                return failure(endpoint, exchange, Fault.CERTIFICATE, reason)
            case ConnectionRefusedError():
                return failure(endpoint, exchange, Fault.CONNECT_REFUSED)
            case ConnectionError() | ssl.SSLEOFError():
                return failure(endpoint, exchange, Fault.CONNECT_RESET)
            case ssl.SSLWantReadError():  # how asyncio's TLS waits; the reason stands further along
                continue
            case ssl.SSLError():
                reason = getattr(cause, "reason", None) or ""  # set by OpenSSL alone
                return failure(endpoint, exchange, Fault.TLS, reason.replace("_", " ").lower())
            case OSError(errno=int(number)):
                return failure(endpoint, exchange, Fault.CONNECT_FAILED, os.strerror(number))
    silent = Fault.CONNECT_FAILED if endpoint.proxy is None else Fault.PROXY
    return failure(endpoint, exchange, silent)


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that travel on with a response; `headers` has lower-case names."""
    return {name: value for name, value in headers.items() if name in KEPT_HEADERS}


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """The trust of both cores: the system's authorities, or Mozilla's list where it has none, and `ca_file`.

    For a plain endpoint it is empty and trusts nobody. Raises SetupError for a `ca_file` that cannot be
    read or holds no certificate.
    """
    if not endpoint.is_tls:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        context.load_verify_locations(cafile=certifi.where())
    if endpoint.ca_file is not None:
        try:
            context.load_verify_locations(cafile=endpoint.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SetupError(
                f"ca_file {endpoint.ca_file} cannot be used ({error}): name a PEM file of certificates."
            ) from error
    return context


def shown(url: str | None) -> str:
    """A URL without what may be secret: user info and query."""
    if url is None:
        return "none"
    parts = urlsplit(url)
    return f"{parts.scheme}://{_host(parts)}{parts.path}"


def _target(location: str) -> str:
    try:
        return (urlsplit(location).hostname or "another path")[:253]
    except ValueError:
        return "an address that cannot be read"


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _check_url(url: str, what: str, *schemes: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port out of range, a bracket left open, a host name that no DNS could hold
        usable = False
    if not usable:
        raise JobError(f"{what} must be {' or '.join(s + '://' for s in schemes)} and a host: correct it.")


def causes(error: BaseException) -> list[BaseException]:
    """The exception and its causes, outermost first; of a group of connection attempts, the last."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        inner = cause.exceptions[-1] if isinstance(cause, BaseExceptionGroup) else None
        cause = inner or cause.__cause__ or cause.__context__
    return chain
