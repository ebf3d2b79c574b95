"""Rows of results into facts, a batch at a time: polars sums what is alike, and only the sums come to Python."""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl

from pipeline.records import Status
from pipeline.report.facts import (
    MEASURES,
    MOST_EXAMPLES,
    MOST_EXTREMES,
    OTHERS,
    Cell,
    ExtremeRow,
    FailureExample,
    LabelFacts,
    MomentSums,
    Names,
    RunFacts,
    Sums,
)
from pipeline.report.spread import Spread, bucket_of
from pipeline.repricing import answered, reprice
from pipeline.totals import TOKEN_KINDS

# All that is read of a part in the one pass; what a row says is read of the few rows that are shown.
COLUMNS = (
    "row_id",
    "input_index",
    "status",
    "finish_reason",
    *TOKEN_KINDS,
    "cost",
    "currency",
    "error_kind",
    "error_code",
    "error_message",
    "http_status",
    "attempts",
    "model",
    "route",
    "started_at",
    "latency_ms",
    "first_token_ms",
    "queue_ms",
)
LABEL, GOLD = "label", "gold"
_MESSAGE_CHARS = 2_000
_CELL = ["day", "model", "route", "currency", "status", "finish_reason", "error_kind"]
_EXTREME = [name for name in ExtremeRow._fields if name != "content"]


class Gatherer:
    """Adds rows to the facts of one run."""

    def __init__(self, facts: RunFacts) -> None:
        self._facts = facts
        self._models = Names()
        self._reasons = Names()
        self._codes = Names()

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows: a frame of COLUMNS, with LABEL and GOLD where the job asks for labels."""
        rows = rows.with_columns(
            day=pl.col("started_at").dt.date(),
            answered=answered(),
            second=(pl.col("started_at").dt.epoch("ms") + pl.col("latency_ms").fill_null(0)) // 1000,
            **{f"{measure}_in": bucket_of(measure) for measure in MEASURES},
        )
        self._add_cells(rows)
        for measure in MEASURES:
            self._add_spread(rows, measure)
        self._add_attempts(rows)
        self._add_failures(rows)
        self._add_moments(rows)
        for extremes, figure in ((self._facts.slowest, "latency_ms"), (self._facts.dearest, "cost")):
            extremes.offer(_extremes(rows, figure))
        if self._facts.labels is not None:
            _add_labels(rows, self._facts.labels)
        if self._facts.repriced is not None:
            self._facts.repriced.add(reprice(rows.lazy(), self._facts.repriced.where))

    def _add_cells(self, rows: pl.DataFrame) -> None:
        has_answer = pl.col("answered")
        groups = rows.group_by(_CELL, maintain_order=True).agg(
            pl.len().alias("rows"),
            has_answer.sum().alias("answers"),
            pl.col("attempts").sum().cast(pl.Int64),
            *(pl.col(kind).sum().alias(kind) for kind in TOKEN_KINDS),
            *((pl.col(kind).is_not_null() & has_answer).sum().alias(f"{kind}_told") for kind in TOKEN_KINDS),
            pl.col("cost").sum(),
            (pl.col("cost").is_null() & has_answer).sum().alias("unpriced"),
        )
        for row in groups.iter_rows(named=True):
            cell = Cell(
                row["day"],
                self._models(row["model"]),
                row["route"],
                row["currency"],
                row["status"],
                self._reasons(row["finish_reason"]),
                row["error_kind"],
            )
            sums = self._facts.cells.setdefault(cell, Sums())
            sums.rows += row["rows"]
            sums.answers += row["answers"]
            sums.attempts += row["attempts"]
            sums.cost += row["cost"] or Decimal(0)
            sums.unpriced += row["unpriced"]
            for kind in TOKEN_KINDS:
                sums.tokens[kind] += row[kind]
                sums.told[kind] += row[f"{kind}_told"]

    def _add_spread(self, rows: pl.DataFrame, measure: str) -> None:
        value, bucket = pl.col(measure), f"{measure}_in"
        groups = (
            rows.lazy()
            .filter(pl.col(bucket).is_not_null())
            .group_by("day", bucket)
            .agg(pl.len(), value.sum().alias("sum"), value.min().alias("min"), value.max().alias("max"))
            .collect()
        )
        day: date | None
        for day, number, count, total, least, most in groups.iter_rows():
            spread = self._facts.spreads.setdefault((day, measure), Spread())
            spread.add(number, count, float(total), float(least), float(most))

    def _add_attempts(self, rows: pl.DataFrame) -> None:
        for attempts, count in rows.group_by("attempts").len().iter_rows():
            self._facts.attempts[attempts] += count

    def _add_failures(self, rows: pl.DataFrame) -> None:
        failed = rows.filter(pl.col("error_kind").is_not_null())
        if failed.is_empty():
            return
        groups = failed.group_by("error_kind", "error_code", maintain_order=True).agg(
            pl.len().alias("rows"),
            pl.col("row_id", "http_status").first(),
            pl.col("error_message").first().str.head(_MESSAGE_CHARS),
        )
        known = self._facts.failures
        for kind, code, count, row_id, http_status, message in groups.iter_rows():
            name = self._codes(code)
            key = (kind, name) if (kind, name) in known or len(known) < MOST_EXAMPLES else (kind, OTHERS)
            before = known.get(key)
            known[key] = (
                FailureExample(*key, count, row_id, http_status, message)
                if before is None
                else before._replace(rows=before.rows + count)
            )

    def _add_moments(self, rows: pl.DataFrame) -> None:
        groups = (
            rows.filter(pl.col("second").is_not_null())
            .group_by(pl.col("second").cast(pl.Int64))
            .agg(
                pl.len().alias("rows"),
                (pl.col("status") == Status.FAILED).sum().alias("failed"),
                pl.sum_horizontal("prompt_tokens", "completion_tokens").sum().alias("tokens"),
                pl.col("cost").sum(),
            )
        )
        for second, count, failed, tokens, cost in groups.iter_rows():
            self._facts.moments.add(second, MomentSums(count, failed, tokens, cost or Decimal(0)))


def _extremes(rows: pl.DataFrame, figure: str) -> Iterable[ExtremeRow]:
    most = rows.filter(pl.col(figure).is_not_null()).top_k(
        MOST_EXTREMES, by=[figure, "input_index"], reverse=[False, True]
    )
    return (ExtremeRow._make((*row, None)) for row in most.select(_EXTREME).iter_rows())


def _add_labels(rows: pl.DataFrame, labels: LabelFacts) -> None:
    for label, count in rows.group_by(LABEL, maintain_order=True).len().iter_rows():
        labels.given[label] += count
    if GOLD not in rows.columns:
        return
    by_form = {_plain(label): label for label in labels.labels}
    known = rows.filter(pl.col(GOLD).is_not_null()).group_by(GOLD, LABEL, maintain_order=True).len()
    for gold, label, count in known.iter_rows():
        labels.pairs[by_form.get(_plain(gold), OTHERS), label] += count


def _plain(label: Any) -> str:
    """A label as labels are compared: without spaces around it, in small letters."""
    return str(label).strip().casefold()
