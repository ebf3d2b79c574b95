"""What a run says at its end: the one line of JSON on stdout, its exit code and its reason."""

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

from pipeline.records import Status
from pipeline.totals import Totals


class Stop(NamedTuple):
    """Why a run ended before its rows did: the exit code of the contract and a sentence."""

    exit_code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The one line of JSON on stdout. `rows` is the whole input; the totals cover the run folder, earlier runs included.

    `streamed` says why answers were streamed, null where they came whole.
    Of this run alone: `sent` counts requests, `reused` rows that took an answer of earlier work in this folder,
    `deduplicated` rows that took the answer of an identical prompt; `changed` says what is new since the last run.
    `spent` is what counts against `max_cost`: what all attempts in this folder cost, whether a row holds their answer or not, and
    within it `maybe_cost`, the worst cases of those that may have been billed without an answer.
    `cost` is null where that of any answer is unknown, and `unpriced` counts their rows; `maybe_paid` is null where the journal
    was once damaged, and with it the knowledge of what was in flight; `damaged` says what this run found damaged.
    `loop_lag_p99_ms` is how late the event loop was, null where nothing was asked.
    """

    job: str
    run_id: str
    exit_code: int
    exit_reason: str
    rows: int
    done: int
    status: dict[str, int]
    errors: dict[str, int]
    tokens: dict[str, int]
    cost: str | None
    unpriced: int
    spent: str | None
    maybe_cost: str | None
    max_cost: str | None
    currency: str | None
    attempts: int
    maybe_paid: int | None
    sent: int
    reused: int
    deduplicated: int
    changed: list[str]
    damaged: list[str]
    streamed: str | None
    elapsed_s: float
    loop_lag_p99_ms: float | None
    run_folder: str
    results: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))  # ASCII alone: whatever the locale of a cron run, it can be printed


def ending(stop: Stop | None, totals: Totals, rows: int, error_threshold: float) -> Stop:
    """The exit code and reason of a run that has come to its end, stopped or not; a stop after the last row changes nothing."""
    if stop is not None and totals.rows < rows:
        return stop
    failed = totals.status[Status.FAILED]
    if rows and failed / rows > error_threshold:
        reason = f"finished, but {failed:,} of {rows:,} rows failed, more than error_threshold = {error_threshold:g} allows"
        return Stop(3, reason)
    return Stop(0, "every row has its outcome")
