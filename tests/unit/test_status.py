"""What `status` reads of a run, while it goes on or after."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.errors import RunFolderError
from pipeline.journal import Journal
from pipeline.progress import LimitsView, Snapshot, as_json
from pipeline.records import Completion, Outcome, Status, Usage
from pipeline.run_lock import RunLock
from pipeline.status import RunStatus, read_status
from pipeline.totals import PartRecord, Totals

LIVE = Snapshot(
    done=3,
    rows=8,
    ok=3,
    failed=0,
    other=0,
    retrying=1,
    limits=LimitsView(2, 4, 60, 1000, 120.0, None, 0.0),
    eta_s=5.0,
    rows_per_s=1.0,
    cost=Decimal("0.25"),
    currency="CNY",
)


def answered(index: int) -> Outcome:
    completion = Completion("a", "stop", Usage(prompt_tokens=10, completion_tokens=1, total_tokens=11))
    return Outcome(index, str(index), Status.OK, completion=completion, attempts=1)


def write_run(folder: Path, *, cost: Decimal | None, live: Snapshot | None) -> None:
    """8 rows: part 0 with two answered ones, and one more settled in an open range."""
    totals = Totals()
    totals.add([answered(0), answered(1)], [cost, cost])
    journal = Journal(folder)
    journal.write_manifest(
        {"name": "job", "rows": "8", "rows_per_part": "2", "live": json.dumps(live and as_json(live))}
    )
    journal.add_part(PartRecord(0, 2, totals.to_json(), "", ""), 0, keep_rows=False)

    async def settle() -> None:
        await journal.begin_attempt(3)
        journal.record(answered(2))
        journal.flush()

    asyncio.run(settle())
    journal.close()


def test_parts_and_settled_rows_of_open_ranges_add_up(tmp_path: Path) -> None:
    write_run(tmp_path, cost=Decimal("0.1"), live=LIVE)
    status = read_status(tmp_path)
    assert (status.name, status.rows, status.parts, status.totals.rows, status.open_rows) == (
        "job",
        8,
        1,
        3,
        1,
    )
    assert status.totals.tokens["prompt_tokens"] == 30
    assert status.in_flight == 1
    assert status.cost_said() == "cost 0.200000, and that of 1 rows whose part is still open"


def test_a_dead_runs_last_words_are_not_taken_for_the_present(tmp_path: Path) -> None:
    write_run(tmp_path, cost=Decimal("0.1"), live=LIVE)
    status = read_status(tmp_path)
    assert (status.running, status.live) == (False, None)


def test_a_running_run_is_told_by_its_own_figures(tmp_path: Path) -> None:
    write_run(tmp_path, cost=Decimal("0.1"), live=LIVE)
    lock = RunLock(tmp_path, note="test")
    try:
        status = read_status(tmp_path)
    finally:
        lock.release()
    assert (status.running, status.live) == (True, LIVE)
    assert status.cost_said() == "cost 0.250000 CNY"


def test_a_cost_is_unknown_only_where_something_was_answered_without_a_price(tmp_path: Path) -> None:
    write_run(tmp_path, cost=None, live=None)
    assert read_status(tmp_path).cost_said() == "cost unknown for 2 rows"


@pytest.mark.parametrize(
    ("totals", "said"),
    [
        (Totals(), "cost 0.000000"),
        (Totals(rows=3, cost=Decimal("1.5")), "cost 1.500000"),
        (Totals(rows=3, cost=Decimal("1.5"), unpriced=1), "cost unknown for 1 rows; of the others 1.500000"),
    ],
)
def test_the_spend_in_words(totals: Totals, said: str) -> None:
    status = RunStatus(
        name="j",
        rows=3,
        parts=1,
        spend=(0, 0),
        totals=totals,
        open_rows=0,
        in_flight=0,
        live=None,
        running=False,
        reason=None,
        events=(),
    )
    assert status.cost_said() == said


@pytest.mark.parametrize(
    ("spend", "said"),
    [
        ((0, 0), None),
        ((1_500_000_000, 0), "spent 1.5"),
        ((10**9, 5 * 10**8), "spent 1.5, 0.5 of it at most, for requests without an answer"),
    ],
)
def test_what_the_folder_spent_in_words(spend: tuple[int, int], said: str | None) -> None:
    status = RunStatus(
        name="j",
        rows=3,
        parts=1,
        spend=spend,
        totals=Totals(),
        open_rows=0,
        in_flight=0,
        live=None,
        running=False,
        reason=None,
        events=(),
    )
    assert status.spend_said() == said


def test_where_nothing_has_a_price_no_currency_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, cost=Decimal(0), live=LIVE._replace(cost=Decimal(0), currency=None))
    assert "None" not in read_status(tmp_path).cost_said()


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run folder.*Give the job's output\.path"):
        read_status(tmp_path)
