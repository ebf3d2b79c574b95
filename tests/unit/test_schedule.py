"""When a run must have ended: tables of clocks."""

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest

from pipeline.schedule import Closed, End, Window, end_of_run

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
NIGHT = Window(start=time(22), end=time(7), zone=SHANGHAI)
LUNCH = Window(start=time(12), end=time(13, 30), zone=SHANGHAI)


def at(text: str, zone: ZoneInfo = SHANGHAI) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


@pytest.mark.parametrize(
    ("window", "now", "closes"),
    [
        (NIGHT, "2026-03-01 22:00", "2026-03-02 07:00"),
        (NIGHT, "2026-03-01 23:59", "2026-03-02 07:00"),
        (NIGHT, "2026-03-02 06:59:59", "2026-03-02 07:00"),
        (NIGHT, "2026-03-02 07:00", None),
        (NIGHT, "2026-03-02 21:59:59", None),
        (LUNCH, "2026-03-01 12:00", "2026-03-01 13:30"),
        (LUNCH, "2026-03-01 13:30", None),
        (LUNCH, "2026-03-01 00:10", None),
        (Window(start=time(0), end=time(0), zone=SHANGHAI), "2026-03-01 15:00", "2026-03-02 00:00"),
    ],
)
def test_a_window_closes_at_its_end_over_midnight_too(window: Window, now: str, closes: str | None) -> None:
    assert window.closes(at(now)) == (None if closes is None else at(closes))


@pytest.mark.parametrize(
    ("window", "now", "opens"),
    [
        (NIGHT, "2026-03-02 07:00", "2026-03-02 22:00"),
        (NIGHT, "2026-03-02 22:00", "2026-03-03 22:00"),
        (LUNCH, "2026-12-31 14:00", "2027-01-01 12:00"),
    ],
)
def test_a_closed_window_says_when_it_opens(window: Window, now: str, opens: str) -> None:
    assert window.opens(at(now)) == at(opens)


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        ("2026-03-28 22:00", 8),  # clocks go forward in this night
        ("2026-10-24 22:00", 10),  # and back in this
        ("2026-06-01 22:00", 9),
    ],
)
def test_a_night_in_which_clocks_change_is_shorter_or_longer(now: str, hours: int) -> None:
    window = Window(start=time(22), end=time(7), zone=BERLIN)
    end = end_of_run(at(now, BERLIN), deadline_s=None, window=window, grace_s=30)
    assert isinstance(end, End)
    assert end.feed_s + end.lead_s == hours * 3600


def test_the_window_is_of_its_own_zone_wherever_the_machine_is() -> None:
    assert NIGHT.closes(at("2026-03-01 15:00", ZoneInfo("UTC"))) == at("2026-03-02 07:00")
    assert NIGHT.closes(at("2026-03-01 13:00", ZoneInfo("UTC"))) is None


def test_the_earlier_of_deadline_and_windows_end_counts_and_feeding_stops_a_grace_before() -> None:
    now = at("2026-03-02 06:00")
    by_window = end_of_run(now, deadline_s=7200, window=NIGHT, grace_s=30)
    assert by_window == End(3570, 30, "the window 22:00-07:00 closes; run the same command again to go on")
    by_deadline = end_of_run(now, deadline_s=600, window=NIGHT, grace_s=30)
    assert by_deadline == End(
        570, 30, "the deadline of 600 s is reached; run the same command again to go on"
    )
    assert end_of_run(now, deadline_s=None, window=None, grace_s=30) is None


def test_a_short_deadline_is_not_all_grace() -> None:
    end = end_of_run(at("2026-03-02 06:00"), deadline_s=10, window=None, grace_s=30)
    assert isinstance(end, End)
    assert (end.feed_s, end.lead_s) == (5, 5)


def test_outside_the_window_nothing_runs_and_it_is_said_when_it_opens() -> None:
    closed = end_of_run(at("2026-03-02 08:00"), deadline_s=60, window=NIGHT, grace_s=30)
    assert closed == Closed(
        "outside the window 22:00-07:00, which opens at 2026-03-02 22:00 CST: nothing was sent; "
        "run the same command then"
    )
