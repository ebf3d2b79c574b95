"""The attempts of one row: send, judge, and if need be wait and send again, until the row has its outcome.

The first attempt is made directly; from the second on tenacity decides stop and wait, from the failure's kind alone
(`failures.POLICIES`). A row that waits to be tried again holds no slot of the gate and no reservation.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import tenacity

from pipeline.budget import Budget, Held
from pipeline.expectation import Expectation
from pipeline.failures import POLICIES, Policy, status_of
from pipeline.gate import Gate
from pipeline.journal import Journal
from pipeline.masking import Secrets
from pipeline.progress import Counters
from pipeline.protocol.assemble import Assembler
from pipeline.records import (
    Completion,
    Failure,
    FailureKind,
    Outcome,
    Prompt,
    Request,
    Response,
    Status,
    Usage,
)
from pipeline.response import AnswerCheck
from pipeline.transport import Transport
from pipeline.turns import Turns

_UNCOUNTED_LIMIT = 3
_LOST = (FailureKind.TRANSPORT, FailureKind.TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySpec:
    """Bounds on the attempts of one row. `repair` asks an invalid answer again, with what was wrong with it."""

    max_attempts: int
    row_deadline_s: float
    repair: bool
    keep_raw: bool
    run_id: str


class Next(Enum):
    """What follows a failed attempt."""

    AGAIN = "another attempt"
    LEAVE = "another attempt, but in the next run: this one is stopping"
    SETTLE = "the row, or the run, ends with it"


class RunEnded(NamedTuple):
    """A failure that no row can escape (a wrong key, no money): the row stays open and the run must stop."""

    failure: Failure


@dataclass(slots=True)
class _RowState:
    """What the attempts of one row have in common. `began_s` is moved on by all time spent in the gate's line."""

    prompt: Prompt
    request: Request
    began_s: float
    admitted_s: float = 0.0  # the latest attempt
    attempts: int = 0
    uncounted: int = 0
    away: int = 0  # attempts that found the provider away
    own_bound: int = 0  # attempts that ended in a kind with a bound of its own
    maybe_paid: int = 0
    started_at_us: int | None = None
    queue_ms: float | None = None
    latency_ms: float | None = None
    first_token_ms: float | None = None
    http_status: int | None = None
    raw: str | None = None
    answer: Completion | None = None
    invalid: Failure | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    earlier: list[Usage] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Asker:
    """Asks prompts, one outcome each. One instance serves all rows of a run.

    `encode` makes a request of a prompt, `assembler` reads the stream that answers one (None: it comes whole), `decode` judges a
    response; `wall_us` is the time of day in Unix microseconds; `masked` clears a raw body of secrets; `away` is entered
    while a row waits for its next attempt.
    """

    transport: Transport
    gate: Gate
    budget: Budget
    expectation: Expectation
    journal: Journal
    encode: Callable[[Prompt], Request]
    decode: Callable[[Response, Assembler | None], Completion | Failure]
    assembler: Callable[[Prompt], Assembler | None]
    check: AnswerCheck
    counters: Counters
    wall_us: Callable[[], int]
    spec: RetrySpec
    stopping: Callable[[], bool]
    away: Callable[[], AbstractContextManager[None]] = nullcontext
    masked: Callable[[str], str] = Secrets().masked
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _turns: Turns = field(default_factory=Turns)
    _answered: bool = False
    _kind_since_s: dict[FailureKind, float] = field(default_factory=dict)

    async def ask(
        self, prompt: Prompt, request: Request, sending: dict[int, float]
    ) -> Outcome | RunEnded | None:
        """Ask one prompt until it is settled; None where the run is stopping and the row is left for the next run.

        `sending` holds the row's index while a request of it is on the wire, with the loop's time since when.
        """
        row = _RowState(prompt, request, began_s=self._loop.time())
        result = await self._attempt(row, sending)
        if result is None:
            return None
        if isinstance(result, Failure):
            following = self._next(row, result)
            if following is Next.AGAIN:
                result, following = await self._retry(row, result, sending)
            if following is Next.LEAVE:
                return None
            if isinstance(result, Failure) and POLICIES[result.kind].ends == "run":
                self._note_failed(row, result)
                return RunEnded(result)
        return self._outcome(row, result)

    async def _attempt(self, row: _RowState, sending: dict[int, float]) -> Completion | Failure | None:
        """One attempt; None where the budget has no room for it, and the run stops."""
        held = await self.budget.hold(row.request.most_cost)
        if held is None:
            return None
        with held:
            return await self._within(held, row, sending)

    async def _within(self, held: Held, row: _RowState, sending: dict[int, float]) -> Completion | Failure:
        loop = self._loop
        queued_s = loop.time()
        reserved = self.expectation.tokens(row.request.tokens_estimate)
        used: int | None = None
        await self.gate.acquire(reserved)
        row.admitted_s = loop.time()
        try:
            queue_s = row.admitted_s - queued_s
            row.queue_ms = queue_s * 1000
            # The limits' line may be longer than a row's deadline, which is for what the row itself meets.
            row.began_s += queue_s
            sending[row.request.index] = row.admitted_s
            held.sent = True
            await self.journal.begin_attempt(row.request.index, held.amount, held.month.month)
            if row.started_at_us is None:
                row.started_at_us = self.wall_us()
            row.attempts += 1
            self.counters.sent += 1
            result = await self._send(row)
            answer = self._answer(row, result)
            held.settle(answer, maybe_paid=isinstance(result, Failure) and result.maybe_paid)
            used = self._used_tokens(row, result, answer)
        finally:
            sending.pop(row.request.index, None)
            self.gate.release(reserved, used)
        return result

    async def _send(self, row: _RowState) -> Completion | Failure:
        """One request and what its answer means; a stream is put together while it comes."""
        loop = self._loop
        assembler = self.assembler(row.prompt)
        first_s: float | None = None

        def gather(chunk: bytes) -> None:
            nonlocal first_s
            assert assembler is not None  # noqa: S101  (the sink is given only with one)
            assembler.feed(chunk)
            if first_s is None and assembler.started:
                first_s = loop.time()

        sent_s = loop.time()
        reply = await self.transport.send(row.request, None if assembler is None else gather)
        row.latency_ms = (loop.time() - sent_s) * 1000
        row.first_token_ms = None if first_s is None else (first_s - sent_s) * 1000
        if (turn := self._turns.take()) is not None:
            await turn
        if isinstance(reply, Failure) and assembler is not None and assembler.complete:
            # Cut behind the last token: the answer is whole, and asking again would pay twice.
            reply = Response(200, {}, b"", row.latency_ms)
        return self._judge(row, reply, assembler)

    def _judge(
        self, row: _RowState, reply: Response | Failure, assembler: Assembler | None
    ) -> Completion | Failure:
        """Decode a reply and hold the answer against what the job asks of it."""
        if isinstance(reply, Failure):
            row.http_status = reply.http_status
            result: Completion | Failure = reply
        else:
            row.http_status = reply.status
            result = self.decode(reply, assembler)
            # A refusal never takes the place of the answer that was paid for.
            if self.spec.keep_raw and (row.answer is None or isinstance(result, Completion)):
                row.raw = self.masked(reply.body.decode("utf-8", "replace"))
        if isinstance(result, Failure):
            return result
        self._answered = True
        self._kind_since_s.clear()
        if row.answer is not None:
            row.earlier.append(row.answer.usage)
        row.answer = result
        row.invalid = None
        if status_of(result) is not Status.OK:
            return result
        checked = self.check.check(result)
        if isinstance(checked, Failure):
            row.invalid = checked
            return checked
        row.fields = checked
        return result

    @staticmethod
    def _answer(row: _RowState, result: Completion | Failure) -> Completion | None:
        """The answer that an attempt brought, valid or not."""
        if isinstance(result, Completion):
            return result
        return row.answer if result.kind is FailureKind.INVALID_ANSWER else None

    def _used_tokens(
        self, row: _RowState, result: Completion | Failure, answer: Completion | None
    ) -> int | None:
        """The tokens a reply used up of the quota; None where that is unknown. Teaches the expectation."""
        if answer is None:
            return None if isinstance(result, Failure) and result.maybe_paid else 0
        usage = answer.usage
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        self.expectation.learn(row.request.tokens_estimate, usage.prompt_tokens, usage.completion_tokens)
        return usage.prompt_tokens + usage.completion_tokens

    def _next(self, row: _RowState, failure: Failure) -> Next:
        """What follows a failed attempt; its effects on everyone are applied here, once an attempt."""
        self._harden(failure)
        # Closed kept-alive connections cost the row nothing, but a server that only ever closes is at fault.
        failure.uncounted = failure.uncounted and row.uncounted < _UNCOUNTED_LIMIT
        if failure.maybe_paid:
            row.maybe_paid += 1
        policy = POLICIES[failure.kind]
        row.own_bound += policy.max_attempts is not None
        if policy.slows is not None:
            self.gate.slow(policy.slows, failure.retry_after_s, row.admitted_s)
        if not policy.retry or not self._bounds_left(row, failure, policy):
            return Next.SETTLE
        self.counters.failed_attempts[failure.kind] += 1
        self._note_failed(row, failure)
        if failure.uncounted:
            row.uncounted += 1
            row.attempts -= 1
        elif self._away(failure):
            row.away += 1
        return Next.LEAVE if self.stopping() else Next.AGAIN

    def _away(self, failure: Failure) -> bool:
        """Whether the provider, which had answered before, was not there or said so (503): nothing is said about the row then.

        Such an attempt cost nothing and uses up none of the row's, or an outage of half a minute would cost every row it meets;
        the row's deadline bounds them.
        """
        if not self._answered or failure.maybe_paid:
            return False
        return failure.http_status == 503 or (failure.http_status is None and failure.kind in _LOST)

    def _note_failed(self, row: _RowState, failure: Failure) -> None:
        # An invalid answer was paid for; should the row stay without outcome, the next run pays again.
        paid = failure.maybe_paid or failure.kind is FailureKind.INVALID_ANSWER
        self.journal.attempt_failed(row.request.index, maybe_paid=paid)

    def _harden(self, failure: Failure) -> None:
        """Turn a kind that has gone on for too long without one answer into what it then means."""
        policy = POLICIES[failure.kind]
        if policy.give_up_after_s is None or policy.becomes is None:
            return
        now_s = self._loop.time()
        if now_s - self._kind_since_s.setdefault(failure.kind, now_s) > policy.give_up_after_s:
            failure.kind = policy.becomes

    def _bounds_left(self, row: _RowState, failure: Failure, policy: Policy) -> bool:
        if failure.kind is FailureKind.INVALID_ANSWER and not self.spec.repair:
            return False
        if failure.uncounted:
            return True
        if policy.max_attempts is not None and row.own_bound >= policy.max_attempts:
            return False
        elapsed_s = self._loop.time() - row.began_s
        return (
            row.attempts - row.away < self.spec.max_attempts or self._away(failure)
        ) and elapsed_s + self._wait_s(row, failure, uniform=0.0) <= self.spec.row_deadline_s

    async def _retry(
        self, row: _RowState, first: Failure, sending: dict[int, float]
    ) -> tuple[Completion | Failure, Next]:
        """Let tenacity make the further attempts; the first failure stands for its first call."""
        following = Next.AGAIN
        known: Failure | None = first

        async def attempt() -> Completion | Failure:
            nonlocal known, following
            if known is not None:
                failure, known = known, None
                return failure
            if row.invalid is not None and row.answer is not None:
                row.request = self._repaired(row, row.invalid, row.answer)
            result = await self._attempt(row, sending)
            if result is None:
                following = Next.LEAVE
                return first
            following = self._next(row, result) if isinstance(result, Failure) else Next.SETTLE
            return result

        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(lambda _: following is Next.AGAIN),
            stop=tenacity.stop_never,  # `_bounds_left` has said whether there is another attempt
            wait=lambda state: self._wait_s(row, _result(state), uniform=random.random()),  # noqa: S311
            sleep=self._sleep,
        )
        self.counters.retrying += 1
        try:
            result: Completion | Failure = await again(attempt)
        finally:
            self.counters.retrying -= 1
        return result, following

    async def _sleep(self, seconds: float) -> None:
        with self.away():
            await asyncio.sleep(seconds)

    def _wait_s(self, row: _RowState, failure: Completion | Failure, *, uniform: float) -> float:
        """Seconds until the next attempt; `uniform` in [0, 1) draws the jitter. Never shorter than the server asks."""
        if not isinstance(failure, Failure) or failure.uncounted:
            return 0.0
        backoff = POLICIES[failure.kind].backoff
        drawn_s = backoff.wait_s(row.attempts, uniform) if backoff else 0.0
        return max(drawn_s, failure.retry_after_s or 0.0)

    def _repaired(self, row: _RowState, invalid: Failure, answer: Completion) -> Request:
        messages = self.check.repair(row.prompt.messages, answer.content or "", invalid)
        prompt = Prompt(row.prompt.index, row.prompt.row_id, messages, row.prompt.params)
        repaired = self.encode(prompt)
        repaired.key = row.request.key  # the row stays the prompt it was
        return repaired

    def _outcome(self, row: _RowState, result: Completion | Failure) -> Outcome:
        if isinstance(result, Completion):
            status, failure = status_of(result), None
        elif row.answer is not None and row.invalid is not None:
            # A later attempt failed otherwise: the answer we paid for stays, and so does what is wrong with it.
            status, failure = Status.INVALID, row.invalid
        else:
            status, failure = POLICIES[result.kind].status, result
        return Outcome(
            index=row.request.index,
            row_id=row.request.row_id,
            status=status,
            key=row.request.key,
            completion=row.answer,
            failure=failure,
            fields=row.fields if status is Status.OK else {},
            earlier=row.earlier,
            http_status=row.http_status,
            attempts=row.attempts,
            maybe_paid=row.maybe_paid,
            started_at_us=row.started_at_us,
            latency_ms=row.latency_ms,
            first_token_ms=row.first_token_ms,
            queue_ms=row.queue_ms,
            run_id=self.spec.run_id,
            response=row.raw,
        )


def _result(state: tenacity.RetryCallState) -> Completion | Failure:
    assert state.outcome is not None  # noqa: S101  (tenacity asks only after an attempt)
    result: Completion | Failure = state.outcome.result()
    return result
