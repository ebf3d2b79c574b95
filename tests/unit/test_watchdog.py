"""What a run tells when nothing comes back for long, on a virtual clock."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.records import FailureKind
from pipeline.runner import Runner
from pipeline.watchdog import Watchdog, watching
from tests.support.clock import START_S, run_virtual
from tests.support.rig import FakeTransport, Reply, Rig, Script, answer, lost, refusal

IDLE_TIMEOUT_S = 330.0


def told(
    folder: Path, script: Script, *, rows: int = 12, idle_timeout_s: float = IDLE_TIMEOUT_S, **more: Any
) -> list[tuple[int, str]]:
    """Run these rows, watched; each notice, with the second of the run in which it came."""
    said: list[tuple[int, str]] = []

    async def main() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        watchers: list[asyncio.Task[None]] = []

        async def watch(runner: Runner) -> None:
            def say(text: str, level: str) -> None:
                assert level == ("warning" if text.startswith("nothing") else "info")
                said.append((round(loop.time() - START_S), text))

            async with watching(Watchdog(runner.counters, runner.sending, idle_timeout_s), say):
                await over.wait()

        rig = Rig(folder=folder, rows=rows, row_deadline_s=100_000, **more)
        await rig.run(
            FakeTransport(script), during=lambda runner: watchers.append(asyncio.create_task(watch(runner)))
        )
        over.set()
        await asyncio.gather(*watchers)

    run_virtual(main())
    return said


def answering_after(*seconds: float) -> Script:
    """Each row's answer takes so long, by its number; the last repeats."""

    async def script(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(seconds[min(int(row_id[1:]), len(seconds) - 1)])
        return answer()

    return script


def test_a_standstill_is_told_once_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "promptmill")
    (at, first), (end, second) = told(tmp_path, answering_after(1, 1, 1, 1, 200, 200, 200, 1))
    assert 61 <= at <= 67
    assert re.fullmatch(
        r"nothing has come back for 6\d s: 3 in flight, the oldest sent 6\d s ago\. Look at the network and at the "
        r"provider's status page; each is given up after 330 s of silence \(transport\.idle_timeout\) and sent again",
        first,
    )
    assert 201 <= end <= 207
    assert re.fullmatch(r"moving again, after (19|20)\d s in which nothing came back", second)
    logged = [(record.levelname, record.message) for record in caplog.records]
    assert [one for one in logged if one[1] in (first, second)] == [("WARNING", first), ("INFO", second)]


def test_a_run_that_moves_is_silent(tmp_path: Path) -> None:
    assert told(tmp_path, answering_after(50), rows=40) == []


def test_a_slow_model_is_known_by_its_first_answers(tmp_path: Path) -> None:
    notices = told(tmp_path, answering_after(110), rows=40)
    assert [text.split()[0] for _, text in notices] == ["nothing", "moving"]


def test_a_standstill_is_told_before_the_requests_give_up(tmp_path: Path) -> None:
    (at, text), _ = told(tmp_path, answering_after(0.1, 0.1, 0.1, 9, 9, 9, 0.1), idle_timeout_s=10)
    assert at < 10
    assert text.startswith("nothing has come back for 8 s")


def test_however_slow_the_answers_were_a_standstill_is_told_in_time(tmp_path: Path) -> None:
    *_, (at, text), _ = told(tmp_path, answering_after(200, 200, 200, 320), rows=4)
    assert text.startswith("nothing has come back for 26")
    assert at < 200 + IDLE_TIMEOUT_S


def test_requests_that_are_given_up_and_sent_again_are_no_movement(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        if nth <= 3:
            await asyncio.sleep(IDLE_TIMEOUT_S)
            return lost(FailureKind.TIMEOUT)
        return answer()

    notices = told(tmp_path, script, rows=3)
    assert [text.split()[0] for _, text in notices] == ["nothing", "moving"]
    assert notices[-1][0] >= 3 * IDLE_TIMEOUT_S


def test_refusals_come_back_too(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(40)
        return refusal(503) if nth <= 5 else answer()

    assert told(tmp_path, script, rows=3) == []


def test_a_run_with_nothing_in_flight_waits_for_its_limits_and_stands_not_still(tmp_path: Path) -> None:
    assert told(tmp_path, answering_after(1), requests_per_minute=0.5) == []
