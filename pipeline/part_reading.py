"""Part files read again: by whoever wants their rows, and to find out whether one is unharmed and of this work."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RunFolderError
from pipeline.parts import METADATA_KEY, SCHEMA_VERSION, digest, part_name
from pipeline.storage import Storage
from pipeline.totals import PartRecord


class DamagedPart(Exception):
    """A part file is not what was written. `name` is the file's, `reason` what is wrong with it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} is damaged: {reason}")
        self.name = name
        self.reason = reason


def arrow_file(data: bytes) -> pa.BufferReader:
    """Bytes as a file for Arrow, in memory of its own.

    Its threads may let go of a buffer when the interpreter has ended already; were it Python's, that would abort the process.
    """
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)


def _opened(name: str, data: bytes) -> pq.ParquetFile:
    """A part's bytes, whose pages are checked against their checksums as they are read: it raises OSError where one is wrong.

    Raises DamagedPart where they are no Parquet file.
    """
    try:
        return pq.ParquetFile(arrow_file(data), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart(name, one_line(error)) from error


def one_line(error: Exception) -> str:
    """The first line of a library's message."""
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__


@contextmanager
def reading_part(results: Storage, name: str) -> Iterator[pq.ParquetFile]:
    """A part file for a reader that can do nothing about damage: what reading raises within becomes a RunFolderError."""
    try:
        data = results.read(name)
    except OSError as error:
        raise RunFolderError(
            f"the part {name} cannot be read from {results.where}: {one_line(error)}"
        ) from error
    try:
        with _opened(name, data) as part:
            yield part
    except (OSError, pa.ArrowException, DamagedPart) as error:
        reason = error.reason if isinstance(error, DamagedPart) else one_line(error)
        raise RunFolderError(
            f"{results.where}/{name} is damaged: {reason}. Give it a new time (`touch` it, or copy it over itself) and "
            "run the job's command again: it then looks at it, sets it aside and does its rows again"
        ) from error


def part_metadata(results: Storage, name: str) -> dict[str, Any] | None:
    """What we wrote into a part file about it; None where it is not ours. Raises as `found_part` does."""
    return _metadata(_opened(name, results.read(name)))


def _metadata(part: pq.ParquetFile) -> dict[str, Any] | None:
    text = (part.schema_arrow.metadata or {}).get(METADATA_KEY)
    metadata = json.loads(text) if text is not None else {}
    return metadata if metadata.get("schema_version") == SCHEMA_VERSION else None


def found_part(results: Storage, name: str, fingerprint: str) -> PartRecord | None:
    """What a part file that nobody recorded says of itself, or None where it is not of the work of this fingerprint.

    All of it is read. Raises OSError where it cannot be had, DamagedPart where it is not as it was written.
    """
    data = results.read(name)
    part = _opened(name, data)
    metadata = _metadata(part)
    if metadata is None or metadata["fingerprint"] != fingerprint or part_name(metadata["number"]) != name:
        return None
    try:
        part.read()
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart(name, one_line(error)) from error
    stamp = results.stamps()[name]
    return PartRecord(metadata["number"], metadata["rows"], metadata["totals"], stamp, digest(data))
