"""The line before the gate: whose turn it is, and whose it is next.

Not here: when the one whose turn it is may go (`limits.py`).

First come, first served, except where requests and tokens bind in turn. There a second of short prompts would use up its
requests and leave tokens over, one of long prompts the reverse, and the provider gives neither back. So each second's worth of
requests is kept at the mean size of those in line: the turn goes to the first whose size fits. Short prompts and long ones are
passed by that, but within a bound: before anybody goes, at most twice as many go as stood in line when it came.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

NEAR = 256  # from the front may be chosen; with fewer the mean moves too much, more bring little
FITS = 0.03  # of a second's tokens: near enough to the mean
CLEAR = 0.25  # of a second's tokens: by so much more or less, one quota binds alone
MOST_REQUESTS = 512  # looked back at: a second of more is even enough by itself


class Second(NamedTuple):
    """What may go in a second, or in as much of it as a whole number of requests takes."""

    requests: int
    tokens: float


def whole_second(requests_per_s: float | None, tokens_per_s: float | None) -> Second | None:
    """A second of these quotas; None where not both are known."""
    if requests_per_s is None or tokens_per_s is None:
        return None
    requests = max(int(requests_per_s + 1e-6), 1)
    return Second(requests, tokens_per_s * requests / requests_per_s)


class _Waiter:
    """One in line. `due` is the number of the turn that is its own at the latest."""

    __slots__ = ("called", "due", "tokens")

    def __init__(self, tokens: int, due: int, called: asyncio.Future[bool]) -> None:
        self.tokens = tokens
        self.due = due
        self.called = called


class Line:
    """The line of one event loop. `second` says what may go in one, None where not both quotas are known.

    `taken`: it is somebody's turn. Whoever finds it not taken sets it and has the turn, whoever finds it taken waits for `turn`;
    both end it by `hand_on`. `goes` lets a request of so many tokens go if it may at this moment, and says whether it went;
    `takes_back` is told of one that went so and was cancelled before it knew.
    """

    def __init__(
        self,
        second: Callable[[], Second | None],
        *,
        goes: Callable[[int], bool],
        takes_back: Callable[[int], None],
    ) -> None:
        self.taken = False
        self._second = second
        self._goes = goes
        self._takes_back = takes_back
        self._near: list[_Waiter] = []
        self._near_tokens = 0
        self._far: deque[_Waiter] = deque()
        self._turns = 0
        self._went: deque[int] = deque()  # the latest sizes, while others waited
        self._went_tokens = 0

    async def turn(self, tokens: int) -> bool:
        """Wait for one's turn with a request of so many tokens; whether it went already. Cancelling it leaves no trace."""
        ahead = len(self._near) + len(self._far) + 1
        called: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(tokens, self._turns + 2 * ahead - 1, called)
        self._far.append(waiter)
        self._close_up()
        try:
            return await called
        except asyncio.CancelledError:
            if called.cancelled():
                self._leave(waiter)
            elif called.result():
                self._takes_back(tokens)
            else:
                self.hand_on()
            raise

    def went(self, tokens: int) -> None:
        """Whoever has the turn goes, with so many tokens."""
        if self._near:
            self._went.append(tokens)
            self._went_tokens += tokens
            if len(self._went) > MOST_REQUESTS:
                self._went_tokens -= self._went.popleft()

    def hand_on(self) -> None:
        """The turn ends; all go who may at this moment, and then it is the next one's, if anybody waits.

        Were each to go by itself, it would take as many turns of the event loop, and slots stand empty meanwhile.
        """
        while self._near:
            waiter = self._near[self._next()]
            self._leave(waiter)
            self._turns += 1
            if waiter.called.done():
                continue
            went = self._goes(waiter.tokens)
            waiter.called.set_result(went)
            if not went:
                return
        self.taken = False

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._near:
            self._near.remove(waiter)
            self._near_tokens -= waiter.tokens
            self._close_up()
        elif waiter in self._far:
            self._far.remove(waiter)

    def _close_up(self) -> None:
        if self._far and len(self._near) < NEAR:
            waiter = self._far.popleft()
            self._near.append(waiter)
            self._near_tokens += waiter.tokens

    def _next(self) -> int:
        """The place of the one whose turn it is next."""
        near = self._near
        if len(near) == 1 or (second := self._second()) is None:
            return 0
        requests = min(second.requests, MOST_REQUESTS)
        tokens = second.tokens * requests / second.requests
        while len(self._went) >= requests:
            self._went_tokens -= self._went.popleft()
        mean = self._near_tokens / len(near)
        evenly = requests * mean
        before = self._went_tokens + (requests - 1 - len(self._went)) * mean
        with_first = before + near[0].tokens
        if min(evenly, with_first) >= (1 + CLEAR) * tokens or max(evenly, with_first) <= (1 - CLEAR) * tokens:
            return 0
        wanted, fits = evenly - before, FITS * tokens
        nearest, chosen = float("inf"), 0
        for place, waiter in enumerate(near):
            off = abs(waiter.tokens - wanted)
            if off < nearest:
                nearest, chosen = off, place
                if off <= fits:
                    break
            if self._turns + place >= waiter.due:
                break  # it has been passed as often as it may be
        return chosen
