"""Whatever bytes come, a reader of them raises only what it says it raises. At length: tests/soak/test_fuzz.py."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fuzz_inputs import inputs_for
from tests.support.fuzz_targets import TARGETS, Target

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(target: Target, data: st.DataObject) -> None:
    target(data.draw(inputs_for(target)))


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        pytest.param(target, seed, id=f"{target.name}-{n}")
        for target in TARGETS
        for n, seed in enumerate(target.seeds)
    ],
)
def test_what_once_broke_a_reader_or_is_recorded_is_read(target: Target, seed: bytes) -> None:
    target(seed)


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="there is no wheel of atheris for this machine"
)
def test_atheris_finds_an_error_that_is_not_allowed() -> None:
    """The long runs prove something: a target that breaks on a word is found out."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.support.atheris_run", "breaks-on-a-word", "100000", "1"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert found.returncode != 0
    assert b"ZeroDivisionError" in found.stdout + found.stderr
