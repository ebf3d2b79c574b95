"""Whatever goes wrong at once, a run asks no more than its limits and its attempts allow, and comes to its end.

On a virtual clock, so that each second can be counted to the request.
"""

import asyncio
import random
from collections import Counter
from copy import copy
from pathlib import Path

import polars as pl
import pytest

from pipeline.records import FailureKind, Response
from tests.support.clock import START_S, run_virtual
from tests.support.rig import FakeTransport, Reply, Rig, Script, answer, lost, refusal

ROWS = 1_000
PER_S = 50
ATTEMPTS = 6
LATENCY_S = 0.5

# What finds the provider away, and uses up no attempt of a row.
AWAY: list[Reply] = [lost(code="connect_refused", maybe_paid=False), refusal(503)]
FAILURES: list[Reply] = [
    *AWAY,
    lost(),
    lost(FailureKind.TIMEOUT),
    lost(FailureKind.TRUNCATED_STREAM),
    lost(uncounted=True),
    refusal(500),
    refusal(502),
    Response(200, {}, b"", 1.0),
    Response(200, {}, b'{"choices": [', 1.0),
]
RATE = refusal(429, "rate_limit_exceeded")


def most_within(sent_s: list[float], seconds: float) -> int:
    first, most = 0, 0
    for last, at in enumerate(sent_s):
        while at - sent_s[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def run(folder: Path, script: Script, **more: float) -> tuple[Rig, list[float]]:
    """Run the rows; the seconds of the run in which requests were sent."""
    sent: list[float] = []
    rig = Rig(
        folder=folder,
        rows=ROWS,
        rows_per_part=500,
        workers=100,
        max_attempts=ATTEMPTS,
        requests_per_minute=60 * PER_S,
        **more,
    )

    async def played(row_id: str, nth: int) -> Reply:
        sent.append(asyncio.get_running_loop().time() - START_S)
        await asyncio.sleep(LATENCY_S)
        return await script(row_id, nth)

    run_virtual(rig.run(FakeTransport(played)))
    assert rig.whole()
    assert most_within(sent, 1) <= PER_S + 1, "one more for the time between the gate and the wire"
    return rig, sent


@pytest.mark.parametrize("share_of_429", [0.0, 0.02])
def test_with_a_third_of_all_requests_failing_the_run_keeps_its_pace_and_its_end(
    tmp_path: Path, share_of_429: float
) -> None:
    away: Counter[str] = Counter()

    async def script(row_id: str, nth: int) -> Reply:
        chance = random.Random(f"{row_id}/{nth}")
        if chance.random() < share_of_429:
            return RATE
        if chance.random() >= 0.3:
            return answer(row_id)
        failure = copy(chance.choice(FAILURES))  # what follows from it is noted on it
        away[row_id] += failure in AWAY
        return failure

    rig, sent = run(tmp_path, script)
    frame = rig.frame()
    ok = frame.filter(pl.col("status") == "ok")
    assert (ok["content"] == ok["row_id"]).all()
    for row_id, status, attempts in frame.select("row_id", "status", "attempts").rows():
        if status == "ok":
            assert attempts - away[row_id] <= ATTEMPTS
        else:
            assert attempts - away[row_id] == ATTEMPTS
    assert len(sent) < 1.6 * ROWS
    # Without pauses, sending takes as long as the limit says, and the last attempts of a row their backoff.
    pauses_s = 1.0 * share_of_429 * len(sent)
    assert sent[-1] < len(sent) / PER_S + pauses_s + 60


@pytest.mark.parametrize(
    ("failure", "survived"),
    [
        *((away, True) for away in AWAY),
        (RATE, True),
        (lost(), False),  # each may have been paid, so that attempts are bounded whatever the reason
    ],
    ids=["nobody there", "overloaded", "rate", "reset"],
)
def test_an_outage_of_a_minute_is_no_storm_and_costs_no_row_that_cost_nothing(
    tmp_path: Path, failure: Reply, survived: bool
) -> None:
    away_s = 5.0, 65.0

    async def script(row_id: str, nth: int) -> Reply:
        now_s = asyncio.get_running_loop().time() - START_S
        return failure if away_s[0] <= now_s < away_s[1] else answer(row_id)

    rig, sent = run(tmp_path, script)
    frame = rig.frame()
    failed = frame.filter(pl.col("status") != "ok")
    assert failed.is_empty() is survived
    assert set(failed["attempts"]) <= {ATTEMPTS}
    meanwhile = sum(away_s[0] <= at < away_s[1] for at in sent)
    assert meanwhile < 60 * PER_S * (0.5 if survived else 0.8)
    behind = len(sent) - sum(at < away_s[1] for at in sent)
    assert sent[-1] < away_s[1] + behind / PER_S + 60, "it goes on where it was, after a backoff at most"
