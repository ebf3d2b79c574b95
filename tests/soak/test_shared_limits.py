"""Four processes with one account against one quota, a minute each: the figures of docs/limits.md, by the provider's ledger."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.simulator.settings import Settings
from tests.support.sharers import Count, Place, Sharer, account, arrived_s, wait_until

FOR_S = 60.0
SETTLED_S = 15.0  # after the last run's first request
SLOW = pytest.mark.slow
Say = Callable[[str], None]
NAMES = ("a", "b", "c", "d")
MIXED = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def printed(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)  # noqa: T201  (figures for docs/limits.md)

    return printed


def settings(rpm: float | None = None, tpm: float | None = None) -> Settings:
    return Settings(requests_per_minute=rpm, tokens_per_minute=tpm, ledger_entries=1_000_000)


def limits(rpm: float | None = None, tpm: float | None = None) -> str:
    known = {"requests_per_minute": rpm, "tokens_per_minute": tpm}
    return "\n".join(f"{name} = {value}" for name, value in known.items() if value is not None)


def counted(
    folder: Path, sharers: list[Sharer], *, rpm: float | None = None, tpm: float | None = None
) -> tuple[Count, Count]:
    """What the provider counted from the first request on, and of a minute of all once they had settled."""
    with account(settings(rpm, tpm)) as provider:
        place = Place(folder, provider.base_url, limits(rpm, tpm))
        with place.running(*sharers) as runs:
            provider.wait(lambda: len(provider.ledger.keys) == len(sharers))
            settled_s = arrived_s(provider) + SETTLED_S
            wait_until(provider, settled_s + FOR_S)
            assert {run.process.poll() for run in runs.values()} == {None}  # all had enough to do
        return Count(provider, 0, settled_s + FOR_S), Count(provider, settled_s, settled_s + FOR_S)


def refusals(whole: Count, minute: Count) -> str:
    return f"{minute.refused_share:.2%} refused ({whole.refused} of {whole.sent} from the start)"


def assert_hardly_refused(whole: Count, minute: Count) -> None:
    """At the start the first request of a process may be on its way for longer than the next one's of another."""
    assert minute.refused_share < 0.005
    assert whole.refused <= max(0.005 * whole.sent, len(NAMES))


@SLOW
@pytest.mark.parametrize("rpm", [120, 600, 2_400, 6_000])
def test_four_runs_use_a_request_quota_together_and_each_as_much(tmp_path: Path, rpm: int, say: Say) -> None:
    whole, minute = counted(tmp_path, [Sharer(name) for name in NAMES], rpm=rpm)
    used, went = minute.requests_used(rpm), minute.requests.values()
    say(f"{rpm:,} requests a minute: {used:.1%} used, {refusals(whole, minute)}, {dict(minute.requests)}")
    assert used >= 0.95
    assert_hardly_refused(whole, minute)
    assert max(went) <= 1.1 * min(went) + 1


@SLOW
def test_four_runs_of_mixed_lengths_use_a_token_quota_together_and_each_as_much(
    tmp_path: Path, say: Say
) -> None:
    tpm = 1_000_000
    whole, minute = counted(tmp_path, [Sharer(name, words=MIXED, rows=3_000) for name in NAMES], tpm=tpm)
    used, went = minute.tokens_used(tpm), minute.tokens.values()
    say(f"{tpm:,} tokens a minute: {used:.1%} used, {refusals(whole, minute)}, {dict(minute.tokens)}")
    assert used >= 0.95
    assert_hardly_refused(whole, minute)
    assert max(went) <= 1.1 * min(went)


@SLOW
def test_priority_is_a_runs_part(tmp_path: Path, say: Say) -> None:
    rpm = 2_400
    sharers = [Sharer(name, priority=3 if name == "a" else 1) for name in NAMES]
    whole, minute = counted(tmp_path, sharers, rpm=rpm)
    parts = {name: minute.requests[name] / minute.requests.total() for name in NAMES}
    say(
        f"priority 3:1:1:1: {minute.requests_used(rpm):.1%} used, {refusals(whole, minute)}, "
        + ", ".join(f"{part:.3f}" for part in parts.values())
    )
    assert minute.requests_used(rpm) >= 0.95
    assert_hardly_refused(whole, minute)
    assert parts == pytest.approx({"a": 1 / 2, "b": 1 / 6, "c": 1 / 6, "d": 1 / 6}, rel=0.1)


@SLOW
def test_what_a_killed_run_had_the_others_use_within_three_seconds(tmp_path: Path, say: Say) -> None:
    rpm = 2_400
    with account(settings(rpm)) as provider:
        place = Place(tmp_path, provider.base_url, limits(rpm))
        with place.running(*(Sharer(name) for name in NAMES)) as runs:
            provider.wait(lambda: len(provider.ledger.keys) == len(NAMES))
            wait_until(provider, arrived_s(provider) + SETTLED_S)
            runs["a"].kill()
            killed_s = arrived_s(provider)
            wait_until(provider, killed_s + 25)
        whole = Count(provider, 0, killed_s + 23)
        seconds = [Count(provider, killed_s + n, killed_s + n + 1).requests.total() for n in range(6)]
        after = Count(provider, killed_s + 3, killed_s + 23)
    say(
        f"killed: requests in each second after it {seconds} of {rpm / 60:.0f}; from the third on {after.requests_used(rpm):.1%} "
        f"used, {whole.refused_share:.2%} refused, {dict(after.requests)}"
    )
    assert after.requests_used(rpm) >= 0.95
    assert_hardly_refused(whole, after)
    assert after.requests.pop("a") == 0
    assert max(after.requests.values()) <= 1.1 * min(after.requests.values())


@SLOW
def test_a_run_that_comes_does_not_double_the_pace(tmp_path: Path, say: Say) -> None:
    """Its first seconds: no second of all together holds more than the quota, by more than timers scatter."""
    rpm = 2_400
    with account(settings(rpm=None)) as provider:  # it counts and refuses nothing
        place = Place(tmp_path, provider.base_url, limits(rpm))
        with place.running(Sharer("a")):
            provider.wait(lambda: "a" in provider.ledger.keys)
            wait_until(provider, arrived_s(provider) + 5)
            with place.running(Sharer("b")):
                provider.wait(lambda: "b" in provider.ledger.keys)
                came_s = arrived_s(provider)
                wait_until(provider, came_s + 12)
        most = max(Count(provider, came_s - 2 + n / 10, came_s - 1 + n / 10).sent for n in range(100))
        later = Count(provider, came_s + 4, came_s + 10)
    say(
        f"one comes to another: at most {most} requests in a second, of {rpm / 60:.0f}; then {dict(later.requests)}"
    )
    assert most <= 1.05 * rpm / 60 + 1
    assert max(later.requests.values()) <= 1.1 * min(later.requests.values()) + 1
