"""How fast one bucket (requests, or tokens) may go: even spacing and a gentle start, at the rate that `quota_search.py` finds.

Arithmetic only: time comes in as seconds, and nothing waits here (`limits.py` does).

What goes is paid for afterwards: a request may go as soon as all before it are paid for at the present rate, however large it is.
This is how providers count (a window takes requests until it is used up, and carries the rest over); to save up for a long prompt
first would let the seconds before it lapse unused.
"""

import math
from collections import deque

from pipeline.quota_search import HEADROOM, MOVES_S, Cut, Phase, QuotaSearch, Unit

RAMP_FROM = 0.1  # of the rate, at the start and after idling; the provider's own advice is a slow start
RAMP_PER_S = 10.0  # tenfold in a second: a quota's first second lends two thirds
RAMP_S = 1.0
_RAMP_WHOLE_S = -math.log(RAMP_FROM, RAMP_PER_S)  # until the rate is reached
LATE_S = 0.05  # what a late timer may catch up
# Seconds' worth of requests that may go at once after others waited for tokens; any one second still keeps its share.
CATCH_UP_S = 1.0
CATCH_UP_FROM_PER_S = 4.0
# Where the share of a second is no whole number (16.7) one more may go in some seconds (17), but not in each: so many seconds are
# looked at together while requests catch up. At high rates one more is too little to matter.
TOGETHER_S = 6
TOGETHER_BELOW_PER_S = 200.0
LONGEST_DEBT_S = 60.0  # the provider's own window: what was used before it no longer counts
IDLE_S = 5.0
# Seconds' worth of its share that a process may have waited while it was the turn of others, and has in good.
JOINED_CATCH_UP_S = 20.0


class Pace:
    """The pace of one bucket. `limit_per_s` is the known quota, None where it is not known."""

    def __init__(self, unit: Unit, limit_per_s: float | None, now_s: float) -> None:
        self._unit = unit
        self._search = QuotaSearch(unit, limit_per_s, now_s)
        self._free_s = now_s  # all that went is paid for by then
        self._last_s = self._moved_s = now_s
        self._ramp_s = (
            now_s if limit_per_s is not None else now_s - RAMP_S
        )  # a search begins gently enough by itself
        self._lapsed_s = 0.0
        self._second: deque[float] = deque()  # of requests, when those of the last second went
        self._together = seconds_together(limit_per_s) if unit == "requests" else []
        self._latest: deque[float] = deque(maxlen=max((most for _, most in self._together), default=0))
        self._caught_up_s = -math.inf
        self._mean = 1.0  # of the latest amounts
        self._joined = False
        self._met = limit_per_s is not None

    def set_share(self, now_s: float, share: float) -> None:
        """From now on this process has so much of the quota; what was learnt moves with it, and what is still to be paid."""
        before = self._search.rate_per_s
        self._search.set_share(share)
        if self._free_s > now_s and math.isfinite(before):
            self._pay(now_s, (self._free_s - now_s) * (before / self._search.rate_per_s - 1))

    def join(self) -> None:
        """From now on requests also take their turn among those of other processes, whose pace keeps to the seconds."""
        self._joined = True

    def rate_per_s(self, now_s: float) -> float:
        """What may go a second; infinite where no limit is known and nothing was refused."""
        if now_s - self._moved_s >= MOVES_S:
            self._moved_s = now_s
            self._search.move(now_s, self._unused_s(now_s))
        ramped_s = now_s - self._ramp_s
        if ramped_s >= RAMP_S or self._search.phase is Phase.OPEN:
            return self._search.rate_per_s
        return self._search.rate_per_s * RAMP_FROM * math.pow(RAMP_PER_S, max(ramped_s, 0.0))

    def found_per_s(self, now_s: float) -> float:
        """The same once a gentle start is over: what the search holds."""
        self.rate_per_s(now_s)  # which moves the search on
        return self._search.rate_per_s

    def quota_per_s(self, now_s: float) -> float | None:
        """What its quota grants, as far as is known; None as long as nobody named one and nothing was refused."""
        return self.found_per_s(now_s) / HEADROOM if self._met else None

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next may go; 0 or less: now."""
        wait_s = self._free_s - now_s
        if self._unit == "requests" and not self._joined:
            second = self._second
            while second and second[0] <= now_s - 1.0:
                second.popleft()
            if len(second) >= max(1.0, self.rate_per_s(now_s)):
                wait_s = max(wait_s, second[0] + 1.0 - now_s)
            if now_s - self._caught_up_s < TOGETHER_S:
                for seconds, most in self._together:
                    if len(self._latest) >= most:
                        wait_s = max(wait_s, self._latest[-most] + seconds - now_s)
        return wait_s

    def spend(self, now_s: float, amount: float, *, late: bool = False) -> None:
        """So much goes now; `late`: it had to wait for the other bucket, and may catch up."""
        if now_s - max(self._last_s, self._free_s) > IDLE_S:
            self._ramp_s = now_s
        rate = self.rate_per_s(now_s)
        catch_up_s = (
            CATCH_UP_S
            if late and rate >= CATCH_UP_FROM_PER_S
            else JOINED_CATCH_UP_S
            if self._joined
            else LATE_S
        )
        if now_s - self._ramp_s < RAMP_S:
            catch_up_s = 0.0
        behind_s = now_s - self._free_s
        lapsed_s = behind_s - catch_up_s
        if lapsed_s > 0:
            self._free_s += lapsed_s
            self._lapsed_s += lapsed_s
        self._pay(now_s, self._paid_in_s(now_s, rate, amount))
        self._last_s = now_s
        self._mean += 0.02 * (amount - self._mean)
        if self._unit == "requests" and not self._joined:
            self._second.append(now_s)
            if self._together:
                self._latest.append(now_s)
                if behind_s > LATE_S:
                    self._caught_up_s = now_s
        self._search.went(now_s, amount)

    def settle(self, now_s: float, unused: float) -> None:
        """What went before used so much less than was paid for it (below 0: more)."""
        rate = self.rate_per_s(now_s)
        # It may have been paid at a faster rate than the present one, and no more seconds than that come back.
        self._pay(now_s, -unused / (max(rate, self._search.limit_per_s or 0.0) if unused > 0 else rate))

    def pause(self, until_s: float) -> None:
        """Nothing goes until then; after a long pause it starts gently again."""
        self._free_s = max(self._free_s, until_s)  # and nothing of that time is left unused
        if until_s - self._last_s > IDLE_S:
            self._ramp_s = max(self._ramp_s, until_s)

    def refuse(self, now_s: float, admitted_s: float, *, burst: bool = False) -> Cut | None:
        """A request that went at `admitted_s` was refused; the cut that follows, if one does.

        `burst`: the provider finds that the rate rose too quickly.
        """
        if burst:
            return self._search.refuse_growth(now_s, admitted_s, self.rate_per_s(now_s))
        lately = len(self._second) if self._unit == "requests" else math.inf
        cut = self._search.refuse(now_s, admitted_s, self._unused_s(now_s), lately)
        self._met = self._met or cut is not None
        owed_s, self._search.owed_s = self._search.owed_s, 0.0
        if self._unit == "tokens":
            owed_s += (
                self._mean / self._search.rate_per_s
            )  # they are given back as unused, but there is no room
        if owed_s > 0:
            self._free_s = max(self._free_s, now_s)
            self._pay(now_s, owed_s)
        return cut

    def _unused_s(self, now_s: float) -> float:
        """How long in all more could have gone than went."""
        return self._lapsed_s + max(now_s - self._free_s, 0.0)

    def _pay(self, now_s: float, seconds: float) -> None:
        self._free_s = min(self._free_s + seconds, now_s + LONGEST_DEBT_S)

    def _paid_in_s(self, now_s: float, rate: float, amount: float) -> float:
        """How long the rate takes to pay for an amount; it may rise meanwhile."""
        ramp_left_s = self._ramp_s + _RAMP_WHOLE_S - now_s
        if ramp_left_s <= 0:
            return amount / rate
        return min(amount / rate, amount / self._search.rate_per_s + ramp_left_s)


def seconds_together(limit_per_s: float | None) -> list[tuple[int, int]]:
    """Seconds, and how many requests may go in them, up to those whose share is a whole number."""
    windows: list[tuple[int, int]] = []
    if limit_per_s is not None and limit_per_s < TOGETHER_BELOW_PER_S:
        for seconds in range(1, TOGETHER_S + 1):
            share = round(seconds * limit_per_s, 6)
            windows.append((seconds, math.ceil(share)))
            if share.is_integer():
                break
    return windows[1:]
