"""The run folder on disk: taken under lock, recognised as this job's, its parts and journal brought together.

A folder holds the results of one job over one dataset. Opening it repairs what a killed run left between the rename of a
part and the commit that records it, and removes half-written parts.
"""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import PromptmillError, RunFolderError, SetupError
from pipeline.journal import Journal, RunLock
from pipeline.parts import RESULTS, Layout, found_part, is_part_name, part_name
from pipeline.storage import PRIVATE_FOLDER, LocalFiles, Storage
from pipeline.totals import PartRecord, Totals

RUN_FILE = "run.json"
LOG_FILE = "run.log"
log = logging.getLogger("promptmill")


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

    @property
    def fingerprint(self) -> str:
        return json.dumps([self.job, self.dataset], sort_keys=True)


class RunFolder:
    """A run folder held by this process; `release` gives it back."""

    def __init__(self, path: Path, *, started: datetime) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
            self._lock = RunLock(path, note=f"started {started:%Y-%m-%d %H:%M:%S %Z}")
            with contextlib.ExitStack() as undo:
                undo.callback(self._lock.release)
                (path / RESULTS).mkdir(exist_ok=True, mode=PRIVATE_FOLDER)
                self.results: Storage = LocalFiles(path / RESULTS)
                self.journal = Journal(path)
                undo.pop_all()
        except FileExistsError as error:
            raise SetupError(f"the run folder {path} is a file: set another output.path") from error
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"the run folder {path} cannot be used: {getattr(error, 'strerror', None) or error}. "
                "Make it writable, or set another output.path"
            ) from error

    def refuse_other_work(self, identity: Identity) -> None:
        """Raise RunFolderError where the folder holds results of another job or dataset, and say what differs."""
        manifest = self.journal.manifest()
        if "job" not in manifest:
            return
        before = json.loads(manifest["job"])
        changed = [
            name
            for name in sorted(before.keys() | identity.job.keys())
            if before.get(name) != identity.job.get(name)
        ]
        if manifest["dataset"] != identity.dataset:
            changed.append("the dataset's files")
        if changed:
            raise RunFolderError(
                f"{self.path} holds results of this job as it was before; since then changed: {', '.join(changed)}. "
                "Results of different jobs are never mixed: give another output.path (or --output), or remove the folder"
            )

    def parts(self, layout: Layout, rows: int) -> dict[int, PartRecord]:
        """The whole parts, after repairs. A short part that the dataset (or `--limit`) has outgrown is opened again."""
        recorded = self.journal.parts()
        results = layout.results
        results.clear_scratch()
        stamps = results.stamps()
        known = {part_name(number) for number in recorded}
        for name in sorted(name for name in stamps.keys() - known if is_part_name(name)):
            found = found_part(name, layout)
            if found is None or part_name(found.number) != name:
                raise RunFolderError(
                    f"{results.where}/{name} is not a part that this run wrote. Move it elsewhere and run the same command again"
                )
            self.journal.add_part(
                found, found.number * layout.rows_per_part, keep_rows=found.rows < layout.rows_per_part
            )
            recorded[found.number] = found
        outgrown = []
        for number, part in recorded.items():
            name = part_name(number)
            expected = min(layout.rows_per_part, rows - number * layout.rows_per_part)
            if name not in stamps:
                raise RunFolderError(
                    f"{results.where}/{name} is missing, though the run finished it. Put it back; or, to pay for its "
                    f"{part.rows:,} rows again, give another output.path"
                )
            if expected > part.rows:
                outgrown.append(number)
            elif expected < part.rows:
                raise RunFolderError(
                    f"{results.where}/{name} has {part.rows:,} rows, more than this run asks for. "
                    "Run without --limit, or with a larger one; results are never taken back"
                )
        self._same_columns(layout, recorded.keys() - outgrown)
        for number in outgrown:
            self.journal.drop_part(number)
            results.remove(part_name(number))
            del recorded[number]
        return recorded

    def _same_columns(self, layout: Layout, parts: set[int]) -> None:
        """All parts have the same input columns, or no reader could take them together."""
        columns = [column.name for column in layout.inputs]
        before = json.loads(self.journal.manifest().get("columns", "null"))
        if parts and before is not None and before != columns:
            changed = ", ".join(sorted(set(before) ^ set(columns))) or "their order"
            raise RunFolderError(
                f"the parts in {layout.results.where} were written while fewer rows were looked at, and their columns differ "
                f"from those of this run: {changed}. Name output.columns and give another output.path"
            )
        self.journal.write_manifest({"columns": json.dumps(columns)})

    def write_run_file(self, content: dict[str, Any]) -> None:
        """Replace run.json as a whole."""
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        try:
            LocalFiles(self.path).put(RUN_FILE, memoryview(text.encode("utf-8", "backslashreplace")))
        except OSError as error:
            raise StorageError(self.path, error) from error

    def release(self) -> None:
        self.journal.close()
        self._lock.release()


class _LogFile(logging.FileHandler):
    """A log that a full disk leaves incomplete, instead of a traceback on stderr for each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class RunLog:
    """run.log while the block runs; what ends it unexpectedly is logged there with its traceback."""

    def __init__(self, folder: Path) -> None:
        self._handler = _LogFile(folder / LOG_FILE, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def __enter__(self) -> None:
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)
        log.propagate = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PromptmillError):
            log.error("%s", error)
        elif isinstance(error, KeyboardInterrupt):
            log.info("interrupted before the first row")
        elif error is not None:
            log.critical("a bug", exc_info=error)
        log.removeHandler(self._handler)
        self._handler.close()


def sum_parts(parts: Sequence[PartRecord]) -> Totals:
    """The totals of all parts together."""
    totals = Totals()
    for part in parts:
        totals.merge(Totals.from_json(part.totals))
    return totals
