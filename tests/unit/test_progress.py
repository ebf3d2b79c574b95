"""What a run shows while it goes on: figures, lines elsewhere, a bar on a terminal."""

import asyncio
import io
import json
import re
from collections.abc import Sequence
from decimal import Decimal

import pytest
from rich.console import Console

from pipeline.budget import Spend
from pipeline.progress import (
    Counters,
    LimitsView,
    Meter,
    Snapshot,
    as_json,
    clock,
    counting,
    drawn,
    facts,
    from_json,
    shown,
)
from pipeline.records import Completion, Failure, FailureKind, Outcome, Status, Usage
from pipeline.totals import Totals
from tests.support.clock import run_virtual
from tests.support.whole_runs import notes

IDLE = LimitsView(0, 4, 0, 0, None, None, 0.0)
MIDWAY = Snapshot(
    done=1_234_567,
    rows=10_000_000,
    ok=1_234_000,
    failed=500,
    other=67,
    retrying=12,
    limits=LimitsView(256, 256, 1180, 990_123, 1200.0, 1_000_000.0, 12.0),
    eta_s=446_400.0,
    rows_per_s=19.64,
    cost=Decimal("1234.56789"),
    currency="CNY",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def answered(index: int) -> Outcome:
    completion = Completion("a", "stop", Usage(prompt_tokens=10, completion_tokens=1))
    return Outcome(index, str(index), Status.OK, completion=completion, attempts=1)


def failed(index: int) -> Outcome:
    return Outcome(
        index, str(index), Status.FAILED, failure=Failure(FailureKind.TIMEOUT, "t", "t"), attempts=1
    )


def penny(outcomes: Sequence[Outcome]) -> list[Decimal | None]:
    return [Decimal("0.01") if o.completion else None for o in outcomes]


def priceless(outcomes: Sequence[Outcome]) -> list[Decimal | None]:
    return [None] * len(outcomes)


def counters(rows: int = 40, *, priced: bool = True) -> Counters:
    return Counters(rows, Totals(), penny if priced else priceless)


NOTHING_SPENT = Spend(0, 0, 0, None)


def meter(counted: Counters, currency: str | None = "CNY", spend: Spend = NOTHING_SPENT) -> Meter:
    return Meter(counted, lambda: IDLE, currency, lambda: spend)


# Figures


def test_a_snapshot_counts_what_is_settled_at_that_moment() -> None:
    counted = counters()
    for settled in (answered(0), failed(1), Outcome(2, "2", Status.INVALID)):
        counted.settle(settled)
    counted.retrying = 2
    seen = meter(counted).snapshot(0.0)
    assert (seen.done, seen.rows, seen.ok, seen.failed, seen.other, seen.retrying) == (3, 40, 1, 1, 1, 2)
    assert (seen.cost, seen.currency) == (Decimal("0.01"), "CNY")


def test_outcomes_are_summed_without_being_asked_once_many_have_gathered() -> None:
    counted = counters(10_000)
    for index in range(1_100):
        counted.settle(answered(index))
    assert counted.totals.rows == 1_000
    assert counted.sum_up().rows == 1_100
    assert counted.settled_now == 1_100


def test_speed_and_eta_follow_the_last_minute() -> None:
    counted = counters(100)
    watched = meter(counted)
    assert (watched.snapshot(0.0).rows_per_s, watched.snapshot(0.0).eta_s) == (0.0, None)
    for index in range(20):
        counted.settle(answered(index))
    seen = watched.snapshot(10.0)
    assert (seen.rows_per_s, seen.eta_s) == (2.0, 40.0)
    watched.snapshot(60.0)
    for index in range(20, 50):
        counted.settle(answered(index))
    seen = watched.snapshot(70.0)
    assert (seen.rows_per_s, seen.eta_s) == (0.5, 100.0)
    assert watched.snapshot(200.0).eta_s is None


def test_rows_of_earlier_runs_count_as_done_but_not_for_the_speed() -> None:
    counted = Counters(100, Totals(rows=90), penny)
    watched = meter(counted)
    watched.snapshot(0.0)
    for index in range(90, 95):
        counted.settle(answered(index))
    seen = watched.snapshot(10.0)
    assert (seen.done, seen.rows_per_s, seen.eta_s) == (95, 0.5, 10.0)


def test_a_snapshot_travels_through_json() -> None:
    money = {"spent": Decimal("1235.5"), "projected": Decimal(10_000), "cap": Decimal("1e4")}
    for snapshot in (MIDWAY, MIDWAY._replace(cost=None, currency=None, eta_s=None), MIDWAY._replace(**money)):
        assert from_json(json.loads(json.dumps(as_json(snapshot)))) == snapshot


def test_a_projection_goes_on_from_what_is_spent_at_the_cost_of_a_row_so_far() -> None:
    """What may have been paid without an answer is spent, but says nothing of what the next rows cost."""
    counted = counters(40)
    for index in range(10):
        counted.settle(answered(index))
    seen = meter(counted, spend=Spend(150_000_000, 50_000_000, 7, 2_500_000_000)).snapshot(0.0)
    assert (seen.spent, seen.projected, seen.cap) == (Decimal("0.2"), Decimal("0.5"), Decimal("2.5"))
    before = meter(counters(40)).snapshot(0.0)
    assert (before.spent, before.projected, before.cap) == (0, None, None)


def test_nothing_is_projected_where_there_is_no_price() -> None:
    counted = counters(priced=False)
    counted.settle(answered(0))
    seen = meter(counted, None).snapshot(0.0)
    assert (seen.spent, seen.projected) == (None, None)


# Words


def test_the_facts_of_a_run() -> None:
    assert facts(MIDWAY) == [
        "ok 1,234,000",
        "failed 500",
        "other 67",
        "retrying 12",
        "in flight 256/256",
        "req/min 1,180 of 1,200",
        "tok/min 990,123 of 1,000,000",
        "cooling down 12s",
        "cost 1234.5679 CNY",
        "ETA 124:00:00",
    ]


def test_the_facts_tell_spend_projected_total_and_cap() -> None:
    seen = MIDWAY._replace(spent=Decimal("1235.5"), projected=Decimal(9_000))
    assert facts(seen)[-3:] == ["cost 1234.5679 CNY", "projected 9000.0000 CNY", "ETA 124:00:00"]
    capped = seen._replace(cap=Decimal("1e4"))
    said = ["spent 1235.5000 of 10000 CNY", "projected 9000.0000 CNY", "ETA 124:00:00"]
    assert facts(capped)[-3:] == said
    assert facts(capped._replace(cost=None))[-3:] == said  # one answer came without usage


def test_what_there_is_not_is_left_out() -> None:
    said = facts(MIDWAY._replace(other=0, limits=IDLE, eta_s=None, currency=None))
    assert said[2:] == ["retrying 12", "in flight 0/4", "req/min 0", "tok/min 0", "cost 1234.5679", "ETA ?"]


def test_a_cost_is_unknown_only_once_something_was_answered_without_a_price() -> None:
    counted = counters(priced=False)
    counted.settle(failed(0))
    assert "cost 0.0000" in facts(meter(counted, None).snapshot(0.0))
    counted.settle(answered(1))
    assert "cost unknown" in facts(meter(counted, None).snapshot(0.0))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "?"), (0, "0:00:00"), (59.6, "0:01:00"), (3599, "0:59:59"), (360_000, "100:00:00")],
)
def test_a_clock(seconds: float | None, said: str) -> None:
    assert clock(seconds) == said


# The bar


def looks(snapshot: Snapshot, name: str, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(drawn(snapshot, name, width))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_the_bar_fits_80_columns_and_breaks_between_facts() -> None:
    assert looks(MIDWAY, "review-sentiment", 80) == [
        "review-sentiment ━━                  1,234,567/10,000,000 rows  12%  19.6 rows/s",
        "ok 1,234,000 · failed 500 · other 67 · retrying 12 · in flight 256/256",
        "req/min 1,180 of 1,200 · tok/min 990,123 of 1,000,000 · cooling down 12s",
        "cost 1234.5679 CNY · ETA 124:00:00",
    ]


@pytest.mark.parametrize("width", [30, 40, 60, 79, 80, 81, 100, 120, 200])
@pytest.mark.parametrize("name", ["a", "review-sentiment", "n" * 100])
def test_no_line_is_longer_than_the_terminal_and_no_fact_is_broken(width: int, name: str) -> None:
    lines = looks(MIDWAY, name, width)
    assert all(len(line) <= width for line in lines)
    assert " · ".join(lines[1:]).split(" · ") == facts(MIDWAY)
    if width >= 80:
        assert lines[0].endswith("1,234,567/10,000,000 rows  12%  19.6 rows/s")


def test_the_bar_is_full_only_when_every_row_is_done() -> None:
    almost = looks(MIDWAY._replace(done=9_999_999), "j", 120)[0]
    assert " 99% " in almost
    whole = looks(MIDWAY._replace(done=10_000_000), "j", 120)[0]
    assert f"j {'━' * 32} 10,000,000/10,000,000 rows 100%" in whole
    assert "0/0 rows 100%" in looks(MIDWAY._replace(done=0, rows=0), "j", 120)[0]


# Displays


def test_elsewhere_than_on_a_terminal_there_is_a_line_every_five_seconds() -> None:
    stream, counted = io.StringIO(), counters()

    async def main() -> None:
        async with shown(meter(counted), notes(stream, quiet=False), name="job"):
            await asyncio.sleep(1)
            counted.settle(answered(0))
            await asyncio.sleep(11)

    run_virtual(main())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "job: 1/40 rows, ok 1, failed 0, retrying 0, in flight 0/4, req/min 0, tok/min 0, "
        "cost 0.0100 CNY, projected 0.3900 CNY, ETA 0:03:15"
    )
    assert "\x1b" not in stream.getvalue()


def test_the_bar_on_a_terminal_ends_with_the_last_figures(terminal: Terminal) -> None:
    counted = counters(2)

    async def main() -> None:
        async with shown(meter(counted), notes(terminal, quiet=False), name="job"):
            await asyncio.sleep(1)
            counted.settle(answered(0))
            counted.settle(answered(1))

    run_virtual(main())
    said = terminal.getvalue()
    assert "0/2 rows   0%" in said
    assert said.rindex("2/2 rows 100%") > said.rindex("0/2 rows")
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again


def test_a_sentence_said_meanwhile_has_a_line_of_its_own(terminal: Terminal) -> None:
    stream = io.StringIO()

    async def main(to: io.StringIO) -> None:
        async with shown(meter(counters()), notes(to, quiet=False), name="job") as say:
            await asyncio.sleep(1)
            say("it stands [still]: 3 in flight", "warning")
            await asyncio.sleep(1)

    run_virtual(main(stream))
    assert stream.getvalue() == "job: it stands [still]: 3 in flight\n"
    run_virtual(main(terminal))
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert said.count("job: it stands [still]: 3 in flight\n") == 1
    assert "0/40 rows" in said.partition("it stands")[2], "the bar goes on below it"


def test_quiet_shows_nothing(terminal: Terminal) -> None:
    async def main() -> None:
        async with shown(meter(counters()), notes(terminal, quiet=True), name="job") as say:
            say("it stands still", "warning")
            await asyncio.sleep(60)

    run_virtual(main())
    assert terminal.getvalue() == ""


def test_a_terminal_that_is_gone_does_not_end_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    async def main() -> str:
        async with shown(meter(counters()), notes(Gone(), quiet=False), name="job") as say:
            say("it stands still", "warning")
            await asyncio.sleep(60)
        return "whole"

    assert run_virtual(main()) == "whole"


def test_counting_rows_keeps_to_one_line_and_leaves_it_whole(terminal: Terminal) -> None:
    show = counting(notes(terminal), "looking")
    assert show is not None
    show(10_000)
    show(20_000)
    assert terminal.getvalue() == "looking: 10,000 rows\x1b[K\n\x1b[Alooking: 20,000 rows\x1b[K\n"
    assert counting(notes(io.StringIO()), "looking") is None
