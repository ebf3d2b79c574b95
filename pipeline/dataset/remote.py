"""Prompt datasets on S3: the objects that an address names, and their bytes.

An object's time is that of its last upload, so that size and time tell a change as they do of a file.
"""

import glob
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pyarrow.parquet as pq
from pyarrow import fs

from pipeline.dataset.files import ByteStream, Compression, Found, Listed, of_folder, of_names
from pipeline.errors import DatasetError
from pipeline.s3 import S3Path, S3Settings, client, s3_path, said_plainly

# One request each; the reader waits for it, and with it the whole run: large enough to be few, small enough to be short.
_BLOCK_BYTES = 2 * 1024 * 1024
_COLUMN_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """An object on S3."""

    place: S3Path
    settings: S3Settings

    def errors(self) -> AbstractContextManager[None]:
        return said_plainly(self.place, self.settings)

    @contextmanager
    def open(self, compression: Compression | None) -> Iterator[ByteStream]:
        with client(self.settings).open_input_stream(
            self.place.path, compression=compression, buffer_size=_BLOCK_BYTES
        ) as stream:
            yield stream

    def parquet(self, by_dictionary: list[str]) -> pq.ParquetFile:
        return pq.ParquetFile(
            self.place.path,
            filesystem=client(self.settings),
            read_dictionary=by_dictionary,
            buffer_size=_COLUMN_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )


def find_remote(spec: str, settings: S3Settings) -> Found:
    """Return the objects that `spec` names: one, a glob, or all directly below a prefix, by the rules of `files.find_files`.

    Raises DatasetError as it does, and where S3 refuses.
    """
    place = s3_path(spec)
    try:
        with said_plainly(place, settings):
            return _found(spec, place, settings)
    except OSError as error:
        raise DatasetError(f"the dataset cannot be looked up: {error}.") from error


def _found(spec: str, place: S3Path, settings: S3Settings) -> Found:
    s3 = client(settings)
    (info,) = s3.get_file_info([place.path])
    if info.type is fs.FileType.File:
        return of_names(spec, [_listed(info, settings, name=info.base_name)])
    if info.type is fs.FileType.Directory:
        inside = s3.get_file_info(fs.FileSelector(place.path))
        return of_folder(
            spec, str(place), [_listed(one, settings, name=one.base_name) for one in inside if one.is_file]
        )
    if not glob.has_magic(place.key):
        # A bucket that is not there looks the same, until its content is asked for.
        s3.get_file_info(fs.FileSelector(place.bucket, allow_not_found=False))
        raise DatasetError(f"There is no dataset at {place}.")
    names = place.key.split("/")
    fixed = next(number for number, name in enumerate(names) if glob.has_magic(name))
    above = S3Path(place.bucket, "/".join(names[:fixed]))
    below = s3.get_file_info(
        fs.FileSelector(above.path, recursive=len(names) > fixed + 1 or "**" in names, allow_not_found=True)
    )
    matching = [one for one in below if one.is_file and _matches(one.path.split("/")[1:], names)]
    if not matching:
        raise DatasetError(f'No file matches "{place}".')
    return of_names(spec, [_listed(one, settings, name=f"s3://{one.path}") for one in matching])


def _listed(info: fs.FileInfo, settings: S3Settings, *, name: str) -> Listed:
    bucket, _, key = info.path.partition("/")
    return Listed(name, RemoteSource(S3Path(bucket, key), settings), info.size or 0, info.mtime_ns or 0)


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a key's names are what a pattern of `glob` means: `**` is any names, and none that is hidden is found by chance."""
    if not pattern:
        return not names
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        shown = next((n for n, name in enumerate(names) if name.startswith(".")), len(names))
        return any(_matches(names[passed:], rest) for passed in range(shown + 1))
    if not names or (names[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatchcase(names[0], first) and _matches(names[1:], rest)
