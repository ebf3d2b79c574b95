"""A turn of the event loop is for a bounded number of callers, in their order, and for all the others as soon as may be."""

import asyncio

from pipeline.turns import Turns
from tests.support.clock import run_virtual


async def worked(turns: Turns, name: int, done: list[int]) -> None:
    if (turn := turns.take()) is not None:
        await turn
    done.append(name)


def test_so_many_go_in_a_turn_first_come_first_served() -> None:
    async def main() -> None:
        turns, done = Turns(3), list[int]()
        tasks = [asyncio.create_task(worked(turns, name, done)) for name in range(8)]
        lengths = []
        while len(done) < 8:
            await asyncio.sleep(0)
            lengths.append(len(done))
        assert done == list(range(8))
        assert max(after - before for before, after in zip([0, *lengths], lengths, strict=False)) == 3
        assert len(lengths) <= 6
        await asyncio.gather(*tasks)

    run_virtual(main())


def test_what_the_first_ones_do_next_comes_before_the_turn_of_the_last() -> None:
    async def main() -> None:
        turns, said = Turns(2), list[str]()

        async def work(name: str) -> None:
            if (turn := turns.take()) is not None:
                await turn
            said.append(f"{name} judged")
            await asyncio.sleep(0)  # for the journal
            said.append(f"{name} sends")

        await asyncio.gather(*(work(name) for name in "abcdefgh"))
        assert said.index("a sends") < said.index("e judged")
        assert said.index("d sends") < said.index("h judged")

    run_virtual(main())


def test_who_is_cancelled_in_line_takes_nobodys_turn() -> None:
    async def main() -> None:
        turns, done = Turns(1), list[int]()
        tasks = [asyncio.create_task(worked(turns, name, done)) for name in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert done == [0, 3]
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(main())


def test_few_that_come_apart_never_wait() -> None:
    async def main() -> None:
        turns = Turns(1)
        for _ in range(5):
            assert turns.take() is None
            await asyncio.sleep(0.001)

    run_virtual(main())
