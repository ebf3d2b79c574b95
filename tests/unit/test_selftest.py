"""Selftest around its checks: how promises are tried and told, what it runs on, what its children see, how it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog import load, provider_names
from pipeline.children import python_module
from pipeline.commands.selftest import carry_out
from pipeline.errors import SetupError
from pipeline.selftest.machine import file_system, look_at
from pipeline.selftest.place import KEY_VARIABLE, Ended, Place, child_environment, together
from pipeline.selftest.promises import PROMISES, Mark, Promise, Told, try_promises, working_folder
from pipeline.selftest.results import read_rows
from pipeline.selftest.secrecy import Search
from pipeline.selftest.verdict import Unproven, Verdict
from tests.support.clock import run_virtual

MIB = 1024 * 1024
Check = Callable[[Place], Awaitable[Verdict]]


class Heard:
    """A watcher that keeps what it hears."""

    def __init__(self) -> None:
        self.most_at_once = 0
        self.known: list[int] = []

    def running(self, numbers: Sequence[int]) -> None:
        self.most_at_once = max(self.most_at_once, len(numbers))

    def told(self, told: Told) -> None:
        self.known.append(told.promise.number)


def holding(after_s: float = 0.0) -> Check:
    async def check(place: Place) -> Verdict:
        await asyncio.sleep(after_s)
        assert place.folder.is_dir()
        return Verdict("0 of 1 lost")

    return check


def raising(error: Exception) -> Check:
    async def check(place: Place) -> Verdict:
        raise error

    return check


async def breaking(place: Place) -> Verdict:
    return Verdict("1 of 1 lost", ("row r1 is lost", "row r2 stands twice"))


async def hanging(place: Place) -> Verdict:
    await asyncio.Event().wait()
    raise AssertionError


HOLDS = Promise(number=1, says="nothing is lost", check=holding())
ABSENT = Promise(number=4, says="not made", absent="not in this version")
BROKEN = Promise(number=2, says="nothing is doubled", check=breaking)


def tried(folder: Path, *promises: Promise, watcher: Heard | None = None) -> list[Told]:
    return run_virtual(try_promises(promises, folder, {}, watcher or Heard()))


# The table


def test_the_table_has_the_promises_of_the_contract_each_with_a_check_or_a_reason() -> None:
    assert [promise.number for promise in PROMISES] == list(range(1, 9))
    assert all((promise.check is None) == bool(promise.absent) for promise in PROMISES)


def test_every_promise_has_its_check() -> None:
    assert [promise.number for promise in PROMISES if promise.check is None] == []


# Trying


def test_promises_are_tried_some_at_a_time_and_each_is_told_when_it_is_known(tmp_path: Path) -> None:
    heard = Heard()
    slow_first = [Promise(number=n, says="holds", check=holding(10.0 - n)) for n in range(1, 8)]
    told = tried(tmp_path, *slow_first, watcher=heard)
    assert [one.promise.number for one in told] == [1, 2, 3, 4, 5, 6, 7]
    assert [one.mark for one in told] == [Mark.OK] * 7
    assert heard.known[0] == 3
    assert sorted(heard.known) == [1, 2, 3, 4, 5, 6, 7]
    assert heard.most_at_once == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unproven("the run said nothing"), "the run said nothing"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (SetupError("no such package"), "no such package"),
    ],
)
def test_a_check_that_gets_no_evidence_fails_its_promise_and_no_other(
    tmp_path: Path, error: Exception, said: str
) -> None:
    told = tried(tmp_path, Promise(number=3, says="holds", check=raising(error)), HOLDS)
    assert [one.mark for one in told] == [Mark.FAILED, Mark.OK]
    assert said in told[0].verdict.breaches[0]


def test_a_check_that_never_ends_fails_its_promise(tmp_path: Path) -> None:
    (told,) = tried(tmp_path, Promise(number=3, says="holds", check=hanging))
    assert told.mark is Mark.FAILED
    assert told.verdict.breaches == ("it had not come to its end after 180 s",)


def test_a_folder_that_cannot_be_made_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"no folder can be made in .*file: Not a directory\. .*--folder"):
        working_folder(tmp_path / "file")


def test_things_done_at_once_end_together_and_the_first_error_is_the_one_raised() -> None:
    ended: list[str] = []

    async def slow_to_stop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            ended.append("slow")

    async def failing() -> None:
        await asyncio.sleep(1)
        raise Unproven("no ledger")

    with pytest.raises(Unproven, match="no ledger"):
        run_virtual(together(slow_to_stop(), failing()))
    assert ended == ["slow"]


# Telling


def test_when_all_hold_it_ends_with_0_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carry_out(tmp_path, as_json_line=False, promises=(HOLDS, ABSENT)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("promptmill ")
    assert lines[1].startswith(f"in {tmp_path}/promptmill-selftest-")
    absent, held = sorted(lines[2:4], reverse=True)
    assert absent.split() == ["4", "-", "not", "made", "not", "in", "this", "version"]
    assert held.split()[:2] == ["1", "ok"]
    assert held.endswith("0 of 1 lost")
    assert lines[4].startswith("all 1 promises hold on this machine; 1 not in this version; ")
    assert list(tmp_path.iterdir()) == []


def test_when_one_fails_it_ends_with_3_says_why_and_keeps_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carry_out(tmp_path, as_json_line=False, promises=(HOLDS, BROKEN)) == 3
    (kept,) = tmp_path.iterdir()
    said = capsys.readouterr().out
    assert "\n2  FAILED  nothing is doubled" in said
    assert "1 of 1 lost\n   row r1 is lost\n   row r2 stands twice\n" in said
    assert "1 of 2 promises did not hold on this machine: 2; " in said
    assert f"is kept in {kept}," in said
    assert (kept / "promise-2").is_dir()


@pytest.mark.parametrize(("promise", "code"), [(HOLDS, 0), (BROKEN, 3)])
def test_for_machines_it_says_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], promise: Promise, code: int
) -> None:
    assert carry_out(tmp_path, as_json_line=True, promises=(promise, ABSENT)) == code
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    found = json.loads(said)
    assert (found["holds"], found["kept"]) == (code == 0, code == 3)
    assert [one["verdict"] for one in found["promises"]] == ["failed" if code else "ok", "absent"]
    assert [one["number"] for one in found["promises"]] == [promise.number, 4]
    assert found["promises"][0]["breaches"] == (["row r1 is lost", "row r2 stands twice"] if code else [])
    assert Path(found["folder"]).is_dir() == (code == 3)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    ended: list[Path] = []

    async def interrupted(place: Place) -> Verdict:
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(place.folder)
        raise AssertionError

    promise = Promise(number=1, says="holds", check=interrupted)
    assert carry_out(tmp_path, as_json_line=False, promises=(promise,)) == code
    assert len(ended) == 1
    assert list(tmp_path.iterdir()) == []
    assert "selftest was stopped" in capsys.readouterr().err


# What it runs on, and what it runs

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / /tmp rw,nosuid - tmpfs tmpfs rw
31 22 8:2 / /mnt/big\\040disk rw shared:2 master:1 - btrfs /dev/sdb rw
32 22 0:40 / /mnt/over rw - ext4 /dev/sdc rw
33 22 0:41 / /mnt/over rw - overlay overlay rw
not a mount
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/user", "ext4"),
        ("/tmp/x", "tmpfs"),
        ("/tmpfile", "ext4"),
        ("/mnt/big disk/runs", "btrfs"),
        ("/mnt/over", "overlay"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_and_latest_mount(
    tmp_path: Path, folder: str, kind: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system(Path(folder), mounts) == kind


def test_where_the_system_lists_no_mounts_the_file_system_is_unknown(tmp_path: Path) -> None:
    assert file_system(tmp_path, tmp_path / "none") is None


def test_the_machine_is_told_with_cores_and_free_space(tmp_path: Path) -> None:
    machine = look_at(tmp_path)
    assert machine.cores >= 1
    assert machine.free_bytes > 0
    assert machine.folder == str(tmp_path)


def test_children_see_the_users_environment_but_none_of_his_keys_and_none_of_his_state(
    tmp_path: Path,
) -> None:
    keys = {name for provider in provider_names() if (name := load(provider).api_key_env) is not None}
    assert "DASHSCOPE_API_KEY" in keys
    env = {"PATH": "/bin", "LANG": "C", "XDG_STATE_HOME": "/home/user", **dict.fromkeys(keys, "sk-his-own")}
    seen = child_environment(env, key="sk-made-up", home=tmp_path)
    assert "sk-his-own" not in seen.values()
    assert (seen["PATH"], seen["LANG"], seen[KEY_VARIABLE]) == ("/bin", "C", "sk-made-up")
    assert seen["XDG_STATE_HOME"] == str(tmp_path)


def test_the_peak_memory_of_a_process_is_its_own_however_large_its_parent_is(tmp_path: Path) -> None:
    def peak(script: str) -> int:
        noted = tmp_path / "peak"
        measured = python_module("pipeline.selftest.measured", str(noted), sys.executable, "-c", script)
        assert subprocess.call(measured) == 3
        return int(noted.read_text())

    held = bytearray(b"\1" * (256 * MIB))  # makes this process, which starts them, a large one
    small = peak("exit(3)")
    large = peak(f"held = bytearray(b'1' * {64 * MIB}); exit(3)")
    assert len(held) == 256 * MIB
    assert small < 64 * MIB
    assert large - small > 60 * MIB


def test_a_command_that_ends_otherwise_than_it_must_is_no_evidence() -> None:
    ended = Ended(2, "", "promptmill: there is no job file\nx.toml\n")
    with pytest.raises(Unproven, match=r"exit code 2: promptmill: there is no job file x\.toml"):
        ended.expect(0, 3)
    with pytest.raises(Unproven, match="exit code 2 and no summary"):
        _ = ended.summary
    with pytest.raises(Unproven, match=r"exit code 6: the deadline of 120 s is reached$"):
        Ended(6, '{"job": "x", "exit_reason": "the deadline of 120 s is reached"}\n', "").expect(0)


# Reading what is there


def test_what_is_searched_for_is_found_in_plain_and_in_compressed_files(tmp_path: Path) -> None:
    key = "sk-selftest-0123456789"
    (tmp_path / "run.log").write_bytes(b"\0\xff before " + key.encode() + b" after")
    (tmp_path / "clean.log").write_text("nothing")
    said = [f"{n} the server says {key} {n}" for n in range(500)]
    part = tmp_path / "part-00000.parquet"
    pq.write_table(pa.table({"said": said}), part, compression="gzip", write_statistics=False)
    assert key.encode() not in part.read_bytes()
    looked = Search({"the key": key.encode(), "a traceback": b"Traceback"})
    for path in sorted(tmp_path.iterdir()):
        looked.through(path, tmp_path)
    assert looked.found == ["the key in part-00000.parquet", "the key in run.log"]
    assert looked.files == 3


@pytest.mark.parametrize("damage", ["not parquet", "fewer columns"])
def test_a_part_that_cannot_be_read_is_no_evidence(tmp_path: Path, damage: str) -> None:
    part = tmp_path / "results" / "part-00000.parquet"
    part.parent.mkdir()
    if damage == "not parquet":
        part.write_bytes(b"PAR1 and no more")
    else:
        pq.write_table(pa.table({"row_id": ["a"]}), part)
    with pytest.raises(Unproven, match=r"part-00000\.parquet (is not a Parquet file|lacks the columns)"):
        read_rows(tmp_path)
