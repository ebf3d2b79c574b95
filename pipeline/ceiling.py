"""How many requests may be in flight: no more than give throughput, where the job allows many.

Arithmetic only, as in `pace.py`: time comes in as seconds. The job's `max_concurrency` is never passed. A server may be full long
before that, without refusing anything: then each further request in flight makes all of them slower, and brings nothing.

    start: doubled with each round of answers, as long as throughput follows
    then:  where the mean latency has grown, so many are tried as Little's law asks for (in flight = throughput x latency), and
           now and then a few less without such a sign: the first latency seen may have been a full server's. Kept where as much
           comes out, and fewer still tried; taken back where not. Where fewer are allowed than the job says, more are tried.

Trials are short, and those taken back become rare, so that they cost nearly nothing.
"""

import math
from enum import Enum

FIRST = 64
FOLLOWS = 1.25  # a doubling that brings less than a quarter more is one too many
AS_MUCH = 0.93  # of the throughput before, within the scatter of four hundred answers
MORE = 1.08
SPARE = 1.1  # in flight for each that Little's law asks for
GROWN = 0.9  # of the ceiling would be enough: the latency has grown
FEWER, OVER, OVERLOADED_CUT = 0.85, 1.5, 0.7
PROPORTIONAL = 1.7  # a doubling that brought so much more: the server was far from full
LEAST_ANSWERS, ROUNDS, TRIAL_ROUNDS = 400, 4, 2  # in a window; a round is as many answers as the ceiling
LEAST_S = 5.0
FULL = 0.85  # of the ceiling, on the mean: below that something else holds the run back
SIGN_PAUSE, FIRST_PAUSE, LONGEST_PAUSE = (
    2,
    8,
    64,
)  # windows before a trial: with a sign, without one, after vain ones
OVERLOADED = 0.25  # of the latest requests; refused so often, the server has too many
AGAIN = 1.5  # with each round of answers, after that


class _Phase(Enum):
    START = "start"
    STEADY = "steady"
    SETTLING = "settling"  # to what a trial allows
    TRIAL = "trial"
    AGAIN = "again"  # back to what was in flight before the server was overloaded


class Ceiling:
    """The ceiling of a job that allows `most` requests in flight. `reason` says why it last moved."""

    def __init__(self, most: int, now_s: float) -> None:
        self.most = most
        self.now = min(most, FIRST)
        self.reason = ""
        self._phase = _Phase.START
        self._before = 0  # the ceiling ahead of a trial, and what came out under it
        self._brought = 0.0
        self._latency_s = math.inf  # the lowest mean of a window
        self._pause = FIRST_PAUSE
        self._vain = 1  # trials, in a row, and one
        self._windows = 0
        self._cut_s = -math.inf
        self._from_s = self._seen_s = now_s
        self._area = 0.0  # requests in flight x seconds
        self._answers = 0
        self._refused = 0

    def allow(self, most: int) -> None:
        """From now on so many are allowed; where it was this that held the run back, it goes on as from the start."""
        if most > self.most == self.now:
            self._phase, self._before, self._brought = _Phase.START, 0, 0.0
            self.now = max(self.now, FIRST)
        self.most, self.now = most, min(self.now, most)

    def changes(self, now_s: float, in_flight: int) -> None:
        """So many were in flight since the last call until now."""
        self._area += in_flight * (now_s - self._seen_s)
        self._seen_s = now_s

    def answered(self, now_s: float) -> bool:
        """One more answer came; whether the ceiling has moved by it."""
        self._answers += 1
        match self._phase:
            case _Phase.START | _Phase.SETTLING | _Phase.AGAIN:
                needed, at_least_s = self.now, 0.0
            case _Phase.TRIAL:
                needed, at_least_s = max(LEAST_ANSWERS, TRIAL_ROUNDS * self.now), 1.0
            case _:
                needed, at_least_s = max(LEAST_ANSWERS, ROUNDS * self.now), LEAST_S
        elapsed_s = now_s - self._from_s
        if self._answers < needed or elapsed_s <= at_least_s:
            return False
        brought, in_flight = self._answers / elapsed_s, self._area / elapsed_s
        self._begin_window(now_s)
        before = self.now
        if self._phase is _Phase.SETTLING:
            self._phase = _Phase.TRIAL
        elif self._phase is _Phase.AGAIN:
            self._move(min(self._before, math.ceil(AGAIN * self.now)), "the server answers again")
            if self.now == self._before:
                self._phase = _Phase.STEADY
        elif in_flight >= FULL * self.now:
            self._judge(brought, in_flight / brought)
        return self.now != before

    def refuse(self, now_s: float, admitted_s: float) -> bool:
        """The server had too many requests to take one that went at `admitted_s`; whether the ceiling has moved by it."""
        self._refused += 1
        if (
            admitted_s <= self._cut_s
            or self._refused < 3
            or self._refused < OVERLOADED * (self._answers + self._refused)
        ):
            return False
        in_flight = self._area / (now_s - self._from_s) if now_s > self._from_s else self.now
        before = self.now
        if self._phase is not _Phase.AGAIN:
            self._before = before
        self._phase, self._cut_s = _Phase.AGAIN, now_s
        self._move(max(1, int(min(in_flight, self.now) * OVERLOADED_CUT)), "the server says it is overloaded")
        self._begin_window(now_s)
        return self.now != before

    def _begin_window(self, now_s: float) -> None:
        self._from_s, self._area, self._answers, self._refused = now_s, 0.0, 0, 0

    def _move(self, ceiling: int, reason: str) -> None:
        self.now, self.reason = min(ceiling, self.most), reason

    def _judge(self, brought: float, latency_s: float) -> None:
        """What follows from a window in which the ceiling was reached: `brought` answers a second."""
        self._latency_s = min(self._latency_s, latency_s)
        match self._phase:
            case _Phase.START:
                self._grow(brought)
            case _Phase.STEADY:
                self._windows += 1
                self._try(brought, latency_s)
            case _:
                self._end_trial(brought, latency_s)

    def _grow(self, brought: float) -> None:
        if brought < FOLLOWS * self._brought:
            self._move(self._before, f"{self.now} in flight brought no more answers than {self._before}")
            self._phase = _Phase.STEADY
            return
        if self._before and brought > PROPORTIONAL * self._brought:
            self._pause = LONGEST_PAUSE
        self._before, self._brought = self.now, brought
        if self.now == self.most:
            self._phase = _Phase.STEADY
        else:
            self._move(min(self.most, 2 * self.now), "throughput follows")

    def _try(self, brought: float, latency_s: float) -> None:
        enough = math.ceil(SPARE * brought * self._latency_s)
        if enough < GROWN * self.now and self._windows >= min(self._pause, SIGN_PAUSE * self._vain):
            tried, why = (
                max(enough, self.now // 8, 1),
                f"answers take {latency_s / self._latency_s:.1f} times as long as they did",
            )
        elif self._windows < self._pause:
            return
        elif self.now < self.most and self._vain % 2 == 0:
            tried, why = min(self.most, math.ceil(OVER * self.now)), "to see whether more brings more"
        else:
            tried, why = int(FEWER * self.now), "to see whether fewer bring as much"
        if not 0 < tried != self.now:
            return
        self._before, self._brought = self.now, brought
        self._move(tried, why)
        self._phase = _Phase.SETTLING

    def _end_trial(self, brought: float, latency_s: float) -> None:
        fewer = self.now < self._before
        self._phase, self._windows = _Phase.STEADY, 0
        if fewer and brought >= AS_MUCH * self._brought:
            self._pause, self._vain = FIRST_PAUSE, 1
            tried = max(1, int(FEWER * self.now))
            if tried < self.now:
                self._before, self._brought = self.now, max(brought, self._brought)
                self._move(tried, f"{self.now} in flight bring as much as more did")
                self._phase = _Phase.SETTLING
        elif not fewer and brought >= MORE * self._brought:
            self._pause, self._vain, self._windows = FIRST_PAUSE, 2, FIRST_PAUSE
        else:
            self._move(self._before, "fewer brought less" if fewer else "more brought no more")
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._vain += 1
            if fewer:
                self._latency_s = self._before / self._brought  # what answers take where all of it is needed
