"""Shares of a whole: by weight, to nobody more than it wants while others want it, and nothing left over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fair_shares import fair_shares


@pytest.mark.parametrize(
    ("wants", "weights", "shares"),
    [
        ({"a": 1.0}, {"a": 2.0}, {"a": 1.0}),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, {"a": 3.0, "b": 1.0, "c": 1.0, "d": 1.0}, {"a": 0.5, "b": 1 / 6}),
        ({"a": 1.0, "b": 0.1}, {"a": 1.0, "b": 1.0}, {"a": 0.9, "b": 0.1}),
        # b is content with less than half, c with less than a third of the rest: a has what both leave.
        ({"a": 1.0, "b": 0.2, "c": 0.3}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.5, "b": 0.2, "c": 0.3}),
        # All are content: what nobody wants is spread by weight.
        ({"a": 0.1, "b": 0.3}, {"a": 2.0, "b": 1.0}, {"a": 0.1 + 0.4, "b": 0.3 + 0.2}),
        ({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 0.5}),
    ],
)  # fmt: skip
def test_shares_that_were_worked_out_by_hand(
    wants: dict[str, float], weights: dict[str, float], shares: dict[str, float]
) -> None:
    given_out = fair_shares(wants, weights)
    assert {name: given_out[name] for name in shares} == pytest.approx(shares)


@st.composite
def parties(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, float]]:
    names = [f"run {n}" for n in range(draw(st.integers(1, 12)))]
    wants = {name: draw(st.floats(0, 1)) for name in names}
    return wants, {name: draw(st.floats(0.01, 100)) for name in names}


@given(parties())
def test_all_is_given_out_and_no_share_could_grow_but_at_a_smaller_ones_cost(
    party: tuple[dict[str, float], dict[str, float]],
) -> None:
    wants, weights = party
    shares = fair_shares(wants, weights)
    assert sum(shares.values()) == pytest.approx(1)
    level = {name: shares[name] / weights[name] for name in wants}
    for name in wants:
        assert 0 <= shares[name] <= 1 + 1e-9
        if (
            shares[name] < wants[name] - 1e-9
        ):  # it wants more: nobody has more by its weight, unless it is too little for it as well
            for other in wants:
                assert level[other] <= level[name] * (1 + 1e-6) or shares[other] <= wants[other] * (1 + 1e-6)
                if shares[other] > wants[other] + 1e-9:
                    raise AssertionError(f"{other} has more than it wants while {name} wants more")
    if sum(wants.values()) <= 1:
        assert all(shares[name] >= wants[name] - 1e-9 for name in wants)


@given(parties(), st.floats(0.1, 10))
def test_shares_do_not_depend_on_the_unit_of_weights(
    party: tuple[dict[str, float], dict[str, float]], unit: float
) -> None:
    wants, weights = party
    scaled = fair_shares(wants, {name: unit * weight for name, weight in weights.items()})
    assert scaled == pytest.approx(fair_shares(wants, weights), abs=1e-6)
