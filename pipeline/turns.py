"""How much is done in one turn of the event loop: a bounded number of answers, first come first served.

Answers come in waves where requests left in one: five hundred that were sent together are back together. Were all of them judged
in the same turn, the first would be sent on only after the last, all together again, and the slots would stand empty for as long
as that takes, wave after wave. With a few a turn the first are on their way at once, and the wave flattens.
"""

import asyncio
from collections import deque

# Some 3 ms of work, their next requests included. Fewer cost more commits of the journal, more leave the loop late.
ANSWERS_A_TURN = 16


class Turns:
    """Gives each turn of the running event loop to `most` callers."""

    def __init__(self, most: int = ANSWERS_A_TURN) -> None:
        self._most = self._left = most
        self._line: deque[asyncio.Future[None]] = deque()
        self._in_use = False

    def take(self) -> asyncio.Future[None] | None:
        """None where the caller may go on in this turn; else what it must await."""
        if not self._in_use:
            self._in_use = True
            asyncio.get_running_loop().call_soon(self._next)
        if self._left:
            self._left -= 1
            return None
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        return turn

    def _next(self) -> None:
        self._left = self._most
        while self._line and self._left:
            turn = self._line.popleft()
            if not turn.done():  # its row was cancelled
                turn.set_result(None)
                self._left -= 1
        self._in_use = self._left < self._most
        if self._in_use:
            asyncio.get_running_loop().call_soon(self._next)
