"""The search for the rate that is granted, where nobody named it or less is granted than was said.

Arithmetic only: times come in as seconds, and refusals are all that is known of answers. Where a quota is known, the rate is a
little below it. Where not:

    seek    grow fast, until something is refused or the rate held before is reached again
    cruise  a little below the rate that was granted last
    probe   for a short time a little above it; granted: more above; refused: back, and what was too much is paid back

much as BBR finds what a network's path delivers, with refusals in place of queues. A refusal in cruise says that less is
granted than before: the rate is cut by the share that was refused, and halved as long as that was not enough. Refusals that do
not end well below a rate that was refused are noise, and so many are never taken for the quota's edge.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Unit = Literal["requests", "tokens"]

HEADROOM = 0.99  # of a known quota: timers, clocks and the provider's windows differ by as much
SLOWEST_PER_S = 0.1  # requests, or as many of the latest mean of tokens
SLOWEST_AT_FIRST_PER_S = 1.0  # so that a few refusals at the start do not make minutes of a small run
MOVES_S = 0.05  # how often the rate is looked at

FIRST_PER_S = 50.0  # requests, where no quota is known
START_GROWTH = 4.0  # a second, until something is refused
SECOND_GROWTH = 1.3  # a second, after that, until something is refused again
GROWTH = 2.0  # a second, up to a rate held before
FOUND = 0.95  # of a rate held before: from there on probes go on
# Once the provider has said "rate increased too quickly": half as much again in 8 s; slower where that was too quick as well.
BURST_GROWTH, LEAST_GROWTH, BURST_CUT = 1.05, 1.005, 0.85
WINDOW_S = 6.0  # the longest window documented: until it ends, all that is too much is refused

CRUISE = 0.98  # of the rate granted last
PROBE_S, LONGEST_PROBE_S = 1.0, 8.0
PROBE_REQUESTS = 25  # at least, so that too much shows; twice as many for the least probe
LEAST_GAIN, MOST_GAIN = 0.05, 1.0
MOST_RISE = 1.5  # times the rate held, until the longest window has shown that so much is granted
EVERY_S, SELDOM_S = (
    12.0,
    60.0,
)  # between probes, and so many requests: a probe costs a refusal, or three where sizes differ
EVERY_REQUESTS: dict[Unit, int] = {"requests": 180, "tokens": 300}
HARDLY_USED = 0.3  # of a phase's time unused: what is refused is not the rate
# Of a probe's time: something else held it back, and it tells nothing. Less than the least gain, or what goes unused of a probe
# passes for granted, where the other quota binds as much.
UNUSED = 0.03

HELD_REQUESTS = 20  # without a refusal, and a window's time, before a rate is taken for granted
CLEAN_S, CLEAN_REQUESTS = 1.0, 6  # without a refusal, before a rate that was cut grows again
LOST = 0.7  # of the rate held before: it is sought again
REFUTED_S = 15.0  # after it was sought in vain, it is not
RAISED = 1.15  # times the rate granted: it was the growth that was refused

LEAST_CUT, SEEK_CUT, DEEP_CUT = 0.03, 0.25, 0.5
DEEP_SHARE = 0.2  # refused: much less is granted than was
DOUBT = 6  # requests' worth: of two refused of two, not all can be said to be refused
BETWEEN_CUTS_S = 0.4  # until a cut can be seen to be enough
AT_ONCE_S = 1.5  # after a cut: it was not enough
MOST_PAID_BACK_S = 1.0
FLOOR, FLOOR_HOLDS_S = 1 / 8, 60.0  # of the rate held before; after so long, half of it

AT_LIMIT = 0.02  # of requests refused at a known limit: the provider's windows are not ours
MOST_NOISE = 0.03
NOISE_DOUBT = 200.0  # requests' worth
BELOW = 0.7  # of a rate that was refused: what is refused there as well is noise
COUNTED = 500.0  # requests that the counts reach back


class Phase(Enum):
    OPEN = "any number may go: no quota is known, and nothing was refused"
    SEEK = "growing"
    CRUISE = "below what is granted"
    PROBE = "above what is granted"
    LIMIT = "at the known limit"


@dataclass(frozen=True, slots=True)
class Cut:
    """A rate was cut: from and to so many a second, since `refused` of the `went` latest requests were.

    `again`: it was cut just before, and that was not enough.
    """

    before_per_s: float
    after_per_s: float
    refused: int
    went: int
    again: bool


class QuotaSearch:
    """The search for one quota. `limit_per_s` is the known one, None where it is not known.

    `rate_per_s` is what may go at present. `unused_s`, which comes in with each call, is how long in all more could have gone
    than went: a rate that was not used tells nothing of what is granted.
    """

    def __init__(self, unit: Unit, limit_per_s: float | None, now_s: float) -> None:
        self._unit = unit
        self._limit = math.inf if limit_per_s is None else limit_per_s
        self._share = 1.0
        self.owed_s = 0.0  # what went too much, in seconds of the present rate; whoever paces takes it up

        self._granted = math.inf if unit == "tokens" else FIRST_PER_S
        self._held = 0.0  # granted for as long as the longest window
        self._slowest = SLOWEST_AT_FIRST_PER_S
        self._goal: float | None = None  # held once, and sought again
        self._growth = GROWTH
        self._gain = self._least_gain = 0.0
        self._probe_s = PROBE_S
        self._rising = (
            False  # as much more as could be asked for was granted; the longest window has yet to show it
        )
        self._clean = 0  # requests since the last refusal
        self._mean = 1.0  # of the latest amounts
        self._latest_s, self._latest = (
            now_s,
            0.0,
        )  # the amount of the latest second, as long as any number may go
        self._edge = 0.0  # a rate that was held, and then refused
        self._noise_went = self._noise_refused = 0.0

        self._moved_s = self._refused_s = self._held_s = self._edge_s = now_s
        self._cut_s = self._found_s = self._granted_s = self._burst_s = self._refuted_s = -math.inf

        self.rate_per_s = self._granted
        self.phase, self._since_s = Phase.OPEN, now_s
        self._unused_s = self._unused_then_s = 0.0  # now, and when the phase began
        self._went = self._refused = 0.0  # requests of this phase
        if limit_per_s is not None:
            self.rate_per_s = self._held = self._top
            self._begin(Phase.LIMIT, now_s, 0.0)
        elif unit == "requests":
            self._goal, self._growth = math.inf, START_GROWTH
            self._begin(Phase.SEEK, now_s, 0.0)

    def set_share(self, share: float) -> None:
        """From now on this process has so much of the quota; what was learnt moves with it."""
        by = share / self._share
        self._share = share
        self.rate_per_s *= by
        self._granted *= by
        self._held *= by
        self._edge *= by
        if self._goal is not None:
            self._goal *= by

    def went(self, now_s: float, amount: float) -> None:
        """One request of this amount goes."""
        self._went += 1
        self._clean += 1
        self._mean += 0.02 * (amount - self._mean)
        if self.phase is Phase.OPEN:
            self._latest = self._latest * math.exp(self._latest_s - now_s) + amount
            self._latest_s = now_s

    def move(self, now_s: float, unused_s: float) -> None:
        """Time has passed: the rate of the present phase, or the next phase."""
        passed_s, self._moved_s = now_s - self._moved_s, now_s
        since_s = now_s - self._since_s
        used = unused_s - self._unused_then_s <= UNUSED * since_s
        clean_s = now_s - max(self._since_s, self._refused_s)
        lately_unused_s, self._unused_s = unused_s - self._unused_s, unused_s
        steady = self.phase in (Phase.CRUISE, Phase.LIMIT) and clean_s >= WINDOW_S
        if steady and used and self._clean >= HELD_REQUESTS:
            self._held, self._held_s = self.rate_per_s, now_s
        match self.phase:
            case Phase.SEEK:
                if lately_unused_s <= 0.5 * passed_s:
                    self.rate_per_s = min(self.rate_per_s * self._growth ** min(passed_s, 1.0), self._top)
                if self._goal is not None and self.rate_per_s >= min(FOUND * self._goal, self._top):
                    self._found(now_s)
            case Phase.CRUISE:
                went = min(self._went, self._requests_per_s * passed_s)
                self._noise_went += went * (1.0 if self._below(now_s) else 0.2)
                if self._goal is not None:
                    if clean_s >= CLEAN_S and self._clean >= CLEAN_REQUESTS:
                        self._begin(Phase.SEEK, now_s, unused_s)
                elif self._rising and self._held == self.rate_per_s:
                    self._probe(now_s)
                elif since_s >= self._between_probes_s:
                    if used:
                        self._probe_first(now_s)
                    else:
                        self._begin(Phase.CRUISE, now_s, unused_s)
            case Phase.PROBE if since_s >= self._probe_length_s:
                if used:
                    self._probe_granted(now_s)
                else:
                    self._cruise(now_s)
            case Phase.LIMIT:
                self.rate_per_s = self._top
            case _:
                pass
        self._fade()

    def refuse(self, now_s: float, admitted_s: float, unused_s: float, lately: float) -> Cut | None:
        """A request that went at `admitted_s` was refused; the cut that follows, if one does.

        `lately` is how much went in the latest second: so much is not granted, where the rate would have allowed more.
        """
        if admitted_s <= self._since_s or not self._went:
            return None  # it went at another rate
        self._unused_s = unused_s
        self._refused += 1
        self._clean, self._refused_s = 0, now_s
        if self._below(now_s):
            self._noise_refused += 1
        went = max(self._went, self._refused)
        expected, scatter = (AT_LIMIT, 2.5) if self.phase is Phase.LIMIT else (0.0, 1.5)
        tolerated = went * max(self._noise, expected)
        if self._refused <= tolerated + scatter * math.sqrt(tolerated) + 0.5:
            return None
        if self.phase is Phase.PROBE:
            used_s = now_s - self._since_s - (unused_s - self._unused_then_s)
            too_much = (self.rate_per_s - self._granted) * used_s
            self._cruise(now_s)
            self._owe(too_much)
            return None
        if now_s - self._cut_s < BETWEEN_CUTS_S:
            return None
        if unused_s - self._unused_then_s < HARDLY_USED * (now_s - self._since_s):
            lately = math.inf  # what went, went at the rate, but for pauses
        return self._cut(now_s, (self._refused - tolerated) / (went + DOUBT), lately)

    def refuse_growth(self, now_s: float, admitted_s: float, rate_per_s: float) -> Cut | None:
        """The provider finds that `rate_per_s` was reached too quickly."""
        if admitted_s <= self._since_s:
            return None
        refused = round(self._refused) + 1
        went = max(round(self._went), refused)
        self._clean, self._refused_s = 0, now_s
        self._goal = max(self._goal or 0.0, self.rate_per_s)
        if self._growth > BURST_GROWTH or now_s - self._burst_s > 2 * WINDOW_S:
            self._growth = max(min(math.sqrt(self._growth), BURST_GROWTH), LEAST_GROWTH)
        self._burst_s = now_s
        self.rate_per_s = max(BURST_CUT * rate_per_s, self._floor)
        self._begin(Phase.SEEK, now_s, self._unused_s)
        self._since_s = self._cut_s = (
            now_s + WINDOW_S
        )  # what goes until then may still be too much for this window
        return Cut(rate_per_s, self.rate_per_s, refused, went, again=False)

    @property
    def limit_per_s(self) -> float | None:
        """What is known to be granted to this process."""
        return self._limit * self._share if math.isfinite(self._limit) else None

    @property
    def _top(self) -> float:
        return self._limit * self._share * HEADROOM

    @property
    def _floor(self) -> float:
        return max(self._held * FLOOR, self._slowest * max(self._mean, 1.0))

    @property
    def _noise(self) -> float:
        return min(self._noise_refused / (self._noise_went + NOISE_DOUBT), MOST_NOISE)

    def _below(self, now_s: float) -> bool:
        """Whether the rate has been for a while well below one that was refused."""
        return (
            self.phase is Phase.CRUISE
            and self.rate_per_s <= BELOW * self._edge
            and now_s - self._edge_s > WINDOW_S
        )

    @property
    def _requests_per_s(self) -> float:
        return self.rate_per_s / max(self._mean, 1.0)

    @property
    def _between_probes_s(self) -> float:
        return min(max(EVERY_S, EVERY_REQUESTS[self._unit] / self._requests_per_s), SELDOM_S)

    @property
    def _probe_length_s(self) -> float:
        requests = PROBE_REQUESTS if self._gain > self._least_gain else 2 * PROBE_REQUESTS
        return min(max(self._probe_s, requests / self._requests_per_s), 2 * LONGEST_PROBE_S)

    def _begin(self, phase: Phase, now_s: float, unused_s: float) -> None:
        self.phase, self._since_s = phase, now_s
        self._unused_then_s = self._unused_s = unused_s
        self._went = self._refused = 0.0

    def _cruise(self, now_s: float) -> None:
        self.rate_per_s = min(CRUISE * self._granted, self._top)
        self._begin(Phase.CRUISE, now_s, self._unused_s)

    def _found(self, now_s: float) -> None:
        self._goal, self._granted, self._found_s = None, self.rate_per_s / CRUISE, now_s
        self._end_start()
        if self.rate_per_s >= self._top:
            self._begin(Phase.LIMIT, now_s, self._unused_s)
        else:
            self._cruise(now_s)

    def _end_start(self) -> None:
        if self._growth > BURST_GROWTH:
            self._growth = GROWTH

    def _probe_first(self, now_s: float) -> None:
        self._gain = self._least_gain = 0.0
        self._gain = max(
            LEAST_GAIN, 0.03 + 1.75 / (self._probe_length_s * self._requests_per_s)
        )  # so that one too many shows
        self._least_gain = self._gain
        self._probe(now_s)

    def _probe(self, now_s: float) -> None:
        self._gain = min(self._gain, max(self._growth - 1, 0.01))
        most = max(MOST_RISE * self._held, self._granted) if self._held else math.inf
        self.rate_per_s = min(self._granted * (1 + self._gain), most, self._top)
        self._rising = False
        self._begin(Phase.PROBE, now_s, self._unused_s)

    def _probe_granted(self, now_s: float) -> None:
        self._granted, self._granted_s = self.rate_per_s, now_s
        if self._granted >= self._top:
            self._begin(Phase.LIMIT, now_s, self._unused_s)
        elif self._granted >= MOST_RISE * self._held > 0:
            self._rising = True
            self._cruise(now_s)
        else:
            self._gain = min(2 * self._gain, MOST_GAIN)
            self._probe(now_s)

    def _cut(self, now_s: float, share: float, lately: float) -> Cut:
        refused, went = round(self._refused), round(max(self._went, self._refused))
        before = max(min(self.rate_per_s, self._latest if self.phase is Phase.OPEN else lately), self._floor)
        again = now_s - self._cut_s < AT_ONCE_S and share >= DEEP_SHARE
        first = self._growth > GROWTH or self.phase is Phase.OPEN
        seeking = self.phase is Phase.SEEK and before > RAISED * self._granted
        raised = seeking or now_s - self._found_s < WINDOW_S
        by = DEEP_CUT if again or first else max(share, SEEK_CUT if seeking else LEAST_CUT)
        after = max(before * (1 - by), self._floor)
        if first:
            self._goal, self._growth = math.inf, min(self._growth, SECOND_GROWTH)
        elif raised:
            self._goal, self._refuted_s = None, now_s  # what was granted once is no more
            self._end_start()
        elif after < LOST * self._held and now_s - self._refuted_s > REFUTED_S:
            self._goal = max(self._goal or 0.0, self._held)
        if now_s - self._granted_s < 2 * EVERY_S and share < DEEP_SHARE:
            self._probe_s = min(
                2 * self._probe_s, LONGEST_PROBE_S
            )  # what a probe promised was not held: look longer
        if after <= self._floor and now_s - self._held_s > FLOOR_HOLDS_S:
            self._held *= 0.5
            self._slowest = max(0.5 * self._slowest, SLOWEST_PER_S)
        if before > CRUISE * self._edge or share > 2 * MOST_NOISE or now_s - self._edge_s > FLOOR_HOLDS_S:
            deep = share >= DEEP_SHARE
            self._edge, self._edge_s = 0.0 if first or raised else after if deep else before, now_s
            if deep:
                self._noise_went = self._noise_refused = 0.0
        too_much = 0.0 if again else (before - after) * min(now_s - self._since_s, WINDOW_S)
        self._granted, self._cut_s, self._rising = after / CRUISE, now_s, False
        self._cruise(now_s)
        self._owe(too_much)
        return Cut(before, self.rate_per_s, refused, went, again)

    def _owe(self, too_much: float) -> None:
        """Until the provider's window ends, all that follows would be refused as well."""
        self.owed_s = min(max(too_much / self.rate_per_s, 0.0), MOST_PAID_BACK_S)

    def _fade(self) -> None:
        if self._went > COUNTED:
            self._refused *= COUNTED / self._went
            self._went = COUNTED
        if self._noise_went > 2 * COUNTED:
            self._noise_went *= 0.5
            self._noise_refused *= 0.5
