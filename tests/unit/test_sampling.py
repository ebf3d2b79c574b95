"""Draws and what is made of them: every row as likely as it should be, known totals hit, intervals that hold."""

import math
import random
from collections import Counter

import pytest

from pipeline.sampling import Drawn, Interval, draw, make_strata, t_quantile, total


def sizes_of(count: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [max(1, int(rng.lognormvariate(5, 1))) for _ in range(count)]


def drawn_of(sizes: list[int], figures: list[float], indexes: list[int]) -> list[Drawn]:
    return [Drawn(sizes[index], figures[index]) for index in indexes]


def test_a_draw_is_distinct_rows_the_same_for_the_same_seed() -> None:
    sizes = sizes_of(1_000)
    strata = make_strata(Counter(sizes), 100)
    one = draw(sizes, strata, 100, 7)
    assert (len(one), len(set(one))) == (100, 100)
    assert one == draw(sizes, strata, 100, 7)
    assert set(one) != set(draw(sizes, strata, 100, 8))


def test_a_larger_draw_holds_nearly_all_of_a_smaller_one() -> None:
    sizes = sizes_of(5_000)
    strata = make_strata(Counter(sizes), 100)
    assert make_strata(Counter(sizes), 400) == strata
    assert set(draw(sizes, strata, 100, 3)) <= set(draw(sizes, strata, 400, 3))


def test_rows_below_zero_are_never_drawn_and_few_others_are_all_taken() -> None:
    sizes = [-1, 10, -2, 20, 30, -1]
    strata = make_strata(Counter(size for size in sizes if size >= 0), 3)
    assert sorted(draw(sizes, strata, 3, 0)) == [1, 3, 4]


def test_strata_divide_by_rows_and_by_size_alike() -> None:
    sizes = [10] * 900 + [1_000] * 10
    strata = make_strata(Counter(sizes), 100)
    assert strata.edges == (10,)
    assert sum(strata.shares) == pytest.approx(1)
    few_giants = sum(sizes[index] == 1_000 for index in draw(sizes, strata, 40, 1))
    assert few_giants == 10  # half of the draw is theirs by the measure; they are all taken


def test_one_size_makes_one_stratum() -> None:
    assert make_strata({5: 100}, 50).edges == ()


def test_every_row_of_a_stratum_is_drawn_as_often_as_another() -> None:
    sizes = [5] * 50
    strata = make_strata({5: 50}, 10)
    times = Counter(index for seed in range(2_000) for index in draw(sizes, strata, 10, seed))
    assert len(times) == 50
    # 400 times each, a standard deviation of 18.
    assert all(abs(count - 400) < 80 for count in times.values())


def test_every_beginning_of_a_draw_is_spread_over_the_rows() -> None:
    sizes = [5] * 1_000
    first = [draw(sizes, make_strata({5: 1_000}, 50), 50, seed)[0] for seed in range(400)]
    assert abs(sum(first) / 400 - 499.5) < 60


def test_what_was_looked_at_whole_is_known() -> None:
    sizes = [1, 2, 3]
    strata = make_strata(Counter(sizes), 3)
    assert total(strata, Counter(sizes), drawn_of(sizes, [5.0, 6.0, 7.0], [0, 1, 2])) == Interval.exactly(18)


def test_a_figure_that_follows_the_size_is_found_from_few() -> None:
    sizes = sizes_of(3_000)
    figures = [3.0 * size + 40 for size in sizes]
    strata = make_strata(Counter(sizes), 50)
    found = total(strata, Counter(sizes), drawn_of(sizes, figures, draw(sizes, strata, 50, 1)))
    assert found.value == pytest.approx(sum(figures))
    # As sure as can be, and still not surer than by one row.
    assert 0 < found.high - found.low < 3 * sum(figures) / 3_000


def test_the_least_is_what_was_seen_already() -> None:
    sizes = [10] * 20
    figures = [0.0] * 19 + [1_000.0]
    found = total(make_strata(Counter(sizes), 10), Counter(sizes), drawn_of(sizes, figures, [*range(9), 19]))
    assert found.low == 1_000
    assert found.low <= found.value < found.high


def test_strata_with_too_few_drawn_are_judged_with_their_neighbours() -> None:
    sizes = [1] * 50 + [100] * 50 + [10_000] * 50
    strata = make_strata(Counter(sizes), 30)
    assert len(strata.shares) > 1
    drawn = [Drawn(1, 2.0), Drawn(1, 2.0), Drawn(1, 2.0), Drawn(10_000, 8.0)]
    assert total(strata, Counter(sizes), drawn).value > 0
    with pytest.raises(ValueError, match="1 rows drawn"):
        total(strata, Counter(sizes), drawn[:1])


def test_other_rows_tell_less_than_the_rows_themselves() -> None:
    sizes = sizes_of(400)
    rng = random.Random(5)
    figures = [size + rng.gauss(0, 30) for size in sizes]
    strata = make_strata(Counter(sizes), 100)
    drawn = drawn_of(sizes, figures, draw(sizes, strata, 100, 1))
    own, others = (total(strata, Counter(sizes), drawn, others=others) for others in (False, True))
    assert others.value == pytest.approx(own.value, rel=0.02)
    assert others.high - others.low > own.high - own.low


@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_intervals_hold_at_least_nine_times_in_ten(spread: float) -> None:
    rng = random.Random(11)
    sizes = sizes_of(2_000)
    figures = [0.8 * size + 2 * rng.lognormvariate(math.log(16 + size / 8), spread) for size in sizes]
    histogram = Counter(sizes)
    strata = make_strata(histogram, 100)
    held = 0
    for seed in range(200):
        found = total(strata, histogram, drawn_of(sizes, figures, draw(sizes, strata, 100, seed)))
        held += found.low <= sum(figures) <= found.high
    assert held >= 180


@pytest.mark.parametrize(
    ("degrees", "tabled"), [(3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e9, 1.960)]
)
def test_students_quantiles_are_those_of_the_tables(degrees: float, tabled: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(tabled, rel=0.01)
