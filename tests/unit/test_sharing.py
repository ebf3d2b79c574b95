"""Runs that share an account's limits, on the virtual clock: what each wants, has and says, and what comes of it together."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.errors import SetupError
from pipeline.fair_shares import WHOLE, Shares
from pipeline.gate import Admitted, Common, Limits
from pipeline.leases import FREE, LEASES_NAME, Party, Rates
from pipeline.limits import LocalGate
from pipeline.sharing import LEAST, TRACE, Appetite, sharing
from pipeline.simulator.settings import Settings
from tests.support.clock import run_virtual
from tests.support.granted import Load, Provider, played

ALL = 1 - FREE


class FakeGate:
    """What sharing sees of a gate, as a test sets it."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.cooling_until_s: float | None = None
        self.admitted = Admitted(0, 0)
        self.shares = WHOLE
        self.held_back = Shares(0.0, 0.0, 0.0)  # of the time
        self.turns = Shares(0.0, 0.0, 0.0)
        self.clock: Callable[[], float] = now
        self.common: Common | None = None

    @property
    def held_back_s(self) -> Shares:
        return Shares(*(part * self.clock() for part in self.held_back))

    @property
    def turns_s(self) -> Shares:
        return Shares(*(part * self.clock() for part in self.turns))

    def set_share(self, shares: Shares) -> None:
        self.shares = shares

    def cool_until(self, until_s: float) -> None:
        self.cooling_until_s = until_s

    def join(self, common: Common) -> None:
        self.common = common

    def went(self, requests: int, tokens: int) -> None:
        self.admitted = Admitted(self.admitted.requests + requests, self.admitted.tokens + tokens)


ONLY_REQUESTS = Rates(600, None)


def now() -> float:
    return asyncio.get_running_loop().time()


def party(run: str = "a", *, weight: float = 1.0, rates: Rates = ONLY_REQUESTS, most: int = 1_000) -> Party:
    return Party(pool="team", run=run, weight=weight, rates=rates, most=most)


# What a run wants

RATES = Rates(600, 60_000)


def wants(gate: FakeGate, *, requests: int, tokens: int, seconds: int = 12, most: int = 100) -> Shares:
    """After so many seconds of so many requests and tokens each."""
    appetite = Appetite(gate, most)
    for second in range(seconds):
        gate.went(requests, tokens)
        gate.clock = lambda at_s=float(second): at_s
        last = appetite.look(float(second), RATES, 0.2)
    return last


def test_at_first_a_run_wants_all() -> None:
    assert wants(FakeGate(), requests=0, tokens=0, seconds=3) == WHOLE


def test_a_run_that_nothing_holds_back_wants_what_it_uses() -> None:
    gate = FakeGate()
    gate.in_flight = 4
    assert wants(gate, requests=1, tokens=40) == pytest.approx((0.1, 0.04, 0.05))
    gate.held_back = Shares(0.2, 0.1, 0.1)  # now and then something does
    assert wants(gate, requests=1, tokens=40) == pytest.approx((0.1, 0.04, 0.05))


def test_an_idle_run_leaves_all_but_a_trace() -> None:
    assert max(wants(FakeGate(), requests=0, tokens=0)) == pytest.approx(TRACE)


@pytest.mark.parametrize(
    ("held_back", "turns", "wanted"),
    [
        (Shares(0.9, 0.1, 0.0), (0, 0, 0), Shares(1.0, 0.04, 0.0375)),
        (Shares(0.1, 0.8, 0.1), (0, 0, 0), Shares(0.2, 1.0, 0.0375)),
        (Shares(0.0, 0.0, 0.95), (0, 0, 0), Shares(0.2, 0.04, 1.0)),
        (Shares(0.4, 0.5, 0.1), (0, 0, 0), Shares(1.0, 1.0, 0.0375)),
        # It only waits for its turn: of requests it comes to its part, of tokens it does not.
        (Shares(0.1, 0.1, 0.0), (0.4, 0.4, 0), Shares(1.0, 0.04, 0.0375)),
    ],
)
def test_a_run_that_is_held_back_wants_all_of_what_does_it(
    held_back: Shares, turns: tuple[float, float, float], wanted: Shares
) -> None:
    gate = FakeGate()
    gate.in_flight, gate.held_back, gate.turns = 3, held_back, Shares(*turns)
    assert wants(gate, requests=2, tokens=40) == pytest.approx(wanted)


def test_of_a_rate_that_nobody_knows_all_is_wanted() -> None:
    gate = FakeGate()
    gate.clock = float
    appetite = Appetite(gate, 100)
    for second in range(5):
        last = appetite.look(float(second), Rates(None, None), 0.2)
    assert last[:2] == (1.0, 1.0)


def test_while_nothing_may_be_sent_it_wants_what_it_wanted() -> None:
    gate = FakeGate()
    gate.clock = float
    appetite = Appetite(gate, 100)
    for second in range(12):
        gate.went(1, 40)
        before = appetite.look(float(second), RATES, 0.2)
    gate.cooling_until_s = 40.0
    assert {appetite.look(float(second), RATES, 0.2) for second in range(12, 40)} == {before}


# Beats


def played_with(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main()

    run_virtual(whole())


def test_a_run_has_its_share_before_it_begins_and_gives_it_back_at_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = FakeGate(), FakeGate()
        said: list[str] = []
        async with sharing(one, party(), tmp_path, said.append):
            assert one.shares == pytest.approx((ALL, ALL, ALL))
            assert one.common is not None
            async with sharing(other, party("b"), tmp_path, said.append):
                assert max(other.shares) == pytest.approx(FREE)
                await asyncio.sleep(2.5)
                assert one.shares == other.shares == pytest.approx((ALL / 2, ALL / 2, ALL / 2))
                assert any(
                    "2 runs share the account's limits: this one has 50% of the requests" in note
                    for note in said
                )
            await asyncio.sleep(1.5)
            assert one.shares == pytest.approx((ALL, ALL, ALL))

    played_with(main)


def test_who_comes_where_nothing_is_free_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        gates = [FakeGate() for _ in range(8)]
        for gate in gates:
            gate.held_back = Shares(1.0, 1.0, 1.0)

        async def run(n: int) -> None:
            began_s = now()
            async with sharing(gates[n], party(f"run {n}"), tmp_path, lambda _: None):
                assert now() - began_s < 2
                assert min(gates[n].shares) >= LEAST
                await asyncio.sleep(6)
                assert sum(gate.shares.requests for gate in gates) <= 1 + 1e-9
                assert gates[n].shares.requests == pytest.approx(ALL / 8)
                await asyncio.sleep(1)

        await asyncio.gather(*(run(n) for n in range(8)))

    played_with(main)


def test_the_least_priority_beside_the_greatest_has_its_part(tmp_path: Path) -> None:
    async def main() -> None:
        least, greatest = FakeGate(), FakeGate()
        least.held_back = greatest.held_back = Shares(1.0, 1.0, 1.0)
        async with (
            sharing(greatest, party(weight=100), tmp_path, lambda _: None),
            sharing(least, party("b", weight=0.01), tmp_path, lambda _: None),
        ):
            await asyncio.sleep(3)
            assert least.shares.requests == pytest.approx(ALL / 10_001)
            async with sharing(FakeGate(), party("c", weight=0.01), tmp_path, lambda _: None):
                await asyncio.sleep(3)

    played_with(main)


def test_of_limits_that_differ_the_smaller_hold_for_both_and_both_say_so(tmp_path: Path) -> None:
    async def main() -> None:
        one, other, said = FakeGate(), FakeGate(), list[str]()
        one.held_back = other.held_back = Shares(1.0, 1.0, 0.0)
        async with (
            sharing(one, party(rates=Rates(600, None)), tmp_path, said.append),
            sharing(other, party("b", rates=Rates(2_400, 60_000)), tmp_path, said.append),
        ):
            await asyncio.sleep(3.5)
            assert one.shares.requests == pytest.approx(ALL / 2)
            assert other.shares[:2] == pytest.approx((ALL / 8, ALL / 2))  # of its own 2,400
        assert sum("the smaller ones hold for both. Name the same in both jobs" in note for note in said) == 2

    played_with(main)


def test_a_cool_down_that_one_was_told_holds_the_others_too(tmp_path: Path) -> None:
    async def main() -> None:
        limits = Limits(requests_per_minute=600, tokens_per_minute=None, max_concurrency=100)
        one, other = LocalGate(limits, lambda _: None), LocalGate(limits, lambda _: None)
        async with (
            sharing(one, party(), tmp_path, lambda _: None),
            sharing(other, party("b"), tmp_path, lambda _: None),
        ):
            await asyncio.sleep(3)
            told_s = now()
            one.slow("requests", 30)
            await other.acquire(1)
            assert now() - told_s >= 30
            assert other.cooling_until_s is None
            one.slow("requests", 30)
            await asyncio.sleep(1.1)
            assert other.cooling_until_s == one.cooling_until_s  # and `status` tells it

    played_with(main)


def test_a_state_folder_that_takes_no_files_is_an_error_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")

    async def main() -> None:
        gate = FakeGate()
        with pytest.raises(SetupError, match="Nothing was sent"):
            async with sharing(gate, party(), tmp_path / "state", lambda _: None):
                pass
        assert gate.common is None

    played_with(main)


def test_a_file_that_fails_while_the_run_goes_on_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.leases._PATIENCE_S", 0.01)

    async def main() -> None:
        gate = FakeGate()
        gate.held_back = Shares(1.0, 0.0, 0.0)
        async with sharing(gate, party(), tmp_path, lambda _: None):
            with closing(sqlite3.connect(tmp_path / LEASES_NAME, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(5)
                assert gate.shares.requests == pytest.approx(ALL)
            await asyncio.sleep(2)
            async with sharing(FakeGate(), party("b"), tmp_path, lambda _: None):
                await asyncio.sleep(2)
                assert gate.shares.requests == pytest.approx(ALL / 2)

    played_with(main)
    assert sum("cannot be divided anew" in record.message for record in caplog.records) == 1


# Four runs against one quota


class Seen(NamedTuple):
    """What the provider counted, and what each run sent, of requests and of tokens, since `SETTLED_S`."""

    provider: Provider
    requests: list[int]
    tokens: list[int]


SETTLED_S, END_S = 15.0, 75.0


def four(
    tmp_path: Path,
    quota: Settings,
    loads: list[Load],
    *,
    weights: tuple[float, ...] = (1, 1, 1, 1),
) -> Seen:
    """So many runs, begun at different moments, each with rows without end."""

    async def main() -> Seen:
        provider = Provider(quota)
        gates: list[LocalGate] = []
        settled: list[Admitted] = []
        rates = Rates(quota.requests_per_minute, quota.tokens_per_minute)

        async def run(n: int) -> None:
            await asyncio.sleep(n * 0.37)
            gate = LocalGate(
                Limits(
                    requests_per_minute=rates.requests_per_minute,
                    tokens_per_minute=rates.tokens_per_minute,
                    max_concurrency=1_000,
                ),
                lambda _: None,
            )
            gates.append(gate)
            about = party(f"run {n}", weight=weights[n], rates=rates)
            async with sharing(gate, about, tmp_path, lambda _: None):
                await played(gate, provider, loads[n], END_S - now() + provider.start_s, seed=n)

        async def look() -> None:
            await asyncio.sleep(SETTLED_S)
            settled.extend(gate.admitted for gate in gates)

        await asyncio.gather(look(), *(run(n) for n in range(len(loads))))
        sent = [gate.admitted for gate in gates]
        return Seen(
            provider,
            [after.requests - before.requests for after, before in zip(sent, settled, strict=True)],
            [after.tokens - before.tokens for after, before in zip(sent, settled, strict=True)],
        )

    return run_virtual(main())


def assert_all_used(seen: Seen, used: float) -> None:
    assert used >= 0.95
    assert seen.provider.refused_share(0, END_S) <= 0.005


@pytest.mark.parametrize("rpm", [60, 600, 3_000])
def test_four_runs_together_use_the_quota_without_a_refusal_and_each_as_much(
    tmp_path: Path, rpm: int
) -> None:
    seen = four(tmp_path, Settings(requests_per_minute=rpm), [Load(workers=100)] * 4)
    assert_all_used(seen, seen.provider.requests_used(SETTLED_S, END_S))
    assert max(seen.requests) <= 1.05 * min(seen.requests) + 1


def test_long_prompts_of_one_run_do_not_get_the_others_refused(tmp_path: Path) -> None:
    """Each of them is worth two seconds of the whole quota, and eight of its run's share."""
    long = Load(prompt=lambda chance: 30_000, workers=100)
    seen = four(tmp_path, Settings(tokens_per_minute=1_000_000), [long, *[Load(workers=100)] * 3])
    assert_all_used(seen, seen.provider.tokens_used(SETTLED_S, END_S))
    longs, *others = seen.tokens
    assert max(others) <= 1.05 * min(others)
    assert abs(longs - max(others)) <= 3 * 30_000


def test_priority_is_the_part_of_the_quota(tmp_path: Path) -> None:
    seen = four(tmp_path, Settings(requests_per_minute=1_200), [Load(workers=100)] * 4, weights=(3, 1, 1, 1))
    assert_all_used(seen, seen.provider.requests_used(SETTLED_S, END_S))
    first, *others = seen.requests
    assert [3 * other / first for other in others] == pytest.approx([1, 1, 1], rel=0.05)


def test_runs_that_are_held_back_by_different_limits_use_both(tmp_path: Path) -> None:
    """Neither takes what it cannot use. While a long prompt is paid for, requests lapse, and not all are caught up with."""
    long, short = (
        Load(prompt=lambda chance: 20_000, workers=100),
        Load(prompt=lambda chance: 30, workers=200),
    )
    seen = four(tmp_path, Settings(requests_per_minute=3_000, tokens_per_minute=3_000_000), [long, short])
    assert_all_used(seen, seen.provider.tokens_used(25, END_S))
    assert seen.provider.requests_used(25, END_S) >= 0.6


def test_runs_whose_requests_and_tokens_bind_in_turn_are_not_refused(tmp_path: Path) -> None:
    """Each chooses among its own rows, and so a second of all is less even than one of each: not 95 % are used."""
    mixed = Load(prompt=lambda chance: round(30 * 1_000 ** chance.random()), workers=100)
    seen = four(tmp_path, Settings(requests_per_minute=500, tokens_per_minute=2_000_000), [mixed] * 4)
    assert seen.provider.tokens_used(SETTLED_S, END_S) >= 0.8
    assert seen.provider.refused_share(0, END_S) <= 0.003


def test_what_a_slow_run_leaves_the_others_have(tmp_path: Path) -> None:
    slow = Load(latency_s=lambda chance: chance.lognormvariate(2.3, 0.4), workers=20)  # two a second at most
    seen = four(tmp_path, Settings(requests_per_minute=1_200), [slow, *[Load(workers=100)] * 2])
    assert_all_used(seen, seen.provider.requests_used(20, END_S))
    assert seen.requests[0] >= 110
