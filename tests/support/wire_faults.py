"""The faults that a network and a server have in store for an answer, by name, each at its chosen byte.

Only what goes over the wire stands here; what a client must make of it stands in the tests.
"""

import gzip
from collections.abc import Callable, Iterable
from functools import cache

from tests.support.fault_proxy import Answer, Fault, Then, whole

HTML_502 = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
NOT_JSON = b'{"id": "chat-1", "choices": [{"message": {"content": "half an ans'
HUGE_BYTES = 300 * 1024 * 1024
_PIECE = b"x" * 65_536
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_CHUNKED = _OK + b"transfer-encoding: chunked\r\n\r\n"


def respond(body: bytes, *, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    """A well-formed answer."""
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (status, kind, len(body))
    return head + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def until(where: Callable[[Answer], int]) -> Callable[[Answer], Iterable[bytes]]:
    """All of the answer before a byte."""
    return lambda answer: [answer.raw[: where(answer)]]


def saying(*pieces: bytes) -> Callable[[Answer], Iterable[bytes]]:
    return lambda _: pieces


def with_length(said: Callable[[int], bytes]) -> Callable[[Answer], Iterable[bytes]]:
    """The answer's body under a head whose Content-Length fields are these."""
    return lambda answer: [_OK + said(len(answer.body)) + b"\r\n" + answer.body]


def in_chunks(
    *, end: bytes = b"0\r\n\r\n", size: Callable[[bytes], bytes] = chunk
) -> Callable[[Answer], Iterable[bytes]]:
    """The answer's body in three chunks; the second is framed by `size`."""

    def said(answer: Answer) -> Iterable[bytes]:
        a, b = len(answer.body) // 3, 2 * len(answer.body) // 3
        return [
            _CHUNKED + chunk(answer.body[:a]),
            size(answer.body[a:b]) + chunk(answer.body[b:]) + end,
        ]

    return said


def replaced(old: bytes, new: bytes) -> Callable[[Answer], Iterable[bytes]]:
    return lambda answer: [respond(answer.body.replace(old, new, 1))]


def dripping(answer: Answer) -> Iterable[bytes]:
    """A byte at a time, for longer than anybody waits."""
    return (answer.raw[n : n + 1] for n in range(len(answer.raw) - 1))


def huge(kind: bytes = b"application/json") -> Iterable[bytes]:
    """An answer of 300 MB, in chunks."""
    yield b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % kind
    yield chunk(b'{"choices": [{"message": {"content": "')
    for _ in range(HUGE_BYTES // len(_PIECE)):
        yield chunk(_PIECE)


@cache
def bomb() -> bytes:
    """Fifty megabytes of blanks, deflated to fifty kilobytes."""
    return gzip.compress(b" " * 50_000_000)


def encoded(coding: bytes, body: Callable[[Answer], bytes]) -> Callable[[Answer], Iterable[bytes]]:
    def said(answer: Answer) -> Iterable[bytes]:
        data = body(answer)
        return [_OK + b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (coding, len(data)), data]

    return said


def redirect(location: str, status: int = 307) -> Fault:
    head = f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
    return Fault(said=saying(head.encode()), asks=False)


_PLACES: dict[str, Callable[[Answer], int]] = {
    "before the answer": lambda _: 0,
    "in the status line": lambda _: 10,
    "in the header": lambda answer: len(answer.head) - 8,
    "behind the header": lambda answer: len(answer.head),
    "in the body": lambda answer: len(answer.head) + len(answer.framed) // 2,
    "before the last byte": lambda answer: len(answer.raw) - 1,
}
_ENDS = {"reset": Then.RESET, "closed": Then.CLOSE, "stalled": Then.STALL}

FAULTS: dict[str, Fault] = {
    f"{word} {place}": Fault(said=until(at), then=then)
    for word, then in _ENDS.items()
    for place, at in _PLACES.items()
} | {
    # The server goes before it has the request, or all of it.
    **{
        f"{word} at connect": Fault(said=saying(), then=then, asks=False, reads=0)
        for word, then in _ENDS.items()
    },
    **{
        f"{word} in the request": Fault(said=saying(), then=then, asks=False, reads=4096)
        for word, then in _ENDS.items()
    },
    "slow drip": Fault(said=dripping, pause_s=0.02),
    # Framing
    "length too long, then closed": Fault(
        said=with_length(lambda n: b"content-length: %d\r\n" % (n + 9)), then=Then.CLOSE
    ),
    "length too long": Fault(
        said=with_length(lambda n: b"content-length: %d\r\n" % (n + 9)), then=Then.STALL
    ),
    "length too short": Fault(
        said=with_length(lambda n: b"content-length: %d\r\n" % (n - 9)), then=Then.CLOSE
    ),
    "length no number": Fault(said=with_length(lambda n: b"content-length: many\r\n"), then=Then.CLOSE),
    "length negative": Fault(said=with_length(lambda n: b"content-length: -%d\r\n" % n), then=Then.CLOSE),
    "two lengths": Fault(
        said=with_length(lambda n: b"content-length: %d\r\ncontent-length: %d\r\n" % (n, n - 9)),
        then=Then.CLOSE,
    ),
    "bad chunk size": Fault(said=in_chunks(size=lambda data: b"zz\r\n%b\r\n" % data), then=Then.CLOSE),
    "chunk size too large": Fault(
        said=in_chunks(size=lambda data: b"%x\r\n%b\r\n" % (1 << 30, data)), then=Then.CLOSE
    ),
    "chunk size too small": Fault(said=in_chunks(size=lambda data: b"1\r\n%b\r\n" % data), then=Then.CLOSE),
    "no last chunk": Fault(said=in_chunks(end=b""), then=Then.CLOSE),
    "not HTTP": Fault(said=saying(b"SSH-2.0-nope\r\n\r\n"), then=Then.CLOSE, asks=False),
    # Bodies
    "HTML 502": Fault(said=saying(respond(HTML_502, status=b"502 Bad Gateway", kind=b"text/html"))),
    "HTML 504": Fault(said=saying(respond(HTML_502, status=b"504 Gateway Timeout", kind=b"text/html"))),
    "HTML 200": Fault(said=saying(respond(HTML_502, kind=b"text/html"))),
    "empty body": Fault(said=saying(respond(b""))),
    "blank body": Fault(said=saying(respond(b" \r\n "))),
    "invalid JSON": Fault(said=saying(respond(NOT_JSON))),
    "invalid UTF-8": Fault(said=saying(respond(b"\xff\xfe\x80" * 100))),
    "invalid UTF-8 in the text": Fault(said=replaced(b'"content":"', b'"content":"\xff')),
    "300 MB announced": Fault(said=saying(_OK + b"content-length: %d\r\n\r\n" % HUGE_BYTES), then=Then.STALL),
    "300 MB in chunks": Fault(said=lambda _: huge()),
    "gzip bomb": Fault(said=encoded(b"gzip", lambda _: bomb())),
    "br unasked": Fault(said=encoded(b"br", lambda answer: answer.body)),
    # Lawful, and so without any effect
    "interim answers first": Fault(
        said=lambda answer: [
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n" + answer.raw,
        ]
    ),
    "chunked": Fault(said=in_chunks()),
    "connection closed behind the answer": Fault(said=whole, then=Then.CLOSE),
    # Kept-alive connections
    "kept-alive closed": Fault(said=saying(), then=Then.CLOSE, asks=False, kept_alive=True),
    "kept-alive reset": Fault(said=saying(), then=Then.RESET, asks=False, kept_alive=True),
    "answered twice": Fault(said=lambda answer: [answer.raw + answer.raw]),
}


def _events(answer: Answer) -> list[bytes]:
    return answer.body.split(b"\n\n")[:-1]


def some_events(*then: bytes) -> Callable[[Answer], Iterable[bytes]]:
    """The first half of a stream's events in a chunk of their own, and then these bytes as they are."""

    def said(answer: Answer) -> Iterable[bytes]:
        events = _events(answer)
        begun = b"".join(event + b"\n\n" for event in events[: len(events) // 2])
        return [answer.head + chunk(begun), *then]

    return said


def event_cut_short(answer: Answer) -> Iterable[bytes]:
    """All events, but of one in the middle only a part."""
    events = _events(answer)
    events[len(events) // 2] = events[len(events) // 2][:40]
    return [answer.head + chunk(b"".join(event + b"\n\n" for event in events)) + b"0\r\n\r\n"]


# Streams are chunked; what befalls them behind their first events.
OF_STREAMS: dict[str, Fault] = {
    "stream reset": Fault(said=some_events(), then=Then.RESET),
    "stream closed": Fault(said=some_events(), then=Then.CLOSE),
    "stream stalled": Fault(said=some_events(), then=Then.STALL),
    "stream ended too soon": Fault(said=some_events(b"0\r\n\r\n")),
    "stream with a broken event": Fault(said=event_cut_short),
    "stream with a bad chunk": Fault(said=some_events(b"zz\r\n"), then=Then.CLOSE),
}
