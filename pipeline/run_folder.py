"""The run folder on disk: taken under lock, recognised as this job's, its parts and journal brought together.

A folder holds the results of one job over one dataset. Opening it repairs what a killed run left between the rename of a
part and the commit that records it, and removes half-written parts.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import RunFolderError, SetupError
from pipeline.journal import Journal, RunLock
from pipeline.parts import Layout, found_part
from pipeline.totals import PartRecord, Totals

RUN_FILE = "run.json"
LOG_FILE = "run.log"


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
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = RunLock(path, note=f"started {started:%Y-%m-%d %H:%M:%S %Z}")
            (path / "results").mkdir(exist_ok=True)
            self.journal = Journal(path)
        except OSError as error:
            raise SetupError(
                f"the run folder {path} cannot be used: {error.strerror or error}. "
                "Make it writable, or set another output.path"
            ) from error

    def claim(self, identity: Identity) -> None:
        """Make a new folder this job's; raise RunFolderError where it holds other work, and say what differs."""
        manifest = self.journal.manifest()
        if "job" not in manifest:
            self.journal.write_manifest(identity.to_manifest())
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
        for scratch in layout.results.glob("*.tmp"):
            scratch.unlink()
        for path in sorted(layout.results.glob("part-*.parquet")):
            number = int(path.stem.removeprefix("part-"))
            if number in recorded:
                continue
            found = found_part(path, layout)
            if found is None or found.number != number:
                raise RunFolderError(
                    f"{path} is not a part that this run wrote. Move it elsewhere and run the same command again"
                )
            self.journal.add_part(
                found, number * layout.rows_per_part, keep_rows=found.rows < layout.rows_per_part
            )
            recorded[number] = found
        for number, part in list(recorded.items()):
            path = layout.path(number)
            expected = min(layout.rows_per_part, rows - number * layout.rows_per_part)
            if not path.exists():
                raise RunFolderError(
                    f"{path} is missing, though the run finished it. Put it back; or, to pay for its {part.rows:,} rows "
                    "again, give another output.path"
                )
            if expected > part.rows:
                self.journal.drop_part(number)
                path.unlink()
                del recorded[number]
            elif expected < part.rows:
                raise RunFolderError(
                    f"{path} has {part.rows:,} rows, more than this run asks for. "
                    "Run without --limit, or with a larger one; results are never taken back"
                )
        return recorded

    def write_run_file(self, content: dict[str, Any]) -> None:
        """Replace run.json as a whole."""
        path = self.path / RUN_FILE
        scratch = path.with_name(RUN_FILE + ".tmp")
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False, default=str)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def release(self) -> None:
        self.journal.close()
        self._lock.release()


def sum_parts(parts: Sequence[PartRecord]) -> Totals:
    """The totals of all parts together."""
    totals = Totals()
    for part in parts:
        totals.merge(Totals.from_json(part.totals))
    return totals
