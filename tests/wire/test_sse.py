"""The parser of server-sent events: every dialect, cut anywhere, bounded."""

import itertools
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.protocol.sse import Event, EventParser

NATIVE = b'id:1\nevent:result\n:HTTP_STATUS/200\ndata:{"a":1}\n\n'


def parse(*pieces: bytes, max_event_bytes: int = 1000) -> tuple[list[Event], bytes, bool]:
    parser = EventParser(max_event_bytes)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.close(), parser.stray, parser.too_large


def one_by_one(raw: bytes) -> list[bytes]:
    return [raw[n : n + 1] for n in range(len(raw))]


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (b"data: x\n\n", [Event(b"x")]),
        (b"data:x\n\n", [Event(b"x")]),
        (b"data:  x\n\n", [Event(b" x")]),
        (b"data: x\r\n\r\ndata: y\r\n\r\n", [Event(b"x"), Event(b"y")]),
        (b"data: x\r\rdata: y\r\r", [Event(b"x"), Event(b"y")]),
        (b"data: x\n\r\ndata: y\r\n\n", [Event(b"x"), Event(b"y")]),
        (b"data: x\n\ndata: y\n\n", [Event(b"x"), Event(b"y")]),
        (b"data: x\n\ndata: y\n", [Event(b"x"), Event(b"y")]),
        (b"data: x\n\ndata: y", [Event(b"x"), Event(b"y")]),
        (b"data: x\ndata: y\n\n", [Event(b"x\ny")]),
        (b"data: x\rdata: y\n\n", [Event(b"x\ny")]),
        (b"data: x\r\ndata: y\r\n\r\n", [Event(b"x\ny")]),
        (b"event: error\r\ndata: x\r\n\r\n", [Event(b"x", b"error")]),
        (b"data\n\n", [Event(b"")]),
        (b": a comment\n\n:\n\n\n\ndata: x\n\n", [Event(b"x")]),
        (b"event: error\ndata: x\n\ndata: y\n\n", [Event(b"x", b"error"), Event(b"y")]),
        (b"event: error\n\ndata: y\n\n", [Event(b"y")]),
        (b"id: 7\nretry: 100\ndata: x\nid\n\n", [Event(b"x")]),
        (NATIVE, [Event(b'{"a":1}', b"result", 200)]),
        (NATIVE + NATIVE, [Event(b'{"a":1}', b"result", 200)] * 2),
        (NATIVE.replace(b"200", b"429"), [Event(b'{"a":1}', b"result", 429)]),
        (NATIVE.replace(b":HTTP_STATUS/", b"status: "), [Event(b'{"a":1}', b"result", 200)]),
        (NATIVE.replace(b"200", b"2x0"), [Event(b'{"a":1}', b"result", 0)]),
        (b"", []),
        (b"\n\n\n", []),
    ],
)
def test_events_are_found_in_every_dialect_whole_or_byte_by_byte(raw: bytes, events: list[Event]) -> None:
    assert parse(raw) == (events, b"", False)
    assert parse(b": first\n\n", raw) == (events, b"", False)
    assert parse(*one_by_one(raw)) == (events, b"", False)


def test_what_is_no_field_is_kept_to_say_what_came_instead() -> None:
    raw = b'{\n  "code": "InvalidApiKey",\n  "message": "No key."\n}'
    events, stray, _ = parse(raw)
    assert (events, stray) == ([], raw + b"\n")
    assert len(parse(*[b"<p>no stream</p>\n"] * 5000)[1]) <= 16 * 1024


@pytest.mark.parametrize("raw", [b"data: " + b"x" * 200, b"data: xxxxxxxxxx\n" * 20, b":" * 200, b"x" * 200])
def test_an_event_or_line_beyond_the_bound_is_dropped_with_all_that_follows(raw: bytes) -> None:
    before, after = b"data: first\n\n", b"\n\ndata: last\n\n"
    for pieces in ([before + raw + after], [before, raw, after], one_by_one(before + raw + after)):
        assert parse(*pieces, max_event_bytes=100) == ([Event(b"first")], b"", True)


def test_a_line_without_an_end_is_not_held_beyond_the_bound() -> None:
    parser = EventParser(max_event_bytes=10_000)
    tracemalloc.start()
    try:
        for n in range(1000):
            parser.feed(b"data: " + b"%d" % n * 300)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parser.too_large
    assert held < 5_000
    assert peak < 50_000


def test_a_byte_order_mark_counts_at_the_very_start_alone() -> None:
    raw = b"\xef\xbb\xbfdata: x\n\n"
    assert parse(raw) == parse(*one_by_one(raw)) == ([Event(b"x")], b"", False)
    assert parse(raw, raw)[1] == raw[:-1]


FIELDS = (
    b"data: ",
    b"data:",
    b"data",
    b"retry",
    b":",
    b": ",
    b"event: error\n",
    b"status:503\n",
    b"data: x\n\n",
)
ENDS = (b"\n", b"\n\n", b"\r", b"\r\n")
OTHERS = (b"x", b"y" * 30, b"\xff", b"\xef\xbb\xbf", b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:")
PIECE = st.sampled_from([*FIELDS, *ENDS, *OTHERS])


@given(st.lists(PIECE, max_size=12).map(b"".join) | st.binary(), st.lists(st.integers(0, 200)))
@example(b"data: x\r\n\r\ndata: y\n\n", [8, 9, 10])
def test_events_do_not_depend_on_where_the_bytes_are_cut(raw: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[a:b] for a, b in itertools.pairwise(places)]
    # The first event makes the parser ready for the short way that a piece with one whole event takes.
    start = b"data: 0\n\n"
    whole = parse(start, raw, max_event_bytes=40)
    assert parse(start, *pieces, max_event_bytes=40) == whole
    assert parse(start, *one_by_one(raw), max_event_bytes=40) == whole
    assert parse(start + raw, max_event_bytes=40) == whole
