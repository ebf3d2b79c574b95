"""The feeder: each row once, in order, and never more than a few ranges open."""

import asyncio
from pathlib import Path

import pytest

from pipeline.errors import DatasetError
from pipeline.feeder import MAX_OPEN_RANGES, Fed
from pipeline.journal import Journal
from pipeline.parts import OpenRange
from pipeline.progress import Counters
from pipeline.totals import Totals
from tests.support.clock import run_virtual
from tests.support.rig import Rig, outcome


class Feeding:
    """A feeder over a rig's rows, and the ranges it called full."""

    def __init__(self, rig: Rig, *, done: set[int] | None = None, kept: tuple[int, ...] = ()) -> None:
        self.folder = rig.open()
        self.journal: Journal = self.folder.journal
        for index in kept:
            self.journal.record(outcome(index))
        self.journal.flush()
        self.feeder = rig.feeder(self.journal, Counters(rig.rows, Totals(), rig.costs), {})
        self.full: list[OpenRange] = []
        self.feeder.on_full = self.full.append
        self.feeder.start(done or set())

    async def take_all(self) -> list[int]:
        """Take and settle every row; full ranges are written at once."""
        taken = []
        while (fed := await self.feeder.take()) is not None:
            taken.append(fed.row.index)
            self.settle(fed)
        self.write()
        return taken

    def settle(self, fed: Fed) -> None:
        self.feeder.settle(outcome(fed.row.index), fed.range)
        self.write()

    def write(self) -> None:
        for range_ in self.full:
            self.feeder.written(range_)
        self.full.clear()

    def close(self) -> None:
        self.folder.release()


@pytest.mark.parametrize(
    ("rows", "done", "kept", "asked"),
    [
        (0, set(), (), []),
        (3, set(), (), [0, 1, 2]),
        (8, set(), (), list(range(8))),
        (10, {0, 1}, (), [8, 9]),
        (10, {1}, (), [0, 1, 2, 3, 8, 9]),
        (10, {2}, (), list(range(8))),
        (10, {0, 1, 2}, (), []),
        (8, {0, 1}, (), []),
        (10, {0}, (4, 6, 9), [5, 7, 8]),
        (10, set(), tuple(range(10)), []),
    ],
)
def test_each_row_without_outcome_is_fed_once_in_order(
    tmp_path: Path, rows: int, done: set[int], kept: tuple[int, ...], asked: list[int]
) -> None:
    async def main() -> None:
        feeding = Feeding(Rig(folder=tmp_path, rows=rows), done=done, kept=kept)
        assert await feeding.take_all() == asked
        assert await feeding.feeder.take() is None
        assert feeding.feeder.exhausted
        feeding.close()

    run_virtual(main())


def test_workers_wait_for_a_range_to_be_written_before_too_many_are_open_and_lose_no_row(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        feeding = Feeding(Rig(folder=tmp_path, rows=MAX_OPEN_RANGES + 3, rows_per_part=1))
        starved: list[int] = []
        feeding.feeder.on_no_room = lambda: starved.append(1)
        fed = [await feeding.feeder.take() for _ in range(MAX_OPEN_RANGES)]
        assert not starved
        waiting = [asyncio.create_task(feeding.feeder.take()) for _ in range(5)]
        await asyncio.sleep(0)
        assert starved
        assert not any(one.done() for one in waiting)
        waiting[0].cancel()
        for one in fed:
            assert one is not None
            feeding.settle(one)
        more = [one for one in await asyncio.gather(*waiting[1:]) if one is not None]
        assert sorted(one.row.index for one in more) == [16, 17, 18]
        assert not feeding.feeder.exhausted
        for one in more:
            feeding.settle(one)
        assert feeding.feeder.exhausted
        feeding.close()

    run_virtual(main())


def test_closing_wakes_those_who_wait_for_room_and_feeds_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        feeding = Feeding(Rig(folder=tmp_path, rows=MAX_OPEN_RANGES + 3, rows_per_part=1))
        for _ in range(MAX_OPEN_RANGES):
            await feeding.feeder.take()
        waiting = asyncio.create_task(feeding.feeder.take())
        await asyncio.sleep(0)
        feeding.feeder.close()
        assert await waiting is None
        assert await feeding.feeder.take() is None
        assert not feeding.feeder.exhausted
        feeding.close()

    run_virtual(main())


def test_input_columns_of_kept_rows_are_carried_like_any_other(tmp_path: Path) -> None:
    async def main() -> None:
        feeding = Feeding(Rig(folder=tmp_path, rows=4), kept=(0, 2))
        ranges = []
        feeding.feeder.on_full = ranges.append
        while (fed := await feeding.feeder.take()) is not None:
            feeding.feeder.settle(outcome(fed.row.index), fed.range)
        (full,) = ranges
        (whole,) = full.slices()
        assert whole.batch["text"].to_pylist() == [f"text {n}" for n in range(4)]
        feeding.close()

    run_virtual(main())


@pytest.mark.parametrize("more", ['{"id": "new", "text": "t"}\n', ""])
def test_an_input_that_is_not_what_it_was_is_told_when_its_end_is_reached(tmp_path: Path, more: str) -> None:
    async def main() -> None:
        rig = Rig(folder=tmp_path, rows=6)
        feeding = Feeding(rig)
        rows = rig.write_rows()
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:5]) + more)
        with pytest.raises(DatasetError, match="The input must not change while a run reads it"):
            await feeding.take_all()
        assert await feeding.feeder.take() is None
        feeding.close()

    run_virtual(main())
