"""What `status` reads of a run, while it goes on or after."""

import asyncio
import json
import re
import sqlite3
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.commands.status import carry_out
from pipeline.errors import RunFolderError
from pipeline.journal import FILE_NAME, Journal
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


# For programs

ALL_KEYS = (
    "name state rows done parts status errors tokens cost spent maybe_cost in_flight exit_reason now events"
)


def test_the_json_of_a_running_run_tells_limits_pace_and_the_latest_changes(tmp_path: Path) -> None:
    slowed = LIVE.limits._replace(cooling_s=4.0, chosen_requests_per_minute=60.0)
    write_run(tmp_path, cost=Decimal("0.1"), live=LIVE._replace(limits=slowed))
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        reasons = [f"change {n}" for n in range(8)]
        db.executemany("INSERT INTO events VALUES (?, 'r', ?)", enumerate(reasons, 10**15))
    lock = RunLock(tmp_path, note="test")
    try:
        told = read_status(tmp_path).to_json()
    finally:
        lock.release()
    assert " ".join(told) == ALL_KEYS
    assert (told["state"], told["rows"], told["done"], told["parts"]) == ("running", 8, 3, 1)
    assert (told["status"], told["cost"], told["spent"], told["exit_reason"]) == (
        {"ok": 3},
        "0.25",
        None,
        None,
    )
    assert told["now"]["limits"] == slowed._asdict()
    assert [event["reason"] for event in told["events"]] == reasons[-5:]
    assert datetime.fromisoformat(told["events"][-1]["at"]).timestamp() == pytest.approx(10**9, abs=0.001)
    assert json.loads(json.dumps(told)) == told


def test_in_the_json_of_a_run_that_ended_unknown_is_null(tmp_path: Path) -> None:
    write_run(tmp_path, cost=Decimal("0.1"), live=LIVE)
    told = read_status(tmp_path).to_json()
    # What the rows of an open part cost is known to the run alone.
    assert (told["state"], told["now"], told["cost"]) == ("stopped", None, None)
    begun = tmp_path / "begun"
    begun.mkdir()
    Journal(begun).close()
    new = read_status(begun).to_json()
    assert (new["state"], new["rows"], new["done"], new["events"]) == ("stopped", None, 0, [])


def test_the_docs_tell_each_figure_of_the_json() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    table = docs.split("| in `status --json` |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert " ".join(re.findall(r"`(\w+)`", " ".join(rows))) == ALL_KEYS
    assert [name for name in (*LIVE._fields, *LIVE.limits._fields) if f"`{name}`" not in table] == []


def test_changes_of_an_earlier_day_are_told_with_their_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, cost=Decimal("0.1"), live=None)
    now = datetime.now().astimezone()
    before = now - timedelta(days=2)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        for at, reason in ((before, "cut"), (now, "cut again")):
            db.execute("INSERT INTO events VALUES (?, 'r', ?)", (int(at.timestamp() * 1_000_000), reason))
    carry_out(tmp_path)
    said = capsys.readouterr().out
    assert f"\n  {before:%Y-%m-%d %H:%M:%S}  cut\n  {now:%H:%M:%S}  cut again\n" in said
    assert said.endswith("\n  run the same command again to go on\n")


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run folder.*Give the job's output\.path"):
        read_status(tmp_path)
