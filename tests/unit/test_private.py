"""What is made for its owner alone is so under any umask, and never through a link that somebody put there."""

import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.children import ChildSpec, start_child
from pipeline.dataset.files import Cursor
from pipeline.dataset.repeats import BUCKET_VALUES, BUCKETS
from pipeline.dataset.scan import ScanRequest, scan_rows
from pipeline.errors import ServerStartError
from pipeline.private import make_new_private_file, make_private_file, make_private_folder, private_opener
from pipeline.records import Row
from pipeline.storage import LocalFiles


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def by_opener(path: Path) -> None:
    with open(path, "ab", opener=private_opener) as file:
        file.write(b"x")


@pytest.mark.parametrize("make", [make_private_file, make_new_private_file, by_opener])
def test_a_file_is_its_owners_alone(umask: int, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "file")
    assert mode(tmp_path / "file") == 0o600


def test_a_folder_is_its_owners_alone_and_those_above_are_as_the_umask_says(
    umask: int, tmp_path: Path
) -> None:
    make_private_folder(tmp_path / "runs" / "mine")
    assert mode(tmp_path / "runs" / "mine") == 0o700
    assert mode(tmp_path / "runs") == 0o777 & ~umask


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o750)
    make_private_folder(tmp_path / "shared")
    assert mode(tmp_path / "shared") == 0o750


def test_whole_files_are_their_owners_alone(umask: int, tmp_path: Path) -> None:
    LocalFiles(tmp_path).put("part-00000.parquet", memoryview(b"rows"))
    assert mode(tmp_path / "part-00000.parquet") == 0o600


def test_a_new_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "out.csv.tmp").symlink_to("victim")
    make_new_private_file(tmp_path / "out.csv.tmp")
    assert not (tmp_path / "out.csv.tmp").is_symlink()
    assert (tmp_path / "victim").read_text() == "kept"


def test_what_the_scan_spills_lies_in_a_folder_of_its_own_that_others_cannot_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: set[int] = set()

    def rows(cursor: Cursor) -> Iterator[Row]:
        for index in range(4 * BUCKETS * BUCKET_VALUES):
            yield Row(index, {"id": index}, "rows.jsonl", index + 1)
        seen.update(mode(folder) for folder in tmp_path.iterdir() if any(folder.iterdir()))

    before = os.umask(0)
    try:
        scan_rows(ScanRequest(read=rows, id_column="id", limit=None, wanted=frozenset(), on_progress=None))
    finally:
        os.umask(before)
    assert seen == {0o700}
    assert not list(tmp_path.iterdir())


def test_a_servers_log_is_its_owners_alone(umask: int, tmp_path: Path) -> None:
    log = tmp_path / "out" / "server.log"
    spec = ChildSpec(argv=[sys.executable, "-c", ""], name="it", ready_timeout_s=30, log_path=log)

    async def start() -> None:
        with pytest.raises(ServerStartError):
            async with start_child(spec):
                pass

    asyncio.run(start())
    assert mode(tmp_path / "out") == 0o700
    assert mode(tmp_path / "out" / "server.log") == 0o600
