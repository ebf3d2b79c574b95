"""What a run folder knows, read as a stranger would: from its journal's tables and its part files."""

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipeline.journal import FILE_NAME


class Known(NamedTuple):
    """Row ids: those with an outcome on disk, and those of which it is known that they were sent at least."""

    settled: set[str]
    sent: set[str]


def known(out: Path, prefix: str = "r") -> Known:
    """What a folder knows, whose row ids are this prefix and the row's index."""
    settled: set[str] = set()
    sent: set[str] = set()
    # A file that is no database knows nothing.
    if (out / FILE_NAME).exists() and (out / FILE_NAME).read_bytes().startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(out / FILE_NAME)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            if {"attempts", "outcomes", "asked_again"} <= tables:
                for table in ("outcomes", "asked_again"):
                    settled |= {f"{prefix}{index}" for (index,) in db.execute(f"SELECT idx FROM {table}")}
                sent |= {f"{prefix}{index}" for (index,) in db.execute("SELECT idx FROM attempts")}
    for path in (out / "results").glob("*.parquet"):
        with contextlib.suppress(pl.exceptions.ComputeError):  # damaged
            settled |= set(pl.read_parquet(path)["row_id"])
    return Known(settled, settled | sent)
