"""Percentiles in bounded memory: within their accuracy of the exact ones, and the same however they were put together."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.spread import ACCURACY, Spread, bucket_of, columns

VALUES = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1e8, allow_nan=False), st.integers(0, 100_000).map(float)),
    min_size=1,
    max_size=200,
)


def spread_of(values: list[float | None]) -> Spread:
    spread = Spread()
    buckets = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)}).select(bucket_of("x")).to_series()
    for bucket, value in zip(buckets, values, strict=True):
        if bucket is not None:
            assert value is not None
            spread.add(bucket, 1, value, value, value)
    return spread


@given(VALUES, st.sampled_from([0.1, 1, 25, 50, 90, 95, 99, 100]))
def test_a_percentile_is_within_the_accuracy_of_the_exact_one(values: list[float], percent: float) -> None:
    exact = sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]
    assert spread_of(list(values)).percentile(percent) == pytest.approx(exact, rel=ACCURACY * 1.0001)


@given(VALUES, VALUES)
def test_spreads_add_up(some: list[float], more: list[float]) -> None:
    together = spread_of(list(some))
    together.merge(spread_of(list(more)))
    at_once = spread_of([*some, *more])
    assert together.buckets == at_once.buckets
    assert (together.count, together.least, together.most) == (at_once.count, at_once.least, at_once.most)
    assert together.mean == pytest.approx(at_once.mean)


def test_what_is_unknown_counts_nowhere() -> None:
    spread = spread_of([None, float("nan"), float("inf"), 5.0])
    assert (spread.count, spread.percentile(50)) == (1, 5.0)


def test_of_no_values_nothing_is_said() -> None:
    assert (Spread().percentile(50), Spread().mean) == (None, None)


def test_the_number_of_buckets_does_not_grow_with_that_of_values() -> None:
    assert len(spread_of([1 + n / 7 for n in range(70_000)]).buckets) < 500


def test_columns_are_the_same_for_all_series_and_hold_all_that_is_above_nothing() -> None:
    slow = spread_of([float(n) for n in range(100, 1100)])
    quick = spread_of([0.0, *(float(n) for n in range(1, 101))])
    bins = columns({"slow": slow, "quick": quick}, 20)
    assert len({one.low for one in bins}) <= 20
    assert {one.series: sum(each.rows for each in bins if each.series == one.series) for one in bins} == {
        "slow": 1000,
        "quick": 100,
    }
    assert {(one.low, one.high) for one in bins if one.series == "slow" and one.low < 100} <= {
        (one.low, one.high) for one in bins if one.series == "quick"
    }
    assert columns({"none": spread_of([0.0])}, 20) == columns({}, 20) == []
