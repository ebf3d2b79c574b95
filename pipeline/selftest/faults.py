"""Promise 6: every failure is classified by one table; nothing is retried that cannot succeed, nothing is dropped that could.

Rows whose text asks the simulator for a fault, some of it once and some each time; how often each fault was met, its ledger
counts. Then rows that meet a refusal which no row can escape.
"""

from typing import NamedTuple

from pipeline.records import FailureKind, Status
from pipeline.selftest.place import JOB, Place, Server, answers, rows, sets
from pipeline.selftest.results import Row, read_rows
from pipeline.selftest.verdict import Verdict, breaches

_EACH = 4
_CLEAN = 40
_MOST_ATTEMPTS = 3
_AT_ONCE = 16
_FATAL_ROWS = 60
_IDLE_TIMEOUT = "4s"  # ends a stalled answer


class Case(NamedTuple):
    """A fault, whether it is over after the first time, and what must come of a row that meets it.

    `met`: how often such a row meets it. One that is over after the first time is asked once more.
    """

    fault: str
    once: bool
    status: Status
    kind: FailureKind | None = None
    met: int = 1

    @property
    def asked(self) -> int:
        return self.met + self.once


CASES = (
    *(
        Case(fault, True, Status.OK)
        for fault in (
            *("429", "429_burst", "429_tokens", "503", "html_502", "error_200"),
            *("reset", "cut", "garbage", "empty", "stall"),
        )
    ),
    Case("500", False, Status.FAILED, FailureKind.OVERLOADED, met=_MOST_ATTEMPTS),
    Case("InternalError.Algo", False, Status.FAILED, FailureKind.ROW_SUSPECT, met=2),
    Case("BadRequest.EmptyInput", False, Status.FAILED, FailureKind.INVALID_REQUEST),
    Case("BadRequest.TooLarge", False, Status.FAILED, FailureKind.TOO_LARGE),
    Case("DataInspectionFailed", False, Status.BLOCKED, FailureKind.BLOCKED),
    Case("truncated", False, Status.TRUNCATED),
)
FATAL = "Arrearage"


class Evidence(NamedTuple):
    """`met` counts by fault the requests that met it; `fatal_sent` those of the run that no row could escape."""

    rows: list[Row]
    met: dict[str, int]
    received: int
    fatal_code: int
    fatal_sent: int


async def check(place: Place) -> Verdict:
    return judge(await gather(place))


async def gather(place: Place) -> Evidence:
    async with place.simulator(latency="uniform:0ms-20ms") as server:
        await _mixed(place, server)
        totals = (await server.ledger())["totals"]
        fatal_code = await _fatal(place, server)
        after = (await server.ledger())["totals"]
    return Evidence(
        read_rows(place.run_folder),
        totals["faults"],
        totals["received"],
        fatal_code,
        after["received"] - totals["received"],
    )


def judge(evidence: Evidence) -> Verdict:
    by_id = {row.row_id: row for row in evidence.rows}
    found: list[str] = []
    recovered = ended = 0
    for number, case in enumerate(CASES):
        out = [by_id.get(name) for name in _ids(number)]
        met = evidence.met.get(case.fault, 0)
        wrong = [
            row
            for name, row in zip(_ids(number), out, strict=True)
            if row is None
            or (row.status, row.error_kind) != (case.status, case.kind)
            or (case.status is Status.OK and row.content not in answers(name))
        ]
        as_due = _EACH - len(wrong)
        recovered, ended = recovered + case.once * as_due, ended + (not case.once) * as_due
        found += breaches(
            (wrong, f"{len(wrong)} of {_EACH} rows that met {case.fault} did not end as {_shown(case)}: {_what(wrong)}"),
            (met != _EACH * case.met, f"{_EACH} rows met {case.fault} {met} times instead of {_EACH * case.met}"),
        )  # fmt: skip
    most = max((row.attempts for row in evidence.rows), default=0)
    asked = _CLEAN + sum(_EACH * case.asked for case in CASES)
    rows_in = _CLEAN + _EACH * len(CASES)
    found += breaches(
        (len(evidence.rows) != rows_in, f"{rows_in} rows in, {len(evidence.rows)} out"),
        (evidence.received != asked, f"{evidence.received} requests for what takes {asked}"),
        (most > _MOST_ATTEMPTS, f"{most} attempts of one row, of {_MOST_ATTEMPTS} allowed"),
        (evidence.fatal_code != 4, f"a run refused by {FATAL} ended with exit code {evidence.fatal_code}, not 4"),
        (
            evidence.fatal_sent > _AT_ONCE,
            f"a run refused by {FATAL} sent {evidence.fatal_sent} requests, more than the {_AT_ONCE} in flight",
        ),
    )  # fmt: skip
    hopeless = sum(not case.once for case in CASES)
    return Verdict(
        f"{len(CASES)} faults: {recovered} of {_EACH * (len(CASES) - hopeless)} rows recovered, "
        f"{ended} of {_EACH * hopeless} ended in {most} attempts at most; no credit: over after {evidence.fatal_sent} requests",
        tuple(found),
    )


async def _mixed(place: Place, server: Server) -> None:
    texts = [(f"clean{n}", "nothing goes wrong here") for n in range(_CLEAN)]
    for number, case in enumerate(CASES):
        demand = f"[[simulate:{case.fault}{'*1' if case.once else ''}]]"
        texts += ((name, f"{name} {demand}") for name in _ids(number))
    place.write_job(server, rows(texts))
    settings = sets(
        f"retry.max_attempts={_MOST_ATTEMPTS}",
        f"limits.max_concurrency={_AT_ONCE}",
        f"transport.idle_timeout={_IDLE_TIMEOUT}",
    )
    (await place.promptmill("run", JOB, "--quiet", *settings, name="run")).expect(0)


async def _fatal(place: Place, server: Server) -> int:
    place.write_job(server, rows((f"x{n}", f"[[simulate:{FATAL}]]") for n in range(_FATAL_ROWS)))
    settings = sets(f"limits.max_concurrency={_AT_ONCE}")
    ended = await place.promptmill("run", JOB, "--quiet", "--output", "fatal", *settings, name="fatal")
    return ended.code


def _ids(number: int) -> list[str]:
    return [f"f{number}n{n}" for n in range(_EACH)]


def _shown(case: Case) -> str:
    return case.status if case.kind is None else f"{case.status} ({case.kind})"


def _what(wrong: list[Row | None]) -> str:
    row = wrong[0] if wrong else None
    return "no row" if row is None else f"{row.status} ({row.error_kind}: {row.error_message})"
