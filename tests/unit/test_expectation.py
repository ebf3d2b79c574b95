"""The tokens a request is expected to use, learnt from what answers were billed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.expectation import FIRST_ANSWER_TOKENS, Expectation


def test_before_any_answer_the_estimate_and_the_jobs_bound_count() -> None:
    assert Expectation().tokens(100) == 100 + FIRST_ANSWER_TOKENS
    assert Expectation(16).tokens(100) == 116


def test_what_is_billed_again_and_again_is_expected() -> None:
    expectation = Expectation(4_000)
    for _ in range(200):
        expectation.learn(100, 50, 8)
    assert expectation.tokens(100) == pytest.approx(58, abs=1)
    assert expectation.tokens(200) == pytest.approx(108, abs=1)


def test_one_odd_answer_moves_the_expectation_little() -> None:
    expectation = Expectation(10)
    expectation.learn(100, 100, 1_000)
    assert expectation.tokens(100) < 170


@given(
    bound=st.none() | st.integers(-1, 10**6),
    answers=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))),
    estimate=st.integers(0, 10**7),
)
def test_at_least_one_token_is_reserved_whatever_was_learnt(
    bound: int | None, answers: list[tuple[int, int, int]], estimate: int
) -> None:
    expectation = Expectation(bound)
    for answer in answers:
        expectation.learn(*answer)
    assert expectation.tokens(estimate) >= 1
