"""Chunks between connection and handler: what the sink gets and what the handler, however the bytes were cut."""

import pytest

from pipeline.transport.stream_tap import StreamTap

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST, SECOND = b"data: one\n\n", b"data: a longer one\r\n\r\n"
END = b"0\r\n\r\n"


def framed(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


class Handler:
    """What the handler is given, and how often its clock is set anew."""

    def __init__(self) -> None:
        self.received = b""
        self.reads = 0
        self.restarts = 0

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.reads += 1

    def start_timeout(self) -> None:
        self.restarts += 1


def fed(*reads: bytes, most_bytes: int = 1000) -> tuple[StreamTap, Handler, list[bytes]]:
    handler, pieces = Handler(), list[bytes]()
    tap = StreamTap(handler, pieces.append, most_bytes)  # type: ignore[arg-type]
    for read in reads:
        tap.data_received(read)
    return tap, handler, pieces


BODY = framed(FIRST, SECOND)


@pytest.mark.parametrize("place", range(len(BODY + END)))
@pytest.mark.parametrize("with_head", [True, False])
def test_the_sink_gets_the_chunks_and_the_handler_the_rest_wherever_a_read_ends(
    place: int, with_head: bool
) -> None:
    body = BODY + END
    reads = (
        [HEAD + body[:place], body[place:]]
        if with_head
        else [HEAD, *filter(None, (body[:place], body[place:]))]
    )
    _, handler, pieces = fed(*reads)
    assert b"".join(pieces) == FIRST + SECOND
    assert handler.received == HEAD + END


def test_an_answer_in_one_read_is_one_piece_for_both() -> None:
    _, handler, pieces = fed(HEAD + BODY + END)
    assert (pieces, handler.reads, handler.received) == ([FIRST + SECOND], 1, HEAD + END)


def test_each_read_without_an_end_sets_the_clock_of_silence_anew() -> None:
    _, handler, _ = fed(HEAD, BODY[:5], BODY[5:])
    assert handler.restarts == 2


@pytest.mark.parametrize(
    "rest",
    [
        b"5;name=value\r\nabcde\r\n" + END,
        b"5 \r\nabcde\r\n" + END,
        b"0\r\nx-trailer: 1\r\n\r\n",
        b"what?\r\n",
    ],
)
def test_what_is_framed_otherwise_is_left_to_the_handler_from_a_chunk_s_beginning(rest: bytes) -> None:
    _, handler, pieces = fed(HEAD + framed(FIRST), rest, b"more")
    assert (b"".join(pieces), handler.received) == (FIRST, HEAD + rest + b"more")


def test_what_does_not_end_a_chunk_never_passes_for_the_next_ones_size() -> None:
    _, handler, pieces = fed(HEAD + b"3\r\nabc5\r\nabcde\r\n" + END)
    assert (pieces, handler.received) == ([b"abc"], HEAD + b"\r\n5\r\nabcde\r\n" + END)


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"200 OK", b"400 Bad Request"),
        HEAD.replace(b"text/event-stream", b"application/json"),
        HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 10"),
        HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
        b"HTTP/1.1 100 Continue\r\n\r\n",
        HEAD[:20],
    ],
)
def test_all_of_an_answer_that_is_no_plain_stream_is_the_handlers(head: bytes) -> None:
    _, handler, pieces = fed(head, BODY, END)
    assert (pieces, handler.received) == ([], head + BODY + END)


def test_over_the_bound_the_body_ends_and_nothing_more_is_taken() -> None:
    tap, handler, pieces = fed(HEAD, framed(FIRST), framed(SECOND), framed(FIRST), most_bytes=20)
    assert (tap.too_large, pieces, handler.received) == (True, [FIRST], HEAD + END)


PLAIN = [b"data: one\n\n", b"data: a much longer one\n\n", b"data: [DONE]\n\n"]


@pytest.mark.parametrize(
    "body",
    [
        framed(*PLAIN),
        framed(*PLAIN).upper(),
        framed(PLAIN[0]) + b"00B\r\n" + PLAIN[0] + b"\r\n",
        framed(PLAIN[0]) + b"0\r\n\r\n" + framed(PLAIN[1]),  # over before more comes
        framed(PLAIN[0]) + b"c\r\n" + PLAIN[0] + b"\r\n",
        framed(PLAIN[0]) + b"a\r\n" + PLAIN[0] + b"\r\n",
        b"what?" + framed(*PLAIN),
        b"\r\n" + framed(*PLAIN),
        framed(b"data: ends\r\n\r\n"),
        framed(PLAIN[0]) + b"b\r\n",
        b"",
    ],
)
def test_an_answer_that_comes_at_once_is_read_as_byte_by_byte(body: bytes) -> None:
    _, handler, pieces = fed(HEAD + body + END)
    _, cut, apart = fed(HEAD, *[bytes([byte]) for byte in body + END])
    assert (b"".join(pieces), handler.received) == (b"".join(apart), cut.received)


def test_what_stands_where_the_chunk_before_should_end_is_not_passed_over() -> None:
    _, handler, pieces = fed(HEAD + framed(PLAIN[0])[:-2], b"junk\r\n" + framed(PLAIN[1]) + END)
    assert (pieces, handler.received) == ([PLAIN[0]], HEAD + b"\r\njunk\r\n" + framed(PLAIN[1]) + END)
