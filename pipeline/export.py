"""`promptmill export`: all parts of a run as one file in input order, streamed."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from pipeline.errors import JobError, RunFolderError
from pipeline.parts import RESULTS

_FORMATS = (".parquet", ".jsonl", ".csv")
# A spreadsheet runs a cell that begins with one of these.
_FORMULA = r"^[=+\-@\t\r]"


def export(folder: Path, output: Path, *, formulas: bool = False, on_note: Callable[[str], None]) -> int:
    """Write a run's results so far to one .parquet, .jsonl or .csv file and return the rows.

    In CSV, nested columns are JSON text, and text that a spreadsheet would run as a formula gets a leading apostrophe unless
    `formulas`. Raises RunFolderError where there is nothing to export, JobError for an unknown extension.
    """
    if output.suffix not in _FORMATS:
        raise JobError(
            f"{output}: export writes {', '.join(_FORMATS)}; name the file with one of these endings"
        )
    parts = sorted((folder / RESULTS).glob("part-*.parquet"))
    if not parts:
        raise RunFolderError(f"{folder} has no finished part yet; see `promptmill status {folder}`")
    frame = pl.scan_parquet(parts)
    schema = frame.collect_schema()
    scratch = output.with_name(output.name + ".tmp")
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".parquet":
        frame.sink_parquet(scratch, compression="zstd")
    elif output.suffix == ".jsonl":
        frame.sink_ndjson(scratch)
    else:
        _flat(frame, schema, formulas=formulas).sink_csv(scratch)
    scratch.replace(output)
    numbers = [int(part.stem.removeprefix("part-")) for part in parts]
    if numbers != list(range(len(numbers))):
        on_note("the run is not finished: rows of ranges still open are left out")
    return int(frame.select(pl.len()).collect().item())


def _flat(frame: pl.LazyFrame, schema: pl.Schema, *, formulas: bool) -> pl.LazyFrame:
    columns = []
    for name, kind in schema.items():
        column = pl.col(name)
        if isinstance(kind, pl.Struct):
            column = column.struct.json_encode()
        elif kind.is_nested():
            column = pl.struct(name).struct.json_encode()
        elif kind == pl.Binary:
            column = column.bin.encode("base64")
        elif kind == pl.String and not formulas:
            column = pl.when(column.str.contains(_FORMULA)).then("'" + column).otherwise(column).alias(name)
        columns.append(column.alias(name))
    return frame.select(columns)
