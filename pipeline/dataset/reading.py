"""Dataset: the files of one prompt dataset as one sequence of rows, and how they were when it was opened.

Formats are read in their own modules; here they are put in order, and a library's errors become ours.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline.dataset.delimited import read_csv
from pipeline.dataset.files import (
    DEFAULT_MAX_LINE_BYTES,
    Cursor,
    DatasetFile,
    Format,
    Found,
    byte_stream,
    difference,
    find_files,
    fingerprint,
)
from pipeline.dataset.jsonl import read_jsonl
from pipeline.dataset.parquet import count_rows, one_line, read_parquet, shared_schema
from pipeline.dataset.remote import find_remote
from pipeline.dataset.scan import DatasetScan, ScanRequest, no_id_column, scan_rows
from pipeline.errors import DatasetError
from pipeline.records import Row
from pipeline.s3 import GO_ON, S3Error, S3Settings, is_s3

LINE_READERS = {Format.JSONL: read_jsonl, Format.CSV: read_csv}


def open_dataset(
    spec: str, *, base: Path, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES, s3: S3Settings | None = None
) -> "Dataset":
    """Look up the files that `spec` names: a file, glob or folder, relative to `base`, or the same on `s3://`.

    Nothing of their content is read yet. A longer line than `max_line_bytes` becomes a problem row. Raises
    DatasetError: see `files.find_files`.
    """
    settings = s3 or S3Settings()
    look_up = partial(find_remote, spec, settings) if is_s3(spec) else partial(find_files, spec, base)
    return Dataset(look_up, max_line_bytes)


class Dataset:
    """A prompt dataset as it was found; can be read any number of times."""

    def __init__(self, look_up: Callable[[], Found], max_line_bytes: int) -> None:
        self._found = look_up()
        self._look_up = look_up
        self._max_line_bytes = max_line_bytes

    @property
    def files(self) -> tuple[DatasetFile, ...]:
        """The files in reading order."""
        return self._found.files

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names in the folder that are not read: hidden ones and extensions of no format."""
        return self._found.ignored

    @property
    def format(self) -> Format:
        """The one format of all files."""
        return self.files[0].format

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows from index `start` on, in bounded memory.

        Raises DatasetError where a file cannot be opened or its container is cut or damaged: never silently
        short.
        """
        return self._read(Cursor(start=start))

    def scan(
        self,
        id_column: str | None,
        limit: int | None = None,
        on_progress: Callable[[int], None] | None = None,
        wanted: Collection[str] | None = None,
    ) -> DatasetScan:
        """Return what the dataset, or its first `limit` rows, holds; `on_progress` hears the rows so far.

        `wanted` are the columns the job names (`output.columns`): only these are looked for, and any number
        of others may be there. Of Parquet only the footers and the id column are read, so a bad value
        elsewhere is not found. Raises DatasetError as `rows` and `arrow_schema` do, and where no row has
        the id column or there are more than 1,000 columns.
        """
        schema = self.arrow_schema()
        names = None if wanted is None else frozenset(wanted)
        if schema is None:
            return scan_rows(
                ScanRequest(
                    read=self._read, id_column=id_column, limit=limit, wanted=names, on_progress=on_progress
                )
            )
        columns = [name for name in schema.names if names is None or name in names]
        if id_column is None:
            rows = count_rows(self.files)
            scan = DatasetScan(rows=rows if limit is None else min(rows, limit))
            if on_progress:
                on_progress(scan.rows)
        elif id_column not in schema.names:
            raise DatasetError(no_id_column(id_column, schema.names))
        else:
            scan = scan_rows(
                ScanRequest(
                    read=lambda cursor: self._read(cursor, only=id_column),
                    id_column=id_column,
                    limit=limit,
                    wanted=frozenset(),
                    on_progress=on_progress,
                )
            )
        scan.columns = columns
        return scan

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and modification times when the dataset was opened."""
        return fingerprint(self.files)

    def changed(self) -> str | None:
        """Return a sentence that names a file changed, gone or new since the dataset was opened, or None."""
        try:
            return difference(self._found, self._look_up())
        except DatasetError as error:
            return f"The dataset changed since it was opened: {error}"

    def arrow_schema(self) -> pa.Schema | None:
        """Return the columns' types as they are carried: for Parquet the files' own, else None: all text.

        JSONL and CSV have no types to take over; `text_of` gives the text. Raises DatasetError where the
        files' schemas differ.
        """
        return shared_schema(self.files) if self.format is Format.PARQUET else None

    def _read(self, cursor: Cursor, only: str | None = None) -> Iterator[Row]:
        for file in self.files:
            if file.format is Format.PARQUET:
                yield from read_parquet(file, cursor, self._max_line_bytes, only)
            else:
                yield from self._read_lines(file, cursor)

    def _read_lines(self, file: DatasetFile, cursor: Cursor) -> Iterator[Row]:
        before = cursor.index
        try:
            with file.source.errors(), byte_stream(file) as stream:
                yield from LINE_READERS[file.format](stream, file.name, cursor, self._max_line_bytes)
        except OSError as error:
            after = f" after row {cursor.index - before:,}" if cursor.index > before else ""
            reason = error.strerror or one_line(error).rstrip(".")
            what_to_do = GO_ON if isinstance(error, S3Error) else "Make it anew, or correct its permissions."
            raise DatasetError(f"{file.name} cannot be read{after}: {reason}. {what_to_do}") from error
