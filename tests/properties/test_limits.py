"""Whatever is asked, released, cancelled or slowed in whatever order, the gate keeps its promises."""

import asyncio
import math
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.gate import Bucket, Limits
from pipeline.limits import LocalGate
from pipeline.pace import LATE_S, LONGEST_DEBT_S
from tests.support.clock import run_virtual
from tests.support.windows import heaviest_window

LARGEST = 2_000

LIMITS = st.builds(
    Limits,
    requests_per_minute=st.sampled_from([None, 60.0, 600.0, 30_000.0]),
    tokens_per_minute=st.sampled_from([None, 60_000.0, 1_000_000.0]),
    max_concurrency=st.sampled_from([1, 2, 5, 1_000]),
)
BUCKETS = st.sampled_from(["requests", "tokens", "burst", "concurrency"])
NUMBERS = st.integers(0, 1_000)
STEPS = st.one_of(
    st.tuples(st.just("acquire"), st.integers(0, LARGEST), st.integers(1, 10)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.0001, 0.03, 0.5, 2.0, 70.0])),
    st.tuples(st.just("release"), NUMBERS, st.none() | st.integers(0, 2 * LARGEST)),
    st.tuples(st.just("cancel"), NUMBERS),
    st.tuples(st.just("slow"), BUCKETS, st.none() | st.sampled_from([0.2, 3.0, 20.0, 1e6])),
)


@dataclass
class Play:
    """One gate with everything that was done to it."""

    gate: LocalGate
    ceiling: int
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    admitted: list[tuple[float, int, int]] = field(default_factory=list)  # time, place in line, tokens
    passed: list[tuple[int, int]] = field(default_factory=list)  # before it: in line when it came, went since
    slowed: set[Bucket] = field(default_factory=set)
    in_flight: list[int] = field(default_factory=list)  # tokens
    closed: list[tuple[float, float]] = field(default_factory=list)  # from, until
    tokens_per_s: float = math.inf
    paid_s: float = 0.0  # all that went is paid for by then, at the rate of the limit itself

    async def request(self, place: int, tokens: int) -> None:
        in_line, went = self.gate.waiting, len(self.admitted)
        await self.gate.acquire(tokens)
        self.passed.append((in_line, len(self.admitted) - went))
        now_s = asyncio.get_running_loop().time()
        assert now_s >= self.paid_s - 1e-6, "nothing goes before all that went is paid for"
        self.paid_s = min(
            max(self.paid_s, now_s - LATE_S) + tokens / self.tokens_per_s, now_s + LONGEST_DEBT_S
        )
        self.admitted.append((now_s, place, tokens))
        self.in_flight.append(tokens)
        # Others may have been let go with this one, and do not know it yet.
        assert len(self.in_flight) <= self.gate.in_flight <= self.ceiling

    def release(self, which: int, actual: int | None) -> None:
        if self.in_flight:
            reserved = self.in_flight.pop(which % len(self.in_flight))
            self.gate.release(reserved, actual)
            if actual is not None:
                now_s = asyncio.get_running_loop().time()
                self.paid_s = min(
                    self.paid_s - (reserved - actual) / self.tokens_per_s, now_s + LONGEST_DEBT_S
                )

    def cancel(self, which: int) -> None:
        if self.tasks:
            self.tasks[which % len(self.tasks)].cancel()

    def slow(self, bucket: Bucket, retry_after_s: float | None) -> None:
        now_s = asyncio.get_running_loop().time()
        self.gate.slow(bucket, retry_after_s)
        self.slowed.add(bucket)
        if retry_after_s is not None:
            self.closed.append((now_s, now_s + min(retry_after_s, 300.0)))

    async def step(self, step: tuple) -> None:
        match step:
            case ("acquire", tokens, times):
                for place in range(len(self.tasks), len(self.tasks) + times):
                    self.tasks.append(asyncio.create_task(self.request(place, tokens)))
            case ("wait", seconds):
                await asyncio.sleep(seconds)
                for _ in range(4):
                    await asyncio.sleep(0)
                assert self.gate.in_flight == len(self.in_flight), "who was let go knows it"
            case ("release", which, actual):
                self.release(which, actual)
            case ("cancel", which):
                self.cancel(which)
            case ("slow", bucket, retry_after_s):
                self.slow(bucket, retry_after_s)

    async def finish(self) -> None:
        """Answer what is in flight until nobody waits: a lost slot or turn would be a hang."""
        while pending := [task for task in self.tasks if not task.done()]:
            while self.in_flight:
                self.release(0, None)
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        while self.in_flight:
            self.release(0, None)


@settings(deadline=None)
@given(LIMITS, st.lists(STEPS, min_size=12, max_size=60))  # without a least size most lists are tiny
def test_any_interleaving_keeps_every_promise(limits: Limits, steps: list[tuple]) -> None:
    async def main() -> Play:
        tokens_per_s = (limits.tokens_per_minute or math.inf) / 60
        play = Play(LocalGate(limits), limits.max_concurrency, tokens_per_s=tokens_per_s)
        for step in steps:
            await play.step(step)
        await play.finish()
        return play

    play = run_virtual(main(), max_virtual_s=1e9)
    assert play.gate.in_flight == play.gate.waiting == 0
    for task in play.tasks:
        assert task.cancelled() or task.exception() is None

    places = [place for _, place, _ in play.admitted]
    known = (limits.requests_per_minute, limits.tokens_per_minute), ("requests", "tokens")
    if all(limit is not None or bucket in play.slowed for limit, bucket in zip(*known, strict=True)):
        assert all(went <= 2 * in_line for in_line, went in play.passed), "nobody waits for twice the line"
        for size in {tokens for _, _, tokens in play.admitted}:
            alike = [place for _, place, tokens in play.admitted if tokens == size]
            assert alike == sorted(alike), "of one size first come, first served"
    else:
        assert places == sorted(places), "first come, first served"
    assert len(places) == sum(1 for task in play.tasks if not task.cancelled())

    for at_s, _, _ in play.admitted:
        assert not any(from_s < at_s < until_s - 1e-6 for from_s, until_s in play.closed)

    if limits.requests_per_minute is not None:
        requests = [(at_s, 1.0) for at_s, _, _ in play.admitted]
        assert heaviest_window(requests, 1.0 - 1e-6) <= max(limits.requests_per_minute / 60, 1)
