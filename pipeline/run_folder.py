"""The run folder on disk: taken under lock, recognised as this job's, its parts and journal brought together.

A folder holds the results of one job over one dataset. Opening it repairs what a killed run left between the rename of a
part and the commit that records it, removes half-written parts, and sets aside what is damaged: the folder's databases are looked
over, and each part whose stamp is not the recorded one is compared by its digest.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import databases
from pipeline.answers import read_outcomes
from pipeline.errors import PromptmillError, RunFolderError, SetupError
from pipeline.journal import FILE_NAME, Journal
from pipeline.part_reading import DamagedPart, found_part, part_metadata
from pipeline.parts import Layout, digest, is_part_name, part_name
from pipeline.run_lock import RunLock
from pipeline.storage import DAMAGED, RESULTS, Disk, LocalFiles, Storage, make_folder, set_aside
from pipeline.totals import PartRecord, Totals

RUN_FILE = "run.json"
_WITHOUT_JOURNAL = "What was in no part yet is asked again, and how much of it was paid is not known"
_NOT_WRITTEN = "it is not what the run wrote"


class StorageError(PromptmillError):
    """The run folder took no more writes; all that was committed is safe."""

    def __init__(self, folder: Path | str, error: BaseException) -> None:
        super().__init__(
            f"the run folder {folder} cannot be written any more: {error}. "
            "What was committed is safe: make room (or make it writable) and run the same command again"
        )


class RunFolderGone(PromptmillError):
    """The run folder was deleted or moved while the run went on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"the run folder {folder} is gone: somebody deleted or moved it, or its {FILE_NAME}, while the run went on. Answers "
            "could not be kept any more, so nothing more is asked. Put it back if you have it, and run the same command again"
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

    @classmethod
    def from_fingerprint(cls, fingerprint: str) -> "Identity | None":
        """The identity of which this is the fingerprint; None for text that is none."""
        try:
            job, dataset = json.loads(fingerprint)
            return cls(dict(job), str(dataset))
        except (ValueError, TypeError):
            return None

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
    """A run folder held by this process; `release` gives it back. `results` lie in it, unless another place is given.

    `damage` says what was found damaged, a sentence each. `forgot`: the journal lost commits, so what was in flight is not known.
    """

    def __init__(
        self,
        path: Path,
        *,
        started: datetime,
        durable: bool = False,
        results: Storage | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.path = path
        self._disk = disk or Disk()
        self.results = results or LocalFiles(path / RESULTS, self._disk)
        self.damage: list[str] = []
        self._tell: Callable[[str], None] = lambda _: None
        self.forgot = False
        try:
            make_folder(path, self._disk)
            self._lock = RunLock(path, note=f"started {started:%Y-%m-%d %H:%M:%S %Z}")
            with contextlib.ExitStack() as undo:
                undo.callback(self._lock.release)
                self._prepare_results()
                self._look_databases_over()
                self.journal = Journal(path, durable=durable)
                undo.callback(self.journal.close)
                if self.forgot:
                    self.journal.write_manifest({"forgot": "yes"})
                if dropped := self.journal.drop_damaged():
                    self._found(
                        f"{dropped:,} outcomes in {path / FILE_NAME} are damaged: their rows are asked again"
                    )
                self._journal_file = _identity(path / FILE_NAME)
                undo.pop_all()
        except FileExistsError as error:
            raise SetupError(f"the run folder {path} is a file: set another output.path") from error
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"the run folder {path} cannot be used: {getattr(error, 'strerror', None) or error}. "
                "Make it writable, or set another output.path"
            ) from error

    def _prepare_results(self) -> None:
        try:
            self.results.prepare()
        except OSError as error:
            raise SetupError(
                f"results cannot be written to {self.results.where}: {getattr(error, 'strerror', None) or error}. "
                "Nothing was sent"
            ) from error

    @property
    def elsewhere(self) -> str:
        """Where the results lie, if not in this folder."""
        own = str(self.path / RESULTS)
        return "" if self.results.where == own else self.results.where

    def tell_damage(self, tell: Callable[[str], None]) -> None:
        """Have what is found damaged said as it is found; what was found already, now."""
        self._tell = tell
        for what in self.damage:
            tell(what)

    def _found(self, what: str) -> None:
        self.damage.append(what)
        self._tell(what)

    def _look_databases_over(self) -> None:
        """Set damaged databases aside, so that new ones are begun in their place."""
        for path in sorted({self.path / FILE_NAME, *self.path.glob("*.sqlite")}):
            look = databases.look(path)
            if look.damage is not None:
                together = (path, *(path.with_name(path.name + more) for more in databases.COMPANIONS))
                lies = set_aside([one for one in together if one.exists()], self.path / DAMAGED, self._disk)[
                    0
                ]
                is_journal = path.name == FILE_NAME
                self.forgot = self.forgot or is_journal
                what_follows = _WITHOUT_JOURNAL if is_journal else "What it knew is found out anew"
                self._found(f"{path} is damaged ({look.damage}): it lies now at {lies}. {what_follows}")
            elif look.lost_commits:
                self._found(
                    f"the last commits of {path} are damaged and lost: what they held is asked again, and may have been paid"
                )
                self.forgot = self.forgot or path.name == FILE_NAME

    def what_it_was(self) -> dict[str, str]:
        """The manifest; where the journal lost it, as much as the parts tell: what they are of, and how many rows each has."""
        manifest = self.journal.manifest()
        self.forgot = self.forgot or "forgot" in manifest
        if "job" in manifest:
            return manifest
        if (self.path / RUN_FILE).exists() and not self.forgot:
            self.forgot = True
            self._found(f"{self.path / FILE_NAME} is not what the last run left. {_WITHOUT_JOURNAL}")
        for name in sorted(filter(is_part_name, self.results.stamps())):
            try:
                said = part_metadata(self.results, name)
            except DamagedPart:
                continue
            identity = said and Identity.from_fingerprint(said["fingerprint"])
            if said and identity:
                self.forgot = True
                return {**manifest, **identity.to_manifest(), "rows_per_part": str(said["rows_per_part"])}
        return manifest

    def adopt_parts(self, results: Storage, fingerprint: str, rows_per_part: int) -> dict[int, PartRecord]:
        """The parts of this work, with those that a killed run renamed and did not come to record. Damaged ones are set aside.

        Raises RunFolderError for a file that only looks like one, and for a part that is gone.
        """
        recorded = self.journal.parts()
        rewritten = self.journal.reopened()
        results.clear_scratch()
        stamps = results.stamps()
        known = {part_name(number): part for number, part in recorded.items()}
        for name in sorted(name for name in known.keys() | stamps.keys() if is_part_name(name)):
            part = known.get(name)
            if part is not None and name not in stamps:
                raise RunFolderError(
                    f"{results.where}/{name} is missing, though the run finished it. Put it back; or, to pay for "
                    f"its {part.rows:,} rows again, give another output.path"
                )
            if part is not None and (
                stamps[name] == part.stamp or self._is_copy(results, part, stamps[name])
            ):
                continue
            if part is not None and part.number not in rewritten:
                self._lose(results, recorded.pop(part.number), rows_per_part, _NOT_WRITTEN)
                continue
            try:
                found = found_part(results, name, fingerprint)
            except DamagedPart as error:
                if part is not None:
                    self._lose(results, recorded.pop(part.number), rows_per_part, error.reason)
                else:
                    self._set_aside(results, name, error.reason)
                continue
            if found is None:
                raise RunFolderError(
                    f"{results.where}/{name} is not a part that this run wrote. Move it elsewhere and run the same command again"
                )
            self.journal.add_part(found, found.number * rows_per_part, keep_rows=found.rows < rows_per_part)
            recorded[found.number] = found
        return recorded

    def _is_copy(self, results: Storage, part: PartRecord, stamp: str) -> bool:
        """Whether a part is what was written though its stamp is another, as in a copied folder."""
        same = digest(results.read(part_name(part.number))) == part.digest
        if same:
            self.journal.restamp(part._replace(stamp=stamp))
        return same

    def lose_damaged(self, results: Storage, parts: Collection[PartRecord], rows_per_part: int) -> set[int]:
        """Set aside those of the parts that are not what was written to the last bit, and return their numbers. All are read."""
        lost = [part for part in parts if digest(results.read(part_name(part.number))) != part.digest]
        for part in lost:
            self._lose(results, part, rows_per_part, _NOT_WRITTEN)
        return {part.number for part in lost}

    def _lose(self, results: Storage, part: PartRecord, rows_per_part: int, reason: str) -> None:
        # First the record: killed in between, the next run looks at the file anew. A part recorded and gone it would refuse.
        self.journal.drop_part(part, rows_kept=part.rows < rows_per_part)
        self._set_aside(results, part_name(part.number), reason)

    def _set_aside(self, results: Storage, name: str, reason: str) -> None:
        lies = results.set_aside(name)
        self._found(
            f"{results.where}/{name} is damaged ({reason}): it lies now at {lies}, and its rows are done again"
        )

    def parts(self, layout: Layout, rows: int) -> dict[int, PartRecord]:
        """The whole parts, after repairs. A short part that the dataset (or `--limit`) has outgrown is opened again."""
        results = layout.results
        recorded = self.adopt_parts(results, layout.fingerprint, layout.rows_per_part)
        for number, part in list(recorded.items()):
            expected = min(layout.rows_per_part, rows - number * layout.rows_per_part)
            if expected > part.rows:
                self._open_short(results, part, number * layout.rows_per_part)
                results.remove(part_name(number))
                del recorded[number]
            elif expected < part.rows:
                raise RunFolderError(
                    f"{results.where}/{part_name(number)} has {part.rows:,} rows, more than this run asks for. "
                    "Run without --limit, or with a larger one; results are never taken back"
                )
        return recorded

    def _open_short(self, results: Storage, part: PartRecord, first: int) -> None:
        """Let go of a short part's file: its rows are in the journal, and where that was lost since, back in it."""
        kept = self.journal.outcomes(first, first + part.rows)
        if len(kept) < part.rows:
            for outcome in read_outcomes(results.read(part_name(part.number))):
                if outcome.index not in kept:
                    self.journal.record(outcome)
            self.journal.flush()
        self.journal.drop_part(part, rows_kept=len(kept) == part.rows)

    def is_there(self) -> bool:
        """Whether the journal that is being written still lies in the folder."""
        try:
            return _identity(self.path / FILE_NAME) == self._journal_file
        except OSError:
            return False

    @contextlib.contextmanager
    def storage_errors(self) -> Iterator[None]:
        """Makes of what the folder's disk refuses within the block a StorageError."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise StorageError(self.path, error) from error

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


def _identity(path: Path) -> tuple[int, int]:
    """What a file is while it lives, whatever its name."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def sum_parts(parts: Sequence[PartRecord]) -> Totals:
    """The totals of all parts together."""
    totals = Totals()
    for part in parts:
        totals.merge(Totals.from_json(part.totals))
    return totals
