"""Runs with a cap, at 256 in flight, with retries, timeouts, cut streams and kills: the provider never bills more."""

from pathlib import Path

import pytest

from tests.support.spending import AT_ONCE, story


@pytest.mark.parametrize("seed", range(8))
def test_no_run_with_faults_and_kills_is_billed_more_than_its_cap(seed: int, tmp_path: Path) -> None:
    found = story(tmp_path, seed, rows=700)
    assert found.most_on_wire <= AT_ONCE
