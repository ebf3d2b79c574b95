"""The one gate before every send: requests per minute, tokens per minute, concurrency, and the cool-down they share.

Lives here: who may send, and when. Not here: what a failure means (`failures.py`), when a row is tried again
(`retry.py`), where the limits come from (job file and catalogue). Time is the running loop's.

Waiters form one line, first come first served, so that a long prompt is never passed by short ones. Only its head looks
at slot, cool-down and pace, and so only one timer runs, however many wait. The pace is aiolimiter's leaky bucket with a
period of a twentieth of a second: quotas may be enforced per second (DashScope, rate limits: RPM/60, TPM/60), and a
bucket of a whole minute would let that minute's requests out at once.
"""

import asyncio
import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from aiolimiter import AsyncLimiter

Bucket = Literal["requests", "tokens", "burst", "concurrency"]

PERIOD_S = 0.05
SMALLEST_BUCKET = 1.25  # units; its largest draw is one request
# As shares of a bucket. Timers tell milliseconds apart at best, and uvloop spins through shorter waits: at high rates
# draw a few milliseconds' worth for those next in line. To draw a whole bucket would lose what a late timer overshoots.
SMALLEST_DRAW = 0.1
LARGEST_DRAW = 0.8

FIRST_COOL_DOWN_S = 1.0
LONGEST_COOL_DOWN_S = 60.0  # limits recover within about a minute (DashScope, rate limits)
LONGEST_RETRY_AFTER_S = 300.0
CLEAN_STRETCH_S = 60.0
# Of the replies since the last burst: with fewer refused than this, the pace is about right and a short pause will do.
STORM_SHARE = 0.2

LONGEST_DEBT_S = 60.0  # the provider's own window: what was used before it no longer counts
LONGEST_CREDIT_S = 1.0
CREDIT_SHARE = 0.5  # of a request; the rest comes from the bucket, so that no credit goes out in one burst


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the account may do with one model; None is no limit. Raises ValueError where nothing could ever be sent."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_concurrency: int

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            per_minute = getattr(self, name)
            if per_minute is not None and not 0 < per_minute < math.inf:
                raise ValueError(f"{name} must be a number above 0 or None, not {per_minute!r}")
        if self.max_concurrency < 1:
            raise ValueError(f"max_concurrency must be 1 or more, not {self.max_concurrency!r}")


class Gate(Protocol):
    """Who may send, and when; the same three verbs whether the limits are this process's own or shared."""

    async def acquire(self, tokens: int) -> None:
        """Wait for turn, slot, cool-down and pace; then one request of `tokens` (prompt and expected answer) may go.

        Cancelling it leaves no trace. Bound it with `asyncio.timeout`; `wait_for` can lose a slot just given.
        """

    def release(self, reserved_tokens: int, actual_tokens: int | None) -> None:
        """Give back the slot of one acquire and settle its tokens.

        `actual_tokens` is the usage as billed, 0 where the request was refused or not sent, None where unknown.
        """

    def slow(self, bucket: Bucket, retry_after_s: float | None, admitted_s: float | None = None) -> None:
        """Report a failure that asks to slow down; begins or extends the one cool-down that all share.

        `admitted_s` is the loop's time at which the refused request was admitted: requests admitted before a
        cool-down began belong to its burst. Without it the latest admission counts.
        """


class Admitted(NamedTuple):
    """What went through the gate in the last minute."""

    requests: int
    tokens: int


class LocalGate:
    """A `Gate` for one process and one event loop, with counters for progress and status.

    Starts with empty buckets: the first request goes after one interval, and there is no opening burst.
    `slowed` counts the failures reported to `slow`, by bucket.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ceiling = limits.max_concurrency  # fixed for now; read anew at each admission, so it may move
        self._requests = _bucket(limits.requests_per_minute)
        self._tokens = _bucket(limits.tokens_per_minute)
        self._emptying: list[AsyncLimiter] = []
        self._empty_buckets()

        self._turn = asyncio.Lock()
        self._slot_freed: asyncio.Future[None] | None = None
        self._in_flight = 0
        self._waiting = 0
        # Drawn from the buckets and not used yet. It belongs to the turn: a cancelled head leaves it to the next.
        self._drawn_requests = 0.0
        self._drawn_tokens = 0.0
        # From settled answers: above 0 reserved and not used, below 0 used beyond the reservation.
        self._carried_tokens = 0.0

        self._cooling_until_s = -math.inf
        self._began_s = -math.inf
        self._bursts = 0  # in a row, each refusing a good share, without a clean stretch between
        self._answered = 0  # since the last burst began
        self._refused = 0
        self._last_admission_s = math.inf
        self._last_minute = _LastMinute()
        self.slowed: Counter[Bucket] = Counter()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def ceiling(self) -> int:
        return self._ceiling

    @property
    def cooling_until_s(self) -> float | None:
        """The loop's time at which the cool-down ends; None where there is none."""
        now = asyncio.get_running_loop().time()
        return self._cooling_until_s if self._cooling_until_s > now else None

    @property
    def admitted_last_minute(self) -> Admitted:
        return self._last_minute.total(asyncio.get_running_loop().time())

    async def acquire(self, tokens: int) -> None:
        self._waiting += 1
        try:
            await self._turn.acquire()
            try:
                await self._until_admissible(tokens)
                # No await from here on: who is admitted holds its slot, and who is cancelled holds nothing.
                self._admit(tokens)
            finally:
                self._turn.release()
        finally:
            self._waiting -= 1

    def release(self, reserved_tokens: int, actual_tokens: int | None) -> None:
        if self._in_flight == 0:
            raise RuntimeError("release without acquire")
        self._in_flight -= 1
        if actual_tokens:
            self._answered += 1
        if self._slot_freed is not None and not self._slot_freed.done():
            self._slot_freed.set_result(None)
        if actual_tokens is not None and actual_tokens != reserved_tokens:
            self._settle(reserved_tokens - actual_tokens)

    def slow(self, bucket: Bucket, retry_after_s: float | None, admitted_s: float | None = None) -> None:
        now = asyncio.get_running_loop().time()
        self.slowed[bucket] += 1
        if bucket == "concurrency" and retry_after_s is None:
            return  # one overloaded answer is that row's trouble: it backs off alone, the others go on
        new_burst = (self._last_admission_s if admitted_s is None else admitted_s) > self._began_s
        if new_burst:
            stormy = self._refused >= STORM_SHARE * (self._refused + self._answered)
            if not stormy or now - self._cooling_until_s >= CLEAN_STRETCH_S:
                self._bursts = 0
            self._answered = self._refused = 0
        self._refused += 1
        if retry_after_s is not None and retry_after_s > 0:
            pause_s = min(retry_after_s, LONGEST_RETRY_AFTER_S)
        elif new_burst:
            pause_s = min(FIRST_COOL_DOWN_S * 2**self._bursts, LONGEST_COOL_DOWN_S)
        else:
            return
        self._bursts = min(self._bursts + new_burst, 16)
        self._began_s = now
        self._cooling_until_s = max(self._cooling_until_s, now + pause_s)
        self._empty_buckets()

    async def _until_admissible(self, tokens: int) -> None:
        """Return only when slot, cool-down and pace allow it at the same instant: after each wait all is looked at."""
        loop = asyncio.get_running_loop()
        while True:
            if self._in_flight >= self._ceiling:
                self._slot_freed = loop.create_future()
                await self._slot_freed
            elif (pause_s := self._cooling_until_s - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            elif emptying := self._emptying:
                # A leaky bucket at rest has room for a burst: take up that room before anyone may use it.
                await emptying[-1].acquire(emptying[-1].max_rate)
                emptying.pop()
                self._drawn_requests = 0.0
            elif self._tokens is not None and (short := self._short_tokens(tokens)) > 0:
                self._drawn_tokens += await _draw(self._tokens, short)
            elif self._requests is not None and (short := 1 - self._drawn_requests) > 0:
                self._drawn_requests += await _draw(self._requests, short)
            else:
                return

    def _admit(self, tokens: int) -> None:
        now = asyncio.get_running_loop().time()
        self._in_flight += 1
        self._last_admission_s = now
        self._last_minute.add(now, tokens)
        if self._requests is not None:
            self._drawn_requests -= 1
        if self._tokens is not None:
            carried = min(self._carried_tokens, tokens * CREDIT_SHARE)
            self._carried_tokens -= carried
            self._drawn_tokens -= tokens - carried

    def _short_tokens(self, tokens: int) -> float:
        return tokens - min(self._carried_tokens, tokens * CREDIT_SHARE) - self._drawn_tokens

    def _settle(self, unused_tokens: int) -> None:
        if self._limits.tokens_per_minute is not None:
            per_s = self._limits.tokens_per_minute / 60
            carried = self._carried_tokens + unused_tokens
            self._carried_tokens = min(max(carried, -per_s * LONGEST_DEBT_S), per_s * LONGEST_CREDIT_S)

    def _empty_buckets(self) -> None:
        self._emptying = [bucket for bucket in (self._requests, self._tokens) if bucket is not None]


def _bucket(per_minute: float | None) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    per_s = per_minute / 60
    size = max(per_s * PERIOD_S, SMALLEST_BUCKET)
    return AsyncLimiter(size, size / per_s)


async def _draw(bucket: AsyncLimiter, short: float) -> float:
    """Wait for what is short, or for as much of it as the bucket gives at once; return the amount drawn."""
    amount = min(max(short, bucket.max_rate * SMALLEST_DRAW), bucket.max_rate * LARGEST_DRAW)
    await bucket.acquire(amount)
    return amount


class _LastMinute:
    """What was admitted, second by second, for a minute; a fixed ring, however many are admitted."""

    __slots__ = ("_requests", "_seconds", "_tokens")

    def __init__(self) -> None:
        self._seconds = [-1] * 60
        self._requests = [0] * 60
        self._tokens = [0] * 60

    def add(self, now_s: float, tokens: int) -> None:
        second = int(now_s)
        place = second % 60
        if self._seconds[place] != second:
            self._seconds[place] = second
            self._requests[place] = 0
            self._tokens[place] = 0
        self._requests[place] += 1
        self._tokens[place] += tokens

    def total(self, now_s: float) -> Admitted:
        current = [place for place, second in enumerate(self._seconds) if second > int(now_s) - 60]
        return Admitted(sum(self._requests[p] for p in current), sum(self._tokens[p] for p in current))
