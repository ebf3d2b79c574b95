"""The line before the gate: whose turn it is next, by size and within bounds, and nothing left behind by who is cancelled."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from pipeline.line import NEAR, Line, Second
from tests.support.clock import run_virtual

EVEN = Second(4, 4_000.0)  # a thousand tokens a request


class Queue:
    """Those who wait in a line, by name; the turn is taken when it is made."""

    def __init__(self, second: Second | None, *, first: int = 1_000) -> None:
        self.line = Line(lambda: second, goes=lambda tokens: False, takes_back=lambda tokens: None)
        self.line.taken = True
        self.had = first
        self.turns: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def add(self, *sizes: int, names: str | list[str] = "abcdefghijklmnop") -> None:
        for name, tokens in zip(names, sizes, strict=False):
            self.tasks[name] = asyncio.create_task(self._wait(name, tokens))
        await asyncio.sleep(0)

    async def _wait(self, name: str, tokens: int) -> None:
        await self.line.turn(tokens)
        self.turns.append(name)
        self.had = tokens

    async def pass_on(self, times: int = 1) -> None:
        """Whoever has the turn goes, and it is the next one's."""
        for _ in range(times):
            self.line.went(self.had)
            self.line.hand_on()
            await asyncio.sleep(0)


def played(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main()

    run_virtual(whole())


@pytest.mark.parametrize(
    "second",
    [None, Second(4, 1_000.0), Second(4, 40_000.0)],
    ids=["a quota is not known", "tokens bind alone", "requests bind alone"],
)
def test_first_come_first_served_where_one_quota_binds(second: Second | None) -> None:
    async def main() -> None:
        queue = Queue(second)
        await queue.add(100, 1_900, 1_000, 10, 1_990, 1_000)
        await queue.pass_on(7)
        assert queue.turns == list("abcdef")
        assert not queue.line.taken

    played(main)


def test_where_both_bind_the_first_goes_whose_size_keeps_the_second_at_the_mean() -> None:
    async def main() -> None:
        queue = Queue(EVEN, first=1_900)
        names = [*map(str, range(20)), "short", "long", "20", "21"]
        await queue.add(*[1_000] * 20, 100, 1_900, 1_000, 1_000, names=names)
        await queue.pass_on(5)
        # Until the 1,900 from before leave the second the short one stands in it, and then the long one in their place.
        assert queue.turns == ["short", "0", "1", "long", "2"]

    played(main)


def test_of_one_size_nobody_is_passed() -> None:
    async def main() -> None:
        queue = Queue(EVEN)
        chance = random.Random(1)
        sizes = [chance.choice((10, 1_000, 1_990)) for _ in range(300)]
        names = [f"{n}" for n in range(300)]
        await queue.add(*sizes, names=names)
        await queue.pass_on(300)
        assert sorted(queue.turns, key=int) == names
        assert queue.turns != names
        for size in set(sizes):
            alike = [int(name) for name in queue.turns if sizes[int(name)] == size]
            assert alike == sorted(alike)

    played(main)


@pytest.mark.parametrize("odd", [1_990, 1], ids=["long", "short"])
def test_before_anybody_goes_at_most_twice_as_many_go_as_stood_in_line(odd: int) -> None:
    async def main() -> None:
        queue = Queue(EVEN)
        await queue.add(*[1_000] * 9, odd, names=[*"abcdefghi", "odd"])
        for n in range(40):  # they come as fast as they go, and all fit better
            await queue.add(1_000, names=[f"{n}"])
            await queue.pass_on()
        # The one whose turn it was and nine more stood before it.
        assert queue.turns.index("odd") + 1 == 20
        assert queue.turns[20:] == [f"{n}" for n in range(10, 30)]

    played(main)


def test_who_stands_far_behind_is_not_chosen() -> None:
    async def main() -> None:
        queue = Queue(EVEN, first=3_000)
        names = [f"{n}" for n in range(NEAR + 1)]
        await queue.add(*[1_000] * NEAR, 10, names=names)
        await queue.pass_on()
        assert queue.turns == ["0"]
        await queue.pass_on()  # now it stands near enough
        assert queue.turns == ["0", f"{NEAR}"]

    played(main)


def test_whoever_is_cancelled_leaves_no_gap() -> None:
    async def main() -> None:
        queue = Queue(EVEN, first=3_000)
        names = [f"{n}" for n in range(NEAR + 2)]
        await queue.add(10, *[1_000] * NEAR, 10, names=names)
        queue.tasks["0"].cancel()  # the one whose turn it would be next
        queue.tasks["2"].cancel()
        queue.tasks[f"{NEAR}"].cancel()  # far behind
        await queue.pass_on(2)
        assert queue.turns == ["1", f"{NEAR + 1}"]
        await queue.pass_on(NEAR)
        assert len(queue.turns) == NEAR - 1
        assert not queue.line.taken

    played(main)


def test_who_is_cancelled_when_its_turn_has_come_hands_it_on() -> None:
    async def main() -> None:
        queue = Queue(None)
        await queue.add(1, 1, 1)
        queue.line.hand_on()
        queue.tasks["a"].cancel()
        queue.tasks["b"].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert queue.turns == ["c"]
        queue.line.hand_on()
        assert not queue.line.taken

    played(main)
