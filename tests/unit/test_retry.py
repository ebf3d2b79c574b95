"""The attempts of one row: what is sent again, when, how often, and what the outcome says of it all."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.failures import POLICIES
from pipeline.journal_view import view
from pipeline.records import FailureKind, Response
from tests.support.clock import START_S, run_virtual
from tests.support.rig import FakeTransport, Reply, Rig, always, answer, lost, playing, refusal

OVERLOADED = refusal(503, "overloaded")
RATE = refusal(429, "rate_limit_exceeded")


class Asked(NamedTuple):
    """How one row ended, and the loop's times at which it was sent."""

    row: dict[str, Any]
    sent_s: list[float]
    transport: FakeTransport
    maybe_paid: int


def ask(folder: Path, *replies: Reply, wait_s: float = 0.0, **more: Any) -> Asked:
    """Ask one row that gets these replies in turn, each `wait_s` after its request; the last repeats."""
    sent: list[float] = []
    rig = Rig(folder=folder, rows=1, **more)

    async def script(row_id: str, nth: int) -> Reply:
        sent.append(asyncio.get_running_loop().time())
        await asyncio.sleep(wait_s)
        return replies[min(nth, len(replies)) - 1]

    async def main() -> Asked:
        transport = FakeTransport(script)
        ran = await rig.run(transport)
        (row,) = rig.frame().to_dicts()
        assert ran.counters.retrying == 0
        assert ran.counters.sent == len(sent)
        return Asked(row, sent, transport, ran.counters.totals.maybe_paid)

    return run_virtual(main())


def waits(asked: Asked) -> list[float]:
    return [after - before for before, after in zip(asked.sent_s, asked.sent_s[1:], strict=False)]


def test_an_answer_is_asked_for_once(tmp_path: Path) -> None:
    asked = ask(tmp_path, answer("fine"), wait_s=2)
    assert asked.transport.asked.total() == 1
    row = asked.row
    assert (row["status"], row["content"], row["attempts"], row["http_status"]) == ("ok", "fine", 1, 200)
    assert row["latency_ms"] == pytest.approx(2000)
    assert row["started_at"].timestamp() == pytest.approx(asked.sent_s[0], abs=0.01)


@pytest.mark.parametrize("reply", [OVERLOADED, RATE, lost(), lost(FailureKind.TIMEOUT), refusal(500)])
def test_what_may_pass_is_sent_again_after_a_wait_until_it_is_answered(tmp_path: Path, reply: Reply) -> None:
    asked = ask(tmp_path, reply, reply, answer())
    assert (asked.row["status"], asked.row["attempts"]) == ("ok", 3)
    assert all(wait > 0.2 for wait in waits(asked))
    assert asked.row["error_kind"] is None


def test_attempts_are_bounded_and_the_last_failure_stands(tmp_path: Path) -> None:
    asked = ask(tmp_path, OVERLOADED, max_attempts=4)
    assert asked.transport.asked.total() == 4
    assert (asked.row["status"], asked.row["attempts"]) == ("failed", 4)
    assert (asked.row["error_kind"], asked.row["error_code"]) == ("overloaded", "overloaded")


SUSPECT = Response(200, {}, b'{"error": {"code": "odd", "message": "who knows"}}', 1.0)


def test_a_kinds_own_bound_on_attempts_holds_below_the_jobs(tmp_path: Path) -> None:
    asked = ask(tmp_path, SUSPECT)
    bound = POLICIES[FailureKind.ROW_SUSPECT].max_attempts
    assert (asked.row["error_kind"], asked.row["attempts"]) == ("row_suspect", bound)


def test_attempts_that_failed_otherwise_do_not_use_up_a_kinds_own_bound(tmp_path: Path) -> None:
    asked = ask(tmp_path, OVERLOADED, lost(), SUSPECT, answer())
    assert (asked.row["status"], asked.row["attempts"]) == ("ok", 4)
    (tmp_path / "again").mkdir()
    asked = ask(tmp_path / "again", OVERLOADED, SUSPECT, lost(), SUSPECT)
    assert (asked.row["error_kind"], asked.row["attempts"]) == ("row_suspect", 4)


@pytest.mark.parametrize(
    ("reply", "kind", "status"),
    [
        (refusal(400), "invalid_request", "failed"),
        (refusal(413), "too_large", "failed"),
        (
            refusal(400, "data_inspection_failed", "Output data may contain inappropriate content."),
            None,
            None,
        ),
    ],
)
def test_what_cannot_succeed_is_never_sent_again(
    tmp_path: Path, reply: Reply, kind: str | None, status: str | None
) -> None:
    asked = ask(tmp_path, reply)
    assert asked.transport.asked.total() == 1
    if kind is not None:
        assert (asked.row["error_kind"], asked.row["status"]) == (kind, status)


def test_the_server_is_never_asked_again_sooner_than_it_said(tmp_path: Path) -> None:
    busy = Response(503, {"retry-after": "77"}, OVERLOADED.body, 1.0)
    asked = ask(tmp_path, busy, answer())
    (wait,) = waits(asked)
    assert wait >= 77


def test_no_attempt_begins_that_would_pass_the_rows_deadline(tmp_path: Path) -> None:
    asked = ask(tmp_path, OVERLOADED, max_attempts=100, row_deadline_s=60)
    assert asked.row["status"] == "failed"
    assert 2 <= len(asked.sent_s) < 100
    assert asked.sent_s[-1] - asked.sent_s[0] < 120  # a wait may be up to twice its shortest
    busy = Response(503, {"retry-after": "61"}, OVERLOADED.body, 1.0)
    (tmp_path / "other").mkdir()
    assert len(ask(tmp_path / "other", busy, row_deadline_s=60).sent_s) == 1


def test_time_in_the_limits_line_does_not_count_against_the_rows_deadline(tmp_path: Path) -> None:
    """At one request a minute the last of five rows stands in line for longer than its deadline."""
    rig = Rig(folder=tmp_path, rows=5, workers=5, requests_per_minute=1, row_deadline_s=90)
    transport = playing(lost(), answer())
    run_virtual(rig.run(transport))
    assert rig.frame()["status"].to_list() == ["ok"] * 5
    assert rig.frame()["attempts"].to_list() == [2] * 5


def test_a_row_that_waits_to_be_tried_again_holds_no_slot(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=4, workers=4, max_concurrency=1)
    ended: list[str] = []

    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "r0" and nth == 1:
            return Response(503, {"retry-after": "200"}, b'{"error": {"code": "model_loading"}}', 1.0)
        ended.append(row_id)
        return answer()

    run_virtual(rig.run(FakeTransport(script)))
    assert ended[-1] == "r0"


def test_a_closed_kept_alive_connection_costs_no_attempt_and_no_wait(tmp_path: Path) -> None:
    closed = lost(uncounted=True)
    asked = ask(tmp_path, closed, lost(uncounted=True), answer(), max_attempts=1)
    assert (asked.row["status"], asked.row["attempts"]) == ("ok", 1)
    assert sum(waits(asked)) < 0.1
    assert asked.maybe_paid == 2


def test_a_server_that_only_closes_connections_is_an_ordinary_failure(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        return lost(uncounted=True)

    rig = Rig(folder=tmp_path, rows=1, max_attempts=3)
    transport = FakeTransport(script)
    run_virtual(rig.run(transport))
    assert transport.asked.total() == 3 + 3
    (row,) = rig.frame().to_dicts()
    assert (row["status"], row["attempts"], row["error_kind"]) == ("failed", 3, "transport")


REFUSED = lost(code="connect_refused", maybe_paid=False)


@pytest.mark.parametrize("away", [REFUSED, refusal(503)], ids=["nobody there", "503"])
def test_a_provider_that_was_there_and_is_away_for_minutes_costs_no_row_its_attempts(
    tmp_path: Path, away: Reply
) -> None:
    rig = Rig(folder=tmp_path, rows=40, workers=10, rows_per_part=50)
    away_s = 1.0, 301.0
    sent: list[float] = []

    async def script(row_id: str, nth: int) -> Reply:
        began_s = asyncio.get_running_loop().time() - START_S
        sent.append(began_s)
        await asyncio.sleep(0.25)
        return away if away_s[0] <= began_s < away_s[1] else answer()

    run_virtual(rig.run(FakeTransport(script)))
    frame = rig.frame()
    assert set(frame["status"]) == {"ok"}
    assert max(frame["attempts"]) > 6  # sent they were
    meanwhile = [at for at in sent if away_s[0] <= at < away_s[1]]
    assert len(meanwhile) < 10 * 300 / 4, "each worker knocks every few seconds, and no more"
    assert max(sent) < away_s[1] + 70, "the longest backoff is a minute"


def test_a_provider_that_stays_away_costs_a_row_its_deadline(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        return answer() if row_id == "r0" else REFUSED

    rig = Rig(folder=tmp_path, rows=2, workers=1, row_deadline_s=120)
    transport = FakeTransport(script)
    run_virtual(rig.run(transport))
    away = rig.frame().to_dicts()[1]
    assert (away["status"], away["error_code"]) == ("failed", "connect_refused")
    assert 15 <= away["attempts"] == transport.asked["r1"] <= 40


def test_a_provider_that_was_never_there_costs_attempts_as_any_failure(tmp_path: Path) -> None:
    asked = ask(tmp_path, REFUSED)
    assert (asked.row["attempts"], asked.transport.asked.total(), asked.row["status"]) == (6, 6, "failed")


def test_each_attempt_that_may_have_been_billed_is_counted(tmp_path: Path) -> None:
    asked = ask(tmp_path, lost(), lost(maybe_paid=False), lost(), answer())
    assert (asked.row["attempts"], asked.maybe_paid) == (4, 2)


# Invalid answers


def test_an_invalid_answer_is_asked_again_with_what_was_wrong_and_both_are_billed(tmp_path: Path) -> None:
    asked = ask(tmp_path, answer("banana"), answer("Good."), labels=["good", "bad"])
    assert (asked.row["status"], asked.row["label"], asked.row["attempts"]) == ("ok", "good", 2)
    assert asked.row["total_tokens"] == 24
    assert asked.row["cost"] * 1000 == 24
    first, second = asked.transport.bodies
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert second["messages"][-2] == {"role": "assistant", "content": "banana"}
    assert "good, bad" in second["messages"][-1]["content"]
    assert second["temperature"] == 0


def test_an_answer_that_stays_invalid_is_kept_with_what_is_wrong(tmp_path: Path) -> None:
    asked = ask(tmp_path, answer("banana"), answer("cherry"), labels=["good"], max_attempts=3)
    assert (asked.row["status"], asked.row["content"], asked.row["attempts"]) == ("invalid", "cherry", 3)
    assert (asked.row["error_kind"], asked.row["label"]) == ("invalid_answer", None)
    assert asked.row["total_tokens"] == 36
    third = asked.transport.bodies[2]["messages"]
    assert [m["content"] for m in third if m["role"] == "assistant"] == ["cherry"]


def test_where_the_job_keeps_invalid_answers_none_is_asked_again(tmp_path: Path) -> None:
    asked = ask(tmp_path, answer("banana"), labels=["good"], repair=False)
    assert (asked.row["status"], asked.row["attempts"]) == ("invalid", 1)


def test_a_failure_after_an_invalid_answer_never_loses_what_was_paid_for(tmp_path: Path) -> None:
    asked = ask(tmp_path, answer("banana"), refusal(400), labels=["good"], raw=True)
    assert (asked.row["status"], asked.row["content"], asked.row["attempts"]) == ("invalid", "banana", 2)
    assert asked.row["error_kind"] == "invalid_answer"
    assert asked.row["total_tokens"] == 12
    assert "banana" in asked.row["response"]


def test_a_lost_attempt_between_two_answers_changes_nothing_about_the_repair(tmp_path: Path) -> None:
    asked = ask(tmp_path, answer("banana"), lost(), answer("good"), labels=["good"])
    assert (asked.row["status"], asked.row["attempts"], asked.row["total_tokens"]) == ("ok", 3, 24)
    _, second, third = asked.transport.bodies
    assert second == third


@pytest.mark.parametrize(("finish", "status"), [("length", "truncated"), ("content_filter", "blocked")])
def test_an_answer_cut_short_is_not_held_against_the_labels(tmp_path: Path, finish: str, status: str) -> None:
    asked = ask(tmp_path, answer("banan", finish=finish), labels=["good"])
    assert (asked.row["status"], asked.row["attempts"], asked.row["label"]) == (status, 1, None)


# Failures that no row escapes


def test_a_failure_that_no_row_escapes_leaves_its_row_open_for_the_next_run(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=1)

    async def main() -> None:
        ran = await rig.run(always(refusal(401, "invalid_api_key")))
        assert ran.runner.stopped is not None
        assert ran.runner.stopped.exit_code == 4
        assert "invalid_api_key" in ran.runner.stopped.reason
        assert (ran.counters.totals.rows, view(rig.out).in_flight) == (0, 0)
        again = await rig.run(always(answer()))
        assert (again.taken, again.counters.totals.maybe_paid) == (0, 0)
        assert rig.whole()

    run_virtual(main())


def test_an_invalid_answer_whose_repair_ends_the_run_counts_as_paid_for_in_vain(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=1, labels=["good"])

    async def main() -> None:
        await rig.run(playing(answer("banana"), refusal(401)))
        assert (await rig.run(always(answer("good")))).taken == 1

    run_virtual(main())


def test_a_throttle_that_lasts_without_one_answer_is_a_spent_quota(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=3, workers=1, max_attempts=100, row_deadline_s=10_000)
    refused = refusal(429, "rate_limit_exceeded", "Limit reached on tokens per min (TPM)")

    async def main() -> None:
        ran = await rig.run(always(refused))
        assert ran.asker.decode(refused, None).kind is FailureKind.RATE_TOKENS  # type: ignore[union-attr]
        assert ran.runner.stopped is not None
        assert ran.runner.stopped.exit_code == 4
        assert asyncio.get_running_loop().time() < 2_000

    run_virtual(main())


def test_one_answer_between_throttles_keeps_the_run_going(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=40, workers=1)
    refused = refusal(429, "rate_limit_exceeded", "Limit reached on tokens per min (TPM)")

    async def main() -> None:
        ran = await rig.run(playing(refused, refused, answer()))
        assert ran.runner.stopped is None
        assert asyncio.get_running_loop().time() > 1_000 + 600

    run_virtual(main())
    assert rig.whole()


# The budget

PRICED: dict[str, Any] = {"worst_case": lambda prompt, body: 100_000_000}  # an answer costs 12,000,000


def test_each_attempt_sets_its_worst_case_aside_and_one_that_waits_to_be_retried_holds_nothing(
    tmp_path: Path,
) -> None:
    """The second attempt fits, as the first holds no more what it was refused for."""
    asked = ask(tmp_path, OVERLOADED, answer("fine"), **PRICED, max_cost=100_000_000)
    assert asked.row["status"] == "ok"
    assert spent(tmp_path) == (12_000_000, 0)


def test_what_may_have_been_paid_counts_at_its_worst(tmp_path: Path) -> None:
    asked = ask(tmp_path, lost(), answer("fine"), **PRICED, max_cost=200_000_000)
    assert asked.row["status"] == "ok"
    assert spent(tmp_path) == (12_000_000, 100_000_000)


def test_an_invalid_answer_and_its_repair_are_both_paid(tmp_path: Path) -> None:
    asked = ask(tmp_path, answer("banana"), answer("good"), labels=["good"], **PRICED, max_cost=112_000_000)
    assert (asked.row["status"], asked.transport.asked.total()) == ("ok", 2)
    assert spent(tmp_path) == (24_000_000, 0)


def test_a_row_whose_next_attempt_does_not_fit_is_left_for_the_next_run(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=1, max_cost=150_000_000, **PRICED)
    wire = playing(lost(), answer("fine"))
    ran = run_virtual(rig.run(wire))
    assert ran.runner.stopped is not None
    assert ran.runner.stopped.exit_code == 5
    assert (wire.asked.total(), ran.counters.totals.rows) == (1, 0)
    assert (view(rig.out).in_flight, spent(tmp_path)) == (0, (0, 100_000_000))
    rig.max_cost = 250_000_000
    assert run_virtual(rig.run(wire)).counters.totals.rows == 1
    assert spent(tmp_path) == (12_000_000, 100_000_000)


def test_what_does_not_fit_drains_and_is_not_cut_off(tmp_path: Path) -> None:
    """Answers that come long after the usual grace are waited for: they are paid."""
    sent: list[str] = []

    async def script(row_id: str, nth: int) -> Reply:
        sent.append(row_id)
        await asyncio.sleep(0 if row_id == "r0" else 500)
        return answer("fine") if row_id != "r0" else lost(FailureKind.TIMEOUT)

    rig = Rig(
        folder=tmp_path,
        rows=4,
        workers=4,
        max_cost=310_000_000,
        max_attempts=1,
        requests_per_minute=6_000_000,
    )
    rig.worst_case = lambda prompt, body: 300_000_000 if prompt.row_id == "r3" else 100_000_000
    ran = run_virtual(rig.run(FakeTransport(script)))
    assert ran.runner.stopped is not None
    assert ran.runner.stopped.exit_code == 5
    assert sorted(sent) == ["r0", "r1", "r2"]
    assert spent(tmp_path) == (24_000_000, 100_000_000)
    assert ran.counters.totals.rows == 3


def spent(folder: Path) -> tuple[int, int]:
    opened = Rig(folder=folder).open()
    try:
        return opened.journal.spend()
    finally:
        opened.release()
