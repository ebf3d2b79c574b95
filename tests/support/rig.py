"""All of a run but the wire and the command line: real rows, journal, gate and parts; the test brings a transport.

Only what several tests build alike lives here; what must come of it stands in the tests. Times are the running loop's,
so a rig runs on the virtual clock.
"""

import asyncio
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from pipeline.answers import KnownAnswers, read_outcomes
from pipeline.budget import Budget, BudgetSpec
from pipeline.dataset import Dataset, open_dataset
from pipeline.expectation import Expectation
from pipeline.failures import Dialect
from pipeline.feeder import Again, Feeder
from pipeline.gate import Limits
from pipeline.jobspec import PromptSection
from pipeline.journal import Journal
from pipeline.limits import LocalGate
from pipeline.parts import InputColumn, Layout, part_name
from pipeline.progress import Counters
from pipeline.protocol import compatible
from pipeline.protocol.assemble import Assembler
from pipeline.protocol.wire import Compatible
from pipeline.records import (
    Completion,
    Failure,
    FailureKind,
    Outcome,
    Priced,
    Prompt,
    Request,
    Response,
    Row,
    Status,
)
from pipeline.render import Renderer
from pipeline.response import AnswerCheck
from pipeline.retry import Asker, RetrySpec
from pipeline.run_folder import Identity, RunFolder, sum_parts
from pipeline.runner import Runner
from pipeline.storage import RESULTS, Disk, LocalFiles
from pipeline.summary import Stop
from pipeline.totals import Costs, PartRecord
from pipeline.transport import Sink, Transport

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GRACE_S = 30.0
UNTIMED = ["started_at", "latency_ms", "first_token_ms", "queue_ms", "run_id"]
Reply = Response | Failure
Script = Callable[[str, int], Awaitable[Reply]]


def answer(text: str = "positive", *, finish: str = "stop", prompt_tokens: int = 10) -> Response:
    """A whole answer; it bills two tokens besides the prompt's."""
    body = {
        "id": "chat-1",
        "model": "served",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 2,
            "total_tokens": prompt_tokens + 2,
        },
    }
    return Response(200, {}, json.dumps(body).encode(), 1.0)


def refusal(status: int, code: str = "some_code", message: str = "no") -> Response:
    error = {"error": {"code": code, "message": message}}
    return Response(status, {}, json.dumps(error).encode(), 1.0)


def lost(kind: FailureKind = FailureKind.TRANSPORT, **more: Any) -> Failure:
    """What a transport says of a request that got no answer."""
    said = {"code": "reset", "message": "the connection was reset", "maybe_paid": True}
    return Failure(kind, **(said | more))


@dataclass
class FakeTransport:
    """A `Transport` played by a script of (row id, how many requests of this row so far, from 1)."""

    script: Script
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    on_wire: int = 0
    most_on_wire: int = 0

    async def send(self, request: Request, sink: Sink | None = None) -> Reply:
        self.asked[request.row_id] += 1
        self.bodies.append(json.loads(request.body))
        self.on_wire += 1
        self.most_on_wire = max(self.most_on_wire, self.on_wire)
        try:
            return await self.script(request.row_id, self.asked[request.row_id])
        finally:
            self.on_wire -= 1

    async def aclose(self) -> None:
        pass


async def _placed(prompt: Prompt) -> Prompt:
    return prompt


def always(reply: Reply) -> FakeTransport:
    async def script(row_id: str, nth: int) -> Reply:
        return reply

    return FakeTransport(script)


def playing(*replies: Reply) -> FakeTransport:
    """Each row gets these replies in turn; the last one repeats."""

    async def script(row_id: str, nth: int) -> Reply:
        return replies[min(nth, len(replies)) - 1]

    return FakeTransport(script)


def tenth_of_a_cent_a_token(outcomes: Sequence[Outcome]) -> list[Decimal | None]:
    """The total tokens of all answers, priced; None where there is no answer."""
    one = Decimal("0.001")
    return [
        sum((one * (usage.total_tokens or 0) for usage in (o.completion.usage, *o.earlier)), Decimal(0))
        if o.completion
        else None
        for o in outcomes
    ]


def nano_cost(answer: Completion) -> int:
    """The same price, in billionths."""
    return 1_000_000 * (answer.usage.total_tokens or 0)


class Ran(NamedTuple):
    """What a run came to. `taken` are the attempts an earlier run left open, `damage` what was found damaged."""

    runner: Runner
    counters: Counters
    taken: int
    asker: Asker
    damage: list[str]


@dataclass(kw_only=True)
class Rig:
    """A job over `rows` rows with the ids r0, r1, ... in the folder; `journal` may be a test's own class,
    `at` the run folder, else it lies beside the rows."""

    folder: Path
    rows: int = 12
    rows_per_part: int = 4
    workers: int = 3
    labels: list[str] | None = None
    inputs: tuple[str, ...] = ("text",)
    raw: bool = False
    max_attempts: int = 6
    row_deadline_s: float = 600.0
    repair: bool = True
    dedupe: bool = False
    retry: frozenset[Status] = frozenset()
    stream: bool = False
    requests_per_minute: float | None = None
    max_concurrency: int = 100
    journal: Callable[[Path], Journal] = Journal
    durable: bool = False
    disk: Disk | None = None
    at: Path | None = None
    costs: Costs = tenth_of_a_cent_a_token
    nano_cost: Callable[[Completion], int | None] = nano_cost
    worst_case: Callable[[Prompt, bytes], int] = lambda prompt, body: 0
    max_cost: int | None = None  # in billionths
    params: dict[str, Any] = field(default_factory=lambda: {"temperature": 0})

    def __post_init__(self) -> None:
        self.out = self.at or self.folder / "run"

    @property
    def results(self) -> LocalFiles:
        return LocalFiles(self.out / RESULTS, self.disk)

    def part(self, number: int) -> Path:
        return self.results.folder / part_name(number)

    def write_rows(self) -> Path:
        path = self.folder / "rows.jsonl"
        if not path.exists():
            rows = ({"id": f"r{n}", "text": f"text {n}"} for n in range(self.rows))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def dataset(self) -> Dataset:
        return open_dataset(str(self.write_rows()), base=self.folder)

    def layout(self) -> Layout:
        check = AnswerCheck(labels=self.labels)
        return Layout(
            results=self.results,
            rows_per_part=self.rows_per_part,
            inputs=tuple(InputColumn(name, name, pa.string()) for name in self.inputs),
            answer_fields=tuple(check.fields()),
            carry=str,
            costs=self.costs,
            currency="CNY",
            price_version="today",
            route="realtime",
            raw=self.raw,
            fingerprint=self.identity().fingerprint,
        )

    def identity(self) -> Identity:
        return Identity({"params": "p"}, self.dataset().fingerprint())

    def open(self) -> RunFolder:
        """The run folder as a run opens it, with this rig's kind of journal."""
        folder = RunFolder(self.out, started=NOW, durable=self.durable, disk=self.disk)
        try:
            if self.journal is not Journal:
                folder.journal.close()
                folder.journal = self.journal(self.out)
            folder.journal.write_manifest(
                {
                    **self.identity().to_manifest(),
                    "rows_per_part": str(self.rows_per_part),
                    "rows": str(self.rows),
                }
            )
        except sqlite3.Error:
            folder.release()
            raise
        return folder

    async def run(self, transport: Transport, *, during: Callable[[Runner], None] = lambda _: None) -> Ran:
        """Run or resume, as the engine does; `during` gets the runner before it starts. Raises what the run raises."""
        folder, layout = self.open(), self.layout()
        try:
            taken = folder.journal.take_open_attempts()
            parts = folder.parts(layout, self.rows)
            ran = self.build(folder.journal, layout, transport, parts)
            during(ran.runner)
            await ran.runner.run()
            ran.counters.sum_up()
            return ran._replace(taken=taken, damage=folder.damage)
        finally:
            folder.release()

    def build(
        self, journal: Journal, layout: Layout, transport: Transport, parts: dict[int, PartRecord]
    ) -> Ran:
        """The runner and what it works with, over an open journal; the feeder is started."""
        counters = Counters(self.rows, sum_parts(list(parts.values())), self.costs)
        for kept in journal.open_outcomes():
            counters.totals.add(kept, self.costs(kept))
        to_open = self.to_open(journal, parts)
        feeder = self.feeder(journal, counters, to_open)
        renderer = Renderer(PromptSection(user="Say: {{ text }}"), self.params, row_id)
        loop = asyncio.get_running_loop()
        limits = Limits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=None,
            max_concurrency=self.max_concurrency,
        )
        spec = BudgetSpec(
            cap=self.max_cost,
            currency="CNY",
            cost=self.nano_cost,
            month=lambda: 202601,
            note=journal.add_spent,
        )
        budget = Budget(spec, journal.spent.sums())
        budget.on_full = lambda: runner.stop(Stop(5, budget.refusal()), self.row_deadline_s)
        asker = Asker(
            transport=transport,
            gate=LocalGate(limits),
            budget=budget,
            expectation=Expectation(2),
            journal=journal,
            encode=self.encode,
            decode=self.decode,
            assembler=lambda _: Compatible().assembler({}) if self.stream else None,
            check=AnswerCheck(labels=self.labels),
            counters=counters,
            wall_us=lambda: int(loop.time() * 1_000_000),
            spec=RetrySpec(
                max_attempts=self.max_attempts,
                row_deadline_s=self.row_deadline_s,
                repair=self.repair,
                keep_raw=self.raw,
                run_id="this-run",
            ),
            stopping=lambda: runner.stopped is not None,
            away=lambda: runner.away(),  # noqa: PLW0108  (it is not there yet)
        )
        runner = Runner(
            place=_placed,
            look_again=lambda files: None,
            feeder=feeder,
            renderer=renderer,
            encode=self.encode,
            asker=asker,
            known=KnownAnswers(
                journal=journal,
                counters=counters,
                dedupe=self.dedupe,
                free=Priced(Decimal(0), "CNY", "today"),
                away=lambda: runner.away(),  # noqa: PLW0108  (it is not there yet)
            ),
            journal=journal,
            layout=layout,
            counters=counters,
            workers=self.workers,
            grace_s=GRACE_S,
            row_id=row_id,
            run_id="this-run",
        )
        feeder.start(parts.keys() - to_open.keys())
        return Ran(runner, counters, 0, asker, [])

    def to_open(self, journal: Journal, parts: dict[int, PartRecord]) -> dict[int, PartRecord]:
        """The parts that are to be written anew, as the engine finds them."""
        begun = journal.reopened()
        return {n: p for n, p in parts.items() if n in begun or not self.retry.isdisjoint(p.totals["status"])}

    def feeder(self, journal: Journal, counters: Counters, to_open: dict[int, PartRecord]) -> Feeder:
        read = lambda number: read_outcomes(self.results.read(part_name(number)))  # noqa: E731
        return Feeder(self.dataset(), self.layout(), journal, counters, Again(self.retry, to_open, read))

    def encode(self, prompt: Prompt) -> Request:
        body = compatible.encode("m", prompt.messages, prompt.params, self.stream)
        key = hashlib.blake2b(body, digest_size=8).hexdigest()
        return Request(prompt.index, prompt.row_id, key, body, len(body) // 4, self.worst_case(prompt, body))

    def decode(self, response: Response, assembler: Assembler | None) -> Completion | Failure:
        if assembler is not None:
            return assembler.finish(response, Dialect.GENERIC, NOW)
        return compatible.decode(response, Dialect.GENERIC, NOW)

    def frame(self) -> pl.DataFrame:
        """All parts there are, read as a user reads them, at any moment."""
        return pl.scan_parquet(self.out / "results" / "*.parquet").collect()

    def content(self) -> pl.DataFrame:
        """What does not depend on time or on the run."""
        return self.frame().drop(UNTIMED)

    def whole(self) -> bool:
        """Whether each row stands in the parts once, in input order."""
        return self.frame()["row_id"].to_list() == [f"r{n}" for n in range(self.rows)]


def row_id(row: Row) -> str | None:
    found = row.columns.get("id")
    return found if isinstance(found, str) else None


def outcome(index: int, status: Status = Status.OK, **more: Any) -> Outcome:
    """A settled row of little content."""
    return Outcome(index=index, row_id=f"r{index}", status=status, **({"attempts": 1} | more))
