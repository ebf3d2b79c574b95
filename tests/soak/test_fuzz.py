"""A hundred thousand inputs for each reader of foreign bytes, drawn by hypothesis, and as many that atheris steers by coverage.

PROMPTMILL_SEED draws others than the usual ones.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.support.fuzz_inputs import many_inputs_for
from tests.support.fuzz_targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("PROMPTMILL_SEED", "1"))
CASES = 100_000


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_hypothesis_finds_no_bytes_that_break_a_reader(target: Target) -> None:
    read = 0

    @seed(SEED)
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(many_inputs_for(target))
    def one(data: bytes) -> None:
        nonlocal read
        read += 1
        target(data)

    one()
    assert read >= CASES


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="there is no wheel of atheris for this machine"
)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_atheris_finds_no_bytes_that_break_a_reader(target: Target) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.atheris_run", target.name, str(CASES), str(SEED)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode(errors="replace")[-4000:]
