"""One run: every row once, and an end in good order whatever ends it."""

import asyncio
import gc
import re
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DatasetError
from pipeline.journal import FILE_NAME, Journal
from pipeline.journal_view import view
from pipeline.records import FailureKind, Outcome, Response
from pipeline.run_folder import StorageError
from pipeline.runner import ALIKE_LIMIT, FIRST_WORKERS, Runner
from pipeline.storage import Disk
from pipeline.summary import Stop
from tests.support.clock import run_virtual
from tests.support.rig import (
    GRACE_S,
    FakeTransport,
    Reply,
    Rig,
    Script,
    always,
    answer,
    lost,
    playing,
    refusal,
)

ENOUGH = Stop(130, "enough")


class Held:
    """A transport that answers rows as they are let go; `arrived` is set at each new request."""

    def __init__(self, *held: str) -> None:
        self.go = {row_id: asyncio.Event() for row_id in held}
        self.replies: dict[str, Reply] = {}
        self.arrived = asyncio.Condition()
        self.transport = FakeTransport(self.script)

    async def script(self, row_id: str, nth: int) -> Reply:
        async with self.arrived:
            self.arrived.notify_all()
        if row_id in self.go:
            await self.go[row_id].wait()
        return self.replies.get(row_id, answer())

    async def until_asked(self, *row_ids: str) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: all(self.transport.asked[one] for one in row_ids))

    def release(self) -> None:
        for one in self.go.values():
            one.set()


class WaitingDisk(Disk):
    """Syncs a part only once the event loop has gone on meanwhile."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.went_on: list[bool] = []

    def sync(self, path: Path) -> None:
        if self.loop is not None and path.name.startswith("part-"):
            turned = threading.Event()
            self.loop.call_soon_threadsafe(turned.set)
            self.went_on.append(turned.wait(20))
        super().sync(path)


def test_parts_are_written_and_synced_beside_the_event_loop(tmp_path: Path) -> None:
    disk = WaitingDisk()
    rig = Rig(folder=tmp_path, rows=12, rows_per_part=4, disk=disk)

    async def main() -> None:
        disk.loop = asyncio.get_running_loop()
        await rig.run(always(answer()))

    asyncio.run(main())
    assert disk.went_on == [True] * 3
    assert rig.whole()


def caught(rig: Rig, into: list[Runner]) -> Any:
    return lambda transport: rig.run(transport, during=into.append)


def test_every_row_ends_in_its_part_in_input_order_whatever_the_order_of_answers(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(50 - int(row_id[1:]))
        return answer(row_id)

    rig = Rig(folder=tmp_path, rows=10, workers=10)
    ran = run_virtual(rig.run(FakeTransport(script)))
    assert rig.whole()
    assert rig.frame()["content"].to_list() == [f"r{n}" for n in range(10)]
    assert [file.name for file in sorted((rig.out / "results").iterdir())] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    totals = ran.counters.totals
    assert (totals.rows, totals.status["ok"], totals.tokens["total_tokens"], ran.counters.sent) == (
        10,
        10,
        120,
        10,
    )
    assert view(rig.out).outcomes == []


def test_a_finished_run_asks_nothing_again(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path)

    async def main() -> None:
        await rig.run(always(answer()))
        again = always(refusal(500))
        ran = await rig.run(again)
        assert (again.asked.total(), ran.counters.totals.rows) == (0, 12)

    run_virtual(main())


def test_no_more_is_ever_on_the_wire_than_there_are_workers(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(1)
        return answer()

    transport = FakeTransport(script)
    run_virtual(Rig(folder=tmp_path, rows=20, workers=4).run(transport))
    assert transport.most_on_wire == 4


def seen(rig: Rig, script: Script, *, from_s: int, to_s: int) -> list[tuple[int, int]]:
    """A run second by second: how many requests were on the wire, and how many rows stood before the gate."""
    looks: list[tuple[int, int]] = []

    async def main() -> None:
        transport, runners = FakeTransport(script), list[Runner]()
        run = asyncio.create_task(caught(rig, runners)(transport))
        await asyncio.sleep(from_s + 0.5)
        for _ in range(from_s, to_s):
            looks.append((transport.on_wire, runners[0].asker.gate.waiting))  # type: ignore[attr-defined]
            await asyncio.sleep(1)
        await run

    run_virtual(main())
    return looks


async def in_a_second(row_id: str, nth: int) -> Reply:
    await asyncio.sleep(1)
    return answer()


def test_where_slots_bind_there_are_workers_for_them_and_no_line(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=60, workers=8, max_concurrency=4)
    assert set(seen(rig, in_a_second, from_s=5, to_s=14)) == {(4, 0)}


def test_rows_that_wait_for_their_next_attempt_leave_no_slot_empty(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(1)
        return lost(maybe_paid=False) if nth == 1 and int(row_id[1:]) % 2 else answer()

    rig = Rig(folder=tmp_path, rows=60, workers=8, max_concurrency=4)
    looks = seen(rig, script, from_s=5, to_s=20)
    assert {on_wire for on_wire, _ in looks} == {4}
    assert sum(waiting for _, waiting in looks) / len(looks) <= 2


def test_where_the_pace_binds_all_workers_make_a_line_for_it_to_choose_from(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=40, workers=8, max_concurrency=4, requests_per_minute=60)
    assert set(seen(rig, in_a_second, from_s=10, to_s=20)) <= {(1, 7), (0, 8), (1, 6), (2, 6), (0, 7)}


def test_a_part_appears_as_soon_as_its_own_rows_are_settled(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=12, workers=2)

    async def main() -> None:
        held = Held("r11")
        run = asyncio.create_task(rig.run(held.transport))
        await held.until_asked("r11")
        while not (rig.out / "results" / "part-00001.parquet").exists():
            await asyncio.to_thread(lambda: None)
        assert rig.frame()["input_index"].to_list() == list(range(8))
        held.release()
        await run

    run_virtual(main())
    assert rig.whole()


def test_a_bad_row_is_failed_with_its_line_and_never_sent(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=4)
    lines = rig.write_rows().read_text().splitlines()
    lines[1] = '{"id": "r1", "text": null}'
    lines[2] = "{not json"
    rig.write_rows().write_text("\n".join(lines))
    transport = always(answer())
    run_virtual(rig.run(transport))
    frame = rig.frame()
    assert frame["status"].to_list() == ["ok", "failed", "failed", "ok"]
    assert frame["row_id"].to_list() == ["r0", "r1", "2", "r3"]
    assert frame["attempts"].to_list() == [1, 0, 0, 1]
    assert "rows.jsonl:3: not valid JSON" in frame["error_message"][2]
    assert transport.asked.total() == 2


# Stops


def test_a_stop_lets_the_wire_finish_and_sends_nothing_more(tmp_path: Path) -> None:
    rig, runners = Rig(folder=tmp_path, rows=12, workers=3), list[Runner]()

    async def main() -> None:
        held = Held("r4", "r5", "r6")
        run = asyncio.create_task(caught(rig, runners)(held.transport))
        await held.until_asked("r4", "r5", "r6")
        runners[0].stop(ENOUGH)
        held.release()
        ran = await run
        assert ran.runner.stopped == ENOUGH
        assert (held.transport.asked.total(), ran.counters.totals.rows) == (7, 7)
        assert view(rig.out).in_flight == 0
        again = always(answer())
        ran = await rig.run(again)
        assert (again.asked.total(), ran.taken, ran.counters.totals.rows) == (5, 0, 12)

    run_virtual(main())
    assert rig.whole()


def test_what_is_not_answered_within_the_grace_is_cut_and_counted(tmp_path: Path) -> None:
    rig, runners = Rig(folder=tmp_path, rows=12, workers=3), list[Runner]()

    async def main() -> None:
        held = Held("r4", "r5")
        run = asyncio.create_task(caught(rig, runners)(held.transport))
        await held.until_asked("r4", "r5")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        runners[0].stop(ENOUGH)
        await run
        assert loop.time() - began_s == pytest.approx(GRACE_S, abs=0.1)
        assert view(rig.out).in_flight == 2
        assert (await rig.run(always(answer()))).taken == 2

    run_virtual(main())
    assert rig.whole()


def test_a_grace_that_is_cut_ends_at_once_and_the_first_reason_stays(tmp_path: Path) -> None:
    rig, runners = Rig(folder=tmp_path, rows=12, workers=3), list[Runner]()

    async def main() -> None:
        held = Held("r4", "r5")
        run = asyncio.create_task(caught(rig, runners)(held.transport))
        await held.until_asked("r4", "r5")
        began_s = asyncio.get_running_loop().time()
        runners[0].stop(ENOUGH)
        assert runners[0].on_wire >= 2
        runners[0].stop(Stop(143, "now"))
        runners[0].cut()
        ran = await run
        assert ran.runner.stopped == ENOUGH
        assert asyncio.get_running_loop().time() - began_s < 1

    run_virtual(main())


def test_until_the_first_answer_only_a_few_are_in_flight_and_then_all_slots_are_used(tmp_path: Path) -> None:
    async def main() -> None:
        refused = always(refusal(401, "invalid_api_key"))
        await Rig(folder=tmp_path, rows=30, workers=20).run(refused)
        assert refused.asked.total() <= FIRST_WORKERS

        async def slow(row_id: str, nth: int) -> Response:
            await asyncio.sleep(1)
            return answer()

        served = FakeTransport(slow)
        await Rig(folder=tmp_path, rows=30, workers=20).run(served)
        assert served.most_on_wire > FIRST_WORKERS

    run_virtual(main())


def test_several_rows_refused_for_good_never_cut_off_the_answers_on_their_way(tmp_path: Path) -> None:
    """When the money is gone all in flight may say so, and yet some be answered: those are paid for."""
    rig = Rig(folder=tmp_path, rows=4, workers=4, requests_per_minute=6_000_000)  # all are sent at once

    async def main() -> None:
        held = Held("r3")
        held.replies = {f"r{n}": refusal(402, "arrears") for n in range(2)}
        run = asyncio.create_task(rig.run(held.transport))
        await held.until_asked("r3")
        await asyncio.sleep(1)
        held.release()
        ran = await run
        assert ran.runner.stopped is not None
        assert (ran.runner.stopped.exit_code, ran.counters.totals.status["ok"]) == (4, 2)
        assert (await rig.run(always(answer()))).taken == 0

    run_virtual(main())
    assert rig.whole()


def test_a_row_that_waits_to_be_tried_again_is_left_to_the_next_run(tmp_path: Path) -> None:
    rig, runners = Rig(folder=tmp_path, rows=1), list[Runner]()
    busy = Response(503, {"retry-after": "100"}, refusal(503).body, 1.0)

    async def main() -> None:
        run = asyncio.create_task(caught(rig, runners)(playing(busy, answer())))
        await asyncio.sleep(10)
        runners[0].stop(ENOUGH)
        ran = await run
        assert (ran.counters.totals.rows, ran.counters.retrying) == (0, 0)
        assert asyncio.get_running_loop().time() < 1_020

    run_virtual(main())


def test_a_failure_that_comes_during_the_grace_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    rig, runners = Rig(folder=tmp_path, rows=1), list[Runner]()

    async def main() -> None:
        held = Held("r0")
        held.replies["r0"] = lost()
        run = asyncio.create_task(caught(rig, runners)(held.transport))
        await held.until_asked("r0")
        runners[0].stop(ENOUGH)
        held.release()
        await run
        assert (await rig.run(always(answer()))).taken == 1

    run_virtual(main())
    assert rig.whole()


def test_a_stop_before_the_first_row_asks_nothing(tmp_path: Path) -> None:
    rig, transport = Rig(folder=tmp_path), always(answer())
    ran = run_virtual(rig.run(transport, during=lambda runner: runner.stop(ENOUGH)))
    assert (transport.asked.total(), ran.runner.stopped) == (0, ENOUGH)


# The first failures


def test_first_rows_that_all_fail_alike_stop_the_run_and_stay_open(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=100, workers=1)

    async def main() -> None:
        transport = always(refusal(400, "bad_temperature", "no such temperature"))
        ran = await rig.run(transport)
        assert ran.runner.stopped is not None
        assert ran.runner.stopped.exit_code == 4
        assert "no such temperature" in ran.runner.stopped.reason
        assert (transport.asked.total(), ran.counters.totals.rows) == (ALIKE_LIMIT, 0)
        again = await rig.run(always(answer()))
        assert (again.taken, again.counters.totals.rows) == (0, 100)

    run_virtual(main())
    assert rig.whole()


def test_held_first_failures_that_may_be_billed_are_counted_by_the_next_run(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=100, workers=1, max_attempts=2)

    async def main() -> None:
        await rig.run(always(lost(FailureKind.TIMEOUT)))
        assert (await rig.run(always(answer()))).taken == 2 * ALIKE_LIMIT

    run_virtual(main())


@pytest.mark.parametrize("other", [answer(), refusal(413), refusal(400, "another_code")])
def test_one_row_that_ends_otherwise_lets_the_first_failures_stand(tmp_path: Path, other: Reply) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        return other if row_id == f"r{ALIKE_LIMIT - 2}" else refusal(400)

    rig = Rig(folder=tmp_path, rows=100, workers=1)
    ran = run_virtual(rig.run(FakeTransport(script)))
    assert ran.runner.stopped is None
    assert rig.whole()


def test_a_dataset_of_few_rows_may_fail_alike(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=ALIKE_LIMIT - 1)
    ran = run_virtual(rig.run(always(refusal(400))))
    assert ran.runner.stopped is None
    assert ran.counters.totals.status["failed"] == ALIKE_LIMIT - 1
    assert rig.whole()


def test_rows_that_were_never_sent_say_nothing_about_the_provider(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=40)
    rig.write_rows().write_text("{bad\n" * 40)
    ran = run_virtual(rig.run(always(answer())))
    assert ran.runner.stopped is None
    assert ran.counters.totals.errors["invalid_input"] == 40


def test_held_failures_never_keep_ranges_open_that_others_wait_for(tmp_path: Path) -> None:
    """With a row a part, 16 open ranges are full of held failures before the 20th could be asked."""
    rig = Rig(folder=tmp_path, rows=100, rows_per_part=1)
    transport = always(refusal(400))
    ran = run_virtual(rig.run(transport))
    assert ran.runner.stopped is not None
    assert ALIKE_LIMIT <= transport.asked.total() < ALIKE_LIMIT + rig.workers
    run_virtual(rig.run(always(answer())))
    assert rig.whole()


# Bugs and broken disks


def test_a_bug_on_one_row_fails_that_row_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "r3":
            raise ZeroDivisionError("oh no")
        return answer()

    rig = Rig(folder=tmp_path)
    run_virtual(rig.run(FakeTransport(script)))
    row = rig.frame().row(3, named=True)
    assert (row["status"], row["error_kind"]) == ("failed", "internal")
    assert "ZeroDivisionError in script" in row["error_message"]
    assert "oh no" in caplog.text
    assert rig.whole()


def test_a_bug_on_every_row_stops_the_run_as_a_bug(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        raise ZeroDivisionError

    ran = run_virtual(Rig(folder=tmp_path, rows=100, workers=1).run(FakeTransport(script)))
    assert ran.runner.stopped is not None
    assert (ran.runner.stopped.exit_code, ran.counters.totals.rows) == (1, 0)


class Oops(Exception):
    """A bug of ours."""


class BrokenJournal(Journal):
    def record(self, outcome: Outcome) -> None:
        if outcome.index == 5:
            raise Oops
        super().record(outcome)


def broken_costs(outcomes: Iterable[Outcome]) -> Any:
    raise Oops


@pytest.mark.parametrize("more", [{"journal": BrokenJournal}, {"costs": broken_costs}])
def test_a_bug_outside_a_row_ends_the_run_with_it(tmp_path: Path, more: dict[str, Any]) -> None:
    """In a worker, where an outcome is kept; in the writer, where a part is made."""
    rig = Rig(folder=tmp_path, rows=200, rows_per_part=1, **more)
    with pytest.raises(Oops):
        run_virtual(rig.run(always(answer())))
    sound = Rig(folder=tmp_path, rows=200, rows_per_part=1)
    run_virtual(sound.run(always(answer())))
    assert sound.whole()


def test_a_run_never_ends_well_with_a_row_missing(tmp_path: Path) -> None:
    """A worker that is cancelled by nobody we know leaves its row."""

    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "r3":
            raise asyncio.CancelledError
        return answer()

    with pytest.raises(AssertionError, match="not every row has its outcome"):
        run_virtual(Rig(folder=tmp_path).run(FakeTransport(script)))


def drop(folder: Path, table: str) -> None:
    """Make every later commit to a table fail, as a full disk would."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as db:
        db.execute(f"DROP TABLE {table}")


@pytest.mark.parametrize("table", ["attempts", "outcomes", "parts"])
def test_a_journal_that_takes_no_more_ends_the_run_with_a_sentence(tmp_path: Path, table: str) -> None:
    rig = Rig(folder=tmp_path, rows=40)

    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "r10":
            drop(rig.out, table)
        return answer()

    with pytest.raises(StorageError, match=f"cannot be written any more: no such table: {table}"):
        run_virtual(rig.run(FakeTransport(script)))


def test_outcomes_that_were_not_kept_are_told_though_the_run_was_stopping(tmp_path: Path) -> None:
    rig, runners = Rig(folder=tmp_path, rows=12, workers=2), list[Runner]()

    async def main() -> None:
        held = Held("r4", "r5")
        run = asyncio.create_task(caught(rig, runners)(held.transport))
        await held.until_asked("r4", "r5")
        runners[0].stop(ENOUGH)
        drop(rig.out, "outcomes")
        held.release()
        with pytest.raises(StorageError):
            await run

    run_virtual(main())


def test_a_part_that_cannot_be_written_ends_the_run_and_its_rows_are_kept(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=40)
    blocked = rig.part(1).with_name("part-00001.parquet.tmp")

    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "r0":
            blocked.mkdir()
        return answer()

    async def main() -> None:
        with pytest.raises(StorageError, match="Is a directory"):
            await rig.run(FakeTransport(script))
        kept = {o.index for o in view(rig.out).outcomes}
        assert {4, 5, 6, 7} <= kept
        blocked.rmdir()
        again = always(answer())
        ran = await rig.run(again)
        assert not {f"r{n}" for n in kept} & again.asked.keys()
        assert ran.counters.totals.rows == 40

    run_virtual(main())
    assert rig.whole()


def test_an_input_that_changes_under_the_run_ends_it_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    rig = Rig(folder=tmp_path, rows=12)

    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "r0":
            with rig.write_rows().open("a") as file:
                file.write("\n\n")
        return answer()

    with pytest.raises(DatasetError, match="must not change while a run reads it"):
        run_virtual(rig.run(FakeTransport(script)))
    assert rig.frame().height + len(view(rig.out).outcomes) >= 9


def test_counters_after_a_resume_are_those_of_the_whole_folder(tmp_path: Path) -> None:
    rig, runners = Rig(folder=tmp_path, rows=12, workers=1), list[Runner]()

    async def main() -> None:
        held = Held("r6")
        run = asyncio.create_task(caught(rig, runners)(held.transport))
        await held.until_asked("r6")
        runners[0].stop(ENOUGH)
        held.release()
        assert (await run).counters.totals.rows == 7
        ran = await rig.run(always(answer()))
        totals = ran.counters.totals
        assert (totals.rows, totals.status["ok"], totals.attempts, ran.counters.sent) == (12, 12, 12, 5)
        assert (totals.tokens["total_tokens"], str(totals.cost)) == (144, "0.144")

    run_virtual(main())


def test_more_rows_later_go_on_from_the_short_part(tmp_path: Path) -> None:
    whole = Rig(folder=tmp_path, rows=10)
    whole.write_rows()

    async def main() -> None:
        await Rig(folder=tmp_path, rows=6).run(always(answer()))
        again = always(answer())
        ran = await whole.run(again)
        assert (again.asked.total(), ran.counters.totals.rows) == (4, 10)

    run_virtual(main())
    assert whole.whole()


def test_nothing_is_left_behind_that_was_raised_and_not_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(folder=tmp_path, rows=40)

    async def script(row_id: str, nth: int) -> Reply:
        if row_id == "r10":
            drop(rig.out, "attempts")
        return answer()

    with pytest.raises(StorageError):
        run_virtual(rig.run(FakeTransport(script)))
    gc.collect()
    assert not re.search("never retrieved|Exception in callback|was destroyed", caplog.text)
