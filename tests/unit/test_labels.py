"""What a labelling run came to, in lines."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.jobspec import ResponseSection
from pipeline.labels import label_lines
from pipeline.storage import LocalFiles

LABELS = ["positive", "negative"]


def said(folder: Path, *parts: dict[str, Any] | pa.Table, **response: Any) -> list[str]:
    for number, part in enumerate(parts):
        table = part if isinstance(part, pa.Table) else pa.table(part)
        pq.write_table(table, folder / f"part-{number:05d}.parquet")
    return list(label_lines(LocalFiles(folder), ResponseSection(**{"labels": LABELS, **response})))


def test_labels_are_counted_over_all_parts_in_the_jobs_order(tmp_path: Path) -> None:
    parts = [{"label": ["negative", "positive"]}, {"label": ["positive", None]}]
    assert said(tmp_path, *parts) == ["labels: positive 2, negative 1, no valid label 1"]


def test_a_label_that_never_came_counts_0(tmp_path: Path) -> None:
    assert said(tmp_path, {"label": ["positive"]}) == ["labels: positive 1, negative 0"]


def test_agreement_is_of_all_rows_whose_label_is_known(tmp_path: Path) -> None:
    part = {
        "label_input": ["Positive ", "negative", "positive", None],
        "label": ["positive", "positive", None, "positive"],
    }
    assert said(tmp_path, part, gold="label")[1] == "agreement with the known labels in 'label': 1 of 3 (33%)"


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_known_labels_may_be_of_any_plain_type(tmp_path: Path, kind: pa.DataType) -> None:
    gold = (
        pa.array([1, 0, None], pa.int64())
        .cast(pa.string() if pa.types.is_dictionary(kind) else kind)
        .cast(kind)
    )
    part = pa.table({"truth": gold, "label": ["1", "1", "0"]})
    assert said(tmp_path, part, labels=["1", "0"], gold="truth")[1].endswith("in 'truth': 1 of 2 (50%)")


def test_known_labels_of_a_nested_type_are_not_compared(tmp_path: Path) -> None:
    assert len(said(tmp_path, {"truth": [["positive"]], "label": ["positive"]}, gold="truth")) == 1


def test_a_gold_column_is_found_past_other_columns_that_bear_its_new_name(tmp_path: Path) -> None:
    part = {"label_input": ["x", "x"], "label_input_input": LABELS, "label": LABELS}
    assert said(tmp_path, part, gold="label")[1].endswith("2 of 2 (100%)")
    part = {"truth": LABELS, "truth_input": ["x", "x"], "label": LABELS}
    assert said(tmp_path, part, gold="truth")[1].endswith("2 of 2 (100%)")


def test_without_any_known_label_nothing_is_said_of_agreement(tmp_path: Path) -> None:
    part = pl.DataFrame(
        {"truth": [None], "label": ["positive"]}, schema_overrides={"truth": pl.String}
    ).to_arrow()
    assert len(said(tmp_path, part, gold="truth")) == 1


def test_nothing_is_said_before_the_first_part_or_where_no_labels_were_asked(tmp_path: Path) -> None:
    assert said(tmp_path) == []
    assert said(tmp_path, {"label": ["positive"]}, labels=None) == []
