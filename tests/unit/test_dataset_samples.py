"""The committed samples are what data/samples/README.md says they are."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.dataset import open_dataset

SAMPLES = Path(__file__).parents[2] / "data" / "samples"


def test_the_reviews_are_balanced_distinct_and_the_same_in_each_format() -> None:
    rows = [r.columns for r in open_dataset("reviews.jsonl", base=SAMPLES).rows()]
    assert Counter((r["lang"], r["label"]) for r in rows) == {
        ("zh", "positive"): 12,
        ("zh", "negative"): 12,
        ("en", "positive"): 12,
        ("en", "negative"): 12,
    }
    assert len({r["text"] for r in rows}) == 48
    assert all(20 <= len(r["text"]) <= 200 for r in rows)
    for name in ("reviews.csv", "reviews.parquet"):
        assert [r.columns for r in open_dataset(name, base=SAMPLES).rows()] == rows


@pytest.mark.parametrize("path", sorted(SAMPLES.iterdir()), ids=lambda path: path.name)
def test_no_sample_is_larger_than_100_kb_and_each_is_described(path: Path) -> None:
    assert path.stat().st_size < 100_000
    assert path.name == "README.md" or f"`{path.name}`" in (SAMPLES / "README.md").read_text(encoding="utf-8")


def test_the_dirty_sample_holds_the_bad_lines_its_description_lists() -> None:
    dataset = open_dataset("dirty.jsonl", base=SAMPLES)
    scan = dataset.scan("review_id")
    assert (scan.rows, scan.empty_lines, scan.unreadable, scan.missing_ids) == (25, 2, 7, 2)
    assert scan.duplicate_ids == 0
    assert [r.line for r in dataset.rows() if r.problem] == [2, 3, 4, 10, 11, 13, 24]


def test_the_duplicates_sample_repeats_two_ids() -> None:
    scan = open_dataset("duplicates.jsonl", base=SAMPLES).scan("review_id")
    assert [(d.id, d.again) for d in scan.duplicate_examples] == [
        ("r02", "duplicates.jsonl:7"),
        ("r05", "duplicates.jsonl:8"),
    ]
