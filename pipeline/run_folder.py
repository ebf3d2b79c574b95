"""The run folder on disk: taken under lock, recognised as this job's, its parts and journal brought together.

A folder holds the results of one job over one dataset. Opening it repairs what a killed run left between the rename of a
part and the commit that records it, and removes half-written parts.
"""

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import PromptmillError, RunFolderError, SetupError
from pipeline.journal import Journal
from pipeline.parts import RESULTS, Layout, found_part, is_part_name, part_name
from pipeline.private import PRIVATE_FOLDER
from pipeline.run_lock import RunLock
from pipeline.storage import Disk, LocalFiles, Storage
from pipeline.totals import PartRecord, Totals

RUN_FILE = "run.json"


class StorageError(PromptmillError):
    """The run folder took no more writes; all that was committed is safe."""

    def __init__(self, folder: Path | str, error: BaseException) -> None:
        super().__init__(
            f"the run folder {folder} cannot be written any more: {error}. "
            "What was committed is safe: make room (or make it writable) and run the same command again"
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """What a folder is a run of: a hash for each part of the job, and the dataset's fingerprint."""

    job: dict[str, str]
    dataset: str

    def to_manifest(self) -> dict[str, str]:
        return {"job": json.dumps(self.job, sort_keys=True), "dataset": self.dataset}

    @classmethod
    def from_manifest(cls, manifest: dict[str, str]) -> "Identity | None":
        """What the folder was last a run of; None where it is new."""
        return cls(json.loads(manifest["job"]), manifest["dataset"]) if "job" in manifest else None

    @property
    def fingerprint(self) -> str:
        return json.dumps([self.job, self.dataset], sort_keys=True)

    def changes(self, before: "Identity") -> list[str]:
        """What differs from an earlier identity, in the words of the job file."""
        changed = [
            name
            for name in sorted(before.job.keys() | self.job.keys())
            if before.job.get(name) != self.job.get(name)
        ]
        return changed if before.dataset == self.dataset else [*changed, "the dataset's files"]


class RunFolder:
    """A run folder held by this process; `release` gives it back."""

    def __init__(self, path: Path, *, started: datetime, disk: Disk | None = None) -> None:
        self.path = path
        self._disk = disk
        try:
            path.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
            self._lock = RunLock(path, note=f"started {started:%Y-%m-%d %H:%M:%S %Z}")
            with contextlib.ExitStack() as undo:
                undo.callback(self._lock.release)
                (path / RESULTS).mkdir(exist_ok=True, mode=PRIVATE_FOLDER)
                self.results: Storage = LocalFiles(path / RESULTS, disk)
                self.journal = Journal(path)
                undo.pop_all()
        except FileExistsError as error:
            raise SetupError(f"the run folder {path} is a file: set another output.path") from error
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"the run folder {path} cannot be used: {getattr(error, 'strerror', None) or error}. "
                "Make it writable, or set another output.path"
            ) from error

    def adopt_parts(self, results: Storage, fingerprint: str, rows_per_part: int) -> dict[int, PartRecord]:
        """The parts of this work, with those that a killed run renamed and did not come to record.

        Raises RunFolderError for a file that only looks like one, and for a part that is gone.
        """
        recorded = self.journal.parts()
        results.clear_scratch()
        stamps = results.stamps()
        known = {part_name(number) for number in recorded}
        for name in sorted(name for name in stamps.keys() - known if is_part_name(name)):
            found = found_part(results, name, fingerprint)
            if found is None or part_name(found.number) != name:
                raise RunFolderError(
                    f"{results.where}/{name} is not a part that this run wrote. Move it elsewhere and run the same command again"
                )
            self.journal.add_part(found, found.number * rows_per_part, keep_rows=found.rows < rows_per_part)
            recorded[found.number] = found
        for number, part in recorded.items():
            if part_name(number) not in stamps:
                raise RunFolderError(
                    f"{results.where}/{part_name(number)} is missing, though the run finished it. Put it back; or, to pay for "
                    f"its {part.rows:,} rows again, give another output.path"
                )
        return recorded

    def parts(self, layout: Layout, rows: int) -> dict[int, PartRecord]:
        """The whole parts, after repairs. A short part that the dataset (or `--limit`) has outgrown is opened again."""
        results = layout.results
        recorded = self.adopt_parts(results, layout.fingerprint, layout.rows_per_part)
        for number, part in list(recorded.items()):
            expected = min(layout.rows_per_part, rows - number * layout.rows_per_part)
            if expected > part.rows:
                self.journal.drop_part(number)
                results.remove(part_name(number))
                del recorded[number]
            elif expected < part.rows:
                raise RunFolderError(
                    f"{results.where}/{part_name(number)} has {part.rows:,} rows, more than this run asks for. "
                    "Run without --limit, or with a larger one; results are never taken back"
                )
        return recorded

    def write_run_file(self, content: dict[str, Any]) -> None:
        """Replace run.json as a whole."""
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        try:
            LocalFiles(self.path, self._disk).put(
                RUN_FILE, memoryview(text.encode("utf-8", "backslashreplace"))
            )
        except OSError as error:
            raise StorageError(self.path, error) from error

    def release(self) -> None:
        self.journal.close()
        self._lock.release()


def sum_parts(parts: Sequence[PartRecord]) -> Totals:
    """The totals of all parts together."""
    totals = Totals()
    for part in parts:
        totals.merge(Totals.from_json(part.totals))
    return totals
