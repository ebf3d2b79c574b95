"""Carries out a job on this machine: takes the run folder, looks the input over, starts what must be started, runs, sums up.

The command line hands in everything from outside (job, environment, time of day, stderr) and prints what comes back.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from pipeline.answers import KnownAnswers, read_outcomes
from pipeline.budget import Budget
from pipeline.expectation import Expectation
from pipeline.feeder import Again, Feeder
from pipeline.gate import Limits
from pipeline.jobspec import key_variable
from pipeline.limits import LocalGate
from pipeline.live import Chronicle, kept_live, limits_view
from pipeline.loop_lag import LoopLag, measured
from pipeline.masking import logged_without
from pipeline.opening import Opened, open_work
from pipeline.parts import OpenRange, part_name, write_part
from pipeline.pilot import PilotFeeder, new_run_id, still_to_ask
from pipeline.placing import open_placing
from pipeline.plan import Plan
from pipeline.progress import Counters, Meter, counting, shown
from pipeline.records import Outcome, Priced, Status
from pipeline.results import open_results
from pipeline.retry import Asker, RetrySpec
from pipeline.run_file import RunFacts, close_metrics, open_metrics, summed_up, write_run_file
from pipeline.run_folder import RunFolder, StorageError, sum_parts
from pipeline.run_log import Notes, RunLog
from pipeline.runner import Runner
from pipeline.schedule import Closed, end_of_run
from pipeline.servers import serving
from pipeline.sharing import shared_limits
from pipeline.spending import look_at_caps, spending
from pipeline.stopping import Stopping
from pipeline.storage import RESULTS, Disk
from pipeline.summary import RunSummary, Stop
from pipeline.totals import PartRecord, Totals
from pipeline.transport import Core, Endpoint, Transport, open_transport
from pipeline.watchdog import Watchdog, watching

try:
    from uvloop import new_event_loop
except ImportError:  # not to be had on Windows
    from asyncio import new_event_loop  # type: ignore[assignment]

log = logging.getLogger("promptmill")
# At most: a row that waits elsewhere (for its next attempt, an upload) keeps its worker, and another may use its slot.
_WORKERS_PER_SLOT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line adds to the job.

    `deadline_s` counts from the start; rows that ended with a status in `retry` are asked again; `metrics` is a file to write
    the run's figures to. `pilot` are the indexes of the rows to ask, in this order, where not all are to be asked.
    """

    limit: int | None
    deadline_s: float | None
    notes: Notes
    retry: frozenset[Status] = frozenset()
    metrics: Path | None = None
    pilot: Sequence[int] | None = None


def run_job(
    plan: Plan,
    options: RunOptions,
    *,
    now: Callable[[], datetime],
    connect: Callable[[Core, Endpoint], Transport] = open_transport,
    disk: Disk | None = None,
) -> RunSummary:
    """Run or resume a job to its end, or until it is stopped. `connect` opens the transport inside the run's loop, `disk` is
    what the run folder's files are written with.

    Raises the errors of `errors.py`: RunFolderBusy before anything is read, DatasetError and JobError before anything is sent.
    """
    started = now()
    job = plan.job
    folder = RunFolder(
        job.output_path,
        started=started,
        durable=job.file.output.durability == "power",
        results=open_results(f"{job.output}/{RESULTS}", job.s3, disk),
        disk=disk,
    )
    try:
        with logged_without(plan.target.secrets, log), RunLog(folder.path, options.notes.format):
            folder.tell_damage(functools.partial(_tell, options.notes))
            try:
                return _run_in(folder, plan, _Edge(options, started, now, connect))
            except sqlite3.Error as error:
                raise StorageError(folder.path, error) from error
    finally:
        folder.release()


def _tell(notes: Notes, what: str) -> None:
    """Say what an operator must know, whatever was asked to be quiet."""
    log.warning("%s", what)
    notes.say(f"promptmill: {what}", level="warning", always=True)


class _Edge(NamedTuple):
    """What reaches a run from outside."""

    options: RunOptions
    started: datetime
    now: Callable[[], datetime]
    connect: Callable[[Core, Endpoint], Transport]


def _run_in(folder: RunFolder, plan: Plan, edge: _Edge) -> RunSummary:
    options = edge.options
    opened = open_work(
        folder,
        plan,
        limit=options.limit,
        on_progress=counting(options.notes, "looking the input over"),
    )
    if opened.changed:
        what = (
            f"since the last run in {folder.path} changed: {', '.join(opened.changed)}. What is asked as before keeps its "
            f"answer, all else is asked; {opened.kept:,} answers of before are kept, so that to change back costs nothing"
        )
        log.warning("%s", what)
        options.notes.say(f"promptmill: {what}", level="warning", changed=opened.changed)
    with asyncio.Runner(loop_factory=new_event_loop) as loop:
        return loop.run(_Run(opened, edge).run())


class _Run:
    """One run over an opened folder."""

    def __init__(self, opened: Opened, edge: _Edge) -> None:
        self._unsettled = opened.unsettled
        self._folder = opened.folder
        self._plan = opened.plan
        self._options = edge.options
        self._rows = opened.rows
        self._layout = opened.layout
        self._now = edge.now
        self._connect = edge.connect
        self._started = edge.started
        self._budget: Budget  # while rows are asked
        self._lag: LoopLag | None = None  # once rows are asked
        self._run_id = new_run_id(self._started, pilot=edge.options.pilot is not None)
        self._pilot: list[int] | None = None  # those of its rows that are to be asked
        self._facts = RunFacts(opened, self._run_id, self._started)
        self._metrics = open_metrics(self._facts, edge.options.metrics)

    async def run(self) -> RunSummary:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with self._folder.storage_errors():
            parts = self._folder.parts(self._layout, self._rows)
            to_open = self._open_again(parts)
            for lost in self._folder.lose_damaged(
                self._layout.results, to_open.values(), self._layout.rows_per_part
            ):
                del parts[lost], to_open[lost]
        again = Again(self._options.retry, to_open, self._read_part)
        done = parts.keys() - again.parts.keys()
        in_parts = sum(parts[number].rows for number in done)
        counters = Counters(self._rows, self._totals(list(parts.values())), self._plan.costs)
        if self._options.pilot is not None:
            self._pilot = still_to_ask(
                self._options.pilot, self._folder.journal, parts, self._layout.rows_per_part
            )
            counters.rows = counters.totals.rows + len(self._pilot)
        log.info("run %s: %d rows, %d of them settled, %d parts", self._run_id, self._rows, counters.totals.rows,
                 len(parts))  # fmt: skip
        if unsettled := self._unsettled:
            log.warning("an earlier run ended with %d requests in flight: they are asked again and may be paid twice",
                        unsettled)  # fmt: skip
        write_run_file(self._facts, counters.totals, None)
        for warning in self._plan.target.warnings:
            log.warning("%s", warning)
        stop = None
        if self._rows == 0 and not parts:
            # A part without rows, so that the results can be read whatever the input held.
            nothing = write_part(OpenRange(self._layout, 0, 0), self._layout, ())
            self._folder.journal.add_part(nothing, 0, keep_rows=True)
        if in_parts < self._rows if self._pilot is None else self._pilot:
            gc.collect()
            gc.freeze()
            # Collections triggered by allocation alone cost 15-40 % at 1,000 requests in flight (docs/performance.md).
            gc.set_threshold(50_000, 20, 100)
            look_at_caps(self._plan, functools.partial(_tell, self._options.notes))
            with spending(self._plan, self._folder, counters.totals, self._now) as budget:
                self._budget = budget
                stop = await self._serve_and_ask(counters, done, again)
        if counters.totals.rows == self._rows:
            self._folder.journal.kept.forget_shared()
        summary = summed_up(self._facts, counters, stop, loop.time() - began_s, self._lag)
        write_run_file(self._facts, counters.totals, summary)
        close_metrics(self._facts, self._metrics, counters, summary, self._now())
        log.info("ended: %s", summary.exit_reason)
        return summary

    def _read_part(self, number: int) -> list[Outcome]:
        return read_outcomes(self._layout.results.read(part_name(number)))

    def _open_again(self, parts: dict[int, PartRecord]) -> dict[int, PartRecord]:
        """The parts to be written anew: with rows to be asked again, or where an earlier run was about to do so."""
        begun = self._folder.journal.reopened()
        return {
            number: part
            for number, part in parts.items()
            if number in begun or not self._options.retry.isdisjoint(part.totals["status"])
        }

    def _totals(self, parts: list[PartRecord]) -> Totals:
        """What earlier runs settled: the parts, and the rows kept in the journal whose part is still open."""
        totals = sum_parts(parts)
        for kept in self._folder.journal.open_outcomes():
            asked = [outcome for outcome in kept if outcome.index < self._rows]
            totals.add(asked, self._plan.costs(asked))
        return totals

    async def _serve_and_ask(self, counters: Counters, done: Collection[int], again: Again) -> Stop | None:
        """Ask what is left, unless the hour is not right or the run is stopped before its server is there."""
        budget = self._plan.job.file.budget
        end = end_of_run(
            self._started, deadline_s=self._options.deadline_s, window=budget.hours, grace_s=budget.grace
        )
        if isinstance(end, Closed):
            return Stop(6, end.reason)
        stopping = Stopping(end, started=self._started, now=self._now)
        async with stopping.watching(), contextlib.AsyncExitStack() as server:
            served = serving(self._plan.job, self._plan.target, self._folder.path)
            base_url = await stopping.unless_stopped(server.enter_async_context(served))
            if base_url is None:
                return stopping.stop
            return await self._ask_rows(base_url, counters, stopping, done, again)

    async def _ask_rows(
        self, base_url: str, counters: Counters, stopping: Stopping, done: Collection[int], again: Again
    ) -> Stop | None:
        job, target, budget = self._plan.job.file, self._plan.target, self._budget
        # Asked to, the provider lets a request wait so long for its turn before it begins (X-DashScope-Wait-Timeout).
        queued_s = _number(target.headers, "x-dashscope-wait-timeout")
        endpoint = Endpoint(
            url=self._plan.chat_url(base_url),
            headers=self._plan.headers,
            max_connections=target.max_concurrency,
            connect_timeout_s=job.transport.connect_timeout,
            idle_timeout_s=job.transport.idle_timeout + queued_s,
            total_timeout_s=job.transport.total_timeout + queued_s,
            max_response_bytes=job.transport.max_response_bytes,
            proxy=target.proxy,
            ca_file=self._plan.job.ca_file,
        )
        chronicle = Chronicle(
            self._folder.journal.history,
            self._run_id,
            counters=counters,
            spend=lambda: self._budget.spend,
            now=self._now,
        )
        gate = LocalGate(
            Limits(
                requests_per_minute=target.requests_per_minute,
                tokens_per_minute=target.tokens_per_minute,
                max_concurrency=target.max_concurrency,
            ),
            chronicle.note,
        )
        chronicle.refused = lambda: sum(gate.slowed.values())
        if self._pilot is not None:
            feeder: Feeder | PilotFeeder = PilotFeeder(self._plan.dataset, self._layout, self._pilot)
        else:
            feeder = Feeder(self._plan.dataset, self._layout, self._folder.journal, counters, again)
        transport = self._connect(job.transport.core, endpoint)
        placing = open_placing(self._plan, base_url, endpoint, self._folder.path, self._now)
        asker = Asker(
            transport=transport,
            gate=gate,
            budget=budget,
            expectation=Expectation(job.params.get("max_tokens")),
            journal=self._folder.journal,
            encode=self._plan.encode,
            decode=lambda response, assembler: self._plan.decode(response, assembler, self._now()),
            assembler=self._plan.assembler,
            check=self._plan.check,
            counters=counters,
            wall_us=lambda: int(self._now().timestamp() * 1_000_000),
            spec=RetrySpec(
                max_attempts=job.retry.max_attempts,
                row_deadline_s=job.retry.row_deadline,
                repair=job.response.on_invalid == "retry",
                keep_raw=job.output.raw,
                run_id=self._run_id,
            ),
            stopping=lambda: runner.stopped is not None,
            away=lambda: runner.away(),  # noqa: PLW0108  (it is not there yet)
            masked=target.secrets.masked,
        )
        runner = Runner(
            feeder=feeder,
            renderer=self._plan.renderer,
            encode=self._plan.encode,
            place=placing.place,
            look_again=placing.look_again,
            asker=asker,
            known=KnownAnswers(
                journal=self._folder.journal,
                counters=counters,
                dedupe=job.response.dedupe,
                free=Priced(Decimal(0), self._layout.currency, self._layout.price_version),
                away=lambda: runner.away(),  # noqa: PLW0108  (it is not there yet)
            ),
            journal=self._folder.journal,
            layout=self._layout,
            counters=counters,
            workers=max(1, min(target.max_concurrency * _WORKERS_PER_SLOT, self._rows)),
            row_id=self._plan.row_id,
            run_id=self._run_id,
            grace_s=job.budget.grace,
            key_hint=self._key_hint(),
        )
        # There is no hurry: what is in flight was paid for, and an answer that is cut off counts at its worst case.
        budget.on_full = lambda: runner.stop(Stop(5, budget.refusal()), endpoint.total_timeout_s)
        meter = Meter(
            counters, lambda: limits_view(gate, target), self._layout.currency, lambda: budget.spend
        )
        feeder.start(done)
        try:
            async with (
                shown(meter, self._options.notes, name=job.name) as say,
                watching(Watchdog(counters, runner.sending, endpoint.idle_timeout_s), say),
                measured() as self._lag,
                shared_limits(self._plan, gate, self._run_id, chronicle.note),
                kept_live(self._folder, meter, self._metrics, chronicle, runner.fail),
            ):
                chronicle.lag = self._lag
                stopping.hand_to(runner, say)
                await runner.run()
        finally:
            await transport.aclose()
            await placing.close(delete=job.media.files == "delete" and feeder.exhausted)
        counters.sum_up()
        if runner.stopped is not None and runner.stopped.exit_code == 5:
            return Stop(5, budget.refusal())  # with what the last answers cost
        return runner.stopped

    def _key_hint(self) -> str:
        variable = key_variable(self._plan.job, self._plan.target.provider)
        if variable is None:
            return "no key was sent: name the variable that holds it as [model] api_key_env"
        return f"check the key in the environment variable {variable}, and that it is one of this region and plan"


def _number(headers: Mapping[str, str], wanted: str) -> float:
    said = next((value for name, value in headers.items() if name.lower() == wanted), "0")
    return float(said) if said.isdecimal() else 0.0
