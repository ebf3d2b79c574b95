"""Prompt datasets: files in, rows with their index out, in memory that does not grow with their number.

Formats and compressions are told by extension, never by content, and no type is ever inferred from data.
What a row means (templates, messages, media) belongs to `render`; what becomes of a row that cannot be
read, to the runner.

    files      which files a dataset is made of, and whether they changed
    lines      bounded lines out of a byte stream
    jsonl, delimited, parquet    one format each: file -> rows
    row_sizes  how large rows of Parquet become, before they do
    scan, repeats                what a whole dataset holds, before anything is sent
    reading    Dataset, which ties these together
"""

from pipeline.dataset.files import DEFAULT_MAX_LINE_BYTES
from pipeline.dataset.ids import id_problem, id_text, text_of
from pipeline.dataset.reading import Dataset, open_dataset
from pipeline.dataset.scan import DatasetScan, Duplicate, Finding

__all__ = [
    "DEFAULT_MAX_LINE_BYTES",
    "Dataset",
    "DatasetScan",
    "Duplicate",
    "Finding",
    "id_problem",
    "id_text",
    "open_dataset",
    "text_of",
]
