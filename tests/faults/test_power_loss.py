"""The machine dies at any moment: of all that was written only what had been synced is still there.

After each change to a file the durable state is noted, as the strictest disk would have it: a file's bytes are those of its last
sync, a folder's names those of its own. Each such state is then resumed.
"""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from tests.support.changes import Change, Changes, WatchedDisk, sqlite_can_be_watched, watched_sqlite
from tests.support.clock import run_virtual
from tests.support.on_disk import known
from tests.support.rig import FakeTransport, Reply, Rig, always, answer
from tests.support.whole_runs import run, texts, write_rows

pytestmark = pytest.mark.skipif(
    not sqlite_can_be_watched(), reason="this Python has its SQLite built in, whose writes cannot be seen"
)


@dataclass(frozen=True)
class Instant:
    """What the disk would have after a loss of power (a file's bytes by its path), and the rows asked by then."""

    files: dict[str, bytes]
    asked: frozenset[str]


@dataclass
class StrictDisk(Changes):
    """Keeps the durable state of all that lies below `root`, which itself is durable."""

    root: Path
    transport: FakeTransport
    instants: list[Instant] = field(default_factory=list)
    _bytes: dict[int, bytes] = field(default_factory=dict)  # by inode
    _names: dict[Path, dict[str, int]] = field(default_factory=dict)  # by folder: inodes

    def __post_init__(self) -> None:
        super().__init__()
        self._sync_names(self.root)

    def before(self, change: Change, size: int) -> None:
        super().before(change, size)
        instant = Instant(dict(self._reachable(self.root)), frozenset(self.transport.asked))
        if not self.instants or self.instants[-1] != instant:
            self.instants.append(instant)

    def after(self, change: Change) -> None:
        path = change.path
        if change.kind == "write" and path.suffix == ".tmp":
            self._bytes.pop(path.stat().st_ino, None)  # a new file, perhaps where an old one was
        if change.kind != "sync":
            return
        if path.is_dir():
            self._sync_names(path)
            return
        self._bytes[path.stat().st_ino] = path.read_bytes()
        if path.name.endswith(("-journal", "-wal")):  # SQLite syncs the folder with the first sync of these
            self._sync_names(path.parent)

    def _sync_names(self, folder: Path) -> None:
        self._names[folder] = {child.name: child.stat().st_ino for child in folder.iterdir()}

    def _reachable(self, folder: Path) -> "list[tuple[str, bytes]]":
        found: list[tuple[str, bytes]] = []
        for name, inode in self._names.get(folder, {}).items():
            path = folder / name
            if path.is_dir():
                found += self._reachable(path)
            else:
                found.append((str(path.relative_to(self.root)), self._bytes.get(inode, b"")))
        return found


def filmed(tmp_path: Path, *, durable: bool) -> tuple[Rig, list[Instant]]:
    """A whole run, with what the disk would have had at each moment of it."""
    random = Random(5)

    async def script(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(random.random() / 10)
        return answer("good")

    root = tmp_path / "disk"
    root.mkdir()
    transport = FakeTransport(script)
    disk = StrictDisk(root, transport)
    rig = Rig(folder=tmp_path, at=root / "run", rows=10, durable=durable, disk=WatchedDisk(disk))
    with watched_sqlite(disk):
        run_virtual(rig.run(transport))
    assert rig.whole()
    return rig, disk.instants


def restored(instant: Instant, root: Path) -> None:
    for name, data in instant.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def resumed(rig: Rig, instant: Instant, root: Path) -> set[str]:
    """The rows that are asked when what the loss of power left is run again."""
    transport = FakeTransport(ask_again)
    again = replace(rig, at=root / "run", disk=None)
    assert not run_virtual(again.run(transport)).damage
    assert again.whole()
    return set(transport.asked)


async def ask_again(row_id: str, nth: int) -> Reply:
    return answer("good")


def test_with_durability_power_no_row_is_sent_that_the_disk_does_not_know_of(tmp_path: Path) -> None:
    rig, instants = filmed(tmp_path, durable=True)
    assert len(instants) > 20
    for number, instant in enumerate(instants):
        root = tmp_path / f"after-{number}"
        restored(instant, root)
        settled, sent = known(root / "run")
        assert instant.asked <= sent, number
        assert not resumed(rig, instant, root) & settled, number


def test_with_durability_process_the_loss_of_power_may_cost_answers_and_damages_nothing(
    tmp_path: Path,
) -> None:
    rig, instants = filmed(tmp_path, durable=False)
    forgotten = 0
    for number, instant in enumerate(instants):
        root = tmp_path / f"after-{number}"
        restored(instant, root)
        settled, sent = known(root / "run")
        forgotten += not instant.asked <= sent
        assert not resumed(rig, instant, root) & settled, number
    assert forgotten, "then durability = power would be for nothing"


class WalSyncs(Changes):
    """How often the journal was made durable."""

    def before(self, change: Change, size: int) -> None:
        self.count += change.kind == "sync" and change.path.name.endswith("-wal")


def test_the_job_file_says_whether_each_commit_is_synced(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(20))
    syncs = []
    for durability in ("process", "power"):
        counted = WalSyncs()
        with watched_sqlite(counted):
            output = (f"output.path='{durability}'", f"output.durability='{durability}'")
            run(tmp_path, always(answer()), *output, "limits.max_concurrency=1")
        syncs.append(counted.count)
    process, power = syncs
    assert process < 20 < power
