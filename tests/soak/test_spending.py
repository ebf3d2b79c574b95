"""Two hundred seeded runs with a cap, killed and resumed: the stories of `tests/properties/test_spending.py` at length."""

import os
from collections import Counter
from pathlib import Path
from shutil import rmtree

import pytest

from tests.support.spending import AT_ONCE, Story, story

FIRST_SEED = int(os.environ.get("PROMPTMILL_SEED", "1000"))
RUNS = 200


@pytest.mark.slow
def test_two_hundred_runs_are_never_billed_more_than_their_cap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stories: list[Story] = []
    for seed in range(FIRST_SEED, FIRST_SEED + RUNS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            stories.append(story(folder, seed, rows=1_200))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        rmtree(folder)
    stopped = [one for one in stories if one.unused < one.dearest]
    kinds: Counter[str] = sum((Counter(one.kinds) for one in stories), Counter())
    kills, requests = sum(one.kills for one in stories), sum(one.requests for one in stories)
    shares = [one.billed / one.cap for one in stopped]
    with capsys.disabled():
        print(  # noqa: T201  (figures for docs/budgets.md)
            f"{RUNS} runs, {kills} kills, {requests:,} requests: {dict(kinds)}; {len(stopped)} stopped by the cap, billed "
            f"{min(shares):.3f} to {max(shares):.4f} of it; unused at most "
            f"{max(one.unused / one.dearest for one in stopped):.3f} of one reservation"
        )
    assert len(stopped) > RUNS / 2
    assert max(one.most_on_wire for one in stories) == AT_ONCE
    assert kills > RUNS
