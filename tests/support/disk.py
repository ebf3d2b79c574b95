"""What a killed run left on disk, read from copies: the next life must repair the originals by itself."""

import hashlib
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.journal import FILE_NAME
from pipeline.kept import decode
from pipeline.uploads import FILE_NAME as UPLOADS
from tests.support.moments import half_committed


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is on disk, rows by their number.

    `settled` rows have their outcome in a part or in the journal (those of work before, too), `begun` ones have none and an
    attempt that was under way.
    `counted` is what the journal has counted as perhaps paid already. `uploaded` are blake2b digests of contents.
    `signs` name what the kill interrupted.
    """

    settled: frozenset[int] = frozenset()
    begun: frozenset[int] = frozenset()
    counted: int = 0
    uploaded: frozenset[str] = frozenset()
    signs: frozenset[str] = frozenset()


@dataclass
class PartReader:
    """The rows of part files, in a folder whose work goes over rows of these numbers.

    Each file is read once and must stay as it is from then on, but where parts of work before it are taken over.
    """

    numbers: list[int]
    taken_over: bool = False
    _known: dict[Path, tuple[str, frozenset[int]]] = field(default_factory=dict)

    def rows(self, results: Path) -> dict[str, frozenset[int]]:
        """The rows of every part there is, by the part's name."""
        found = {}
        for path in sorted(results.glob("*.parquet")):
            digest = hashlib.blake2b(path.read_bytes()).hexdigest()
            known = self._known.get(path)
            if known is None or (self.taken_over and known[0] != digest):
                frame = pl.read_parquet(path)
                indexes = frame["input_index"].to_list()
                assert indexes == sorted(set(indexes)), path
                known = self._known[path] = (digest, _numbers(frame["row_id"]))
            assert known[0] == digest, f"{path} is not what it was"
            found[path.name] = known[1]
        gone = self._known.keys() - {results / name for name in found}
        assert self.taken_over or not gone, f"gone: {gone}"
        return found


def left_in(out: Path, parts: PartReader, copies: Path) -> Left:
    """Look at a run folder that no process holds. Fails where a part or the journal is damaged, or a row has two parts."""
    in_parts = parts.rows(out / "results")
    written = [row for rows in in_parts.values() for row in rows]
    assert len(written) == len(set(written)), "a row stands in two parts"
    signs = set()
    if list(out.glob("results/*.tmp")):
        signs.add("a part was being written")
    if list(out.glob("run.json.tmp")):
        signs.add("run.json was being written")
    if half_committed(out / f"{FILE_NAME}-wal"):
        signs.add("a commit of the journal was being written")
    outcomes, begun, manifest, recorded = _journal(_copy(out, FILE_NAME, copies))
    attempts = {parts.numbers[index] for index in begun}
    if len(in_parts) > len(recorded):
        signs.add("a part was renamed and not yet in the journal")
    settled = outcomes | set(written)
    return Left(
        settled=frozenset(settled),
        begun=frozenset(attempts - settled),
        counted=int(manifest.get("maybe_paid", "0")),
        uploaded=_uploads(_copy(out, UPLOADS, copies)),
        signs=frozenset(signs),
    )


def _copy(out: Path, name: str, copies: Path) -> Path:
    """A database with its log, as a process finds it that opens it next."""
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for file in (out / name, out / f"{name}-wal"):
        if file.exists():
            shutil.copy2(file, copies)
    return copies / name


def _journal(path: Path) -> tuple[set[int], set[int], dict[str, str], list[int]]:
    if not path.exists():
        return set(), set(), {}, []
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        attempts = _rows(db, "SELECT idx, maybe_paid FROM attempts WHERE open = 1 OR maybe_paid > 0")
        assert not [row for row, failed in attempts if failed], (
            "an attempt failed, though the server never refuses"
        )
        held = (_rows(db, "SELECT data FROM outcomes"), _rows(db, "SELECT data FROM kept"))
        return (
            set(_numbers(decode(data).row_id for rows in held for (data,) in rows)),
            {row for row, _ in attempts},
            dict(_rows(db, "SELECT name, value FROM manifest")),
            [number for (number,) in _rows(db, "SELECT number FROM parts")],
        )


def _uploads(path: Path) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    with closing(sqlite3.connect(path)) as db:
        both = (_rows(db, "SELECT digest FROM files"), _rows(db, "SELECT digest FROM temporary"))
        return frozenset(digest for rows in both for (digest,) in rows)


def _numbers(row_ids: Iterable[str]) -> frozenset[int]:
    return frozenset(int(row_id.removeprefix("r")) for row_id in row_ids)


def _rows(db: sqlite3.Connection, query: str) -> list[Any]:
    """The rows of a query; none where the run was killed before it had made the table."""
    try:
        return db.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        assert "no such table" in str(error)
        return []
