"""One run: fixed workers that pull rows from one feeder, one writer of parts, and the conditions that stop them.

    feeder -> worker: render, encode, ask -> outcome -> journal -> range -> part file

A run ends when every row has its outcome, or is stopped (signal, deadline, a failure that no row can escape): then nothing
new is fed, requests on the wire may finish within a grace, and the same command goes on later.
"""

import asyncio
import logging
import sqlite3
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.errors import PromptmillError
from pipeline.feeder import Fed, Feeder
from pipeline.journal import Journal
from pipeline.parts import Layout, OpenRange, write_part
from pipeline.progress import Counters
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Failure, FailureKind, Outcome, Prompt, Request, Row, Status
from pipeline.render import Renderer
from pipeline.retry import Asker, RunEnded
from pipeline.summary import Stop

# So many first rows that all fail alike, none answered, and the run stops: a wrong setting must not cost a million calls.
ALIKE_LIMIT = 20
GRACE_S = 30.0
log = logging.getLogger("promptmill")


class StorageError(PromptmillError):
    """The run folder took no more writes; all that was committed is safe."""


@dataclass(slots=True, kw_only=True)
class Runner:
    """Runs the rows of one feeder. `renderer` makes a prompt of a row, `encode` a request of it."""

    feeder: Feeder
    renderer: Renderer
    encode: Callable[[Prompt], Request]
    asker: Asker
    journal: Journal
    layout: Layout
    counters: Counters
    workers: int
    row_id: Callable[[Row], str | None]
    run_id: str
    stopped: Stop | None = None
    _tasks: dict[asyncio.Task[None], int] = field(default_factory=dict)
    _sending: set[int] = field(default_factory=set)
    _first_failures: list[tuple[Outcome, OpenRange]] = field(default_factory=list)
    _answered: bool = False
    _full: "asyncio.Queue[OpenRange | None]" = field(default_factory=asyncio.Queue)
    _bug: BaseException | None = None

    async def run(self) -> None:
        """Ask every row the feeder has. Returns when all is done or stopped; `stopped` says which.

        Raises StorageError where the run folder cannot be written, DatasetError where the input changed under the run.
        """
        self.feeder.on_full = self._full.put_nowait
        writer = asyncio.create_task(self._write_parts())
        for _ in range(self.workers):
            self._tasks[asyncio.create_task(self._work())] = -1
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self.stopped:
            self._settle_held()
        self._full.put_nowait(None)
        await writer
        if self._bug is not None:
            raise self._bug

    def stop(self, stop: Stop, *, grace_s: float = GRACE_S) -> None:
        """Stop: feed no more, drop what is not on the wire, give the rest its grace. A second call ends the grace at once."""
        again = self.stopped is not None
        if not again:
            self.stopped = stop
            log.info("stopping: %s", stop.reason)
            self.feeder.close()
        for task, index in self._tasks.items():
            if again or index not in self._sending:
                task.cancel()
        if not again:
            asyncio.get_running_loop().call_later(grace_s, self._end_grace)

    def _end_grace(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None  # noqa: S101  (workers are tasks)
        try:
            while (fed := await self.feeder.take()) is not None:
                self._tasks[me] = fed.row.index
                outcome = await self._one(fed.row)
                if isinstance(outcome, RunEnded):
                    failure = outcome.failure
                    self.stop(Stop(4, f"the provider refuses: {failure.code}: {failure.message}"))
                elif outcome is not None:
                    self._settled(outcome, fed)
                self._tasks[me] = -1
        except PromptmillError as error:
            self._broken(error)
        except (sqlite3.Error, OSError) as error:
            self._broken(StorageError(_storage_sentence(self.layout, error)))

    def _broken(self, error: PromptmillError) -> None:
        self._bug = self._bug or error
        self.stop(Stop(error.exit_code, str(error)))

    async def _one(self, row: Row) -> Outcome | RunEnded | None:
        try:
            prompt = self.renderer.render(row)
            if isinstance(prompt, Failure):
                return self._unsent(row, prompt)
            try:
                request = self.encode(prompt)
            except EncodeError as error:
                return self._unsent(row, self.renderer.not_encodable(row, error))
            return await self.asker.ask(prompt, request, self._sending)
        except (PromptmillError, sqlite3.Error):
            raise
        except Exception as error:
            log.exception("a bug of ours on row %s", row.where)
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{row.where}: {type(error).__name__} in {where.name}; run.log has the traceback. Please report it"
            return self._unsent(row, Failure(FailureKind.INTERNAL, "bug", message))

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
        if self._answered or outcome.attempts == 0:
            self._keep(outcome, fed.range)
            return
        failure = outcome.failure
        held = self._first_failures
        if (
            failure is None
            or outcome.status is not Status.FAILED
            or (held and not _alike(held[0][0], outcome))
        ):
            self._answered = True
            self._settle_held()
            self._keep(outcome, fed.range)
            return
        held.append((outcome, fed.range))
        self.journal.attempt_failed(outcome.index, maybe_paid=False)
        if len(held) >= ALIKE_LIMIT and self.stopped is None:
            self.stop(
                Stop(4, f"the first {len(held)} rows all failed alike: {failure.code}: {failure.message}"),
            )

    def _settle_held(self) -> None:
        for outcome, range_ in self._first_failures:
            self._keep(outcome, range_)
        self._first_failures.clear()

    def _keep(self, outcome: Outcome, range_: OpenRange) -> None:
        self.journal.record(outcome)
        self.counters.settle(outcome)
        if outcome.failure is not None:
            log.info("row %d (%s): %s, %s: %s", outcome.index, outcome.row_id, outcome.status,
                     outcome.failure.code, outcome.failure.message)  # fmt: skip
        self.feeder.settle(outcome, range_)

    async def _write_parts(self) -> None:
        while (full := await self._full.get()) is not None:
            try:
                record = await asyncio.to_thread(write_part, full, self.layout)
                short = full.size < self.layout.rows_per_part
                self.journal.add_part(record, full.first, keep_rows=short)
            except (sqlite3.Error, OSError) as error:
                # The rows stay in the journal: the next run writes the part from there.
                self._broken(StorageError(_storage_sentence(self.layout, error)))
                continue
            self.feeder.written(full)


def _alike(one: Outcome, other: Outcome) -> bool:
    a, b = one.failure, other.failure
    return (
        a is not None and b is not None and (a.kind, a.code, a.http_status) == (b.kind, b.code, b.http_status)
    )


def _storage_sentence(layout: Layout, error: Exception) -> str:
    return (
        f"the run folder {layout.folder} cannot be written any more: {error}. "
        "What was committed is safe: make room (or make it writable) and run the same command again"
    )
