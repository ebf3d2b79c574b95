"""One run: workers that pull rows from one feeder, one writer of parts, and the conditions that stop them.

    feeder -> worker: render, encode, ask -> outcome -> journal -> range -> part file

A run ends when every row has its outcome, or is stopped (signal, deadline, a failure that no row can escape): then nothing
new is fed, requests on the wire may finish within a grace, and the same command goes on later.
"""

import asyncio
import contextlib
import logging
import sqlite3
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.answers import KnownAnswers, better
from pipeline.errors import PromptmillError
from pipeline.failures import POLICIES, one_line
from pipeline.feeder import Fed, Feeding
from pipeline.journal import Journal
from pipeline.parts import Layout, OpenRange, write_part
from pipeline.progress import Counters
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Failure, FailureKind, Outcome, Prompt, Request, Row, Status
from pipeline.render import Renderer
from pipeline.retry import Asker, RunEnded
from pipeline.run_folder import StorageError
from pipeline.summary import Stop

# So many first rows that all fail alike, none answered, and the run stops: a wrong setting must not cost a million calls.
ALIKE_LIMIT = 20
# Until the first answer few are in flight: a wrong key or model then costs a few calls, not one a worker.
FIRST_WORKERS = 4
log = logging.getLogger("promptmill")


@dataclass(slots=True, kw_only=True)
class Runner:
    """Runs the rows of one feeder. `renderer` makes a prompt of a row, `encode` a request of it.

    There are at most so many `workers`, and no more than the gate can make use of: as many as requests may be in flight, and one
    for each row that waits elsewhere (`away`).

    `known` has the answers that need not be asked for. `place` uploads a prompt's files first and gives it back with their
    addresses, `look_again` has it ask anew whether they are still there. `grace_s` is what requests in flight have left once the
    run is stopped; `key_hint` says what to do where the key is refused. `sending` are the rows with a request in flight, and the
    loop's time since when.
    """

    feeder: Feeding
    renderer: Renderer
    encode: Callable[[Prompt], Request]
    place: Callable[[Prompt], Awaitable[Prompt | Failure]]
    look_again: Callable[[Sequence[Any]], None]
    asker: Asker
    known: KnownAnswers
    journal: Journal
    layout: Layout
    counters: Counters
    workers: int
    row_id: Callable[[Row], str | None]
    run_id: str
    grace_s: float
    key_hint: str = ""
    stopped: Stop | None = None
    sending: dict[int, float] = field(default_factory=dict)
    _tasks: dict[asyncio.Task[None], int] = field(default_factory=dict)
    _away: int = 0
    _answered: bool = False
    _first_failure: Outcome | None = None
    _alike: int = 0
    _held: list[tuple[Outcome, Fed]] = field(default_factory=list)
    _full: "asyncio.Queue[OpenRange | None]" = field(default_factory=asyncio.Queue)
    _error: BaseException | None = None

    async def run(self) -> None:
        """Ask every row the feeder has. Returns when all is done or stopped; `stopped` says which.

        Raises StorageError where the run folder cannot be written, DatasetError where the input changed under the run, and
        whatever a bug raised in a worker or the writer: the run stops with it, in good order.
        """
        self.feeder.on_full = self._full.put_nowait
        self.feeder.on_no_room = self._settle_held
        writer = self._begin(self._write_parts())
        self._begin_workers(min(FIRST_WORKERS, self.workers))
        # What they raise has gone to `fail` when they end.
        while working := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(working)
        try:
            if self.stopped is None:
                self._settle_held()
            self.journal.flush()
        except sqlite3.Error as error:
            self.fail(error)
        self._full.put_nowait(None)
        await asyncio.gather(writer, return_exceptions=True)
        if self._error is not None:
            raise self._error
        if self.stopped is None and not self.feeder.exhausted:
            raise AssertionError("the run came to its end, and not every row has its outcome")

    def stop(self, stop: Stop, grace_s: float | None = None) -> None:
        """Stop: feed no more, drop what is not on the wire, give the rest its grace. Only the first reason counts.

        `grace_s` is what requests in flight have left where it is not the usual grace.
        """
        if self.stopped is not None:
            return
        self.stopped = stop
        log.info("stopping: %s", stop.reason)
        self.feeder.close()
        for task, index in self._tasks.items():
            if index not in self.sending:
                task.cancel()
        asyncio.get_running_loop().call_later(self.grace_s if grace_s is None else grace_s, self.cut)

    def fail(self, error: BaseException, grace_s: float | None = None) -> None:
        """Stop because of what no row can help; `run` raises it."""
        if isinstance(error, sqlite3.Error):
            error = StorageError(self.layout.results.where, error)
        self._error = self._error or error
        self.stop(Stop(error.exit_code if isinstance(error, PromptmillError) else 1, str(error)), grace_s)

    @property
    def on_wire(self) -> int:
        """How many requests are in flight."""
        return len(self.sending)

    def cut(self) -> None:
        """End the grace: what is in flight is cancelled."""
        for task in self._tasks:
            task.cancel()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """A row waits within the block for something else than the gate: another may use its slot meanwhile."""
        self._away += 1
        self._begin_workers(self._lacking())
        try:
            yield
        finally:
            self._away -= 1

    def _lacking(self) -> int:
        """How many workers more the gate could make use of; below 0: fewer."""
        if self.stopped is not None or not self._answered:
            return 0
        enough = self.asker.gate.enough
        wanted = self.workers if enough is None else min(self.workers, enough + self._away)
        return wanted - len(self._tasks)

    def _begin_workers(self, count: int) -> None:
        self._tasks.update((self._begin(self._work()), -1) for _ in range(count))

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None  # noqa: S101  (workers are tasks)
        while (fed := await self.feeder.take()) is not None:
            self._tasks[me] = fed.row.index
            outcome = await self._one(fed)
            if isinstance(outcome, RunEnded):
                failure = outcome.failure
                hint = f" ({self.key_hint})" if failure.kind is FailureKind.AUTH and self.key_hint else ""
                self.stop(Stop(4, f"the provider refuses: {failure.code}: {failure.message}{hint}"))
            elif outcome is not None:
                self._settled(outcome, fed)
            self._tasks[me] = -1
            lacking = self._lacking()
            if lacking < 0:
                del self._tasks[me]
                return
            self._begin_workers(lacking)

    async def _one(self, fed: Fed) -> Outcome | RunEnded | None:
        row = fed.row
        try:
            prompt = self.renderer.render(row)
            if isinstance(prompt, Failure):
                return self._unsent(row, prompt)
            try:
                request = self.encode(prompt)
            except EncodeError as error:
                return self._unsent(row, self.renderer.not_encodable(row, error))
            outcome: Outcome | RunEnded | None = await self.known.find(request, fed.old)
            if outcome is None:
                try:
                    outcome = await self._ask(row, prompt, request)
                finally:
                    self.known.asked(request.key, outcome)
            return outcome
        except (PromptmillError, sqlite3.Error):
            raise
        except Exception as error:
            log.exception("a bug of ours on row %s", row.where)
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{row.where}: {type(error).__name__} in {where.name}; run.log has the traceback. Please report it"
            return self._unsent(row, Failure(FailureKind.INTERNAL, "bug", message))

    async def _ask(self, row: Row, prompt: Prompt, request: Request) -> Outcome | RunEnded | None:
        """Upload what the prompt brings, and ask it."""
        files = prompt.files
        if files:
            with self.away():
                placed = await self.place(prompt)
            if isinstance(placed, Failure):
                return self._not_placed(row, placed)
            # The key stays that of the content, wherever it lies.
            prompt, request, key = placed, self.encode(placed), request.key
            request.key = key
        outcome = await self.asker.ask(prompt, request, self.sending)
        if files and isinstance(outcome, Outcome) and outcome.failure is not None:
            # Perhaps the provider has them no more: the next row asks before it relies on them.
            self.look_again(files)
        return outcome

    def _not_placed(self, row: Row, failure: Failure) -> Outcome | RunEnded:
        if POLICIES[failure.kind].ends == "run":
            return RunEnded(failure)
        outcome = self._unsent(row, failure)
        outcome.status = POLICIES[failure.kind].status
        return outcome

    def _unsent(self, row: Row, failure: Failure) -> Outcome:
        return Outcome(
            index=row.index,
            row_id=self.row_id(row) or str(row.index),
            status=Status.FAILED,
            failure=failure,
            run_id=self.run_id,
        )

    def _settled(self, outcome: Outcome, fed: Fed) -> None:
        """Keep an outcome; the first ones are held back while they all fail alike."""
        failure = outcome.failure
        # What was known already says nothing of how the provider is now.
        known = outcome.run_id != self.run_id or (outcome.attempts == 0 and outcome.key is not None)
        if self._answered or known or (failure is not None and failure.kind is FailureKind.INVALID_INPUT):
            self._keep(outcome, fed)
            return
        first = self._first_failure
        if failure is None or outcome.status is not Status.FAILED or (first and not _alike(first, outcome)):
            self._answered = True
            self._settle_held()
            self._keep(outcome, fed)
            return
        self._first_failure = first or outcome
        self._alike += 1
        self._held.append((outcome, fed))
        self.journal.attempt_failed(outcome.index, maybe_paid=failure.maybe_paid)
        if self._alike >= ALIKE_LIMIT:
            code = 1 if failure.kind is FailureKind.INTERNAL else 4
            reason = f"the first {self._alike} rows all failed alike: {failure.code}: {failure.message}"
            self.stop(Stop(code, reason))

    def _settle_held(self) -> None:
        """Let the held outcomes stand; also before rows wait for a range that would never be full without them."""
        held, self._held = self._held, []
        for outcome, fed in held:
            self._keep(outcome, fed)

    def _keep(self, outcome: Outcome, fed: Fed) -> None:
        if fed.old is not None:
            outcome = better(fed.old, outcome)
        self.journal.record(outcome)
        self.counters.settle(outcome)
        if outcome.failure is not None:
            log.info("row %d (%s): %s, %s: %s", outcome.index, one_line(outcome.row_id, 80), outcome.status,
                     outcome.failure.code, outcome.failure.message)  # fmt: skip
        self.feeder.settle(outcome, fed.range)

    async def _write_parts(self) -> None:
        while (full := await self._full.get()) is not None:
            await self._write_part(full)
            del full  # a part is much: not while the next one fills

    async def _write_part(self, full: OpenRange) -> None:
        # The journal is never behind a part: killed in between, a run would count rows of the part as lost, and lose them
        # with a short part that grows; of a part being written anew, what the journal holds wins.
        async with self.journal.undisturbed:
            self.journal.flush()
        slices = []
        for one in full.slices():
            slices.append(one)
            await asyncio.sleep(0)  # answers that came meanwhile go first
        try:
            record = await asyncio.to_thread(write_part, full, self.layout, slices)
        except OSError as error:
            # The rows stay in the journal: the next run writes the part from there.
            raise StorageError(self.layout.results.where, error) from error
        async with self.journal.undisturbed:
            self.journal.add_part(record, full.first, keep_rows=full.size < self.layout.rows_per_part)
        self.feeder.written(full)


def _alike(one: Outcome, other: Outcome) -> bool:
    a, b = one.failure, other.failure
    return (
        a is not None and b is not None and (a.kind, a.code, a.http_status) == (b.kind, b.code, b.http_status)
    )
