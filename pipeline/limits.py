"""The one gate before every send: requests per minute, tokens per minute, concurrency, and the cool-down they share.

Lives here: who may send, and when. Not here: what a gate is to those who use it (`gate.py`), how fast a bucket may go (`pace.py`,
`quota_search.py`) and how many may be in flight (`ceiling.py`), whose turn it is (`line.py`), what a failure means
(`failures.py`), when a row is tried again (`retry.py`), where the limits come from (job file and catalogue). Time is the running
loop's.

Waiters form one line. Only the one whose turn it is looks at slot, cool-down and pace: one timer runs, however many wait.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from pipeline.ceiling import Ceiling
from pipeline.fair_shares import IN_FLIGHT, REQUESTS, TOKENS, WHOLE, Shares
from pipeline.gate import Admitted, Bucket, Chosen, Common, Limits
from pipeline.last_minute import LastMinute
from pipeline.line import Line, Second, whole_second
from pipeline.pace import CATCH_UP_S, Pace
from pipeline.quota_search import Cut

FIRST_COOL_DOWN_S = 1.0
LONGEST_COOL_DOWN_S = 6.0
IN_A_ROW_S = 10.0
LONGEST_RETRY_AFTER_S = 300.0
_AT_ONCE_S = 1e-6
log = logging.getLogger("promptmill")


class _Kept(NamedTuple):
    """Why a request may not go now: until when at the least (None: until one in flight ends), and where the wait is counted."""

    until_s: float | None
    waited_s: list[float]
    by: int | None


class LocalGate:
    """A `Gate` for one process and one event loop, with counters for progress and status.

    `slowed` counts the failures reported to `slow`, by bucket; `note` is told each change of pace, ceiling or cool-down, with its
    reason.
    """

    def __init__(self, limits: Limits, note: Callable[[str], None] | None = None) -> None:
        # Kept: to ask for the running loop costs more than to ask it for its time (a call of the system, until Python 3.12).
        self._time = asyncio.get_running_loop().time
        now_s = self._time()
        self._requests = Pace("requests", _per_s(limits.requests_per_minute), now_s)
        self._tokens = Pace("tokens", _per_s(limits.tokens_per_minute), now_s)
        self._ceiling = Ceiling(limits.max_concurrency, now_s)
        self._note = note or (lambda what: log.info("limits: %s", what))
        self._most = limits.max_concurrency
        self._shares = WHOLE
        self._common: Common | None = None
        self._held_back_s, self._turns_s = [0.0] * len(WHOLE), [0.0] * len(WHOLE)

        self._line = Line(self._second, goes=self._goes, takes_back=self._take_back)
        self._woken: asyncio.Future[None] | None = None  # the head of the line, waiting
        self._is_paced = False  # the head of the line waits for more than a slot
        self._in_flight = 0
        self._waiting = 0

        self._cooling_until_s = -math.inf
        self._storms = 0  # in a row
        self._cut_s = -math.inf
        self._answered_since_cut = 0
        self._waited_for_tokens_s = -math.inf
        self._last_admission_s = math.inf
        self._last_minute = LastMinute()
        self._requests_admitted = 0
        self._tokens_admitted = 0
        self.slowed: Counter[Bucket] = Counter()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def ceiling(self) -> int:
        return self._ceiling.now

    @property
    def enough(self) -> int | None:
        return None if self._is_paced else self._ceiling.now

    @property
    def cooling_until_s(self) -> float | None:
        """The loop's time at which the cool-down ends; None where there is none."""
        now = self._time()
        return self._cooling_until_s if self._cooling_until_s > now else None

    @property
    def admitted_last_minute(self) -> Admitted:
        return Admitted(*self._last_minute.total(self._time()))

    @property
    def admitted(self) -> Admitted:
        """All that went so far."""
        return Admitted(self._requests_admitted, self._tokens_admitted)

    @property
    def chosen(self) -> Chosen:
        """The rates that hold now, a minute; the first second after a start or a pause goes more slowly."""
        now_s = self._time()
        return Chosen(
            _per_minute(self._requests.found_per_s(now_s)), _per_minute(self._tokens.found_per_s(now_s))
        )

    @property
    def shares(self) -> Shares:
        return self._shares

    @property
    def held_back_s(self) -> Shares:
        """Seconds in all that the head of the line waited for its own requests, tokens, and for one in flight to end."""
        return Shares(*self._held_back_s)

    @property
    def turns_s(self) -> Shares:
        """Seconds in all that it waited for its turn among processes, by what the whole of them had too little of."""
        return Shares(*self._turns_s)

    def set_share(self, shares: Shares) -> None:
        """From now on this process has so much of the limits (each above 0 and at most 1); the rest is for others."""
        if not all(0 < share <= 1 for share in shares):
            raise ValueError(f"shares must be above 0 and at most 1, not {shares!r}")
        now_s = self._time()
        self._shares = shares
        self._requests.set_share(now_s, shares.requests)
        self._tokens.set_share(now_s, shares.tokens)
        self._ceiling.allow(max(1, int(self._most * shares.in_flight)))
        self._wake()

    def join(self, common: Common) -> None:
        """From now on requests also take their turn among those of other processes."""
        self._common = common
        self._requests.join()
        self._tokens.join()

    def cool_until(self, until_s: float) -> None:
        """Admit nothing before the loop's time `until_s`: another process that shares the limits was told to wait."""
        self._cool(self._time(), until_s, "another run of this account was told to wait")

    async def acquire(self, tokens: int) -> None:
        line = self._line
        if not line.taken and self._goes(tokens):
            return
        self._waiting += 1
        try:
            if line.taken and await line.turn(tokens):
                return
            line.taken = True
            try:
                await self._until_admissible(tokens)
                # No await from here on: who is admitted holds its slot, and who is cancelled holds nothing.
                self._admit(tokens)
            finally:
                line.hand_on()
        finally:
            self._waiting -= 1

    def _goes(self, tokens: int) -> bool:
        """Admit a request if nothing keeps it at this moment; whether it was."""
        if self._kept(self._time(), tokens) is not None:
            return False
        self._admit(tokens)
        return True

    def _take_back(self, tokens: int) -> None:
        """A request that was admitted is not sent."""
        self._requests_admitted -= 1
        self._tokens_admitted -= tokens
        self._requests.settle(self._time(), 1)
        self.release(tokens, 0)

    def release(self, reserved_tokens: int, actual_tokens: int | None) -> None:
        if self._in_flight == 0:
            raise RuntimeError("release without acquire")
        now_s = self._time()
        self._ceiling.changes(now_s, self._in_flight)
        self._in_flight -= 1
        if actual_tokens != 0:
            self._answered_since_cut += 1
            if self._ceiling.answered(now_s):
                self._note_ceiling()
        self._wake()
        if actual_tokens is not None and actual_tokens != reserved_tokens:
            self._tokens.settle(now_s, reserved_tokens - actual_tokens)
            if self._common is not None:
                self._common.settle(reserved_tokens - actual_tokens)

    def slow(self, bucket: Bucket, retry_after_s: float | None, admitted_s: float | None = None) -> None:
        now_s = self._time()
        self.slowed[bucket] += 1
        admitted_s = self._last_admission_s if admitted_s is None else admitted_s
        cut: Cut | None = None
        if bucket == "concurrency":
            if self._ceiling.refuse(now_s, admitted_s):
                self._note_ceiling()
        else:
            pace = self._tokens if bucket == "tokens" else self._requests
            cut = pace.refuse(now_s, admitted_s, burst=bucket == "burst")
        why = "" if cut is None else f"{cut.refused:,} of the latest {cut.went:,} requests refused ({bucket})"
        if cut is not None:
            before, after = f"{60 * cut.before_per_s:,.0f}", f"{60 * cut.after_per_s:,.0f}"
            what = "tokens" if bucket == "tokens" else "requests"
            if before != after:  # it is not as slow already as it may become
                self._note(f"{what} a minute cut from {before} to {after}: {why}")
        if retry_after_s is not None and retry_after_s > 0:
            self._cool(
                now_s, now_s + min(retry_after_s, LONGEST_RETRY_AFTER_S), "the provider says how long to wait"
            )
        elif cut is not None and (cut.again or self._nothing_answered_since_cut(now_s)):
            self._storms = self._storms + 1 if now_s - self._cooling_until_s < IN_A_ROW_S else 0
            pause_s = min(FIRST_COOL_DOWN_S * 2.0 ** min(self._storms, 16), LONGEST_COOL_DOWN_S)
            self._cool(now_s, now_s + pause_s, why)

        if cut is not None:
            self._cut_s, self._answered_since_cut = now_s, 0

    def _nothing_answered_since_cut(self, now_s: float) -> bool:
        return self._answered_since_cut == 0 and now_s - self._cut_s < IN_A_ROW_S

    def _cool(self, now_s: float, until_s: float, why: str) -> None:
        if until_s <= self._cooling_until_s:
            return
        self._cooling_until_s = until_s
        self._requests.pause(until_s)
        self._tokens.pause(until_s)
        self._wake()
        if self._common is not None:
            self._common.cool(now_s, until_s)
        self._note(f"nothing is sent for {until_s - now_s:.1f} s: {why}")

    def _second(self) -> Second | None:
        """What may go in a second, where both quotas are known."""
        now_s = self._time()
        return whole_second(self._requests.quota_per_s(now_s), self._tokens.quota_per_s(now_s))

    async def _until_admissible(self, tokens: int) -> None:
        """Return only when slot, cool-down and pace allow it at the same instant: after each wait all is looked at."""
        loop = asyncio.get_running_loop()
        while (kept := self._kept(began_s := loop.time(), tokens)) is not None:
            self._is_paced = kept.until_s is not None
            await self._change(loop, kept.until_s)
            if kept.by is not None:
                kept.waited_s[kept.by] += loop.time() - began_s
            if kept.by == TOKENS and kept.waited_s is self._held_back_s:
                self._waited_for_tokens_s = loop.time()

    def _kept(self, now_s: float, tokens: int) -> _Kept | None:
        """What keeps a request of so many tokens from going; None where nothing does, and it has its turn among processes."""
        own_s = self._held_back_s
        if self._in_flight >= self._ceiling.now:
            return _Kept(None, own_s, IN_FLIGHT)
        if now_s < self._cooling_until_s:
            return _Kept(self._cooling_until_s, own_s, None)
        if (pause_s := self._tokens.wait_s(now_s)) > _AT_ONCE_S:
            return _Kept(now_s + pause_s, own_s, TOKENS)
        if (pause_s := self._requests.wait_s(now_s)) > _AT_ONCE_S:
            return _Kept(now_s + pause_s, own_s, REQUESTS)
        if self._common is not None and (turn := self._common.take(now_s, tokens)).wait_s > 0:
            return _Kept(now_s + turn.wait_s, self._turns_s, turn.kept_by)
        return None

    async def _change(self, loop: asyncio.AbstractEventLoop, until_s: float | None) -> None:
        """Until something has changed by which the head of the line may go, or that time has come."""
        self._woken = loop.create_future()
        timer = None if until_s is None else loop.call_at(until_s, self._wake)
        try:
            await self._woken
        finally:
            self._woken = None
            if timer is not None:
                timer.cancel()

    def _admit(self, tokens: int) -> None:
        now_s = self._time()
        self._is_paced = False
        self._ceiling.changes(now_s, self._in_flight)
        self._in_flight += 1
        self._last_admission_s = now_s
        self._last_minute.add(now_s, tokens)
        self._line.went(tokens)
        self._requests_admitted += 1
        self._tokens_admitted += tokens
        self._requests.spend(now_s, 1, late=now_s - self._waited_for_tokens_s < CATCH_UP_S)
        self._tokens.spend(now_s, tokens)

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _note_ceiling(self) -> None:
        self._note(f"up to {self.ceiling:,} requests in flight: {self._ceiling.reason}")


def _per_s(per_minute: float | None) -> float | None:
    return None if per_minute is None else per_minute / 60


def _per_minute(per_s: float) -> float | None:
    return 60 * per_s if math.isfinite(per_s) else None
