"""Whatever the number of rows, the order of answers, the faults and the stops: rows out = rows in."""

import asyncio
import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.runner import ALIKE_LIMIT, Runner
from pipeline.summary import Stop
from tests.support.clock import run_virtual
from tests.support.rig import FakeTransport, Reply, Rig, answer, lost, refusal

FAULTS = {
    "overloaded": lambda: refusal(503),
    "throttled": lambda: refusal(429),
    "lost": lost,
    "closed": lambda: lost(uncounted=True),
    "invalid": lambda: answer("banana"),
}
ENDS = {
    "ok": lambda: answer("good"),
    "cut": lambda: answer("goo", finish="length"),
    "too large": lambda: refusal(413),
    "refused": lambda: refusal(400),
}
# Fewer rows than would stop a run that fails alike from its beginning: that is another property.
schedules = st.lists(
    st.tuples(st.lists(st.sampled_from(sorted(FAULTS)), max_size=3), st.sampled_from(sorted(ENDS))),
    max_size=ALIKE_LIMIT - 1,
)
shapes = st.builds(dict, rows_per_part=st.integers(1, 7), workers=st.integers(1, 8))
seeds = st.integers(0, 2**32 - 1)
Schedule = list[tuple[list[str], str]]


def transport(schedule: Schedule, seed: int) -> FakeTransport:
    """Answers each row by its schedule, after delays drawn anew for every request."""
    random = Random(seed)

    async def script(row_id: str, nth: int) -> Reply:
        faults, end = schedule[int(row_id[1:])]
        await asyncio.sleep(random.choice([0.0, 0.001, random.random(), 5 * random.random()]))
        return FAULTS[faults[nth - 1]]() if nth <= len(faults) else ENDS[end]()

    return FakeTransport(script)


def rig(folder: str, schedule: Schedule, shape: dict[str, int]) -> Rig:
    return Rig(folder=Path(folder), rows=len(schedule), labels=["good"], max_attempts=6, **shape)


def assert_valid(rig: Rig) -> None:
    """Each part holds exactly its range, in order."""
    for path in sorted((rig.out / "results").iterdir()):
        number = int(path.stem.removeprefix("part-"))
        first = number * rig.rows_per_part
        end = min(first + rig.rows_per_part, rig.rows)
        assert rig.frame()["input_index"].is_sorted()
        indexes = [i for i in rig.frame()["input_index"] if first <= i < end]
        assert indexes == list(range(first, end))


@settings(max_examples=30, deadline=None)
@given(schedules, shapes, seeds)
def test_each_row_stands_once_in_input_order_and_the_same_whatever_the_order_of_answers(
    schedule: Schedule, shape: dict[str, int], seed: int
) -> None:
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        shuffled = rig(one, schedule, shape)
        ran = run_virtual(shuffled.run(transport(schedule, seed)))
        assert ran.runner.stopped is None
        assert ran.counters.totals.rows == len(schedule)
        if schedule:
            in_turn = rig(other, schedule, {"rows_per_part": shuffled.rows_per_part, "workers": 1})
            run_virtual(in_turn.run(transport(schedule, 0)))
            assert shuffled.whole()
            assert_valid(shuffled)
            assert shuffled.content().equals(in_turn.content())
            expected = [
                {"ok": "ok", "cut": "truncated"}.get(end, "invalid" if "invalid" in faults else "failed")
                for faults, end in schedule
            ]
            assert shuffled.frame()["status"].to_list() == expected


@settings(max_examples=30, deadline=None)
@given(schedules.filter(len), shapes, st.lists(st.floats(0, 20), max_size=4), st.booleans(), seeds)
def test_a_run_that_is_stopped_again_and_again_ends_with_each_row_once(
    schedule: Schedule, shape: dict[str, int], stops_s: list[float], grace: bool, seed: int
) -> None:
    with TemporaryDirectory() as folder:
        job = rig(folder, schedule, shape)
        wire = transport(schedule, seed)
        completed: dict[str, int] = {}

        def stopping_after(delay_s: float) -> None:
            def during(runner: Runner) -> None:
                loop = asyncio.get_running_loop()
                loop.call_later(delay_s, runner.stop, Stop(130, "enough"))
                if not grace:
                    loop.call_later(delay_s, runner.cut)

            ran = run_virtual(job.run(wire, during=during))
            completed["rows"] = ran.counters.totals.rows

        before = 0
        for delay_s in stops_s:
            stopping_after(delay_s)
            assert completed["rows"] >= before
            before = completed["rows"]
            if list((job.out / "results").iterdir()):
                assert_valid(job)
        ran = run_virtual(job.run(wire))
        assert ran.counters.totals.rows == len(schedule)
        assert job.whole()
        assert_valid(job)
        for index, (faults, end) in enumerate(schedule):
            if grace and end in ("ok", "cut"):  # nothing was cut off: what is settled is never asked again
                assert wire.asked[f"r{index}"] == len(faults) + 1
        # The part files and the counters say the same.
        frame = job.frame()
        assert frame["attempts"].sum() == ran.counters.totals.attempts
        known = [json.loads(usage)["total_tokens"] for usage in frame["usage"] if usage is not None]
        assert sum(known) <= ran.counters.totals.tokens["total_tokens"] == frame["total_tokens"].sum()
