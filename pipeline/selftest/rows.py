"""Promise 1: each input row has exactly one outcome; a bad input line is a `failed` row that names the line.

A file in which every twentieth line is bad in another way, and some are blank, which are no rows.
"""

from typing import NamedTuple

from pipeline.records import FailureKind, Status
from pipeline.selftest.place import JOB, ROWS, Place, answers, rows
from pipeline.selftest.results import Row, read_rows
from pipeline.selftest.verdict import Verdict, breaches, some

_GOOD = 240
_EVERY = 20
_BAD = (
    b'{"id": "cut off, "text": "no end',
    b'["an array"]',
    b'"a string"',
    b"null",
    b'{"id": "no-text", "body": "the column has another name"}',
    b'{"id": "null-text", "text": null}',
    b'{"id": null, "text": "no id"}',
    b'{"id": 1.5, "text": "an id that is neither text nor an integer"}',
    b'{"id": "latin-1", "text": "caf\xe9"}',
    b'{"id": "half a surrogate", "text": "\\ud83d"}',
    b'{"id": "not a number", "text": NaN}',
    b'{"id": "nul", "text": "a raw \x00"}',
)
_BLANK = b"  \t"


class Line(NamedTuple):
    """One row of the input: where it stands, and its id, or None where the line is bad."""

    number: int
    row_id: str | None


class Evidence(NamedTuple):
    """The input's rows in order, the rows that came out, and how many answers the ledger counts."""

    lines: list[Line]
    rows: list[Row]
    completed: int


async def check(place: Place) -> Verdict:
    return judge(await gather(place))


async def gather(place: Place) -> Evidence:
    text, lines = _dirty()
    async with place.simulator(latency="uniform:0ms-20ms") as server:
        place.write_job(server, text)
        (await place.promptmill("run", JOB, "--quiet", name="run")).expect(0)
        totals = (await server.ledger())["totals"]
    return Evidence(lines, read_rows(place.run_folder), totals["completed"])


def judge(evidence: Evidence) -> Verdict:
    lines, out = evidence.lines, evidence.rows
    places = [row.input_index for row in out]
    missing = [f"line {lines[i].number}" for i in sorted(set(range(len(lines))) - set(places))]
    unnamed, wrong = [], []
    for row in out:
        if not 0 <= row.input_index < len(lines):
            continue  # told by `places` below
        line = lines[row.input_index]
        if line.row_id is None:
            named = (row.error_message or "").startswith(f"{ROWS}:{line.number}: ")
            if (row.status, row.error_kind) != (Status.FAILED, FailureKind.INVALID_INPUT) or not named:
                unnamed.append(f"line {line.number}")
        elif row.status != Status.OK or row.row_id != line.row_id or row.content not in answers(line.row_id):
            wrong.append(line.row_id)
    good = sum(line.row_id is not None for line in lines)
    return Verdict(
        f"{len(lines)} rows in, {len(out)} out; {len(lines) - good - len(unnamed)} of {len(lines) - good} bad lines named",
        breaches(
            (missing, f"rows without an outcome: {some(missing)}"),
            (
                places != sorted(set(places)) or len(out) > len(lines),
                "rows with two outcomes, or out of order",
            ),
            (unnamed, f"bad lines that are not failed rows with their line: {some(unnamed)}"),
            (wrong, f"good rows without their own answer: {some(wrong)}"),
            (
                evidence.completed != good,
                f"{evidence.completed} answers were paid for, of {good} good rows",
            ),
        ),
    )


def _dirty() -> tuple[bytes, list[Line]]:
    """The file, and its rows as they should be found."""
    text, lines, number = b"", [], 0
    bad = iter(_BAD)
    for place in range(_GOOD):
        if place % _EVERY == _EVERY - 1:
            text += _BLANK + b"\n" + next(bad) + b"\n"
            number += 2
            lines.append(Line(number, None))
        text += rows([(f"r{place}", f"text {place}: 文本 {place}")])
        number += 1
        lines.append(Line(number, f"r{place}"))
    return text, lines
