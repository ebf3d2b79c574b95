"""Which files a prompt dataset is made of: looked up once, sorted, with what tells that they changed.

Here are paths, extensions and byte streams; nothing here knows what a row looks like. A file's bytes come from its
`Source`: a file of this machine, or an object on S3 (`remote.py`).
"""

import glob
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DatasetError

DEFAULT_MAX_LINE_BYTES = 16 * 1024 * 1024
BUFFER_BYTES = 64 * 1024  # a Parquet column's; wide files have hundreds


class Format(StrEnum):
    """How rows are written in a file."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


EXTENSIONS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
}
Compression = Literal["gzip", "zstd"]
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
EXPECTED = ".jsonl, .ndjson or .csv (each also with .gz or .zst), or .parquet"


class ByteStream(Protocol):
    """What the readers need of an open file; `read` returns b"" at the end only."""

    def read(self, size: int, /) -> bytes: ...


class Source(Protocol):
    """Where a file's bytes are. Both raise OSError where they cannot be had."""

    def open(self, compression: Compression | None) -> AbstractContextManager[ByteStream]:
        """The bytes from the beginning on, unpacked."""

    def errors(self) -> AbstractContextManager[None]:
        """Around all reading of it: what cannot be had now, and perhaps later, comes out as S3Error."""

    def parquet(self, by_dictionary: list[str]) -> pq.ParquetFile:
        """The file opened as Parquet, these columns left in dictionaries. Raises ArrowException where it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFile:
    """One file as it was found; `name` is what a user would call it, `compression` a codec of Arrow."""

    source: Source
    name: str
    format: Format
    compression: Compression | None
    size_bytes: int
    mtime_ns: int


class Found(NamedTuple):
    """The files of a dataset in reading order, and the names a folder holds that are not read."""

    files: tuple[DatasetFile, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file of this machine."""

    path: Path

    def errors(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def open(self, compression: Compression | None) -> Iterator[ByteStream]:
        if compression is None:
            with self.path.open("rb", buffering=0) as plain:
                yield plain
            return
        with self.path.open("rb") as packed, pa.CompressedInputStream(packed, compression) as stream:
            yield stream

    def parquet(self, by_dictionary: list[str]) -> pq.ParquetFile:
        return pq.ParquetFile(
            self.path,
            read_dictionary=by_dictionary,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )


class Listed(NamedTuple):
    """A file that a look-up found, whatever its extension."""

    name: str
    source: Source
    size_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class Cursor:
    """Where reading stands, over all files: rows before `start` are passed over, not built."""

    start: int = 0
    index: int = 0  # of the next row
    empty_lines: int = 0


def find_files(spec: str, base: Path) -> Found:
    """Return the files of this machine that `spec` names: a file, a glob or a folder, relative to `base`.

    A name that exists is never taken as a glob. In a folder (its own files only) names that start with `.`
    or `_` and extensions of no format are left out and told in `ignored`; in a glob such an extension is an
    error. Raises DatasetError: nothing there, an unknown extension, mixed formats, another kind of address.
    """
    if "://" in spec:
        raise DatasetError(
            f'"{spec}": datasets are read from local files and from s3://; copy it to one of these.'
        )
    path = base / spec
    if path.is_file():
        named = [(path.name, path)]
    elif path.is_dir():
        return of_folder(spec, str(path), [_listed(p.name, p) for p in path.iterdir() if p.is_file()])
    elif path.exists():
        raise DatasetError(
            f"{path} is not a regular file: a dataset is read more than once, so save it to a file."
        )
    elif glob.has_magic(spec):
        # Path.glob takes no absolute pattern and matches hidden files.
        names = sorted(glob.glob(spec, root_dir=base, recursive=True))  # noqa: PTH207
        named = [(n, base / n) for n in names if (base / n).is_file()]
        if not named:
            raise DatasetError(f'No file matches "{Path(base) / spec}".')
    else:
        raise DatasetError(f"There is no dataset at {path}.")
    return of_names(spec, [_listed(name, path) for name, path in named])


def of_folder(spec: str, folder: str, inside: Sequence[Listed]) -> Found:
    """The dataset of all files that lie directly in a folder."""
    named = [one for one in inside if not one.name.startswith((".", "_")) and _format(one.name) is not None]
    if not named:
        raise DatasetError(
            f"No dataset files in the folder {folder}: expected {EXPECTED}. "
            f'Its subfolders are not read; "{spec.rstrip("/")}/**/*.parquet" would.'
        )
    read = {one.name for one in named}
    return of_names(spec, named)._replace(
        ignored=tuple(sorted(one.name for one in inside if one.name not in read))
    )


def of_names(spec: str, named: Sequence[Listed]) -> Found:
    """The dataset of the files that were named one by one, or by a pattern."""
    files = tuple(_known(one) for one in sorted(named, key=lambda one: one.name))
    formats = {file.format: file.name for file in reversed(files)}
    if len(formats) > 1:
        listed = ", ".join(f"{name} ({fmt})" for fmt, name in sorted(formats.items()))
        raise DatasetError(
            f'"{spec}" mixes formats: {listed}. Name one of them, with a glob such as "*.jsonl".'
        )
    return Found(files, ())


def _format(name: str) -> tuple[Format, Compression | None] | None:
    """Return format and compression by extension, None where it is of no format."""
    suffixes = [s.lower() for s in Path(name).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    fmt = EXTENSIONS.get(suffixes[-1]) if suffixes else None
    if fmt is None or (compression and fmt is Format.PARQUET):  # Parquet compresses within, and needs to seek
        return None
    return fmt, compression


def _listed(name: str, path: Path) -> Listed:
    try:
        stat = path.stat()
    except OSError as error:
        raise DatasetError(f"{name} cannot be read: {error.strerror}.") from error
    return Listed(name, LocalSource(path), stat.st_size, stat.st_mtime_ns)


def _known(listed: Listed) -> DatasetFile:
    known = _format(listed.name)
    if known is None:
        raise DatasetError(f"{listed.name}: the extension does not say how to read it; expected {EXPECTED}.")
    fmt, compression = known
    return DatasetFile(
        source=listed.source,
        name=listed.name,
        format=fmt,
        compression=compression,
        size_bytes=listed.size_bytes,
        mtime_ns=listed.mtime_ns,
    )


def fingerprint(files: tuple[DatasetFile, ...]) -> str:
    """Return a hash of names, sizes and modification times, 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.name}\0{file.size_bytes}\0{file.mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def difference(before: Found, after: Found) -> str | None:
    """Return a sentence that names the first file that changed, appeared or vanished; None where none did."""
    now = {file.name: file for file in after.files}
    for file in before.files:
        found = now.pop(file.name, None)
        if found is None:
            return f"{file.name} is gone since the dataset was opened."
        if found.size_bytes != file.size_bytes:
            return (
                f"{file.name} changed since the dataset was opened: "
                f"{file.size_bytes:,} bytes then, {found.size_bytes:,} now."
            )
        if found.mtime_ns != file.mtime_ns:
            return f"{file.name} was written to since the dataset was opened."
    return f"{next(iter(now))} is new since the dataset was opened." if now else None


@contextmanager
def byte_stream(file: DatasetFile) -> Iterator[ByteStream]:
    """Open `file` and undo its compression.

    Raises OSError where the file cannot be opened and, while it is read, where its compressed data is cut or
    damaged.
    """
    if file.compression is not None and file.size_bytes == 0:  # Arrow reads nothing at all as an empty stream
        raise DatasetError(
            f"{file.name} is empty, which no {file.compression} file is; was its copy cut short?"
        )
    with file.source.open(file.compression) as stream:
        yield stream
