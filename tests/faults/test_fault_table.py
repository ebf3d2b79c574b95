"""One table: each fault of the wire, what it is called, whether it may be paid, and how its row ends.

Every row of the table is two rows of one run: one meets its fault on each attempt, one on its first alone. The run is ours
from the rows to the parts, the wire is real: a proxy stands between it and the simulator and breaks what passes.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.records import FailureKind, Outcome, Status
from tests.support.clients import CLIENTS, Client
from tests.support.fault_proxy import Fault, Plan, faulty_provider
from tests.support.rig import Rig
from tests.support.servers import OK, answering, serve
from tests.support.wire_faults import FAULTS, OF_STREAMS, redirect

K = FailureKind
ATTEMPTS = 2
BOUNDS: dict[str, Any] = {"idle_timeout_s": 1.2, "total_timeout_s": 2.4}


class Expected(NamedTuple):
    """What one fault is. `codes`: a reset overtakes what was sent before it, and the cores read framing differently.

    `again`: another attempt follows. `uncounted`: on a kept-alive connection, such an attempt may not count.
    """

    kind: FailureKind
    codes: set[str]
    maybe_paid: bool = True
    again: bool = True
    uncounted: bool = False


_RESET = Expected(K.TRANSPORT, {"reset"}, uncounted=True)
_CLOSED = Expected(K.TRANSPORT, {"connection_closed"}, uncounted=True)
_GONE = Expected(K.TRANSPORT, {"connection_closed", "reset"}, uncounted=True)
_CUT = Expected(K.TRANSPORT, {"cut_body"})
_BROKEN = Expected(K.TRANSPORT, {"cut_body", "reset"})
_BAD = Expected(K.TRANSPORT, {"bad_http"})
_GARBLED = Expected(K.TRANSPORT, {"bad_http", "cut_body"})
_SILENT = Expected(K.TIMEOUT, {"idle_timeout"})
_UNREAD = Expected(K.TIMEOUT, {"idle_timeout", "total_timeout"})
_HUGE = Expected(K.TOO_LARGE, {"response_too_large"}, again=False)
_PACKED = Expected(K.TRANSPORT, {"content_encoding"})


def no_answer(code: str) -> Expected:
    return Expected(K.TRUNCATED_STREAM, {code})


TABLE: dict[str, Expected] = {
    "reset at connect": _RESET,
    "reset in the request": _RESET,
    "reset before the answer": _RESET,
    "reset in the status line": _RESET,
    "reset in the header": _RESET,
    "reset behind the header": _BROKEN,
    "reset in the body": _BROKEN,
    "reset before the last byte": _BROKEN,
    "closed at connect": _GONE,
    "closed in the request": _GONE,
    "closed before the answer": _CLOSED,
    "closed in the status line": _CLOSED,
    "closed in the header": _CLOSED,
    "closed behind the header": _CUT,
    "closed in the body": _CUT,
    "closed before the last byte": _CUT,
    "stalled at connect": _UNREAD,
    "stalled in the request": _UNREAD,
    "stalled before the answer": _SILENT,
    "stalled in the status line": _SILENT,
    "stalled in the header": _SILENT,
    "stalled behind the header": _SILENT,
    "stalled in the body": _SILENT,
    "stalled before the last byte": _SILENT,
    "slow drip": Expected(K.TIMEOUT, {"total_timeout"}),
    "length too long, then closed": _CUT,
    "length too long": _SILENT,
    "length too short": Expected(K.TRUNCATED_STREAM, {"not_json"}),
    "length no number": _BAD,
    "length negative": _BAD,
    "two lengths": _BAD,
    "bad chunk size": _GARBLED,
    "chunk size too large": _CUT,
    "chunk size too small": _GARBLED,
    "no last chunk": _CUT,
    "not HTTP": _BAD,
    "HTML 502": Expected(K.OVERLOADED, {"http_502"}),
    "HTML 504": Expected(K.OVERLOADED, {"http_504"}),
    "HTML 200": no_answer("not_json"),
    "empty body": no_answer("empty_body"),
    "blank body": no_answer("empty_body"),
    "invalid JSON": no_answer("not_json"),
    "invalid UTF-8": no_answer("not_json"),
    "300 MB announced": _HUGE,
    "300 MB in chunks": _HUGE,
    "gzip bomb": _PACKED,
    "br unasked": _PACKED,
    "redirect": Expected(K.TRANSPORT, {"redirect"}, maybe_paid=False),
}
# What follows a short answer in the same read is a fault of the whole to aiohttp's parser.
ON_FAST_CORE = {"length too short": _BAD}
# These are no faults to a row: it is answered at once, by its own answer.
LAWFUL = ["interim answers first", "chunked"]
# Tried alone, as they leave something behind on a connection that the next row may meet.
ON_KEPT_CONNECTIONS = {
    "kept-alive closed",
    "kept-alive reset",
    "answered twice",
    "connection closed behind the answer",
}
READ_ALL_THE_SAME = "invalid UTF-8 in the text"

STREAM_TABLE: dict[str, Expected] = {
    "stream reset": _BROKEN,
    "stream closed": _CUT,
    "stream stalled": _SILENT,
    "stream ended too soon": no_answer("no_finish_reason"),
    "stream with a broken event": no_answer("not_json"),
    "stream with a bad chunk": _GARBLED,
}


def marked(name: str, times: str) -> str:
    return f"fault {name}, {times}."


_MARK = re.compile(rb"fault ([^.]+), (always|once)\.(?: \d+)?")


def by_mark(faults: dict[str, Fault]) -> Plan:
    """The fault that the row itself names."""

    def plan(start: bytes, nth: int) -> Fault | None:
        found = _MARK.search(start)
        return faults[found[1].decode()] if found and (nth == 1 or found[2] == b"always") else None

    return plan


@pytest.fixture(params=[client for client in CLIENTS if "uvloop" in str(client)], ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    one: Client = request.param
    return one


class Ended(NamedTuple):
    """How a row ended that met a fault `met` times, and how it ended unharmed."""

    outcome: Outcome
    met: int
    usual: Outcome


def write_rows(folder: Path, texts: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    rows = ({"id": f"r{n}", "text": text} for n, text in enumerate(texts))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


async def ask(rig: Rig, client: Client, base_url: str) -> list[Outcome]:
    """Run the rig against this server; the outcomes in order."""
    url = f"{base_url}/chat/completions"
    async with client.open(url, max_connections=rig.workers, **BOUNDS) as transport:
        await rig.run(transport)
    folder = (
        rig.open()
    )  # the only part is shorter than a full one, so that the journal still has each outcome
    try:
        return list(folder.journal.outcomes(0, rig.rows).values())
    finally:
        folder.release()


def run(texts: list[str], rig: Rig, client: Client) -> list[Ended]:
    """Ask these texts with the faults they name, and again without any."""
    rig = replace(rig, rows=len(texts), rows_per_part=len(texts) + 1, max_attempts=ATTEMPTS)
    unharmed = replace(rig, folder=rig.folder / "unharmed")
    for one in (rig, unharmed):
        write_rows(one.folder, texts)
    ended: list[Ended] = []

    async def main() -> None:
        async with serve(answering(OK)) as elsewhere:
            faults = FAULTS | OF_STREAMS | {"redirect": redirect(elsewhere.url)}
            async with faulty_provider(by_mark(faults)) as (simulator, proxy):
                outcomes = await ask(rig, client, proxy.base_url)
                usual = await ask(unharmed, client, simulator.base_url)
            assert elsewhere.connections == 0, "the key travelled to where a redirect led"
        met = Counter({found[0]: n for start, n in proxy.met.items() if (found := _MARK.search(start))})
        times = [met[found[0]] if (found := _MARK.search(text.encode())) else 0 for text in texts]
        ended.extend(map(Ended, outcomes, times, usual))

    client.run(main())
    return ended


def answer_of(outcome: Outcome) -> tuple[Any, ...]:
    completion = outcome.completion
    assert completion is not None, outcome.failure
    return outcome.status, completion.content, completion.finish_reason, completion.usage.raw


def differs(expected: Expected, ended: Ended, *, persists: bool) -> Iterator[str]:
    """What is not as expected of a row whose fault persists, or goes away after one attempt."""
    outcome, met, usual = ended
    failure = outcome.failure
    goes_away = expected.again and not persists
    uncounted = met + goes_away - outcome.attempts
    if uncounted and not (expected.uncounted and 0 < uncounted <= 3):
        yield f"{outcome.attempts} attempts counted, and met {met} times"
    if outcome.maybe_paid != met * expected.maybe_paid:
        yield f"{outcome.maybe_paid} maybe paid, and met {met} times"
    if persists and outcome.attempts != (ATTEMPTS if expected.again else 1):
        yield f"it persists, and {outcome.attempts} attempts were made"
    if goes_away:
        if failure is not None or answer_of(outcome) != answer_of(usual):
            yield f"it goes away, and the row has not its answer: {failure}"
    elif failure is None or outcome.status is not Status.FAILED:
        yield f"the row is {outcome.status}"
    elif failure.kind is not expected.kind or failure.code not in expected.codes:
        yield f"it is {failure.kind}, {failure.code}"


def hold_to(table: dict[str, Expected], lawful: list[str], rig: Rig, client: Client) -> None:
    """Ask two rows for each fault and one for each lawful oddity, all at once."""
    texts = ["healthy", *(marked(name, "always") for name in lawful)]
    first = len(texts)
    for name in table:
        long = " and so on" * 2000 if name.endswith("in the request") else ""
        texts += [marked(name, "always") + long, marked(name, "once") + long]
    ended = run(texts, replace(rig, workers=len(texts)), client)
    wrong = [
        f"{name}: {line}"
        for name, n in zip(table, range(first, len(texts), 2), strict=True)
        for row, persists in ((n, True), (n + 1, False))
        for line in differs(table[name], ended[row], persists=persists)
    ]
    assert not wrong, "\n".join(wrong)
    for outcome, _, usual in ended[:first]:
        assert answer_of(outcome) == answer_of(usual)
        assert (outcome.attempts, outcome.maybe_paid) == (1, 0)


def test_the_tables_know_every_fault_of_the_proxy() -> None:
    tried = TABLE.keys() | set(LAWFUL) | ON_KEPT_CONNECTIONS | {READ_ALL_THE_SAME}
    assert tried == FAULTS.keys() | {"redirect"}
    assert STREAM_TABLE.keys() == OF_STREAMS.keys()


def test_each_fault_has_its_kind_its_price_and_its_end(tmp_path: Path, client: Client) -> None:
    table = TABLE | (ON_FAST_CORE if client.core == "fast" else {})
    hold_to(table, LAWFUL, Rig(folder=tmp_path), client)


def test_each_fault_of_a_stream_has_its_kind_its_price_and_its_end(tmp_path: Path, client: Client) -> None:
    hold_to(STREAM_TABLE, ["interim answers first"], Rig(folder=tmp_path, stream=True), client)


def test_an_answer_whose_text_is_not_all_utf8_is_kept_with_marks_where_it_is_not(
    tmp_path: Path, client: Client
) -> None:
    ((outcome, met, usual),) = run([marked(READ_ALL_THE_SAME, "always")], Rig(folder=tmp_path), client)
    assert (outcome.status, outcome.attempts, met) == (Status.OK, 1, 1)
    assert outcome.completion is not None and usual.completion is not None
    assert outcome.completion.content == f"\ufffd{usual.completion.content}"


@pytest.mark.parametrize("name", sorted(ON_KEPT_CONNECTIONS))
def test_what_befalls_a_kept_alive_connection_costs_no_row_an_attempt_or_its_own_answer(
    tmp_path: Path, client: Client, name: str
) -> None:
    # One after another over one connection; a fault of the kept-alive kind spares the fresh one that follows it.
    texts = [f"{marked(name, 'always')} {n}" if n % 2 else f"healthy {n}" for n in range(12)]
    ended = run(texts, Rig(folder=tmp_path, workers=1), client)
    assert sum(met for _, met, _ in ended) > 0
    for outcome, met, usual in ended:
        assert answer_of(outcome) == answer_of(usual)
        assert outcome.attempts == 1
        if name.startswith("kept-alive"):
            assert outcome.maybe_paid == met
