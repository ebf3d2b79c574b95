"""What a labelling run came to: how many of each label, and how far they agree with known ones."""

from collections.abc import Collection, Iterator
from pathlib import Path

import polars as pl

from pipeline.jobspec import ResponseSection
from pipeline.parts import RESULT_COLUMNS


def label_lines(results: Path, response: ResponseSection) -> Iterator[str]:
    """Lines to print after a run that asked for labels; none where it asked for something else, or has no part yet."""
    if response.labels is None or not any(results.glob("part-*.parquet")):
        return
    frame = pl.scan_parquet(results / "part-*.parquet")
    counts = frame.group_by("label").len().collect()
    found: dict[str | None, int] = dict(zip(counts["label"], counts["len"], strict=True))
    said = [f"{label} {found.get(label, 0):,}" for label in response.labels]
    if without := found.get(None, 0):
        said.append(f"no valid label {without:,}")
    yield f"labels: {', '.join(said)}"
    if response.gold is None:
        return
    schema = frame.collect_schema()
    name = _gold_name(response.gold, schema.names())
    if schema[name].is_nested():
        return
    gold = pl.col(name).cast(pl.String)
    known = frame.filter(gold.is_not_null())
    same = gold.str.strip_chars().str.to_lowercase() == pl.col("label").str.strip_chars().str.to_lowercase()
    rows, agreed = known.select(pl.len(), same.fill_null(value=False).sum()).collect().row(0)
    if rows:
        yield f"agreement with the known labels in {response.gold!r}: {agreed:,} of {rows:,} ({agreed / rows:.0%})"


def _gold_name(gold: str, names: Collection[str]) -> str:
    """The gold column's name among the results; renamed where it bears a result column's, past other columns' own names."""
    if gold in RESULT_COLUMNS | {"label"}:
        while f"{gold}_input" in names:
            gold += "_input"
    return gold
