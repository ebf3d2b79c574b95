"""`promptmill export`: all parts of a run as one file in input order, streamed, written whole or not at all."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, RunFolderError
from pipeline.journal_view import view
from pipeline.part_reading import reading_part
from pipeline.parts import part_names
from pipeline.private import make_new_private_file
from pipeline.results import results_of
from pipeline.s3 import S3Settings
from pipeline.storage import Storage

_FORMATS = (".parquet", ".jsonl", ".csv")
# A spreadsheet runs a cell that begins with = + - @, a tab or the end of a line (OWASP, CSV injection). Programs differ in what
# they take for such a sign and what they leave out before it: so every form that Unicode calls compatible with one counts, and
# the minus sign, also behind spaces and what is not seen.
_FORMULA = r"^(?:[\t\r\n]|[\p{Z}\p{C}]*[=+\-@−＝＋－＠﹢﹣﹦﹫⁺⁻⁼₊₋₌﬩⩵⩶])"


def export(
    folder: Path,
    output: Path,
    *,
    formulas: bool = False,
    s3: S3Settings | None = None,
    on_note: Callable[[str], None],
) -> int:
    """Write a run's results so far to one .parquet, .jsonl or .csv file and return the rows.

    Parquet keeps every column's type. In JSONL and CSV binary columns are base64 and durations ISO 8601; in CSV nested columns
    are JSON text, and text that a spreadsheet would run as a formula gets a leading apostrophe unless `formulas`. Raises
    RunFolderError where there is nothing to export, JobError for an unknown ending or a place that cannot be written.
    """
    if output.suffix not in _FORMATS:
        raise JobError(
            f"{output}: export writes {', '.join(_FORMATS)}; name the file with one of these endings"
        )
    manifest = view(folder).manifest
    asked_rows = int(manifest.get("rows", "0"))
    results = results_of(folder, manifest, s3 or S3Settings())
    try:
        names = part_names(results)
    except OSError as error:
        raise RunFolderError(f"the results in {results.where} cannot be read: {error}") from error
    if not names:
        raise RunFolderError(f"{folder} has no finished part yet; see `promptmill status {folder}`")
    if str(output.absolute().parent) == str(Path(results.where).absolute()):
        raise JobError(
            f"{output} would lie among the parts of the run and be read as one: write it elsewhere"
        )
    scratch = output.with_name(output.name + ".tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        make_new_private_file(scratch)
        rows = _write(_batches(results, names), scratch, output.suffix, formulas=formulas)
        scratch.replace(output)
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise JobError(f"{output} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
    if rows < asked_rows:
        on_note(
            f"the run is not finished: {rows:,} of {asked_rows:,} rows are exported, those of its finished parts"
        )
    return rows


def _batches(results: Storage, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """All rows of the parts in order. A part without rows gives a batch without rows, for its columns."""
    for name in names:
        with reading_part(results, name) as part:
            schema = part.schema_arrow.remove_metadata()
            if not part.metadata.num_rows:
                yield pa.RecordBatch.from_pylist([], schema=schema)
            for batch in part.iter_batches():
                yield batch.cast(schema)


def _write(batches: Iterator[pa.RecordBatch], scratch: Path, ending: str, *, formulas: bool) -> int:
    """Write the rows to a file of that ending and return their number."""
    first = next(batches)
    rows = 0
    with contextlib.ExitStack() as opened:
        if ending == ".parquet":
            writer = opened.enter_context(pq.ParquetWriter(scratch, first.schema, compression="zstd"))
            write: Callable[[pa.RecordBatch], object] = writer.write_batch
        else:
            write = _text_writer(opened.enter_context(scratch.open("wb")), ending, formulas=formulas)
        for batch in chain([first], batches):
            write(batch)
            rows += batch.num_rows
    return rows


def _text_writer(file: IO[bytes], ending: str, *, formulas: bool) -> Callable[[pa.RecordBatch], object]:
    header = [True]  # for the next batch
    names: dict[str, str] = {}

    def write(batch: pa.RecordBatch) -> None:
        # By number: polars reads names such as "*" and "^a.*$" as patterns, and would be handed others only up to a NUL.
        frame = pl.DataFrame(batch.rename_columns(list(map(str, range(batch.num_columns)))))
        columns = list(zip(batch.schema.names, frame.dtypes, strict=True))
        if ending == ".jsonl":
            plain = (_plain(pl.nth(n), kind).alias(name) for n, (name, kind) in enumerate(columns))
            frame.select(plain).write_ndjson(file)
            return
        if not names:
            names.update(_header(batch.schema.names, formulas=formulas))
        cells = [
            _cell(pl.nth(n), kind, formulas=formulas).alias(names[name])
            for n, (name, kind) in enumerate(columns)
        ]
        frame.select(cells).write_csv(file, include_header=header.pop() if header else False)

    return write


def _plain(column: pl.Expr, kind: Any) -> pl.Expr:
    """A column with what JSON has no form for as text, also within lists and structs."""
    if kind == pl.Binary:
        return column.bin.encode("base64")
    if isinstance(kind, pl.Duration):
        return column.dt.to_string("iso")
    if isinstance(kind, pl.Array):
        return _plain(column.arr.to_list(), pl.List(kind.inner))
    if isinstance(kind, pl.List):
        return column.list.eval(_plain(pl.element(), kind.inner))
    if isinstance(kind, pl.Struct):
        fields = [_plain(pl.field(field.name), field.dtype).alias(field.name) for field in kind.fields]
        return column.struct.with_fields(*fields)
    return column


def _cell(value: pl.Expr, kind: pl.DataType, *, formulas: bool) -> pl.Expr:
    column = _plain(value, kind)
    if kind.is_nested():
        # polars writes structs alone as JSON, so the value travels in one, and its {"": ... } is taken off again.
        wrapped = pl.struct(column.alias("")).struct.json_encode()
        column = pl.when(value.is_not_null()).then(wrapped.str.head(-1).str.tail(-4))
    elif kind in (pl.String, pl.Binary) and not formulas:
        column = _defused(column)
    return column


def _defused(text: pl.Expr) -> pl.Expr:
    """Text with an apostrophe before what a spreadsheet would run: then it shows it."""
    return pl.when(text.str.contains(_FORMULA)).then("'" + text).otherwise(text)


def _header(columns: list[str], *, formulas: bool) -> dict[str, str]:
    """What each column is called in a CSV file; no two alike."""
    if formulas:
        return dict(zip(columns, columns, strict=True))
    names: dict[str, str] = {}
    for name, shown in zip(columns, pl.select(_defused(pl.lit(pl.Series(columns)))).to_series(), strict=True):
        while shown != name and (shown in columns or shown in names.values()):
            shown = "'" + shown  # noqa: PLW2901
        names[name] = shown
    return names
