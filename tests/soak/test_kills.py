"""A thousand kills: the campaigns of `tests/faults/test_kills.py` at length, with the figures of docs/reliability.md.

PROMPTMILL_SEED draws other moments than the usual ones; a failure names the seed.
"""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.campaign import Campaign
from tests.support.witness import witnessing
from tests.support.works import CHANGED, CHILD, DOCUMENTS, LOAD, PICTURES, STREAMS, TEXT, Work

SEED = int(os.environ.get("PROMPTMILL_SEED", "1"))
PARTS = {"a part was being written", "a part was renamed and not yet in the journal"}
UPLOADS = {"an upload was under way", "an upload was done and not yet recorded"}
FLIGHT = {"requests were in flight"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "kills", "interrupted"),
    [
        (TEXT, 200, FLIGHT | PARTS),
        (CHANGED, 150, FLIGHT | PARTS),
        (LOAD, 200, FLIGHT | PARTS),
        (STREAMS, 100, FLIGHT),
        (DOCUMENTS, 120, FLIGHT | UPLOADS),
        (PICTURES, 130, FLIGHT | UPLOADS),
        (CHILD, 100, FLIGHT),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_run_killed_hundreds_of_times_loses_nothing_and_counts_what_was_in_flight(
    work: Work, kills: int, interrupted: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)  # noqa: T201  (a soak takes long: one wants to see it go on)

    own = work is CHILD
    with nullcontext() if own else witnessing(work.settings(), at_once=work.at_once) as witness:
        figures = Campaign(work, tmp_path, witness, seed=SEED, say=say).kill(kills)
    say(f"{work.name}: {figures}")
    assert figures.kills == kills
    # Kills that interrupt nothing prove nothing.
    assert interrupted <= figures.signs.keys()
