"""The Files API's memory: what is stored, when it is parsed, what a prompt may read of it.

Rules: the provider's page on its file interface (10,000 files, 100 GB, formats and sizes by purpose) and its
page of error codes. Time comes in as a number of seconds.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.simulator.chat.prompt import count
from pipeline.simulator.refusals import (
    BAD_FILE_FORMAT,
    FILE_CAPACITY,
    FILE_NOT_FOUND,
    FILE_NOT_READY,
    FILE_QUOTA,
    TOO_LARGE,
    Refusal,
    invalid_parameter,
    refused_parameter,
)
from pipeline.simulator.settings import Settings
from pipeline.simulator.storage.documents import (
    BYTES_PER_NOMINAL_TOKEN,
    FORMATS,
    IMAGE_FORMATS,
    document_text,
    format_of,
)

# What the ids begin with, by purpose.
PURPOSES = {"file-extract": "file-fe", "batch": "file-batch"}
_MIB = 1024 * 1024
_MOST_BYTES = {"file-extract": 150 * _MIB, "batch": 500 * _MIB}
_MOST_IMAGE_BYTES = 20 * _MIB
_EXCERPT_CHARS = 8_000
_STORED_FROM = 1_767_225_600  # what `created_at` counts from: the simulator knows no time of day


@dataclass(slots=True)
class StoredFile:
    """One file. `parsed_s` is when it can be read; `polls_left` how many times its state must be asked first."""

    id: str
    filename: str
    size: int
    purpose: str
    stored_s: float
    parsed_s: float
    polls_left: int
    tokens: int
    excerpt: str
    digest: str


class FileStore:
    """The files of one account."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._files: dict[str, StoredFile] = {}
        self._stored = 0

    def store(self, filename: str, purpose: str, content: bytes) -> StoredFile | Refusal:
        """Store a file, or say why not."""
        refusal = self._unwelcome(filename, purpose, len(content))
        if refusal is not None:
            return refusal
        self._stored += 1
        text = document_text(filename, content) if purpose == "file-extract" else ""
        nominal = text is None
        now = self._clock()
        stored = StoredFile(
            id=f"{PURPOSES[purpose]}-{hashlib.sha256(b'%d/%s' % (self._stored, content)).hexdigest()[:24]}",
            filename=filename,
            size=len(content),
            purpose=purpose,
            stored_s=now,
            parsed_s=now + self._settings.file_processing_s,
            polls_left=self._settings.file_polls,
            tokens=-(-len(content) // BYTES_PER_NOMINAL_TOKEN) if nominal else count(text or ""),
            excerpt=(text or "")[:_EXCERPT_CHARS],
            digest=hashlib.sha256(content).hexdigest(),
        )
        self._files[stored.id] = stored
        return stored

    def _unwelcome(self, filename: str, purpose: str, size: int) -> Refusal | None:
        if purpose not in PURPOSES:
            return invalid_parameter(f"purpose must be one of {', '.join(PURPOSES)}.")
        if len(self._files) >= self._settings.most_files:
            return FILE_QUOTA
        if self.stored_bytes + size > self._settings.most_file_bytes:
            return FILE_CAPACITY
        kind = format_of(filename)
        if purpose == "batch":
            return (
                BAD_FILE_FORMAT if kind != "jsonl" else (TOO_LARGE if size > _MOST_BYTES[purpose] else None)
            )
        if kind not in FORMATS:
            return BAD_FILE_FORMAT
        return (
            TOO_LARGE
            if size > (_MOST_IMAGE_BYTES if kind in IMAGE_FORMATS else _MOST_BYTES[purpose])
            else None
        )

    @property
    def stored_bytes(self) -> int:
        return sum(stored.size for stored in self._files.values())

    def poll(self, file_id: str) -> dict[str, Any] | Refusal:
        """Describe a file to its owner, who may be waiting for it to be parsed."""
        stored = self._files.get(file_id)
        if stored is None:
            return FILE_NOT_FOUND
        described = self.describe(stored)
        stored.polls_left = max(0, stored.polls_left - 1)
        return described

    def delete(self, file_id: str) -> Refusal | None:
        if self._files.pop(file_id, None) is None:
            return FILE_NOT_FOUND
        return None

    def listed(self, after: str | None, limit: int) -> tuple[list[StoredFile], bool]:
        """List files in the order of their upload behind the cursor, and say whether there are more."""
        stored = list(self._files.values())
        start = next((i + 1 for i, one in enumerate(stored) if one.id == after), 0) if after else 0
        return stored[start : start + limit], len(stored) > start + limit

    def is_parsed(self, stored: StoredFile) -> bool:
        return stored.polls_left <= 0 and self._clock() >= stored.parsed_s

    def describe(self, stored: StoredFile) -> dict[str, Any]:
        """The file object of the compatible mode."""
        return {
            "id": stored.id,
            "bytes": stored.size,
            "created_at": _STORED_FROM + int(stored.stored_s),
            "filename": stored.filename,
            "object": "file",
            "purpose": stored.purpose,
            "status": "processed" if self.is_parsed(stored) else "processing",
            "status_details": None,
        }

    def read(self, file_id: str) -> StoredFile | Refusal:
        """Hand a document to a prompt, or say why it cannot be read."""
        stored = self._files.get(file_id)
        if stored is None or stored.purpose != "file-extract":
            return refused_parameter(f"Invalid file [id:{file_id}].")
        if not self.is_parsed(stored):
            stored.polls_left = max(0, stored.polls_left - 1)  # a prompt that comes too early asks as well
            return FILE_NOT_READY
        if format_of(stored.filename) in IMAGE_FORMATS:
            return refused_parameter(f"File [id:{file_id}] format is not supported.")
        if not stored.tokens:
            return refused_parameter(f"File [id:{file_id}] content blank.")
        return stored
