"""The gate: pace, line, slots, cool-down, settlement; all on the virtual clock."""

import asyncio
import math
import re
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from pipeline.ceiling import FIRST
from pipeline.fair_shares import REQUESTS, WHOLE, Shares
from pipeline.gate import Limits, Turn
from pipeline.limits import LocalGate
from pipeline.quota_search import HEADROOM
from tests.support.clock import run_virtual
from tests.support.windows import heaviest_window


def gate_of(
    rpm: float | None = None,
    tpm: float | None = None,
    slots: int = 10_000,
    note: Callable[[str], None] | None = None,
) -> LocalGate:
    return LocalGate(Limits(requests_per_minute=rpm, tokens_per_minute=tpm, max_concurrency=slots), note)


def now() -> float:
    return asyncio.get_running_loop().time()


async def settled() -> None:
    """Let everything happen that waits for no answer."""
    await asyncio.sleep(0.1)


class Line:
    """Requests sent through a gate, and when each was admitted, in seconds from the making of this line.

    Each is answered at once, unless `held`: then it keeps its slot.
    """

    def __init__(self, gate: LocalGate, *, held: bool = False) -> None:
        self.gate = gate
        self.held = held
        self.start_s = now()
        self.admitted: list[tuple[float, str]] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _send(self, name: str, tokens: int) -> None:
        await self.gate.acquire(tokens)
        self.admitted.append((now() - self.start_s, name))
        if not self.held:
            self.gate.release(tokens, tokens)

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


async def warm(**limits: float) -> LocalGate:
    """A gate behind the ramp of its start."""
    gate = gate_of(**limits)  # type: ignore[arg-type]
    await saturate(gate, endless(1), for_s=2)
    return gate


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
        admitted = await saturate(gate_of(rpm=rpm), endless(1), for_s=62)
        assert heaviest_window([(at_s, 1) for at_s, _ in admitted], 1.0) <= rpm / 60
        assert sum(1 for at_s, _ in admitted if 2 <= at_s < 62) >= 0.98 * rpm

    run_virtual(main())


@pytest.mark.parametrize("tpm", [60_000, 1_000_000])
def test_tokens_go_evenly_and_use_the_whole_quota(tpm: int) -> None:
    async def main() -> None:
        admitted = await saturate(gate_of(tpm=tpm), endless(30, 250, 1_000, 7), for_s=62)
        assert heaviest_window(admitted, 1.0) <= 1.05 * tpm / 60 + 1_000
        assert sum(tokens for at_s, tokens in admitted if 2 <= at_s < 62) >= 0.98 * tpm - 1_000

    run_virtual(main())


def test_of_two_limits_the_tighter_one_binds() -> None:
    async def main() -> tuple[int, int]:
        by_requests = await saturate(gate_of(rpm=600, tpm=1_000_000), endless(10), for_s=60)
        by_tokens = await saturate(gate_of(rpm=600, tpm=60_000), endless(1_000), for_s=60)
        return len(by_requests), len(by_tokens)

    by_requests, by_tokens = run_virtual(main())
    assert 582 <= by_requests <= 600
    assert 58 <= by_tokens <= 60


def test_the_start_is_a_ramp_from_a_tenth_of_the_rate() -> None:
    async def main() -> None:
        admitted = await saturate(gate_of(rpm=60_000), endless(1), for_s=2)
        tenths = [sum(1 for at_s, _ in admitted if n / 10 <= at_s < (n + 1) / 10) for n in range(20)]
        assert tenths[0] <= 15
        assert sum(tenths[:10]) <= 400
        for before, after in pairwise(tenths[:10]):
            assert before < after <= 1.4 * before
        assert all(98 <= tenth <= 100 for tenth in tenths[11:])

    run_virtual(main())


@pytest.mark.parametrize("idle_s", [6.0, 600.0])
def test_after_idling_it_is_a_ramp_again(idle_s: float) -> None:
    async def main() -> None:
        gate = gate_of(rpm=60_000)
        await saturate(gate, endless(1), for_s=3)
        await asyncio.sleep(idle_s)
        line = Line(gate)
        for n in range(400):
            line.send(str(n))
        await line.done()
        assert sum(1 for at_s, _ in line.admitted if at_s < 0.1) <= 15
        assert line.admitted[-1][0] > 0.9

    run_virtual(main())


def test_a_large_request_goes_at_once_and_those_behind_it_wait_until_it_is_paid_for() -> None:
    async def main() -> None:
        gate = gate_of(tpm=60_000)
        await saturate(gate, endless(50), for_s=2)
        line = Line(gate)
        line.send("large", 20_000)
        line.send("small", 100)
        line.send("next", 100)
        await line.done()
        assert line.at("large") == pytest.approx(0, abs=0.1)
        assert line.at("small") == pytest.approx(20 / HEADROOM, abs=0.1)
        assert line.at("next") == pytest.approx(20.1 / HEADROOM, abs=0.2)

    run_virtual(main())


def test_what_was_used_over_a_minute_ago_no_longer_counts() -> None:
    async def main() -> None:
        line = Line(gate_of(tpm=60_000))
        line.send("huge", 10_000_000)
        line.send("next", 100)
        await line.done()
        assert line.at("next") == pytest.approx(60, abs=0.1)

    run_virtual(main())


def test_requests_that_waited_for_tokens_may_catch_up_within_the_share_of_each_second() -> None:
    async def main() -> None:
        gate = gate_of(rpm=600, tpm=600_000)
        await saturate(gate, endless(100), for_s=5)
        line = Line(gate)
        line.send("large", 50_000)
        for n in range(30):
            line.send(str(n), 100)
        await line.done()
        behind = [at_s for at_s, name in line.admitted if name != "large"]
        assert behind[0] == pytest.approx(5 / HEADROOM, abs=0.2)
        assert behind[9] - behind[0] < 0.6
        assert heaviest_window([(at_s, 1) for at_s in behind], 1.0) <= 10

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
        line = Line(gate, held=True)
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
        line.send("short", 50)
        await line.done()
        assert line.at("long") == pytest.approx(20 * 0.05, abs=0.2)  # twenty short ones stand before it
        assert line.at("short") == pytest.approx(5 + 21 * 0.05, abs=0.2)
        await stream

    run_virtual(main())


def test_requests_wait_for_a_slot_and_a_release_lets_one_in() -> None:
    async def main() -> None:
        gate = gate_of(slots=2)
        line = Line(gate, held=True)
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
        line = Line(gate, held=True)
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
    async def main() -> None:
        gate_of().release(1, 1)

    with pytest.raises(RuntimeError, match="without acquire"):
        run_virtual(main())


# Cancelling


def test_who_is_cancelled_in_line_leaves_no_gap() -> None:
    async def main() -> None:
        gate = await warm(rpm=600)
        line = Line(gate)
        for name in "abcd":
            line.send(name)
        await asyncio.sleep(0.11)
        line.tasks["b"].cancel()
        line.tasks["c"].cancel()
        await line.done()
        assert line.names in (["a", "d"], ["a", "b", "d"])
        assert line.at("d") < 0.32
        assert gate.waiting == 0

    run_virtual(main())


def test_a_head_cancelled_while_it_waits_for_a_slot_leaves_the_slot_to_the_next() -> None:
    async def main() -> None:
        gate = gate_of(slots=1)
        await gate.acquire(1)
        line = Line(gate, held=True)
        line.send("head")
        line.send("next")
        await settled()
        gate.release(1, 1)
        line.tasks["head"].cancel()  # the slot was given back in this very turn of the loop
        await line.done()
        assert (line.names, gate.in_flight) == (["next"], 1)

    run_virtual(main())


@pytest.mark.parametrize(("limits", "tokens"), [({"rpm": 60}, 1), ({"tpm": 60_000}, 1_000)])
def test_a_head_cancelled_while_it_waits_for_its_pace_leaves_the_pace_to_the_next(
    limits: dict[str, float], tokens: int
) -> None:
    async def main() -> None:
        gate = await warm(**limits)
        await gate.acquire(tokens)
        gate.release(tokens, tokens)
        line = Line(gate)
        line.send("head", tokens)
        line.send("next", tokens)
        await asyncio.sleep(0.9)
        line.tasks["head"].cancel()
        await line.done()
        assert line.admitted == [(pytest.approx(1.01, abs=0.06), "next")]

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


async def later_admissions_s(reserved: int, actual: int | None, tokens: int) -> tuple[float, float]:
    """When the second and the third request are admitted, after the first reserved and used so many; 1,000 tokens a second."""
    gate = await warm(tpm=60_000)
    await gate.acquire(reserved)
    start_s = now()
    gate.release(reserved, actual)
    await gate.acquire(tokens)
    second_s = now() - start_s
    await gate.acquire(tokens)
    return second_s, now() - start_s


@pytest.mark.parametrize(
    ("reserved", "actual", "after_s"),
    [
        (1_000, 1_000, 1.0),
        (1_000, None, 1.0),
        (1_000, 4_000, 4.0),
        (1_000, 500, 0.5),
        (1_000, 0, 0.0),
        (9_000, 0, 0.0),  # and nothing of it is kept for the third
        (1_000, 10_000_000, 60.0),  # what was used over a minute ago no longer counts
    ],
)
def test_usage_settles_the_reservation_once(reserved: int, actual: int | None, after_s: float) -> None:
    second_s, third_s = run_virtual(later_admissions_s(reserved, actual, 2_000))
    assert second_s == pytest.approx(after_s, rel=0.02, abs=0.06)
    assert third_s == pytest.approx(after_s + 2, rel=0.02, abs=0.12)


def test_reservations_twice_too_high_still_use_the_whole_quota() -> None:
    async def main() -> None:
        gate = await warm(tpm=60_000)
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
        gate = await warm(tpm=60_000)
        await gate.acquire(1_000)
        line = Line(gate)
        line.send("by pace", 500)
        await asyncio.sleep(0.7)
        gate.slow("requests", 20)
        await line.done()
        assert line.at("by pace") == pytest.approx(20.7)

        full = gate_of(slots=1)
        await full.acquire(1)
        line = Line(full)
        line.send("by slot")
        await settled()
        full.slow("concurrency", 5)
        full.release(1, 0)
        await line.done()
        assert line.at("by slot") == pytest.approx(5.1)

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
        assert gate.cooling_until_s is None

    run_virtual(main())


def test_nobody_waits_longer_because_of_a_refusal_now_and_then() -> None:
    async def main() -> None:
        gate = await warm(rpm=6_000)
        chosen = gate.chosen
        for _ in range(20):
            for _ in range(99):
                await gate.acquire(1)
                gate.release(1, 1)
            await gate.acquire(1)
            gate.release(1, 0)
            gate.slow("requests", None, now())
            assert gate.cooling_until_s is None
        assert gate.chosen == chosen

    run_virtual(main())


def test_an_overloaded_answer_pauses_the_others_only_where_the_server_says_how_long() -> None:
    async def main() -> None:
        gate = gate_of()
        gate.slow("concurrency", None)
        assert await pause_after_s(gate) == pytest.approx(0)
        gate.slow("concurrency", 3)
        assert await pause_after_s(gate) == pytest.approx(3)

    run_virtual(main())


def test_while_everything_is_refused_all_wait_a_second_then_two_then_four_then_six_and_never_longer() -> None:
    async def main() -> None:
        notes: list[tuple[float, str]] = []
        gate = gate_of(rpm=6_000, note=lambda what: notes.append((now(), what)))
        await saturate(gate, endless(1), for_s=2)
        end_s = now() + 60
        while now() < end_s:
            await gate.acquire(1)
            admitted_s = now()
            await asyncio.sleep(0.05)
            gate.release(1, 0)
            gate.slow("requests", None, admitted_s)
        told = [what.split(": ") for _, what in notes]
        pauses = [what.split()[4] for what, _ in told if what.startswith("nothing is sent")]
        counts = [
            re.match(r"(\d+) of the latest (\d+) requests refused \(requests\)", why) for _, why in told[1:]
        ]
        assert all(
            found is not None and found[1] == found[2] for found in counts
        )  # none of them was answered
        assert pauses[:4] == ["1.0", "2.0", "4.0", "6.0"]
        assert set(pauses[4:]) == {"6.0"}
        cuts = [what.split(":")[0].split()[-3::2] for _, what in notes if "cut from" in what]
        assert len(cuts) > 3
        assert all(before != after for before, after in cuts)  # as slow as it may become: nothing to tell
        assert 10 <= gate.slowed["requests"] <= 150  # it is tried in such a time, but not much

    run_virtual(main())


def test_the_chosen_rate_is_the_one_that_holds_once_a_gentle_start_is_over() -> None:
    async def main() -> None:
        gate = gate_of(rpm=600)
        assert gate.chosen == (pytest.approx(HEADROOM * 600), None)
        gate.slow("requests", 30)
        assert gate.chosen == (pytest.approx(HEADROOM * 600), None)
        unknown = gate_of()
        before = unknown.chosen.requests_per_minute
        await saturate(unknown, endless(1), for_s=2)
        assert unknown.chosen.requests_per_minute > before  # which looks moved on

    run_virtual(main())


def test_five_hundred_refusals_of_what_went_before_are_one_cut() -> None:
    async def main() -> None:
        notes: list[str] = []
        gate = gate_of(rpm=60_000, note=notes.append)
        await saturate(gate, endless(1), for_s=2)
        for _ in range(64):
            await gate.acquire(1)
        sent_s = now()
        await asyncio.sleep(0.2)
        for _ in range(64):
            gate.release(1, 0)
            gate.slow("requests", None, sent_s)
        assert gate.slowed["requests"] == 64
        assert len([what for what in notes if "cut" in what]) == 1
        assert gate.cooling_until_s is None

    run_virtual(main())


def test_after_a_long_pause_requests_start_as_gently_as_at_first() -> None:
    async def main() -> None:
        gate = await warm(rpm=60_000)
        gate.slow("requests", 10)
        line = Line(gate)
        for n in range(300):
            line.send(str(n))
        await line.done()
        first_s = line.admitted[0][0]
        assert first_s == pytest.approx(10)
        assert sum(1 for at_s, _ in line.admitted if at_s < first_s + 0.1) <= 15

    run_virtual(main())


# Sharing


@pytest.mark.parametrize(("limits", "tokens"), [({"rpm": 600}, 1), ({"tpm": 600_000}, 1_000)])
def test_a_share_of_the_limits_holds_at_once(limits: dict[str, float], tokens: int) -> None:
    async def main() -> None:
        gate = await warm(**limits)
        gate.set_share(Shares(0.25, 0.25, 1))
        quarter = await saturate(gate, endless(tokens), for_s=40)
        assert len(quarter) == pytest.approx(100, rel=0.05)
        gate.set_share(WHOLE)
        assert len(await saturate(gate, endless(tokens), for_s=10)) == pytest.approx(100, rel=0.05)

    run_virtual(main())


def test_a_share_is_one_of_the_slots_too_and_leaves_one_at_least() -> None:
    async def main() -> None:
        gate = gate_of(rpm=60_000, slots=8)
        gate.set_share(Shares(1, 1, 0.5))
        line = Line(gate, held=True)
        for n in range(8):
            line.send(str(n))
        await settled()
        assert gate.in_flight == gate.ceiling == 4
        gate.set_share(WHOLE)  # the head waits already
        await settled()
        assert gate.in_flight == 8
        gate.set_share(Shares(1, 1, 0.001))
        assert gate.ceiling == 1
        await line.done()

    run_virtual(main())


def test_a_share_that_grows_takes_the_waiting_head_with_it() -> None:
    async def main() -> None:
        gate = await warm(rpm=600)
        gate.set_share(Shares(0.01, 1, 1))
        line = Line(gate)
        line.send("paid for at the small share")
        line.send("head")
        await asyncio.sleep(1)
        grown_s = now()
        gate.set_share(WHOLE)
        await line.done()
        assert now() - grown_s <= 0.25  # it would have waited for ten seconds

    run_virtual(main())


def test_a_run_that_was_held_back_by_its_share_in_flight_goes_on_as_from_the_start() -> None:
    async def main() -> None:
        gate = gate_of(slots=1_000)
        gate.set_share(Shares(1, 1, 0.01))
        assert gate.ceiling == 10
        gate.set_share(Shares(1, 1, 0.5))
        assert gate.ceiling == 64

        async def ask() -> None:
            while True:
                await gate.acquire(1)
                await asyncio.sleep(1)
                gate.release(1, 1)

        asking = [asyncio.create_task(ask()) for _ in range(1_000)]
        await asyncio.sleep(20)
        assert gate.ceiling == 500
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    run_virtual(main())


class Turns:
    """A common pace that lets a request go each second, whoever asks."""

    def __init__(self) -> None:
        self.next_s = -math.inf
        self.unused = 0.0
        self.cooled: list[float] = []

    def take(self, now_s: float, tokens: int) -> Turn:
        if now_s < self.next_s:
            return Turn(self.next_s - now_s, REQUESTS)
        self.next_s = now_s + 1
        return Turn(0.0)

    def settle(self, unused_tokens: float) -> None:
        self.unused += unused_tokens

    def cool(self, now_s: float, until_s: float) -> None:
        self.cooled.append(until_s - now_s)


def test_a_gate_that_shares_takes_turns_and_has_in_good_what_it_waited_for() -> None:
    async def main() -> None:
        gate, turns = await warm(rpm=60), Turns()
        gate.join(turns)
        gate.set_share(Shares(0.5, 1, 1))
        turns.next_s = now() + 5  # it is the others' turn
        line = Line(gate)
        for n in range(4):
            line.send(str(n))
        await line.done()
        assert [at_s for at_s, _ in line.admitted][:3] == pytest.approx([5, 6, 7])
        assert gate.turns_s == pytest.approx((8, 0, 0), abs=0.1)
        assert gate.held_back_s.requests <= 1
        await gate.acquire(100)
        gate.release(100, 30)
        gate.slow("requests", 8)
        assert turns.unused == 70
        assert turns.cooled == pytest.approx([8])

    run_virtual(main())


@pytest.mark.parametrize("share", [0, -1, 1.5, math.nan])
def test_a_share_is_a_part_of_one(share: float) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="share"):
            gate_of().set_share(Shares(1, share, 1))

    run_virtual(main())


def test_a_pause_told_by_another_process_holds_also_a_head_that_waits() -> None:
    async def main() -> None:
        notes: list[str] = []
        gate = gate_of(tpm=60_000, note=notes.append)
        await saturate(gate, endless(1), for_s=2)
        await gate.acquire(1_000)
        line = Line(gate)
        line.send("head", 1)
        await asyncio.sleep(0.5)
        until_s = now() + 5
        gate.cool_until(until_s)
        assert gate.cooling_until_s == until_s
        gate.cool_until(until_s - 3)  # an earlier one changes nothing
        assert notes == ["nothing is sent for 5.0 s: another run of this account was told to wait"]
        await line.done()
        assert line.at("head") == pytest.approx(5.5)

    run_virtual(main())


# Counters


def test_the_last_minute_is_counted_and_forgotten() -> None:
    async def main() -> None:
        gate = gate_of()
        assert gate.admitted_last_minute == gate.admitted == (0, 0)
        for _ in range(3):
            await gate.acquire(10)
        await asyncio.sleep(30)
        await gate.acquire(5)
        assert gate.admitted_last_minute == (4, 35)
        await asyncio.sleep(31)
        assert gate.admitted_last_minute == (1, 5)
        await asyncio.sleep(3_600)
        assert gate.admitted_last_minute == (0, 0)
        assert gate.admitted == (4, 35)

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


def test_all_that_may_go_go_in_one_turn_of_the_loop() -> None:
    """One a turn, and slots stand empty while many answers are worked on."""

    async def main() -> None:
        gate = gate_of(rpm=1e9, slots=FIRST)
        line = Line(gate, held=True)
        await asyncio.sleep(2)
        for name in range(3 * FIRST):
            line.send(str(name))
        await settled()
        assert len(line.names) == FIRST
        for _ in range(FIRST):
            gate.release(1, 0)
        for _ in range(3):
            await asyncio.sleep(0)
        assert line.names == [str(name) for name in range(2 * FIRST)]
        assert (gate.in_flight, gate.waiting) == (FIRST, FIRST)

    run_virtual(main())


def test_who_is_cancelled_after_it_was_let_go_gives_all_of_it_back() -> None:
    async def main() -> None:
        gate = gate_of(rpm=6_000, tpm=60_000, slots=2)
        line = Line(gate, held=True)
        await asyncio.sleep(2)
        for name in "abcd":
            line.send(name, 10)
        await settled()
        assert line.names == ["a", "b"]
        gate.release(10, 10)
        gate.release(10, 10)
        await asyncio.sleep(0)
        assert gate.admitted == (4, 40)
        line.tasks["d"].cancel()  # let go with c, and does not know it yet
        await settled()
        assert (line.names, gate.in_flight, gate.waiting) == (["a", "b", "c"], 1, 0)
        assert gate.admitted == (3, 30)
        line.send("e", 10)
        line.send("f", 10)
        await settled()
        assert (line.names, gate.in_flight) == (["a", "b", "c", "e"], 2)
        assert gate.admitted == (4, 40)

    run_virtual(main())
