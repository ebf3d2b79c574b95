"""The ledger of months: no two runs spend the same money, killed ones leave their grant standing, a folder counts once."""

import os
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.budget import MonthSpend
from pipeline.errors import JobError, SetupError
from pipeline.monthly import LedgerError, MonthlyLedger, Scope, month_of, read_ledger

NOW = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
NOVEMBER, DECEMBER = 202611, 202612


def opened(
    file: Path, folder: str = "a", *, cap: int = 1_000, scope: str = "team", currency: str = "CNY"
) -> MonthlyLedger:
    about = Scope(
        name=scope,
        cap=cap,
        currency=currency,
        folder=folder,
        path=Path("/runs") / folder,
        job=f"job-{folder}",
    )
    return MonthlyLedger(file, about, lambda: NOW)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.mark.parametrize(
    ("moment", "month"),
    [
        (NOW, NOVEMBER),
        (NOW + timedelta(minutes=1), DECEMBER),
        # Beijing's December begins eight hours before UTC's, New York's five hours after.
        (datetime(2026, 12, 1, 7, 59, tzinfo=timezone(timedelta(hours=8))), NOVEMBER),
        (datetime(2026, 11, 30, 19, 0, tzinfo=timezone(timedelta(hours=-5))), DECEMBER),
        (datetime(2027, 1, 1, 0, 0, tzinfo=UTC), 202701),
    ],
)
def test_a_month_is_one_of_utc_wherever_the_run_is(moment: datetime, month: int) -> None:
    assert month_of(moment) == month


def test_the_ledger_and_its_folder_are_their_owners_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        opened(file).begin([MonthSpend(NOVEMBER)], exact=True)
    finally:
        os.umask(before)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}


def test_a_run_is_granted_what_is_left_and_not_more(file: Path) -> None:
    one, other = opened(file), opened(file, "b")
    mine, theirs = MonthSpend(NOVEMBER), MonthSpend(NOVEMBER, paid=300, maybe=50)
    one.begin([mine], exact=True)
    other.begin([theirs], exact=True)
    assert one.grant(mine, 640) >= 640
    assert one.room(NOVEMBER) == 650
    assert other.grant(theirs, 11) == 350  # the other has what is left
    assert one.grant(mine, 651) < 651
    assert one.grant(mine, 650) == 650


def test_a_grant_is_a_share_of_what_is_left_so_that_others_find_room(file: Path) -> None:
    one = opened(file, cap=32_000)
    spend = MonthSpend(NOVEMBER)
    assert one.grant(spend, 1) == 1 + 31_999 // 32


def test_what_was_granted_and_is_not_needed_goes_back(file: Path) -> None:
    one, other = opened(file), opened(file, "b")
    mine, theirs = MonthSpend(NOVEMBER), MonthSpend(NOVEMBER)
    assert one.grant(mine, 1_000) == 1_000
    assert other.grant(theirs, 1) == 0
    mine.paid = 10
    one.note(mine)
    assert 10 < mine.granted < 100
    assert other.grant(theirs, 900) >= 900
    one.close([mine])
    assert mine.granted == 10
    assert other.grant(theirs, 990) == 990


def test_a_killed_run_leaves_its_grant_standing_until_the_same_folder_goes_on(file: Path) -> None:
    killed = MonthSpend(NOVEMBER)
    opened(file).grant(killed, 600)
    other, theirs = opened(file, "b"), MonthSpend(NOVEMBER)
    assert other.grant(theirs, 401) == 0
    again = opened(file)
    spend = MonthSpend(NOVEMBER, paid=100, maybe=20)
    again.begin([spend], exact=True)
    assert spend.granted == 120
    assert other.grant(theirs, 880) == 880
    assert again.grant(spend, 1) == 120


def test_a_folder_that_lost_its_journal_is_not_believed_to_have_spent_less(file: Path) -> None:
    opened(file).grant(MonthSpend(NOVEMBER), 600)
    again, spend = opened(file), MonthSpend(NOVEMBER, paid=100)
    again.begin([spend], exact=False)
    assert spend.granted >= 600


def test_a_month_and_a_scope_do_not_know_of_another(file: Path) -> None:
    one = opened(file)
    assert one.grant(MonthSpend(NOVEMBER), 1_000) == 1_000
    assert one.grant(MonthSpend(DECEMBER), 1_000) == 1_000
    assert opened(file, "b", scope="other").grant(MonthSpend(NOVEMBER), 1_000) == 1_000
    assert opened(file, "b").grant(MonthSpend(NOVEMBER), 1) == 0


def test_a_scope_counts_in_one_currency(file: Path) -> None:
    opened(file).begin([MonthSpend(NOVEMBER)], exact=True)
    with pytest.raises(
        JobError, match=r'scope "team" counts in CNY \(job job-a\), and this job is billed in USD'
    ):
        opened(file, "b", currency="USD").begin([MonthSpend(NOVEMBER)], exact=True)
    opened(file, "b", currency="USD", scope="abroad").begin([MonthSpend(NOVEMBER)], exact=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3_000), st.integers(1, 200), st.integers(0, 2**32))
def test_runs_side_by_side_that_are_killed_and_resumed_never_spend_more_than_the_cap(
    tmp_path_factory: pytest.TempPathFactory, cap: int, worst: int, seed: int
) -> None:
    """Three run folders, each asking in turn; a killed one forgets its grant, its journal does not forget what it spent."""
    random = Random(seed)
    file = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    spends = {name: MonthSpend(NOVEMBER) for name in "abc"}
    ledgers = {name: opened(file, name, cap=cap) for name in spends}
    for _ in range(60):
        name = random.choice("abc")
        spend, ledger = spends[name], ledgers[name]
        what = random.random()
        if what < 0.1:  # killed with its last request in flight, and resumed
            spends[name] = spend = MonthSpend(NOVEMBER, spend.paid, spend.maybe + spend.held)
            ledgers[name] = opened(file, name, cap=cap)
            ledgers[name].begin([spend], exact=True)
        elif what < 0.2:
            ledger.note(spend)
        elif spend.spent + spend.held + worst <= spend.granted or ledger.grant(spend, worst) >= (
            spend.spent + spend.held + worst
        ):
            spend.held += worst
            if random.random() < 0.7:
                spend.held -= worst
                spend.paid += random.randint(0, worst)
        assert sum(one.spent + one.held for one in spends.values()) <= cap
        rows = read_ledger(file)
        assert sum(row.paid + row.maybe + row.reserved for row in rows) <= Decimal(cap).scaleb(-9)


def test_what_is_read_tells_each_folder_by_scope_and_month(file: Path) -> None:
    assert read_ledger(file) == []
    ledger = opened(file)
    ended = MonthSpend(202610, paid=5_000_000_000, maybe=1)
    going_on = MonthSpend(NOVEMBER, paid=1_000_000_000)
    ledger.begin([ended, going_on], exact=True)
    ledger.grant(going_on, 0)
    opened(file, "b", cap=10**10).grant(MonthSpend(NOVEMBER), 2_000_000_000)
    rows = read_ledger(file)
    assert [(row.scope, row.month, row.job, row.folder) for row in rows] == [
        ("team", "2026-10", "job-a", Path("/runs/a")),
        ("team", "2026-11", "job-a", Path("/runs/a")),
        ("team", "2026-11", "job-b", Path("/runs/b")),
    ]
    assert (rows[0].paid, rows[0].maybe, rows[0].reserved) == (5, Decimal("1e-9"), 0)
    assert rows[2].reserved > 2
    assert (rows[0].currency, rows[0].updated) == ("CNY", "2026-11-30T23:59:00+00:00")


# What may be wrong with it


def test_a_ledger_that_is_none_is_refused_and_not_begun_anew(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(
        SetupError, match=r"cannot be used: file is not a database\. Nothing was sent\. Put a copy"
    ):
        opened(file)
    assert file.read_bytes().startswith(b"no database")
    with pytest.raises(SetupError, match="cannot be read"):
        read_ledger(file)


def test_a_ledger_of_another_version_is_refused(file: Path) -> None:
    opened(file)
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(SetupError, match="ledger 9, here 1"):
        opened(file)


def test_a_state_folder_that_is_a_file_is_refused(file: Path) -> None:
    file.parent.write_text("")
    with pytest.raises(SetupError, match="cannot be used"):
        opened(file)


def test_a_ledger_that_takes_no_more_writes_grants_nothing(file: Path) -> None:
    ledger, spend = opened(file), MonthSpend(NOVEMBER)
    with sqlite3.connect(file) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON spend BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(LedgerError, match=r"disk full\. Nothing more is sent"):
        ledger.grant(spend, 1)
    assert read_ledger(file) == []
