"""A gate at work against a provider's quota, on the virtual clock: rows without end, slow answers, quick refusals.

The simulator's own windows judge (`pipeline.simulator.quota`). What must come of it stands in the tests.
"""

import asyncio
import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.expectation import Expectation
from pipeline.failures import POLICIES
from pipeline.gate import Bucket
from pipeline.limits import LocalGate
from pipeline.records import FailureKind
from pipeline.simulator.faults import FaultKind
from pipeline.simulator.quota import Quota
from pipeline.simulator.settings import Settings

WIRE_S = 0.02  # each way
BUCKETS: dict[FaultKind, tuple[Bucket, FailureKind]] = {
    FaultKind.LIMIT_REQUESTS: ("requests", FailureKind.RATE_REQUESTS),
    FaultKind.LIMIT_TOKENS: ("tokens", FailureKind.RATE_TOKENS),
    FaultKind.LIMIT_BURST: ("burst", FailureKind.RATE_BURST),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked: sizes of prompt and answer by a row's own chance, and how long an answer takes."""

    prompt: Callable[[random.Random], int] = lambda chance: 200
    answer: Callable[[random.Random], int] = lambda chance: 100
    latency_s: Callable[[random.Random], float] = lambda chance: chance.lognormvariate(0.0, 0.4)
    workers: int = 400
    noise: Callable[[float], float] = lambda at_s: (
        0.0
    )  # share of requests refused whatever the quota, by the time


@dataclass
class Provider:
    """What a provider grants, and its ledger; `slots` answer at a time, the rest of the requests wait for one."""

    settings: Settings
    slots: int | None = None
    start_s: float = 0.0
    quota: Quota = field(init=False)
    taken_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    waits: list[tuple[int, float]] = field(default_factory=list)  # tokens, seconds in the gate's line
    in_flight: int = 0

    def __post_init__(self) -> None:
        self.quota = Quota(self.settings)
        self.start_s = asyncio.get_running_loop().time()
        self._slots = None if self.slots is None else asyncio.Semaphore(self.slots)

    def change(self, settings: Settings) -> None:
        """From now on another quota holds."""
        self.settings, self.quota = settings, Quota(settings)

    def change_at(self, at_s: float, settings: Settings) -> None:
        asyncio.get_running_loop().call_at(self.start_s + at_s, self.change, settings)

    def between(self, from_s: float, to_s: float) -> slice:
        return slice(bisect_left(self.taken_s, from_s), bisect_left(self.taken_s, to_s))

    def requests_used(self, from_s: float, to_s: float) -> float:
        """The share of the request quota used in these seconds."""
        taken = self.taken_s[self.between(from_s, to_s)]
        return len(taken) / ((self.settings.requests_per_minute or 0) / 60 * (to_s - from_s))

    def tokens_used(self, from_s: float, to_s: float) -> float:
        used = sum(self.tokens[self.between(from_s, to_s)])
        return used / ((self.settings.tokens_per_minute or 0) / 60 * (to_s - from_s))

    def sent(self, from_s: float, to_s: float) -> int:
        refused = sum(1 for at_s in self.refused_s if from_s <= at_s < to_s)
        return len(self.taken_s[self.between(from_s, to_s)]) + refused

    def refused_share(self, from_s: float, to_s: float) -> float:
        refused = sum(1 for at_s in self.refused_s if from_s <= at_s < to_s)
        return refused / max(self.sent(from_s, to_s), 1)

    async def ask(self, tokens: int, latency_s: float, noise: bool) -> FaultKind | None:
        now_s = asyncio.get_running_loop().time()
        fault = FaultKind.LIMIT_REQUESTS if noise else self.quota.admit("m", tokens, now_s)
        if fault is not None:
            self.refused_s.append(now_s - self.start_s)
            return fault
        self.taken_s.append(now_s - self.start_s)
        self.tokens.append(tokens)
        self.in_flight += 1
        try:
            if self._slots is None:
                await asyncio.sleep(latency_s)
            else:
                async with self._slots:
                    await asyncio.sleep(latency_s)
        finally:
            self.in_flight -= 1
        return None


async def work(gate: LocalGate, provider: Provider, load: Load, chance: random.Random) -> None:
    """One process's rows through one gate, until cancelled."""
    loop = asyncio.get_running_loop()
    expectation = Expectation()

    async def worker() -> None:
        while True:
            prompt, answer = load.prompt(chance), load.answer(chance)
            for attempt in range(1, 1000):
                reserved = expectation.tokens(prompt)
                began_s = loop.time()
                await gate.acquire(reserved)
                admitted_s = loop.time()
                provider.waits.append((prompt, admitted_s - began_s))
                await asyncio.sleep(WIRE_S)
                noise = chance.random() < load.noise(loop.time() - provider.start_s)
                fault = await provider.ask(prompt + answer, load.latency_s(chance), noise)
                await asyncio.sleep(WIRE_S)
                gate.release(reserved, prompt + answer if fault is None else 0)
                if fault is None:
                    expectation.learn(prompt, prompt, answer)
                    break
                bucket, kind = BUCKETS[fault]
                gate.slow(bucket, None, admitted_s)
                backoff = POLICIES[kind].backoff
                assert backoff is not None
                await asyncio.sleep(backoff.wait_s(attempt, chance.random()))

    async with asyncio.TaskGroup() as workers:
        for _ in range(load.workers):
            workers.create_task(worker())


async def played(gate: LocalGate, provider: Provider, load: Load, for_s: float, seed: int = 0) -> None:
    """Let a gate work for so long."""
    working = asyncio.create_task(work(gate, provider, load, random.Random(seed)))
    await asyncio.wait([working], timeout=for_s)
    if working.done():
        working.result()
    working.cancel()
    await asyncio.wait([working])
