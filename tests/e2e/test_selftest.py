"""`promptmill selftest` as a user runs it: the real checks, once, on the disk of the tests."""

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cli import CommandLine, Ended

KEY = "sk-the-users-own-key"


@dataclass(frozen=True)
class Tried:
    """A selftest that has ended: what it said, and what it left."""

    ended: Ended
    left_in_folder: list[Path]
    left_alive: list[int]

    def line(self, number: int) -> str:
        (found,) = [line for line in self.ended.stdout.splitlines() if line.startswith(f"{number}  ")]
        return found


PATIENCE_S = 300.0  # a bound and no more: where other tests share the machine it takes longer


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """One selftest for all tests here: it takes a good part of a minute."""
    folder = tmp_path_factory.mktemp("disk")
    promptmill = CommandLine(tmp_path_factory.mktemp("here"), {"DASHSCOPE_API_KEY": KEY})
    with promptmill.started("selftest", "--folder", folder) as selftest:
        ended = selftest.end(PATIENCE_S)
    return Tried(ended, [*folder.iterdir(), *promptmill.folder.iterdir()], promptmill.alive())


def test_all_promises_hold_and_nothing_is_left(tried: Tried) -> None:
    assert tried.ended.code == 0, tried.ended
    assert re.fullmatch(
        r"all 8 promises hold on this machine; \d+ s",
        tried.ended.stdout.splitlines()[-1],
    )
    assert tried.ended.stderr == ""
    assert tried.left_in_folder == []
    assert tried.left_alive == []


def test_it_says_what_it_ran_on_and_never_a_key(tried: Tried) -> None:
    on, in_folder = tried.ended.stdout.splitlines()[:2]
    assert re.match(r"promptmill \d\S*, Python \d+\.\d+\.\d+ \(\w+\), .+, \d+ cores?", on)
    assert re.match(r"in /.+/promptmill-selftest-\S+, .+ GiB free", in_folder)
    assert KEY not in tried.ended.stdout
    assert "sk-selftest" not in tried.ended.stdout


@pytest.mark.parametrize(
    ("number", "figure"),
    [
        (1, r"252 rows in, 252 out; 12 of 12 bad lines named"),
        (
            2,
            r"[4-8] kills, \d in a part write: 0 of 640 rows lost, 0 answers asked for again; "
            r"(\d+) in flight sent again, maybe_paid \d+",
        ),
        (
            3,
            r"\d+ of 5\d\d refused, busiest second \d+% of its requests; "
            r"\d+ of 18\d refused, busiest second \d+% of its tokens; one process .+",
        ),
        (4, r"2 kills: \d+% of max_cost billed, \d+% of max_cost_per_month by two jobs"),
        (5, r"peak \d+ MiB for 800 rows, \d+ MiB for 8,000 \(41 MiB more input\)"),
        (
            6,
            r"17 faults: 44 of 44 rows recovered, 24 of 24 ended in 3 attempts at most; no credit: over after \d+ requests",
        ),
        (
            7,
            r"0 leaks of the key or a traceback in \d\d files; 0 of 8 rows ran as templates; 0 of 6 read outside the root",
        ),
        (8, r"3 completion orders: 7 parts with 0 differences in 28 columns \(all but times and ids\)"),
    ],
)
def test_each_promise_has_a_line_with_its_figure(tried: Tried, number: int, figure: str) -> None:
    assert re.fullmatch(rf"{number}  ok +\S.+?  +\d+\.\d s  {figure}", tried.line(number)), tried.line(number)


@pytest.fixture
def promptmill(tmp_path: Path) -> Iterator[CommandLine]:
    command = CommandLine(tmp_path)
    yield command
    assert not command.alive()


def test_ctrl_c_ends_it_with_all_it_started(promptmill: CommandLine) -> None:
    with promptmill.started("selftest") as running:
        running.until(lambda: len(promptmill.alive()) > 4, "simulators and runs are under way")
        running.send(signal.SIGINT)
        ended = running.end()
    assert ended.code == 130
    assert ended.stderr == "promptmill: selftest was stopped; nothing is left of it\n"
    assert list(promptmill.folder.iterdir()) == []
    promptmill.wait_all_gone()


def test_a_folder_that_is_not_there_is_a_usage_error(promptmill: CommandLine) -> None:
    ended = promptmill("selftest", "--folder", "nowhere")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == (
        "promptmill: no folder can be made in nowhere: No such file or directory. Name another one with --folder\n"
    )
