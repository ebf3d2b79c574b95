"""The run folder: whose it is, what is repaired when it is opened, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import RunFolderBusy, RunFolderError, SetupError
from pipeline.journal import FILE_NAME
from pipeline.parts import Layout, OpenRange, write_part
from pipeline.run_folder import RUN_FILE, Identity, RunFolder, StorageError, sum_parts
from pipeline.totals import PartRecord
from tests.support.clock import run_virtual
from tests.support.rig import NOW, Rig, outcome


def opened(rig: Rig) -> RunFolder:
    return rig.open()


def write(layout: Layout, number: int, rows: int) -> PartRecord:
    range_ = OpenRange(layout, number, rows)
    for place in range(rows):
        range_.settle(outcome(range_.first + place))
    return write_part(range_, layout, range_.slices())


async def keep(folder: RunFolder, *indexes: int) -> None:
    for index in indexes:
        folder.journal.record(outcome(index))
    folder.journal.flush()


def test_a_folder_says_what_it_was_last_a_run_of_and_what_changed_since(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, started=NOW)
    assert Identity.from_manifest(folder.journal.manifest()) is None
    ours = Identity({"params": "1", "prompt": "2"}, "dataset")
    folder.journal.write_manifest(ours.to_manifest())
    before = Identity.from_manifest(folder.journal.manifest())
    folder.release()
    assert before == ours
    assert ours.changes(before) == []
    for other, said in (
        (Identity({"params": "9", "prompt": "2"}, "dataset"), ["params"]),
        (Identity({"params": "1", "prompt": "2", "new": "3"}, "dataset"), ["new"]),
        (Identity({"params": "1", "prompt": "7"}, "other"), ["prompt", "the dataset's files"]),
    ):
        assert other.changes(before) == said


def test_a_part_that_was_renamed_but_not_recorded_is_taken_up(tmp_path: Path) -> None:
    async def main() -> None:
        rig = Rig(folder=tmp_path, rows=10)
        folder = opened(rig)
        await keep(folder, *range(6))
        record = write(rig.layout(), 0, 4)
        assert folder.parts(rig.layout(), rig.rows) == {0: record}
        assert folder.journal.parts() == {0: record}
        assert list(folder.journal.outcomes(0, 10)) == [4, 5]
        folder.release()

    run_virtual(main())


def test_what_was_half_written_is_removed(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path)
    folder = opened(rig)
    scratch = rig.part(0).with_name("part-00000.parquet.tmp")
    scratch.write_bytes(b"PAR1 and no more")
    assert folder.parts(rig.layout(), rig.rows) == {}
    assert not scratch.exists()
    folder.release()


def test_a_short_part_that_more_rows_have_outgrown_is_opened_again_and_its_rows_are_not_lost(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        rig = Rig(folder=tmp_path, rows=6)
        folder = opened(rig)
        await keep(folder, 4, 5)
        whole, short = write(rig.layout(), 0, 4), write(rig.layout(), 1, 2)
        assert folder.parts(rig.layout(), 6) == {0: whole, 1: short}
        assert folder.parts(rig.layout(), 10) == {0: whole}
        assert not rig.part(1).exists()
        assert list(folder.journal.outcomes(4, 8)) == [4, 5]
        folder.release()

    run_virtual(main())


def test_fewer_rows_than_a_part_has_are_refused(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=8)
    folder = opened(rig)
    write(rig.layout(), 1, 4)
    for rows in (6, 3):
        with pytest.raises(RunFolderError, match="4 rows, more than this run asks for"):
            folder.parts(rig.layout(), rows)
    folder.release()


def test_a_part_that_is_gone_is_told_and_not_paid_for_again(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=8)
    folder = opened(rig)
    write(rig.layout(), 0, 4)
    folder.parts(rig.layout(), rig.rows)
    rig.part(0).unlink()
    with pytest.raises(RunFolderError, match="is missing, though the run finished it"):
        folder.parts(rig.layout(), rig.rows)
    folder.release()


@pytest.mark.parametrize("name", ["part-00000.parquet", "part-all.parquet", "part-00007.parquet"])
def test_a_part_that_is_not_ours_is_told_and_left_alone(tmp_path: Path, name: str) -> None:
    rig = Rig(folder=tmp_path, rows=8)
    folder = opened(rig)
    stray = rig.results.folder / name
    write(replace(rig.layout(), fingerprint="other work"), 0, 4)
    rig.part(0).rename(stray)
    with pytest.raises(RunFolderError, match="is not a part that this run wrote"):
        folder.parts(rig.layout(), rig.rows)
    assert stray.exists()
    folder.release()


def test_our_own_part_under_another_number_is_not_taken_for_it(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=8)
    folder = opened(rig)
    write(rig.layout(), 0, 4)
    rig.part(0).rename(rig.part(1))
    with pytest.raises(RunFolderError, match=r"part-00001\.parquet is not a part"):
        folder.parts(rig.layout(), rig.rows)
    folder.release()


def test_a_folder_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file is a file: set another output.path"):
        RunFolder(tmp_path / "file", started=NOW)
    taken = tmp_path / "taken"
    (taken / FILE_NAME).mkdir(parents=True)
    with pytest.raises(SetupError, match="cannot be used: unable to open database file"):
        RunFolder(taken, started=NOW)


def test_a_second_run_over_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, started=NOW)
    with pytest.raises(RunFolderBusy, match="started 2026-01-01 00:00:00 UTC"):
        RunFolder(tmp_path, started=NOW)
    folder.release()
    RunFolder(tmp_path, started=NOW).release()


def test_run_json_is_replaced_as_a_whole_and_a_refusal_is_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, started=NOW)
    folder.write_run_file({"run": "é"})
    folder.write_run_file({"run": 2})
    assert json.loads((tmp_path / RUN_FILE).read_text()) == {"run": 2}
    (tmp_path / f"{RUN_FILE}.tmp").mkdir()
    with pytest.raises(StorageError, match="cannot be written any more"):
        folder.write_run_file({"run": 3})
    assert json.loads((tmp_path / RUN_FILE).read_text()) == {"run": 2}
    folder.release()


def test_the_totals_of_parts_add_up() -> None:
    totals = {
        "rows": 2,
        "status": {"ok": 2},
        "errors": {},
        "tokens": {"total_tokens": 5},
        "cost": "0.1",
        "unpriced": 0,
        "attempts": 2,
        "maybe_paid": 1,
    }
    both = sum_parts([PartRecord(0, 2, totals, "", ""), PartRecord(1, 2, totals, "", "")])
    assert (both.rows, both.status["ok"], both.tokens["total_tokens"], both.maybe_paid) == (4, 4, 10, 2)
    assert str(both.cost) == "0.2"
