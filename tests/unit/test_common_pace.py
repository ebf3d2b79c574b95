"""The pace that processes keep together: one rate for all, no second above it, one cool-down, and no trace of who was killed."""

import fcntl
import os
from pathlib import Path

import pytest

from pipeline.common_pace import CommonPace, pace_name
from pipeline.fair_shares import REQUESTS, TOKENS
from pipeline.leases import Rates
from tests.support.windows import heaviest_window

T = 1_000.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "pace"


def taken(
    paces: list[CommonPace], tokens: list[int], for_s: float, step_s: float = 0.001
) -> list[tuple[float, int]]:
    """Each asks in turn, all the time: what went, and when."""
    went: list[tuple[float, int]] = []
    for at in range(int(for_s / step_s)):
        for n, pace in enumerate(paces):
            if pace.take(T + at * step_s, tokens[n]).wait_s == 0.0:
                went.append((at * step_s, tokens[n]))
    return went


@pytest.mark.parametrize("rpm", [60, 600, 3_000])
def test_all_together_go_at_one_rate_and_no_second_is_above_it(file: Path, rpm: int) -> None:
    went = taken([CommonPace(file, Rates(rpm, None)) for _ in range(4)], [1] * 4, for_s=12)
    assert 0.96 <= len(went) / (rpm / 60 * 12) <= 1.09  # the first of a minute is at once
    assert heaviest_window([(at_s, 1.0) for at_s, _ in went], 1.0 - 1e-6) <= rpm / 60


def test_a_long_prompt_of_one_is_waited_for_by_all(file: Path) -> None:
    one, other = (CommonPace(file, Rates(None, 60_000)) for _ in range(2))
    assert one.take(T, 9_900).wait_s == 0.0
    assert other.take(T, 10).wait_s == pytest.approx(10.0)
    assert other.take(T + 4, 10).wait_s == pytest.approx(6.0)
    assert other.take(T + 10, 10).wait_s == 0.0


def test_who_waits_is_told_for_what(file: Path) -> None:
    pace = CommonPace(file, Rates(600, 60_000))
    pace.take(T, 10)
    assert pace.take(T, 10) == pytest.approx((0.101, REQUESTS), abs=0.001)
    pace.take(T + 0.2, 1_980)
    assert pace.take(T + 0.2, 10) == pytest.approx((2.0, TOKENS), abs=0.06)
    pace.cool(T + 1, T + 9)
    assert pace.take(T + 1, 10) == (8.0, None)


def test_what_was_not_used_is_given_back_to_all(file: Path) -> None:
    one, other = (CommonPace(file, Rates(None, 60_000)) for _ in range(2))
    one.take(T, 9_900)
    one.settle(9_900 - 990)
    one.look(T + 0.5)
    assert other.take(T + 0.5, 10).wait_s == pytest.approx(0.5)


def test_requests_that_waited_for_tokens_are_caught_up_with_within_the_seconds_share(file: Path) -> None:
    pace = CommonPace(file, Rates(600, 60_000))
    pace.take(T, 495)
    went = [at for at in range(1_000) if pace.take(T + 0.5 + at / 1_000, 1).wait_s == 0.0]
    assert went[3] <= 10  # those of the half second before, at once
    assert went[6] >= 100
    assert len(went) == 10


def test_what_is_caught_up_with_keeps_to_the_seconds_whose_share_is_a_whole_number(file: Path) -> None:
    paces = [CommonPace(file, Rates(500, 60_000)) for _ in range(3)]
    went: list[float] = []
    for ms in range(12_000):
        tokens = 590 if ms % 900 < 10 else 1  # a long prompt takes most of a second's tokens
        if paces[ms % 3].take(T + ms / 1_000, tokens).wait_s == 0.0:
            went.append(ms / 1_000)
    requests = [(at_s, 1.0) for at_s in went]
    assert heaviest_window(requests, 1.0) == 9
    assert heaviest_window(requests, 2.0) == 17
    assert heaviest_window(requests, 3.0) == 25


def test_a_cool_down_that_one_was_told_holds_for_all_at_once(file: Path) -> None:
    one, other = (CommonPace(file, Rates(None, None)) for _ in range(2))
    assert other.take(T, 1).wait_s == 0.0
    one.cool(T, T + 30)
    assert other.take(T + 1, 1).wait_s == pytest.approx(29)
    assert other.look(T + 1) == T + 30
    other.cool(T, T + 10)  # an earlier one changes nothing
    assert one.take(T + 12, 1).wait_s == pytest.approx(18)
    assert one.take(T + 30, 1).wait_s == 0.0


def test_without_known_rates_nobody_waits(file: Path) -> None:
    pace = CommonPace(file, Rates(None, None))
    assert {pace.take(T, 1_000_000).wait_s for _ in range(100)} == {0.0}


def test_a_lock_held_by_another_is_asked_for_again_in_an_instant(file: Path) -> None:
    pace = CommonPace(file, Rates(60, None))
    with file.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert 0 < pace.take(T, 1).wait_s < 0.01
        pace.cool(T, T + 5)
    assert pace.take(T, 1).wait_s == pytest.approx(5)  # told while it was locked


@pytest.mark.parametrize("said", [b"", b"\0" * 10, b"\xff" * 200, b"\x7f" * 48])
def test_a_damaged_file_is_a_new_one(file: Path, said: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(said)
    pace = CommonPace(file, Rates(60, None))
    assert pace.take(T, 1).wait_s == 0.0
    assert pace.take(T, 1).wait_s == pytest.approx(1, rel=0.02)


def test_what_another_start_of_the_machine_left_holds_nothing(file: Path) -> None:
    CommonPace(file, Rates(None, None)).cool(T, T + 500)
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    assert CommonPace(file, Rates(None, None)).take(T, 1).wait_s == 0.0


def test_a_file_that_was_removed_is_made_anew_and_shared_by_all(file: Path) -> None:
    one = CommonPace(file, Rates(60, None))
    file.unlink()
    other = CommonPace(file, Rates(60, None))
    one.look_at_file()
    assert one.take(T, 1).wait_s == 0.0
    assert other.take(T, 1).wait_s > 0.9


def test_trouble_with_the_file_stops_nobody_and_is_kept_to_be_told(file: Path) -> None:
    pace = CommonPace(file, Rates(60, None))
    pace.close()
    assert pace.take(T, 1).wait_s == 0.0
    assert isinstance(pace.trouble, OSError)


def test_the_file_is_its_owners_alone_and_small(file: Path) -> None:
    before = os.umask(0)
    try:
        pace = CommonPace(file, Rates(60_000, None))
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    for n in range(50_000):
        pace.take(T + n, 1)
    assert file.stat().st_size < 200_000


def test_each_pool_has_a_file_whatever_its_name() -> None:
    assert pace_name("a/../b qwen") != pace_name("a qwen")
    assert "/" not in pace_name("a/../b")
