"""kill -9 at random and aimed moments, then the same command: the campaigns of `tests/support/campaign.py`, in small."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.campaign import Aim, Campaign
from tests.support.lives import How
from tests.support.witness import Event, witnessing
from tests.support.works import CHANGED, CHILD, DOCUMENTS, LOAD, PICTURES, TEXT, Work


@pytest.mark.parametrize(
    ("work", "kills"),
    [
        (replace(TEXT, rows=150), 8),
        (replace(CHANGED, rows=120), 4),
        (replace(LOAD, rows=800), 6),
        (replace(DOCUMENTS, rows=9, files=3), 3),
        (replace(PICTURES, rows=60, files=20), 2),
        (replace(CHILD, rows=80), 2),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_killed_run_loses_nothing_it_held_and_counts_every_request_that_was_in_flight(
    work: Work, kills: int, tmp_path: Path
) -> None:
    own = work.name == CHILD.name
    with nullcontext() if own else witnessing(work.settings(), at_once=work.at_once) as witness:
        figures = Campaign(work, tmp_path, witness, seed=1, by_command_line=0.1).kill(kills)
    assert figures.kills == kills


def test_the_summary_counts_exactly_the_answers_that_were_billed_and_never_recorded(tmp_path: Path) -> None:
    """Killed when every request it may have in flight was received, so that none is begun and unsent."""
    work = replace(TEXT, rows=40, at_once=4, rows_per_part=10)
    with witnessing(work.settings(), at_once=work.at_once) as witness:
        campaign = Campaign(work, tmp_path, witness, seed=1)
        before = witness.ledger.billed
        for answered in (5, 0, 17):
            witness.hold_answers_after(answered)
            campaign.live("out", How.FORKED, Aim("when all are held", Event.ALL_HELD, 1, 0.0))
            witness.wait_quiet()
        witness.hold_answers_after(None)
        summary = campaign.live("out", How.FORKED).summary
        assert summary["done"] == 40
        assert summary["maybe_paid"] == witness.ledger.billed - before - 40 >= 12
