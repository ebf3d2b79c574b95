"""What the gate makes of a provider's quota, judged by the provider: the simulator's windows, on the virtual clock.

Shares are of the whole quota, refusals of all requests sent in the same time; both from the provider's own count.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.gate import Limits
from pipeline.limits import LocalGate
from pipeline.simulator.settings import Settings
from tests.support.clock import run_virtual
from tests.support.granted import Load, Provider, played
from tests.support.windows import heaviest_window

SEEDS = (1, 2)


def mixed(chance: random.Random) -> int:
    """Prompts of 30 to 30,000 tokens, each order of magnitude as frequent."""
    return round(30 * 1_000 ** chance.random())


PLAIN, MIXED = Load(), Load(prompt=mixed)
Changes = tuple[tuple[float, Callable[[Provider], None]], ...]


def told(
    quota: Settings,
    load: Load = PLAIN,
    *,
    for_s: float,
    seed: int = 1,
    rpm: float | None = None,
    tpm: float | None = None,
    slots: int | None = None,
    most: int = 2_000,
    then: tuple[float, Settings] | None = None,
) -> tuple[Provider, LocalGate, list[str]]:
    """Play so many seconds under a quota, of which the gate is told `rpm` and `tpm`; `then` another quota holds."""

    async def main() -> tuple[Provider, LocalGate, list[str]]:
        notes: list[str] = []
        limits = Limits(requests_per_minute=rpm, tokens_per_minute=tpm, max_concurrency=most)
        gate, provider = LocalGate(limits, notes.append), Provider(quota, slots=slots)
        if then is not None:
            provider.change_at(*then)
        await played(gate, provider, load, for_s, seed)
        return provider, gate, notes

    return run_virtual(main())


# Known limits


@pytest.mark.parametrize(
    ("rpm", "more", "settled_s"),
    [
        (60, {}, 5),
        (600, {}, 5),
        (6_000, {}, 5),
        (60, {"window_s": 6}, 12),
        (3_000, {"window_s": 6}, 12),
        (6_000, {"burst_growth": 1.5}, 30),
        (
            3_000,
            {"window_s": 6, "burst_growth": 1.5},
            60,
        ),  # half as much again in each window: from 30 to 300
    ],
)
def test_a_known_request_quota_is_used_and_kept(rpm: int, more: dict[str, Any], settled_s: float) -> None:
    provider, _, _ = told(Settings(requests_per_minute=rpm, **more), for_s=settled_s + 60, rpm=rpm)
    assert provider.requests_used(settled_s, settled_s + 60) >= 0.97
    assert provider.refused_share(settled_s, settled_s + 60) <= 0.003
    sent = [(at_s, 1.0) for at_s in sorted(provider.taken_s + provider.refused_s)]
    assert heaviest_window(sent, 1.0 - 1e-6) <= max(rpm / 60, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tpm", [1_000_000, 10_000_000])
def test_a_known_token_quota_is_used_and_kept_whatever_the_lengths(tpm: int, seed: int) -> None:
    provider, _, _ = told(Settings(tokens_per_minute=tpm), MIXED, for_s=125, tpm=tpm, seed=seed)
    assert provider.tokens_used(5, 125) >= 0.97
    assert provider.refused_share(5, 125) <= 0.003


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("rpm", "tpm"),
    [(3_000, 1_000_000), (60, 1_000_000), (600, 1_500_000), (1_200, 5_000_000), (500, 2_000_000)],
)
def test_of_two_known_quotas_the_binding_one_is_used(rpm: int, tpm: int, seed: int) -> None:
    """In the last three a second of short prompts would be bound by requests, and one of long prompts by tokens."""
    provider, _, _ = told(
        Settings(requests_per_minute=rpm, tokens_per_minute=tpm),
        MIXED,
        for_s=245,
        rpm=rpm,
        tpm=tpm,
        seed=seed,
    )
    assert max(provider.requests_used(5, 245), provider.tokens_used(5, 245)) >= 0.97
    assert provider.refused_share(5, 245) <= 0.003
    sent = [(at_s, 1.0) for at_s in sorted(provider.taken_s + provider.refused_s)]
    assert heaviest_window(sent, 1.0 - 1e-6) <= math.ceil(rpm / 60)
    assert heaviest_window(sent, 3.0 - 1e-6) <= rpm / 20  # 8.3 a second are not nine in each


@pytest.mark.parametrize("rpm", [None, 600, 1_200], ids=["tokens alone", "600", "1,200"])
def test_long_prompts_wait_no_longer_than_short_ones(rpm: int | None) -> None:
    tpm = 1_500_000 if rpm == 600 else 5_000_000
    provider, _, _ = told(
        Settings(requests_per_minute=rpm, tokens_per_minute=tpm), MIXED, for_s=240, rpm=rpm, tpm=tpm
    )
    long = [wait_s for prompt, wait_s in provider.waits if prompt > 10_000]
    short = [wait_s for prompt, wait_s in provider.waits if prompt < 100]
    assert len(long) > 100
    assert len(short) > 100
    assert sum(long) / len(long) <= 2 * sum(short) / len(short)  # and so a token of theirs waits a hundredth
    assert sum(short) / len(short) <= 2 * sum(long) / len(long)


# Unknown limits


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "rpm", [300, 3_000, 30_000], ids=["started ten times too high", "as it is", "ten times too low"]
)
def test_an_unknown_request_quota_is_found(rpm: int, seed: int) -> None:
    for_s = 180 if rpm < 30_000 else 90
    provider, _, _ = told(Settings(requests_per_minute=rpm), Load(workers=1_000), for_s=for_s, seed=seed)
    assert provider.requests_used(60, for_s) >= 0.9
    assert provider.refused_share(60, for_s) < 0.01


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("tpm", "load"), [(1_000_000, PLAIN), (5_000_000, MIXED)], ids=["alike", "mixed"])
def test_an_unknown_token_quota_is_found(tpm: int, load: Load, seed: int) -> None:
    provider, _, _ = told(Settings(tokens_per_minute=tpm), load, for_s=240, seed=seed)
    assert provider.tokens_used(60, 240) >= 0.9
    assert provider.refused_share(60, 240) < 0.01


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("quota", "least"),
    [
        (Settings(requests_per_minute=3_000, window_s=6), 0.9),
        # What bursts of short prompts meet is no sign that the tokens' quota is smaller, nor the other way round.
        (Settings(requests_per_minute=600, tokens_per_minute=1_500_000), 0.9),
        (Settings(requests_per_minute=1_200, tokens_per_minute=5_000_000), 0.9),
        (Settings(requests_per_minute=1_200, tokens_per_minute=5_300_000), 0.9),
    ],
    ids=[
        "windows of 6 s",
        "requests and tokens in turn",
        "with little left of one",
        "with nothing left of either",
    ],
)
def test_unknown_quotas_of_other_kinds_are_found_too(quota: Settings, least: float, seed: int) -> None:
    load = PLAIN if quota.tokens_per_minute is None else MIXED
    provider, _, _ = told(quota, load, for_s=240, seed=seed)
    used = provider.requests_used(60, 240), provider.tokens_used(60, 240) if quota.tokens_per_minute else 0.0
    assert max(used) >= least
    assert provider.refused_share(60, 240) < 0.01


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("rpm", [600, 3_000])
def test_a_quota_that_halves_or_doubles_is_followed_within_half_a_minute(
    rpm: int, factor: float, seed: int
) -> None:
    after = Settings(requests_per_minute=int(rpm * factor))
    provider, _, _ = told(Settings(requests_per_minute=rpm), for_s=210, seed=seed, then=(120, after))
    assert provider.requests_used(150, 210) >= 0.85
    assert provider.refused_share(150, 210) < 0.015


def test_less_than_was_said_is_found_as_well_and_more_again() -> None:
    said = Settings(requests_per_minute=3_000)
    provider, _, notes = told(Settings(requests_per_minute=1_500), for_s=180, rpm=3_000, then=(120, said))
    assert provider.requests_used(150, 180) >= 0.97
    assert provider.refused_share(60, 180) < 0.01
    assert provider.refused_share(160, 180) == 0
    assert any(note.startswith("requests a minute cut from") for note in notes)


# Storms


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rpm", [None, 3_000], ids=["unknown", "known"])
def test_a_minute_in_which_half_is_refused(rpm: int | None, seed: int) -> None:
    storm = Load(noise=lambda at_s: 0.5 if 60 <= at_s < 120 else 0.0)
    provider, gate, notes = told(Settings(requests_per_minute=3_000), storm, for_s=150, rpm=rpm, seed=seed)
    assert provider.sent(60, 120) <= 1.3 * 3_000
    assert provider.requests_used(135, 150) >= 0.9
    assert gate.in_flight < storm.workers
    pauses = [note for note in notes if note.startswith("nothing is sent for")]
    assert 1 <= len(pauses) <= 60


@pytest.mark.parametrize("rpm", [600, 3_000])
def test_refusals_that_come_whatever_the_pace_cost_a_known_quota_only_themselves(rpm: int) -> None:
    noisy = Load(noise=lambda at_s: 0.02)
    provider, _, _ = told(Settings(requests_per_minute=rpm), noisy, for_s=125, rpm=rpm)
    assert provider.requests_used(5, 125) >= 0.95


# A server that is full


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slots", [32, 200])
def test_no_more_are_in_flight_than_give_throughput(slots: int, seed: int) -> None:
    provider, gate, notes = told(Settings(), Load(workers=1_500), for_s=300, slots=slots, seed=seed)
    assert slots <= gate.ceiling <= 1.6 * slots
    answers = provider.sent(200, 300)
    assert answers >= 0.93 * 100 * slots / 1.083  # seconds of slots; the mean of an answer's time
    assert any("in flight:" in note for note in notes)


def test_where_throughput_follows_all_that_the_job_allows_are_in_flight() -> None:
    provider, gate, _ = told(Settings(), Load(workers=1_500), for_s=60, most=512)
    assert gate.ceiling == 512
    assert provider.sent(30, 60) >= 0.97 * 30 * 512 / (1.083 + 0.04)
