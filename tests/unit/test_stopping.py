"""What stops a run from outside: signals and the clock, on virtual time; the runner's own part is in test_runner.py."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import Interrupted
from pipeline.journal_view import view
from pipeline.schedule import End
from pipeline.stopping import Stopping, signals_interrupt
from pipeline.summary import Stop
from tests.support.clock import START_S, run_virtual
from tests.support.rig import NOW, FakeTransport, Reply, Rig, always, answer

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
END = End(70.0, 30.0, "the deadline of 100 s is reached; run the same command again to go on")
BY_CLOCK = Stop(6, END.reason)
BY_SIGTERM = Stop(143, "stopped by SIGTERM; run the same command again to go on")


def passed_s() -> float:
    return asyncio.get_running_loop().time() - START_S


def wall() -> datetime:
    """A clock on the wall that goes with the loop's."""
    return NOW + timedelta(seconds=passed_s())


def stopping(end: End | None = None) -> Stopping:
    return Stopping(end, started=NOW, now=wall)


async def raised(number: signal.Signals) -> None:
    """A signal, and the loop's turn to hear of it."""
    signal.raise_signal(number)
    await asyncio.sleep(0.001)


class Held:
    """What can be stopped; notes when it was, and how."""

    def __init__(self, on_wire: int = 4) -> None:
        self.on_wire = on_wire
        self.stops: list[tuple[int, Stop, float | None]] = []
        self.cuts: list[int] = []
        self.said: list[str] = []

    def stop(self, stop: Stop, grace_s: float | None = None) -> None:
        self.stops.append((round(passed_s()), stop, None if grace_s is None else round(grace_s, 3)))

    def cut(self) -> None:
        self.cuts.append(round(passed_s()))

    def say(self, message: str, level: str) -> None:
        self.said.append(message)


# Signals


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_first_signal_stops_with_the_usual_grace_and_the_second_cuts(
    number: signal.Signals, code: int
) -> None:
    async def main() -> Held:
        held, outside = Held(), stopping()
        async with outside.watching():
            outside.hand_to(held, held.say)
            await raised(number)
            assert held.cuts == []
            await asyncio.sleep(10)
            await raised(signal.SIGTERM)
        return held

    held = run_virtual(main())
    by = f"stopped by {number.name}"
    assert held.stops == [(0, Stop(code, f"{by}; run the same command again to go on"), None)]
    assert held.cuts == [10]
    assert held.said == [f"{by}: 4 requests in flight may still finish; another signal would cut them off"]


def test_where_nothing_is_in_flight_nothing_is_said_of_a_grace() -> None:
    async def main() -> list[str]:
        held, outside = Held(on_wire=0), stopping()
        async with outside.watching():
            outside.hand_to(held, held.say)
            await raised(signal.SIGINT)
        return held.said

    assert run_virtual(main()) == []


@pytest.mark.parametrize("number", [number for number, _ in SIGNALS])
def test_what_was_called_on_a_signal_before_is_called_again_afterwards(number: signal.Signals) -> None:
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))

    async def main() -> None:
        async with stopping().watching():
            await raised(number)
            assert heard == []

    try:
        run_virtual(main())
        signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert heard == [number]


@contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_signal_that_the_caller_has_us_ignore_is_ignored_as_nohup_wants_it() -> None:
    async def main() -> Held:
        held, outside = Held(), stopping()
        async with outside.watching():
            outside.hand_to(held)
            await raised(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        return held

    with ignored(signal.SIGHUP):
        assert run_virtual(main()).stops == []
        with signals_interrupt():
            signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_before_there_is_anything_to_drain_a_signal_is_raised(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by {number.name}") as caught, signals_interrupt():
        signal.raise_signal(number)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


# The clock


def test_feeding_stops_before_the_end_and_at_the_end_the_rest_is_cut() -> None:
    async def main() -> Held:
        held, outside = Held(), stopping(END)
        async with outside.watching():
            outside.hand_to(held)
            await asyncio.sleep(1_000)
        return held

    held = run_virtual(main())
    assert (held.stops, held.cuts) == ([(70, BY_CLOCK, 30.0)], [100])


def test_the_end_counts_from_the_start_of_the_run_whatever_came_before_it_asks() -> None:
    async def main() -> Held:
        held, outside = Held(), stopping(END)
        await asyncio.sleep(60)  # the input was looked over
        async with outside.watching():
            await outside.unless_stopped(asyncio.sleep(5))  # the server started
            outside.hand_to(held)
            await asyncio.sleep(1_000)
        return held

    held = run_virtual(main())
    assert (held.stops, held.cuts) == ([(70, BY_CLOCK, 30.0)], [100])


def test_a_run_that_comes_to_ask_only_after_its_end_asks_nothing() -> None:
    async def main() -> None:
        outside, begun = stopping(END), []

        async def start() -> None:
            begun.append(passed_s())

        await asyncio.sleep(75)
        async with outside.watching():
            assert await outside.unless_stopped(start()) is None
        assert outside.stop == BY_CLOCK
        assert begun == []

    run_virtual(main())


def test_a_grace_that_outlasts_the_end_is_cut_there() -> None:
    async def main() -> Held:
        held, outside = Held(), stopping(END)
        async with outside.watching():
            outside.hand_to(held)
            await asyncio.sleep(60)
            await raised(signal.SIGTERM)
            await asyncio.sleep(1_000)
        return held

    held = run_virtual(main())
    assert (held.stops, held.cuts) == ([(60, BY_SIGTERM, None)], [100])


def test_one_signal_while_the_clock_drains_the_run_costs_no_answer_and_two_cut() -> None:
    async def main() -> Held:
        held, outside = Held(), stopping(END)
        async with outside.watching():
            outside.hand_to(held, held.say)
            await asyncio.sleep(75)
            await raised(signal.SIGTERM)
            assert held.cuts == []
            await asyncio.sleep(5)
            await raised(signal.SIGTERM)
        return held

    held = run_virtual(main())
    assert (held.stops, held.cuts) == ([(70, BY_CLOCK, 30.0)], [80])
    assert [said.partition(":")[0] for said in held.said] == [
        "the deadline of 100 s is reached",
        "stopping already",
    ]


def test_a_machine_that_slept_past_the_end_stops_the_run_when_it_wakes() -> None:
    """The loop's time stands still in a sleep; the window is meant by the clock on the wall."""

    async def main() -> Held:
        slept = timedelta()
        held = Held()
        outside = Stopping(END._replace(feed_s=36_000.0), started=NOW, now=lambda: wall() + slept)
        async with outside.watching():
            outside.hand_to(held)
            await asyncio.sleep(10)
            slept = timedelta(hours=12)
            await asyncio.sleep(60)
        return held

    held = run_virtual(main())
    assert [(when, grace) for when, _, grace in held.stops] == [(30, 0.0)]
    assert held.cuts == [30]


# The start of the server


def test_a_start_that_nothing_stops_gives_what_it_gives() -> None:
    async def main() -> int | None:
        outside = stopping()
        async with outside.watching():
            return await outside.unless_stopped(asyncio.sleep(5, 7))

    assert run_virtual(main()) == 7


def test_a_start_is_given_up_at_the_first_signal_and_cleans_up() -> None:
    async def main() -> None:
        outside, cleaned = stopping(), []

        async def start() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(5)
                cleaned.append(round(passed_s()))

        async with outside.watching():
            asyncio.get_running_loop().call_later(1, signal.raise_signal, signal.SIGTERM)
            assert await outside.unless_stopped(start()) is None
        assert (outside.stop, cleaned) == (BY_SIGTERM, [6])

    run_virtual(main())


def test_a_second_signal_cuts_the_cleaning_up_short() -> None:
    async def main() -> None:
        outside, cut = stopping(), []

        async def start() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                try:
                    await asyncio.sleep(500)
                except asyncio.CancelledError:
                    cut.append(round(passed_s()))
                    raise

        async with outside.watching():
            for after_s in (1, 3):
                asyncio.get_running_loop().call_later(after_s, signal.raise_signal, signal.SIGTERM)
            assert await outside.unless_stopped(start()) is None
        assert cut == [3]

    run_virtual(main())


def test_a_stop_that_comes_between_start_and_asking_reaches_the_runner_before_its_first_row() -> None:
    async def main() -> None:
        outside, held = stopping(), Held()
        async with outside.watching():
            await outside.unless_stopped(asyncio.sleep(1))
            await raised(signal.SIGTERM)
            outside.hand_to(held)
        assert [(stop, grace) for _, stop, grace in held.stops] == [(BY_SIGTERM, 0.0)]

    run_virtual(main())


def test_what_start_raises_by_itself_is_raised() -> None:
    async def main() -> None:
        outside = stopping()

        async def broken() -> None:
            raise OSError("no such program")

        async with outside.watching():
            with pytest.raises(OSError, match="no such program"):
                await outside.unless_stopped(broken())

    run_virtual(main())


# With a real runner


@pytest.mark.parametrize(
    ("answer_s", "in_flight_at_the_end"),
    [(29.0, 0), (31.0, 0), (65.0, 3)],  # the last rows are fed at 58 s, 62 s, 65 s
)
def test_a_run_drains_before_its_end_and_only_what_takes_longer_is_cut(
    tmp_path: Path, answer_s: float, in_flight_at_the_end: int
) -> None:
    async def slow(row_id: str, nth: int) -> Reply:
        await asyncio.sleep(answer_s)
        return answer()

    async def main() -> None:
        rig, outside = Rig(folder=tmp_path, rows=100, workers=3), stopping(END)
        async with outside.watching():
            ran = await rig.run(FakeTransport(slow), during=outside.hand_to)
        assert passed_s() <= 100.1
        assert ran.runner.stopped == BY_CLOCK
        assert view(rig.out).in_flight == in_flight_at_the_end
        again = await rig.run(always(answer()))
        assert again.taken == in_flight_at_the_end
        assert rig.whole()

    run_virtual(main())
