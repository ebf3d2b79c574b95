"""Runs with a cap on the virtual clock: prices of the catalogue, a provider that bills what it likes within a request's bounds,
and kills that leave the folder as it was on disk at that moment.

The judge is the provider's own bill: what it drew for each request when it came, whether the answer was ever received.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from pipeline import catalog, pricing
from pipeline.records import Completion, FailureKind, Outcome, Prompt, Request, Response
from pipeline.runner import Runner
from pipeline.summary import Stop
from pipeline.vision_tokens import vision_rule
from pipeline.worst_case import WorstCase
from tests.support.clock import run_virtual
from tests.support.rig import Ran, Reply, Rig, lost, refusal

MODEL = "qwen-plus"
MAX_TOKENS = 200
AT_ONCE = 256


def _price() -> pricing.Price:
    found = pricing.price(catalog.load("dashscope"), MODEL, "realtime")
    assert found is not None
    return found


PRICE = pricing.WholePrice(_price())


def nano_cost(answer: Completion) -> int | None:
    usage = answer.usage
    return PRICE.nano_cost(
        usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.cache_write_tokens, False
    )


def costs(outcomes: Sequence[Outcome]) -> list[Decimal | None]:
    def cost(outcome: Outcome) -> Decimal | None:
        if outcome.completion is None:
            return None
        usages = [outcome.completion, *(Completion("", "stop", usage) for usage in outcome.earlier)]
        return pricing.from_nano(sum(nano_cost(one) or 0 for one in usages))

    return [cost(outcome) for outcome in outcomes]


@dataclass
class Biller:
    """A provider that answers, loses, refuses and stalls by chance. `billed` is what it will invoice, in billionths."""

    random: Random
    cap: int
    faults: float = 0.3
    billed: int = 0
    requests: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    on_wire: int = 0
    most_on_wire: int = 0

    async def send(self, request: Request, sink: object = None) -> Reply:
        self.on_wire += 1
        self.most_on_wire = max(self.most_on_wire, self.on_wire)
        try:
            return await self._answer(request)
        finally:
            self.on_wire -= 1

    async def _answer(self, request: Request) -> Reply:
        random = self.random
        self.requests += 1
        kind = "answered"
        if random.random() < self.faults:
            kind = random.choice(["timeout", "cut", "reset unbilled", "429", "503", "invalid", "no usage"])
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        # As dear as the request allows, now and then: the bound itself is held against the tokenizer elsewhere.
        prompt = len(request.body) if random.random() < 0.2 else random.randint(1, len(request.body))
        completion = MAX_TOKENS if random.random() < 0.2 else random.randint(0, MAX_TOKENS)
        if kind not in ("reset unbilled", "429", "503"):
            bill = PRICE.nano_cost(prompt, completion, None, None, False)
            assert bill is not None
            assert bill <= request.most_cost
            self.billed += bill
            assert self.billed <= self.cap, "the provider bills more than the cap"
        await asyncio.sleep(random.choice([0.05, random.random(), 20 * random.random()]))
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        said: dict[str, Callable[[], Reply]] = {
            "timeout": lambda: lost(FailureKind.TIMEOUT),
            "cut": lambda: lost(FailureKind.TRUNCATED_STREAM),
            "reset unbilled": lambda: lost(maybe_paid=False),
            "429": lambda: refusal(429, "limit_requests"),
            "503": lambda: refusal(503),
            "invalid": lambda: _answer("banana", usage),
            "no usage": lambda: _answer("good", None),
            "answered": lambda: _answer("good", usage),
        }
        return said[kind]()

    async def aclose(self) -> None:
        pass


def _answer(text: str, usage: dict[str, int] | None) -> Response:
    message = {"role": "assistant", "content": text}
    body: dict[str, Any] = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    if usage is not None:
        body["usage"] = usage
    return Response(200, {}, json.dumps(body).encode(), 1.0)


class SpendingRig(Rig):
    """A rig with the catalogue's prices and worst cases; the longest rows are ten times the shortest."""

    def write_rows(self) -> Path:
        path = self.folder / "rows.jsonl"
        if not path.exists():
            random = Random(self.rows)
            rows = (
                {"id": f"r{n}", "text": f"{n} " + "x" * random.randint(100, 1_000)} for n in range(self.rows)
            )
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path


def spending_rig(folder: Path, rows: int, cap: int) -> SpendingRig:
    model = catalog.load("dashscope").model(MODEL)
    return SpendingRig(
        folder=folder,
        rows=rows,
        rows_per_part=64,
        workers=2 * AT_ONCE,
        max_concurrency=AT_ONCE,
        labels=["good"],
        max_attempts=4,
        nano_cost=nano_cost,
        costs=costs,
        worst_case=WorstCase(_price(), model, vision_rule(None), strict=True).of,
        max_cost=cap,
        params={"max_tokens": MAX_TOKENS, "enable_thinking": False},
    )


@dataclass
class Story:
    """What one seeded story came to: a run that is killed some times, stopped by its cap, and let go on to its end."""

    kills: int
    billed: int
    spent: int
    cap: int
    unused: int
    dearest: int
    requests: int
    most_on_wire: int
    kinds: dict[str, int]


def story(folder: Path, seed: int, rows: int) -> Story:
    """Live through one story, and hold the bill against the cap at every request. Raises AssertionError."""
    random = Random(seed)
    one = spending_rig(folder, rows, 0)
    dearest = _dearest(one)
    # From a cap that few rows fit to one that most do; all in flight at their worst may be more than it.
    cap = one.max_cost = int(dearest * rows * random.uniform(0.02, 0.45)) + dearest
    biller = Biller(Random(seed + 1), cap)
    kills = 0
    for _ in range(random.randint(0, 4)):
        kills += _killed(one, biller, random.uniform(0.1, 12))
    ran = run_virtual(one.run(biller), max_virtual_s=10**6)
    spend = _spend(one)
    assert biller.billed <= spend <= cap
    stopped = ran.runner.stopped
    if stopped is None:
        assert one.whole()
    else:
        assert stopped.exit_code == 5, stopped
        assert cap - spend < dearest, "room was left for a row"
    found = Story(
        kills,
        biller.billed,
        spend,
        cap,
        cap - spend,
        dearest,
        biller.requests,
        biller.most_on_wire,
        dict(biller.kinds),
    )
    # Raised, it goes on to its end, and what was spent is still spent.
    one.max_cost = biller.cap = cap + 20 * dearest * rows
    ran = run_virtual(one.run(biller), max_virtual_s=10**6)
    assert ran.runner.stopped is None
    assert one.whole()
    assert spend + (biller.billed - found.billed) <= _spend(one)
    assert biller.billed <= _spend(one)
    return found


def _dearest(one: SpendingRig) -> int:
    one.write_rows()
    texts = [json.loads(line)["text"] for line in (one.folder / "rows.jsonl").read_text().splitlines()]
    # A repair repeats the prompt with the invalid answer and what was wrong with it.
    longest = max(texts, key=len) + "x" * 1_000
    prompt = Prompt(0, "r", [{"role": "user", "content": f"Say: {longest}"}], one.params)
    return one.encode(prompt).most_cost


def _spend(one: Rig) -> int:
    folder = one.open()
    try:
        return sum(folder.journal.spend())
    finally:
        folder.release()


def _killed(one: SpendingRig, biller: Biller, after_s: float) -> bool:
    """A life that is killed after so long; what it does afterwards never was. Whether it was still alive then."""
    left = one.folder / "as it was"
    shutil.rmtree(left, ignore_errors=True)

    def during(runner: Runner) -> None:
        def kill() -> None:
            shutil.copytree(one.out, left)
            runner.stop(Stop(137, "killed"), 0.0)
            runner.cut()

        asyncio.get_running_loop().call_later(after_s, kill)

    ran: Ran = run_virtual(one.run(biller, during=during), max_virtual_s=10**6)
    if not left.exists():
        return False
    assert ran.runner.stopped is not None
    shutil.rmtree(one.out)
    left.rename(one.out)
    return True
