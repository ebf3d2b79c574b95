"""The gate: pace, line, slots, cool-down, settlement; all on the virtual clock."""

import asyncio
import math
from collections.abc import Iterable

import pytest

from pipeline.limits import Limits, LocalGate
from tests.support.clock import run_virtual
from tests.support.windows import heaviest_window


def gate_of(rpm: float | None = None, tpm: float | None = None, slots: int = 10_000) -> LocalGate:
    return LocalGate(Limits(requests_per_minute=rpm, tokens_per_minute=tpm, max_concurrency=slots))


def now() -> float:
    return asyncio.get_running_loop().time()


async def settled() -> None:
    """Let everything run that can run without the clock moving."""
    for _ in range(20):
        await asyncio.sleep(0)


class Line:
    """Requests sent through a gate, and when each was admitted, in seconds from the making of this line."""

    def __init__(self, gate: LocalGate) -> None:
        self.gate = gate
        self.start_s = now()
        self.admitted: list[tuple[float, str]] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _send(self, name: str, tokens: int) -> None:
        await self.gate.acquire(tokens)
        self.admitted.append((now() - self.start_s, name))

    def send(self, name: str, tokens: int = 1) -> asyncio.Task[None]:
        self.tasks[name] = asyncio.create_task(self._send(name, tokens))
        return self.tasks[name]

    async def done(self) -> None:
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.admitted]

    def at(self, name: str) -> float:
        return next(at_s for at_s, admitted in self.admitted if admitted == name)


async def saturate(gate: LocalGate, sizes: Iterable[int], for_s: float) -> list[tuple[float, int]]:
    """Ask for more than the gate gives; (time from the start, tokens) of each admission up to `for_s`."""
    start_s = now()
    admitted: list[tuple[float, int]] = []
    left = iter(sizes)

    async def worker() -> None:
        for tokens in left:
            await gate.acquire(tokens)
            admitted.append((now() - start_s, tokens))
            gate.release(tokens, tokens)

    workers = [asyncio.create_task(worker()) for _ in range(20)]
    await asyncio.sleep(for_s)
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    return admitted


def endless(*sizes: int) -> Iterable[int]:
    while True:
        yield from sizes


# Pace


@pytest.mark.parametrize("rpm", [60, 1_200, 3_333, 30_000])
def test_requests_go_evenly_and_use_the_whole_quota(rpm: int) -> None:
    async def main() -> None:
        admitted = await saturate(gate_of(rpm=rpm), endless(1), for_s=61)
        burst = max(rpm / 60 * 0.05, 1.25)
        assert heaviest_window([(at_s, 1) for at_s, _ in admitted], 1.0) <= rpm / 60 + burst + 1e-6
        assert sum(1 for at_s, _ in admitted if at_s <= 60) >= 0.97 * rpm

    run_virtual(main())


@pytest.mark.parametrize("tpm", [60_000, 1_000_000])
def test_tokens_go_evenly_and_use_the_whole_quota(tpm: int) -> None:
    async def main() -> None:
        admitted = await saturate(gate_of(tpm=tpm), endless(30, 250, 1_000, 7), for_s=61)
        bucket = tpm / 60 * 0.05
        bound = tpm / 60 + 1.1 * bucket + 1_000
        assert heaviest_window(admitted, 1.0) <= bound + 1e-6
        assert sum(tokens for at_s, tokens in admitted if at_s <= 60) >= 0.97 * tpm

    run_virtual(main())


def test_of_two_limits_the_tighter_one_binds() -> None:
    async def main() -> tuple[int, int]:
        by_requests = await saturate(gate_of(rpm=600, tpm=1_000_000), endless(10), for_s=60)
        by_tokens = await saturate(gate_of(rpm=600, tpm=60_000), endless(1_000), for_s=60)
        return len(by_requests), len(by_tokens)

    by_requests, by_tokens = run_virtual(main())
    assert 582 <= by_requests <= 600
    assert 58 <= by_tokens <= 60


def test_the_gate_starts_empty() -> None:
    async def main() -> None:
        line = Line(gate_of(rpm=600))
        for name in "abc":
            line.send(name)
        await line.done()
        assert [at_s for at_s, _ in line.admitted] == pytest.approx([0.1, 0.2, 0.3], abs=1e-3)

    run_virtual(main())


def test_after_idling_no_more_than_a_small_burst_goes_at_once() -> None:
    async def main() -> None:
        gate = gate_of(rpm=60_000)
        await gate.acquire(1)
        await asyncio.sleep(600)
        line = Line(gate)
        for n in range(200):
            line.send(str(n))
        await line.done()
        assert sum(1 for at_s, _ in line.admitted if at_s < 1e-4) <= 56

    run_virtual(main())


def test_a_request_larger_than_the_bucket_waits_its_time_and_goes_whole() -> None:
    async def main() -> None:
        line = Line(gate_of(tpm=60_000))
        line.send("large", 20_000)
        line.send("small", 100)
        await line.done()
        assert line.at("large") == pytest.approx(20, rel=0.01)
        assert line.at("small") == pytest.approx(20.1, rel=0.01)

    run_virtual(main())


# The line


def test_admission_is_in_order_of_asking_whatever_the_size() -> None:
    async def main() -> None:
        line = Line(gate_of(rpm=6_000, tpm=600_000))
        for n in range(100):
            line.send(str(n), tokens=5_000 if n % 7 == 0 else 10)
        await line.done()
        assert line.names == [str(n) for n in range(100)]

    run_virtual(main())


def test_a_newcomer_does_not_pass_those_in_line() -> None:
    async def main() -> None:
        gate = gate_of(slots=1)
        await gate.acquire(1)
        line = Line(gate)
        line.send("first")
        await settled()
        gate.release(1, 1)
        line.send("newcomer")  # the slot is free, but the first has not run yet
        await settled()
        assert line.names == ["first"]
        gate.release(1, 1)
        await line.done()

    run_virtual(main())


def test_a_long_prompt_is_not_passed_by_a_stream_of_short_ones() -> None:
    async def main() -> None:
        gate = gate_of(tpm=60_000)
        stream = asyncio.create_task(saturate(gate, endless(50), for_s=60))
        await asyncio.sleep(10)
        line = Line(gate)
        line.send("long", 5_000)
        await line.done()
        # twenty short ones may stand before it
        assert line.at("long") == pytest.approx(5 + 20 * 0.05, abs=0.2)
        await stream

    run_virtual(main())


def test_requests_wait_for_a_slot_and_a_release_lets_one_in() -> None:
    async def main() -> None:
        gate = gate_of(slots=2)
        line = Line(gate)
        for name in "abcd":
            line.send(name)
        await settled()
        assert (line.names, gate.in_flight, gate.waiting) == (["a", "b"], 2, 2)
        gate.release(1, None)
        await settled()
        assert (line.names, gate.in_flight, gate.waiting) == (["a", "b", "c"], 2, 1)
        gate.release(1, None)
        await line.done()
        assert gate.waiting == 0

    run_virtual(main())


def test_several_releases_in_one_turn_of_the_loop_free_as_many_slots() -> None:
    async def main() -> None:
        gate = gate_of(slots=3)
        line = Line(gate)
        for name in "abcdef":
            line.send(name)
        await settled()
        for _ in range(3):
            gate.release(1, 1)
        await line.done()
        assert line.names == list("abcdef")

    run_virtual(main())


def test_with_a_free_slot_and_no_quota_acquire_does_not_suspend() -> None:
    async def main() -> None:
        with pytest.raises(StopIteration):
            gate_of(slots=1).acquire(1).send(None)

    run_virtual(main())


def test_a_release_without_an_acquire_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="without acquire"):
        gate_of().release(1, 1)


# Cancelling


def test_who_is_cancelled_in_line_leaves_no_gap() -> None:
    async def main() -> None:
        gate = gate_of(rpm=600)
        line = Line(gate)
        for name in "abcd":
            line.send(name)
        await settled()
        line.tasks["b"].cancel()
        line.tasks["c"].cancel()
        await line.done()
        assert line.names == ["a", "d"]
        assert line.at("d") == pytest.approx(0.2, abs=1e-3)
        assert gate.waiting == 0

    run_virtual(main())


def test_a_head_cancelled_while_it_waits_for_a_slot_leaves_the_slot_to_the_next() -> None:
    async def main() -> None:
        gate = gate_of(slots=1)
        await gate.acquire(1)
        line = Line(gate)
        line.send("head")
        line.send("next")
        await settled()
        gate.release(1, 1)
        line.tasks["head"].cancel()  # the slot was given back in this very turn of the loop
        await line.done()
        assert (line.names, gate.in_flight) == (["next"], 1)

    run_virtual(main())


def test_a_head_cancelled_while_it_waits_for_its_pace_leaves_the_pace_to_the_next() -> None:
    async def main() -> None:
        line = Line(gate_of(rpm=60))
        line.send("head")
        line.send("next")
        await asyncio.sleep(0.9)
        line.tasks["head"].cancel()
        await line.done()
        assert line.admitted == [(pytest.approx(1.0, abs=0.01), "next")]

    run_virtual(main())


def test_a_large_head_cancelled_leaves_the_tokens_it_had_drawn_to_the_next() -> None:
    async def main() -> None:
        line = Line(gate_of(tpm=60_000))
        line.send("head", 10_000)
        line.send("next", 10_000)
        await asyncio.sleep(9)
        line.tasks["head"].cancel()
        await line.done()
        assert line.admitted == [(pytest.approx(10, abs=0.1), "next")]

    run_virtual(main())


def test_a_head_cancelled_in_a_cool_down_leaves_the_cool_down_in_force() -> None:
    async def main() -> None:
        gate = gate_of()
        gate.slow("requests", 30)
        line = Line(gate)
        line.send("head")
        line.send("next")
        await asyncio.sleep(10)
        line.tasks["head"].cancel()
        await line.done()
        assert line.admitted == [(pytest.approx(30), "next")]

    run_virtual(main())


# Settlement


async def second_admission_s(reserved: int, actual: int | None, second: int) -> float:
    """When `second` tokens are admitted after an answer to `reserved` used `actual`; 1,000 tokens a second."""
    gate = gate_of(tpm=60_000)
    await gate.acquire(reserved)
    start_s = now()
    gate.release(reserved, actual)
    await gate.acquire(second)
    return now() - start_s


@pytest.mark.parametrize(
    ("reserved", "actual", "after_s"),
    [
        (1_000, 1_000, 2.0),
        (1_000, None, 2.0),
        (1_000, 4_000, 5.0),
        (1_000, 500, 1.5),
        (1_000, 0, 1.0),
        (1_000, 10_000_000, 62.0),  # what was used over a minute ago no longer counts
    ],
)
def test_usage_settles_the_reservation_with_the_next_in_line(
    reserved: int, actual: int | None, after_s: float
) -> None:
    assert run_virtual(second_admission_s(reserved, actual, 2_000)) == pytest.approx(after_s, abs=0.1)


def test_credit_pays_no_more_than_half_of_a_request() -> None:
    assert run_virtual(second_admission_s(1_000, 0, 1_000)) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("actual", "second_s", "third_s"), [(0, 1.0, 2.0), (4_000, 5.0, 2.0)])
def test_credit_and_debt_are_settled_once(actual: int, second_s: float, third_s: float) -> None:
    async def main() -> None:
        gate = gate_of(tpm=60_000)
        await gate.acquire(1_000)
        gate.release(1_000, actual)
        line = Line(gate)
        line.send("second", 2_000)
        line.send("third", 2_000)
        await line.done()
        assert line.at("second") == pytest.approx(second_s, abs=0.1)
        assert line.at("third") == pytest.approx(second_s + third_s, abs=0.1)

    run_virtual(main())


def test_no_more_than_a_second_of_credit_is_kept() -> None:
    assert run_virtual(second_admission_s(9_000, 0, 9_000)) == pytest.approx(8, abs=0.1)


def test_reservations_twice_too_high_still_use_the_whole_quota() -> None:
    async def main() -> None:
        gate = gate_of(tpm=60_000)
        used = 0
        end_s = now() + 60
        while now() < end_s:
            await gate.acquire(200)
            gate.release(200, 100)
            used += 100
        assert used == pytest.approx(60_000, rel=0.03)

    run_virtual(main())


# Cool-down


async def pause_after_s(gate: LocalGate) -> float:
    """Seconds until the next admission."""
    start_s = now()
    await gate.acquire(1)
    return now() - start_s


def test_nothing_is_admitted_before_the_time_the_server_asked_for() -> None:
    async def main() -> None:
        gate = gate_of()
        gate.slow("tokens", 7)
        assert gate.cooling_until_s == pytest.approx(now() + 7)
        assert await pause_after_s(gate) == pytest.approx(7)
        assert gate.cooling_until_s is None

    run_virtual(main())


def test_a_cool_down_that_begins_while_the_head_waits_holds_it_too() -> None:
    async def main() -> None:
        gate = gate_of(rpm=60, tpm=60_000)
        line = Line(gate)
        line.send("by pace", 500)
        await asyncio.sleep(0.7)
        gate.slow("requests", 20)
        await line.done()
        assert line.at("by pace") > 20.7

        full = gate_of(slots=1)
        await full.acquire(1)
        line = Line(full)
        line.send("by slot")
        await settled()
        full.slow("concurrency", 5)
        full.release(1, 0)
        await line.done()
        assert line.at("by slot") == pytest.approx(5)

    run_virtual(main())


def test_the_longest_wish_of_the_server_wins_within_a_bound() -> None:
    async def main() -> None:
        gate = gate_of()
        gate.slow("requests", 30)
        gate.slow("requests", 3)
        assert await pause_after_s(gate) == pytest.approx(30)
        gate.slow("requests", 86_400)
        assert await pause_after_s(gate) == pytest.approx(300)

    run_virtual(main())


@pytest.mark.parametrize("nonsense", [0.0, -5.0, math.nan])
def test_a_wish_that_is_no_time_counts_as_none(nonsense: float) -> None:
    async def main() -> None:
        gate = gate_of()
        gate.slow("requests", nonsense)
        assert await pause_after_s(gate) == pytest.approx(1)

    run_virtual(main())


def test_bursts_in_a_row_double_the_cool_down_up_to_a_minute() -> None:
    async def main() -> None:
        gate = gate_of()
        pauses = []
        for _ in range(9):
            gate.slow("requests", None)
            pauses.append(await pause_after_s(gate))
        assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])

    run_virtual(main())


def test_now_and_then_a_refusal_among_answers_never_lengthens_the_cool_down() -> None:
    async def main() -> None:
        gate = gate_of()
        for _ in range(10):
            for _ in range(50):
                await gate.acquire(1)
                gate.release(1, 1)
            await gate.acquire(1)
            gate.release(1, 0)
            gate.slow("requests", None)
            assert await pause_after_s(gate) == pytest.approx(1)

    run_virtual(main())


def test_an_overloaded_answer_pauses_the_others_only_where_the_server_says_how_long() -> None:
    async def main() -> None:
        gate = gate_of()
        gate.slow("concurrency", None)
        assert await pause_after_s(gate) == pytest.approx(0)
        gate.slow("concurrency", 3)
        assert await pause_after_s(gate) == pytest.approx(3)

    run_virtual(main())


def test_answers_that_trickle_through_a_storm_do_not_shorten_its_cool_downs() -> None:
    async def main() -> None:
        gate = gate_of()
        pauses = []
        for _ in range(4):
            for refused in range(50):
                await gate.acquire(1)
                gate.release(1, 0 if refused else 1)
            for _ in range(49):
                gate.slow("requests", None)
            pauses.append(await pause_after_s(gate))
        assert pauses == pytest.approx([1, 2, 4, 8])

    run_virtual(main())


def test_after_a_clean_minute_the_cool_down_is_short_again() -> None:
    async def main() -> None:
        gate = gate_of()
        for _ in range(4):
            gate.slow("requests", None)
            await gate.acquire(1)
        await asyncio.sleep(61)
        gate.slow("requests", None)
        assert await pause_after_s(gate) == pytest.approx(1)

    run_virtual(main())


def test_a_burst_of_failures_is_one_cool_down() -> None:
    async def main() -> None:
        gate = gate_of()
        for _ in range(500):
            await gate.acquire(1)
        start_s = now()
        for _ in range(500):
            gate.release(1, 0)
            gate.slow("burst", None)
            await asyncio.sleep(0.001)
        assert gate.slowed["burst"] == 500
        await gate.acquire(1)
        assert now() - start_s == pytest.approx(1)
        gate.slow("burst", None)
        assert await pause_after_s(gate) == pytest.approx(2)

    run_virtual(main())


def test_a_burst_counts_once_also_where_each_answer_names_a_time() -> None:
    async def main() -> None:
        gate = gate_of()
        await gate.acquire(1)
        for _ in range(5):
            gate.slow("tokens", 3)
        await gate.acquire(1)
        gate.slow("tokens", None)
        assert await pause_after_s(gate) == pytest.approx(2)

    run_virtual(main())


def test_a_late_failure_of_a_request_sent_before_the_cool_down_does_not_begin_another() -> None:
    async def main() -> None:
        gate = gate_of()
        await gate.acquire(1)
        sent_s = now()
        await asyncio.sleep(0.1)
        gate.slow("requests", None, admitted_s=sent_s)
        await asyncio.sleep(3)
        gate.slow("requests", None)  # nothing was sent since, so this one was sent before
        assert gate.cooling_until_s is None
        await gate.acquire(1)
        gate.slow("requests", None, admitted_s=sent_s)
        assert gate.cooling_until_s is None
        gate.slow("requests", None, admitted_s=now())
        assert gate.cooling_until_s == pytest.approx(now() + 2)

    run_virtual(main())


def test_after_a_cool_down_requests_start_as_evenly_as_at_first() -> None:
    async def main() -> None:
        gate = gate_of(rpm=60_000)
        await gate.acquire(1)
        await asyncio.sleep(5)
        line = Line(gate)
        for n in range(300):
            line.send(str(n))
        gate.slow("burst", 10)
        await line.done()
        first_s = line.admitted[0][0]
        assert first_s > 10.004  # five requests go together every 5 ms; none was left over from before
        assert sum(1 for at_s, _ in line.admitted if at_s < first_s + 1e-4) <= 6
        assert heaviest_window([(at_s, 1) for at_s, _ in line.admitted], 0.05) <= 56

    run_virtual(main())


# Counters


def test_the_last_minute_is_counted_and_forgotten() -> None:
    async def main() -> None:
        gate = gate_of()
        assert gate.admitted_last_minute == (0, 0)
        for _ in range(3):
            await gate.acquire(10)
        await asyncio.sleep(30)
        await gate.acquire(5)
        assert gate.admitted_last_minute == (4, 35)
        await asyncio.sleep(31)
        assert gate.admitted_last_minute == (1, 5)
        await asyncio.sleep(3_600)
        assert gate.admitted_last_minute == (0, 0)

    run_virtual(main())


@pytest.mark.parametrize(
    "limits",
    [
        {"requests_per_minute": 0.0},
        {"tokens_per_minute": -1.0},
        {"requests_per_minute": math.nan},
        {"tokens_per_minute": math.inf},
        {"max_concurrency": 0},
    ],
)
def test_limits_under_which_nothing_could_be_sent_are_refused(limits: dict[str, float]) -> None:
    name = next(iter(limits))
    with pytest.raises(ValueError, match=name):
        Limits(**{"requests_per_minute": None, "tokens_per_minute": None, "max_concurrency": 1, **limits})
