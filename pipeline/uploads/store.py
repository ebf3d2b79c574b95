"""What was uploaded, in `uploads.sqlite` of the run folder: content hash to file id or temporary URL, by account.

An upload is recorded after it succeeded, so one that a crash forgot costs one more upload and nothing else. Keys never
come here, only the account's fingerprint; who may use the file is decided by the provider.
"""

import logging
import sqlite3
from pathlib import Path
from typing import Self

from pipeline.private import make_private_file

FILE_NAME = "uploads.sqlite"

log = logging.getLogger("promptmill")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    account TEXT NOT NULL, digest TEXT NOT NULL, file_id TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (account, digest)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS temporary (
    account TEXT NOT NULL, model TEXT NOT NULL, digest TEXT NOT NULL, url TEXT NOT NULL, expires_s REAL NOT NULL,
    PRIMARY KEY (account, model, digest)) WITHOUT ROWID;
"""


class UploadStore:
    """The record of uploads of one run folder. Opening it raises sqlite3.Error where the file is not usable."""

    def __init__(self, folder: Path) -> None:
        path = folder / FILE_NAME
        make_private_file(path)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def file_id(self, account: str, digest: str) -> str | None:
        return self._one("SELECT file_id FROM files WHERE account = ? AND digest = ?", account, digest)

    def keep_file(self, account: str, digest: str, file_id: str, name: str) -> None:
        self._write("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", account, digest, file_id, name)

    def forget_file(self, account: str, file_id: str) -> None:
        self._write("DELETE FROM files WHERE account = ? AND file_id = ?", account, file_id)

    def files(self, account: str) -> list[str]:
        """The ids of all files that were uploaded for this run folder and not deleted."""
        rows = self._db.execute("SELECT file_id FROM files WHERE account = ? ORDER BY file_id", (account,))
        return [row[0] for row in rows]

    def temporary_url(self, account: str, model: str, digest: str, *, valid_at_s: float) -> str | None:
        """The temporary URL of this content that is still valid at a Unix time, or None."""
        return self._one(
            "SELECT url FROM temporary WHERE account = ? AND model = ? AND digest = ? AND expires_s > ?",
            account, model, digest, valid_at_s,
        )  # fmt: skip

    def keep_temporary(self, account: str, model: str, digest: str, url: str, *, expires_s: float) -> None:
        self._write(
            "INSERT OR REPLACE INTO temporary VALUES (?, ?, ?, ?, ?)", account, model, digest, url, expires_s
        )

    def forget_expired(self, *, now_s: float) -> None:
        self._write("DELETE FROM temporary WHERE expires_s <= ?", now_s)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one(self, query: str, *values: str | float) -> str | None:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else str(row[0])

    def _write(self, query: str, *values: str | float) -> None:
        try:
            self._db.execute(query, values)
        except sqlite3.Error as error:
            # The upload is done and its row can go on; a record that is missing costs one more upload.
            log.warning("%s cannot be written (%s): what it should hold is uploaded again", FILE_NAME, error)
