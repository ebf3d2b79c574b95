"""A disk that takes no more: the run says so in a sentence, and the same command goes on once there is room.

A bound on the size of the process's files stands for the full disk: the kernel refuses writes beyond it.
"""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.conftest import Workplace
from tests.support.provider import Provider

NO_BOUND = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def bound_files(pid: int, size_bytes: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def largest_file(folder: Path) -> int:
    return max(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def assert_said(code: int, stdout: str, stderr: str) -> None:
    assert code == 1
    assert stdout == ""
    assert "cannot be written any more: " in stderr
    assert "make room (or make it writable) and run the same command again" in stderr
    assert "Traceback" not in stderr
    assert "a bug" not in stderr


@pytest.mark.parametrize("rows_per_part", [10, 1000])
def test_a_full_disk_ends_the_run_with_a_sentence_and_room_lets_the_same_command_finish(
    place: Workplace, provider: Provider, rows_per_part: int
) -> None:
    """Once with parts to be written all the while, once with the journal alone."""
    job = place.folder / "job.toml"
    text = job.read_text(encoding="utf-8")
    job.write_text(text.replace('path = "out"', f'path = "out"\nrows_per_part = {rows_per_part}'))
    place.point_at(provider)
    provider.hold_after(12)
    with place.promptmill.started("run", "job.toml") as run:
        run.until(lambda: provider.held == 4, "four requests are held")
        bound_files(run.process.pid, largest_file(place.out))
        provider.release()
        ended = run.end()
    assert_said(*ended)
    # What was on the wire when the disk was full is answered, and could not be kept.
    sent = provider.ledger.received
    assert 12 <= sent < 40
    again = place.run()
    assert (again.code, again.summary["done"]) == (0, 40)
    assert pl.read_parquet(place.out / "results")["row_id"].to_list() == [f"r{n}" for n in range(40)]
    assert provider.ledger.repeated <= 8
    assert again.summary["maybe_paid"] >= provider.ledger.repeated


def test_a_disk_that_is_full_from_the_start_sends_nothing(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with place.promptmill.started("run", "job.toml") as run:
            ended = run.end()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (ended.code != 0, ended.stdout, provider.ledger.received) == (True, "", 0)
    assert "cannot be " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert place.run().code == 0


class SmallDisk:
    """A file system of its own at a path, of a size that can be changed."""

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs")

    def remount(self, options: str) -> None:
        self._mount("-o", f"remount,{options}")

    def close(self) -> None:
        subprocess.run(["umount", self.path], check=True)

    def _mount(self, *how: str) -> None:
        subprocess.run(["mount", *how, self.path], check=True, capture_output=True)


@pytest.fixture
def disk(place: Workplace) -> Iterator[SmallDisk]:
    """The run folder is a disk of 1 MiB."""
    try:
        disk = SmallDisk(place.out, "1m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("who runs the tests may not mount a file system here")
    yield disk
    disk.close()


def is_whole(place: Workplace, rows: int) -> bool:
    return pl.read_parquet(place.out / "results")["row_id"].to_list() == [f"r{n}" for n in range(rows)]


def test_a_disk_that_fills_up_ends_the_run_and_room_lets_the_same_command_finish(
    place: Workplace, provider: Provider, disk: SmallDisk
) -> None:
    place.write_rows(400)
    place.point_at(provider)
    full = place.run()
    assert_said(*full)
    assert "full" in full.stderr
    assert 1 <= provider.ledger.received < 400
    # Still no room: nothing more is sent than what a commit had room for, and nothing is forgotten.
    assert place.run().code in (1, 2)
    disk.remount("size=64m")
    ended = place.run()
    assert (ended.code, ended.summary["done"], is_whole(place, 400)) == (0, 400, True)
    assert provider.ledger.repeated <= 4 + 4
    assert ended.summary["maybe_paid"] >= provider.ledger.repeated
    assert ended.summary["damaged"] == []


def test_a_folder_that_takes_no_files_is_refused_before_anything_is_sent_and_can_still_be_looked_at(
    place: Workplace, provider: Provider, disk: SmallDisk
) -> None:
    disk.remount("size=64m")
    place.point_at(provider)
    assert place.run().code == 0
    place.write_rows(50)
    disk.remount("ro")
    refused = place.run()
    assert (refused.code, refused.stdout, provider.ledger.received) == (2, "", 40)
    assert (
        "cannot be used: Read-only file system. Make it writable, or set another output.path"
        in refused.stderr
    )
    status = place.promptmill("status", "out")
    assert (status.code, "finished, 40 of 40 rows" in status.stdout) == (0, True)
    assert place.promptmill("export", "out", "-o", "all.csv").code == 0
    disk.remount("rw")
    ended = place.run()
    assert (ended.code, ended.summary["sent"], is_whole(place, 50)) == (0, 10, True)


@pytest.mark.parametrize("how", ["deleted", "moved", "made anew"])
def test_a_run_whose_folder_is_taken_away_stops_within_seconds(
    place: Workplace, provider: Provider, how: str
) -> None:
    place.point_at(provider)
    provider.hold_after(12)
    away = place.folder / "away"
    with place.promptmill.started("run", "job.toml") as run:
        run.until(lambda: provider.held == 4, "four requests are held")
        place.out.rename(away)
        if how == "deleted":
            shutil.rmtree(away)
        elif how == "made anew":
            place.out.mkdir()
        ended = run.end()
    provider.release()
    assert (ended.code, ended.stdout) == (1, "")
    assert f"the run folder {place.out} is gone: somebody deleted or moved it" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert provider.ledger.received < 40
    if how != "deleted":
        shutil.rmtree(place.out, ignore_errors=True)
        away.rename(place.out)
    again = place.run()
    assert (again.code, again.summary["done"], is_whole(place, 40)) == (0, 40, True)
    if how != "deleted":
        assert provider.ledger.repeated <= 4
        assert again.summary["maybe_paid"] == 4
