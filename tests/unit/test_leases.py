"""Leases of an account's limits: nobody holds what another has, the dead hold nothing, and who wants less leaves the rest."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SetupError
from pipeline.fair_shares import WHOLE, Shares
from pipeline.leases import FREE, SILENT_S, Leases, Party, Rates
from pipeline.processes import ProcessName, has_ended, this_process

ALL = 1 - FREE
T = 1_000.0
KNOWN = Rates(600, None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "limits.sqlite"


def member(
    file: Path,
    run: str = "a",
    *,
    pool: str = "team",
    weight: float = 1.0,
    rates: Rates = KNOWN,
    process: ProcessName | None = None,
) -> Leases:
    return Leases(file, Party(pool=pool, run=run, weight=weight, rates=rates, most=64), process)


def settled(
    members: dict[str, Leases], wants: dict[str, Shares] | None = None, now_s: float = T
) -> dict[str, Shares]:
    """What each has after three beats of all."""
    held: dict[str, Shares] = {}
    for beat in range(3):
        for name, leases in members.items():
            held[name] = leases.beat((wants or {}).get(name, WHOLE), now_s + beat).shares
    return held


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that lives until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def named(pid: int) -> ProcessName:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return this_process()._replace(pid=pid, started=stat.rpartition(")")[2].split()[19])


def test_file_and_folder_are_their_owners_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        member(file).beat(WHOLE, T)
    finally:
        os.umask(before)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}


def test_who_is_alone_has_all_but_what_is_kept_for_who_comes(file: Path) -> None:
    lease = member(file).beat(WHOLE, T)
    assert lease.shares == pytest.approx((ALL, ALL, ALL))
    assert (lease.members, lease.rates, lease.others) == (1, KNOWN, None)


def test_who_comes_has_no_more_than_others_have_let_go_of(file: Path) -> None:
    first, second = member(file), member(file, "b")
    first.beat(WHOLE, T)
    assert second.beat(WHOLE, T + 0.1).shares == pytest.approx((FREE, FREE, FREE))
    assert second.beat(WHOLE, T + 0.2).shares == pytest.approx((FREE, FREE, FREE))
    assert first.beat(WHOLE, T + 1).shares == pytest.approx((ALL / 2, ALL / 2, ALL / 2))
    assert second.beat(WHOLE, T + 1.1).shares == pytest.approx((ALL / 2, ALL / 2, ALL / 2))


def test_priority_is_a_weight(file: Path) -> None:
    runs = {"a": member(file, weight=3)} | {name: member(file, name) for name in "bcd"}
    held = settled(runs)
    assert held["a"].requests == pytest.approx(ALL / 2)
    assert [held[name].requests for name in "bcd"] == pytest.approx([ALL / 6] * 3)


def test_each_kind_is_divided_by_itself(file: Path) -> None:
    """A run of long prompts has the tokens, one of short prompts the requests."""
    wants = {"long": Shares(0.1, 1.0, 0.2), "short": Shares(1.0, 0.2, 1.0)}
    held = settled({name: member(file, name) for name in wants}, wants)
    assert held["short"] == pytest.approx(
        (0.9 * ALL, 0.25 * ALL, 0.8 * ALL)
    )  # of tokens a quarter more than it uses
    assert held["long"] == pytest.approx((0.125 * ALL, 0.8 * ALL, 0.2 * ALL))


def test_what_is_held_and_not_used_is_free_but_for_requests_in_flight(file: Path) -> None:
    one, other = member(file), member(file, "b")
    one.beat(Shares(0.1, 0.1, 0.1), T)
    assert other.beat(WHOLE, T).shares == pytest.approx((0.9 * ALL, 0.9 * ALL, FREE))
    one.beat(Shares(0.1, 0.1, 0.1), T + 1)
    assert other.beat(WHOLE, T + 1).shares.in_flight == pytest.approx(0.9 * ALL)


def test_pools_do_not_share(file: Path) -> None:
    held = settled({"a": member(file, pool="team qwen-plus"), "b": member(file, "b", pool="team qwen-max")})
    assert [shares.requests for shares in held.values()] == pytest.approx([ALL, ALL])


def test_who_ends_gives_back_at_once(file: Path) -> None:
    runs = {"a": member(file), "b": member(file, "b")}
    settled(runs)
    runs["b"].close()
    assert runs["a"].beat(WHOLE, T + 3).shares.requests == pytest.approx(ALL)


def test_who_is_killed_holds_nothing_at_the_next_beat_of_another(
    file: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    runs = {"a": member(file), "b": member(file, "b", process=named(sleeper.pid))}
    assert settled(runs)["a"].requests == pytest.approx(ALL / 2)
    sleeper.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # dead, and its parent does not know yet
    assert runs["a"].beat(WHOLE, T + 3).shares.requests == pytest.approx(ALL)
    sleeper.wait()
    assert has_ended(named(os.getpid())._replace(pid=sleeper.pid)) is True


def test_a_process_of_the_same_number_is_another(file: Path) -> None:
    runs = {"a": member(file), "b": member(file, "b", process=this_process()._replace(started="1"))}
    settled(runs)
    assert runs["a"].beat(WHOLE, T + 3).members == 1


def test_who_cannot_be_seen_from_here_holds_until_it_is_silent_for_long(file: Path) -> None:
    """In a container process numbers are others."""
    runs = {"a": member(file), "b": member(file, "b", process=this_process()._replace(space=1, pid=1))}
    settled(runs)
    assert runs["a"].beat(WHOLE, T + 2 + SILENT_S - 0.1).shares.requests == pytest.approx(ALL / 2)
    assert runs["a"].beat(WHOLE, T + 2 + SILENT_S + 0.1).shares.requests == pytest.approx(ALL)


def test_rows_of_before_the_machine_was_started_hold_nothing(file: Path) -> None:
    """Nor do those of another machine that sees the same folder; the clock of either may stand anywhere."""
    before = member(file, "b", process=this_process()._replace(boot="another"))
    before.beat(WHOLE, 99_999.0)
    assert member(file).beat(WHOLE, T).members == 1


@pytest.mark.parametrize("step_s", [-3_600, 3_600])
def test_a_beat_from_another_time_is_none(file: Path, step_s: float) -> None:
    member(file, "b").beat(WHOLE, T + step_s)
    assert member(file).beat(WHOLE, T).members == 1


def test_of_limits_that_differ_the_smaller_ones_hold_and_it_is_said(file: Path) -> None:
    one, other = member(file, rates=Rates(600, None)), member(file, "b", rates=Rates(1_200, 90_000))
    one.beat(WHOLE, T)
    lease = other.beat(WHOLE, T)
    assert lease.rates == Rates(600, 90_000)
    assert lease.others == Rates(600, None)
    assert one.beat(WHOLE, T).others == Rates(1_200, 90_000)
    assert str(lease.others) == "600 requests and any number of tokens a minute"


class Blocked:
    """Another process in the midst of a transaction."""

    def __init__(self, file: Path) -> None:
        self.db = sqlite3.connect(file, isolation_level=None)
        self.db.execute("BEGIN IMMEDIATE")


def test_a_file_that_another_holds_for_long_is_an_error_and_the_next_beat_goes_on(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.leases._PATIENCE_S", 0.01)
    leases = member(file)
    leases.beat(WHOLE, T)
    with closing(Blocked(file).db) as db:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            leases.beat(WHOLE, T + 1)
        db.execute("ROLLBACK")
    assert leases.beat(WHOLE, T + 2).shares.requests == pytest.approx(ALL)


def test_a_file_that_was_removed_is_made_anew_and_shared_by_all(file: Path) -> None:
    first = member(file)
    first.beat(WHOLE, T)
    for path in file.parent.iterdir():
        path.unlink()
    second = member(file, "b")
    second.beat(WHOLE, T)
    assert first.beat(WHOLE, T + 1).members == 2
    assert second.beat(WHOLE, T + 1).members == 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda file: file.write_bytes(b"no database " * 200),
            "Remove it while no run goes on: nothing in it outlasts a run",
        ),
        (lambda file: file.mkdir(), "Make it writable"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_says_what_to_do(
    file: Path, spoil: object, said: str
) -> None:
    file.parent.mkdir()
    spoil(file)  # type: ignore[operator]
    with pytest.raises(
        SetupError, match=rf"limits.sqlite.*Nothing was sent\. {said}, or take \[limits\] account out"
    ):
        member(file)


def test_a_file_of_another_version_is_left_alone(file: Path) -> None:
    member(file).close()
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(SetupError, match="another version of promptmill"):
        member(file)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.tuples(*[st.floats(0, 1)] * 3), st.booleans()),
        min_size=1,
        max_size=25,
    )
)
def test_whatever_the_order_of_beats_nobody_holds_what_another_does(
    tmp_path_factory: pytest.TempPathFactory, beats: list[tuple[str, tuple[float, float, float], bool]]
) -> None:
    file = tmp_path_factory.mktemp("leases") / "limits.sqlite"
    runs: dict[str, Leases] = {}
    held: dict[str, tuple[float, ...]] = {}
    for at, (name, wants, ends) in enumerate(beats):
        leases = runs.setdefault(name, member(file, name, weight=1 + ord(name) % 3))
        shares = leases.beat(Shares(*wants), T + at / 100).shares
        held[name] = (
            *map(min, shares[:2], wants),
            shares.in_flight,
        )  # what of a rate is held for growing is lent
        assert all(sum(shares[kind] for shares in held.values()) <= 1 + 1e-9 for kind in range(3))
        if ends:
            runs.pop(name).close()
            del held[name]
    for leases in runs.values():
        leases.close()
