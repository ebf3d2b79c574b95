"""A disk that takes no more: the run says so in a sentence, and the same command goes on once there is room.

A bound on the size of the process's files stands for the full disk: the kernel refuses writes beyond it.
"""

import resource
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
