"""An estimate: what is known stands exactly, what is judged holds, what is not known is said to be unknown."""

import io
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline import catalog
from pipeline.errors import JobError, RunFolderError
from pipeline.estimate import (
    Estimate,
    as_json,
    count_all,
    count_some,
    judge,
    options_of,
    read_other,
    read_own,
)
from pipeline.estimate.judging import Known
from pipeline.estimate.options import Option
from pipeline.estimate.page import page_of
from pipeline.estimate.progress import counting_bar
from pipeline.estimate.settled import FIGURES, Seen, Settled
from pipeline.estimate.tables import tables_of
from pipeline.plan import Plan
from pipeline.pricing import price
from pipeline.records import Failure, Request, Response
from pipeline.report.terminal import show
from pipeline.sampling import Interval
from pipeline.simulator.answers import answer as simulated
from pipeline.tokens import count_messages, count_text
from tests.support import whole_runs
from tests.support.jobs import plan as planned
from tests.support.rig import FakeTransport, always, answer, refusal
from tests.support.whole_runs import write_rows

JOB = whole_runs.JOB
PRICED = (
    "model.provider=dashscope",
    "model.name=qwen-plus",
    "model.base_url=http://127.0.0.1:9/v1",
    # No ramp: what is tried here is not the pace.
    "limits.requests_per_minute=100000000",
    "limits.tokens_per_minute=100000000000",
)
WORDS = ["the", "parcel", "came", "late", "and", "nobody", "could", "say", "why", "it", "had", "been", "left"]


def rows_of(count: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {"text": " ".join(rng.choices(WORDS, k=max(2, int(rng.lognormvariate(4, 1)))))} for _ in range(count)
    ]


class Talking(FakeTransport):
    """Answers at a length that follows the prompt's, as the simulator does, and bills as the provider does."""

    def __init__(self) -> None:
        super().__init__(always(refusal(500)).script)

    async def send(self, request: Request, sink: object = None) -> Response | Failure:
        self.asked[request.row_id] += 1
        messages = json.loads(request.body)["messages"]
        return answer_of(messages)


def answer_of(messages: list[dict[str, Any]]) -> Response:
    prompt, completion = tokens_of(messages[-1]["content"])
    body = {
        "id": "chat-1",
        "model": "served",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "said"}}
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }
    return Response(200, {}, json.dumps(body).encode(), 40.0)


@cache
def tokens_of(text: str) -> tuple[int, int]:
    """What the provider would bill for this prompt, and for the simulator's answer to it."""
    prompt = count_messages([{"role": "user", "content": text}])
    return prompt, count_text(simulated([text], None, prompt, random.Random(text)))


def plan_of(folder: Path, *overrides: str) -> Plan:
    return planned(folder, *PRICED, *overrides, text=JOB)


def estimated(folder: Path, *overrides: str, other: Path | None = None, **more: Any) -> Estimate:
    """An estimate of the job in the folder, as the command makes it; `more`: `sample`, `limit`, `compare`."""
    plan = plan_of(folder, *overrides)
    options = options_of(plan, more.get("compare", ()), catalog.load)
    limit, sample = more.get("limit"), more.get("sample")
    population = (
        count_all(plan, limit=limit)
        if sample is None
        else count_some(plan, sample, limit=limit, seed=more.get("seed", 0))
    )
    return judge(
        Known(
            plan=plan,
            population=population,
            options=options,
            own=read_own(plan, options, limit=limit),
            other=None if other is None else read_other(plan, other, options),
            other_folder=None if other is None else str(other),
        )
    )


def run(folder: Path, transport: FakeTransport, *overrides: str, **options: Any) -> Any:
    return whole_runs.run(folder, transport, *PRICED, *overrides, **options)


def pilot(folder: Path, count: int, *overrides: str, seed: int = 0) -> Any:
    drawn = count_all(plan_of(folder, *overrides), limit=None).draw(count, seed)
    return run(folder, Talking(), *overrides, pilot=drawn)


def shown(estimate: Estimate) -> str:
    stream = io.StringIO()
    show(tables_of(estimate), stream)
    return stream.getvalue()


# What is known


def test_without_answers_the_prompts_are_known_and_the_most_is_said_to_be_the_most(tmp_path: Path) -> None:
    write_rows(tmp_path, {"text": "a"}, {"text": "b c"})
    found = estimated(tmp_path, "params.max_tokens=10")
    tokens = sum(count_messages([{"role": "user", "content": f"Say: {text}"}]) for text in ("a", "b c"))
    assert found.input == Interval.exactly(tokens)
    assert (found.output, found.costs[0].expected, found.source.kind) == (None, None, "none")
    assert found.requests == Interval.exactly(2)
    most = 10 + 16  # an answer may overrun by that
    assert found.most_output == 2 * most
    # qwen-plus in Beijing: 0.8 CNY in, 8 out where it may think, else 2; the dearer one counts.
    assert found.costs[0].most == tokens * 800 + 2 * most * 8_000
    assert found.costs[0].least == tokens * 800
    text = shown(found)
    assert "not known: only the most that they can come to" in text
    assert "At most: every answer as long as" in text and "--pilot 100" in text


def test_without_a_bound_no_most_is_made_up(tmp_path: Path) -> None:
    write_rows(tmp_path, {"text": "a"})
    found = estimated(tmp_path, "model.name=qwen3.7-plus", "params.enable_thinking=true")
    assert (found.most_output, found.costs[0].most) == (None, None)
    assert "enable_thinking" not in shown(found)


def test_a_whole_run_is_known_to_the_last_digit(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(30))
    assert pilot(tmp_path, 12).done == 12
    summary = run(tmp_path, Talking())
    found = estimated(tmp_path, compare=["qwen-flash"])
    exact = Interval.exactly
    assert found.input == exact(summary.tokens["prompt_tokens"])
    assert found.output == exact(summary.tokens["completion_tokens"])
    assert found.costs[0].expected == exact(float(Decimal(summary.cost) * 10**9))
    assert (found.paid, found.settled) == (int(Decimal(summary.cost) * 10**9), 30)
    assert found.most_output == summary.tokens["completion_tokens"]
    assert found.costs[0].time_s == 0
    batch = next(cost for cost in found.costs if cost.route == "batch-file" and cost.model == "qwen-plus")
    assert batch.expected is not None
    assert batch.expected.value == pytest.approx(found.costs[0].expected.value / 2, abs=30)


def test_rows_that_cannot_be_sent_and_identical_ones_cost_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, {"text": "a"}, {"text": None}, {"text": "a"}, {"text": "b"})
    found = estimated(tmp_path, "response.dedupe=true")
    assert (found.rows, found.unsendable, found.repeated) == (4, Interval.exactly(1), 1)
    assert found.requests == Interval.exactly(2)
    assert found.problems[0].startswith("rows.jsonl:2")
    assert "1 share the answer of an identical prompt" in shown(found)


def test_a_limit_estimates_the_first_rows_alone(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(30))
    summary = run(tmp_path, Talking())
    found = estimated(tmp_path, limit=10)
    assert (found.rows, found.settled, summary.done) == (10, 10, 30)
    prompts = [tokens_of(f"Say: {row['text']}") for row in rows_of(30)[:10]]
    assert found.output == Interval.exactly(sum(completion for _, completion in prompts))


# What is judged


def test_a_pilot_tells_what_the_whole_run_then_costs(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(200))
    asked = pilot(tmp_path, 60)
    found = estimated(tmp_path)
    assert (found.source.kind, found.source.rows, found.settled) == ("pilot", 60, 60)
    assert found.paid == int(Decimal(asked.cost) * 10**9)
    assert found.failed_share == 0
    rest = run(tmp_path, Talking())
    assert (rest.sent, rest.done) == (140, 200)
    actual = float(Decimal(rest.cost) * 10**9)
    cost, output = found.costs[0].expected, found.output
    assert cost is not None and output is not None
    assert cost.low <= actual <= cost.high
    assert output.low <= rest.tokens["completion_tokens"] <= output.high
    assert cost.high - cost.low < 0.35 * actual
    assert found.requests == Interval.exactly(200)


def truths(plan: Plan, rows: Sequence[dict[str, Any]], options: Sequence[Option]) -> list[Seen]:
    """Every row's figures, had it been asked."""
    seen = []
    for index, row in enumerate(rows):
        prompt, completion = tokens_of(f"Say: {row['text']}")
        costs = [
            option.whole.nano_cost(prompt, completion, 0, None, 0) or 0 for option in options if option.whole
        ]
        seen.append(Seen(index, prompt, [prompt, completion, 0, 0, 1, 0, 40, *costs]))
    return seen


def test_the_interval_holds_the_cost_in_at_least_18_of_20_pilots(tmp_path: Path) -> None:
    rows = rows_of(900, seed=4)
    write_rows(tmp_path, *rows)
    plan = plan_of(tmp_path)
    options = options_of(plan, (), catalog.load)
    population = count_all(plan, limit=None)
    truth = truths(plan, rows, options)
    actual = sum(one.figures[len(FIGURES)] for one in truth)
    held, widths = 0, []
    for seed in range(20):
        settled = Settled(
            sums=[0] * (len(FIGURES) + len(options)),
            pilot=[truth[index] for index in population.draw(100, seed)],
        )
        cost = judge(Known(plan=plan, population=population, options=options, own=settled)).costs[0].expected
        assert cost is not None
        held += cost.low <= actual <= cost.high
        widths.append((cost.high - cost.low) / actual)
    assert held >= 18
    assert sum(widths) / 20 < 0.2


def test_a_pilot_stays_a_draw_when_the_run_goes_on_and_stops(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(200))
    pilot(tmp_path, 40)

    class Tired(Talking):
        async def send(self, request: Request, sink: object = None) -> Response | Failure:
            return refusal(401) if int(request.row_id) >= 100 else await super().send(request)

    stopped = run(tmp_path, Tired(), "limits.max_concurrency=1")
    found = estimated(tmp_path)
    assert found.settled == stopped.done > 100
    assert found.source.rows == 40
    actual = float(Decimal(run(tmp_path, Talking()).cost) * 10**9)
    cost = found.costs[0].expected
    assert cost is not None
    assert cost.low <= actual <= cost.high
    assert cost.low >= found.paid


def test_rows_a_run_settled_are_judged_by_and_said_to_be_no_draw(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(200))
    run(tmp_path, Talking(), limit=80)
    found = estimated(tmp_path)
    assert (found.source.kind, found.source.rows) == ("settled", 80)
    assert any("not drawn at random" in note for note in found.notes)
    whole = sum(sum(tokens_of(f"Say: {row['text']}")) for row in rows_of(200))
    assert found.output is not None
    assert found.input.value + found.output.value == pytest.approx(whole, rel=0.15)


def test_a_changed_jobs_answers_are_judged_by_and_not_taken_for_known(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(100))
    run(tmp_path, Talking())
    found = estimated(tmp_path, "params.temperature=1")
    assert (found.settled, found.source.kind) == (0, "settled")
    assert any("before the change of params" in note for note in found.notes), found.notes
    assert found.output is not None and found.output.low < found.output.value < found.output.high


def test_another_run_is_judged_by_where_it_is_named(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, seed in ((old, 3), (new, 4)):
        folder.mkdir()
        write_rows(folder, *rows_of(200, seed))
    run(old, Talking())
    found = estimated(new, other=old / "out")
    assert (found.source.kind, found.source.rows, found.settled) == ("run", 200, 0)
    plan = plan_of(new)
    options = options_of(plan, (), catalog.load)
    actual = sum(one.figures[len(FIGURES)] for one in truths(plan, rows_of(200, 4), options))
    cost = found.costs[0].expected
    assert cost is not None
    assert cost.low <= actual <= cost.high
    with pytest.raises(RunFolderError, match="not a run folder"):
        estimated(new, other=tmp_path)


def test_failed_rows_and_retries_are_in_the_figures(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(60))

    class Failing(Talking):
        async def send(self, request: Request, sink: object = None) -> Response | Failure:
            if int(request.row_id) % 3 == 0:
                self.asked[request.row_id] += 1
                return refusal(400, "invalid_parameter_error")
            first = self.asked[request.row_id] == 0 and int(request.row_id) % 3 == 1
            said = await super().send(request)
            return refusal(503) if first else said

    drawn = count_all(plan_of(tmp_path), limit=None).draw(30, 0)
    run(tmp_path, Failing(), "retry.max_attempts=2", pilot=drawn)
    found = estimated(tmp_path, "retry.max_attempts=2")
    by_rest = Counter(index % 3 for index in drawn)
    assert found.failed_share == pytest.approx(by_rest[0] / 30)
    assert found.requests.low < 60 + 60 * by_rest[1] / 30 < found.requests.high
    assert "of the rows looked at failed" in shown(found)


def test_reasoning_is_a_part_of_the_output_at_its_own_price(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(40))

    class Thinking(Talking):
        async def send(self, request: Request, sink: object = None) -> Response | Failure:
            said = await super().send(request)
            assert isinstance(said, Response)
            body = json.loads(said.body)
            body["usage"]["completion_tokens_details"] = {"reasoning_tokens": 7}
            return replace(said, body=json.dumps(body).encode())

    params = "params.enable_thinking=true"
    drawn = count_all(plan_of(tmp_path, params), limit=None).draw(20, 0)
    run(tmp_path, Thinking(), params, pilot=drawn)
    found = estimated(tmp_path, params)
    assert found.reasoning is not None and found.output is not None
    assert found.reasoning.value == pytest.approx(7 * 40)
    expected = found.input.value * 800 + found.output.value * 8_000
    assert found.costs[0].expected is not None
    assert found.costs[0].expected.value == pytest.approx(expected)
    assert "reasoning tokens, of them" in shown(found)


# Some prompts counted


def test_a_sample_of_the_counts_has_its_interval(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(600))
    actual = estimated(tmp_path).input.value
    held = 0
    for seed in range(20):
        found = estimated(tmp_path, sample=80, seed=seed)
        assert found.counted == 80
        held += found.input.low <= actual <= found.input.high
        assert found.input.high - found.input.low < 0.02 * actual
    assert held >= 18
    assert "80 prompts counted" in shown(found)


def test_a_sample_goes_with_a_pilot(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(150))
    drawn = count_some(plan_of(tmp_path), 50, limit=None, seed=0).draw(60, 0)
    run(tmp_path, Talking(), pilot=drawn)
    found = estimated(tmp_path, sample=50)
    assert found.source.rows == 60
    actual = float(Decimal(run(tmp_path, Talking()).cost) * 10**9)
    cost = found.costs[0].expected
    assert cost is not None
    assert cost.low <= actual <= cost.high


def test_a_sample_finds_rows_that_cannot_be_sent(tmp_path: Path) -> None:
    rows = [*rows_of(150), *({"text": None} for _ in range(50))]
    write_rows(tmp_path, *rows)
    found = estimated(tmp_path, sample=100)
    assert found.unsendable.low <= 50 <= found.unsendable.high
    assert found.requests.low <= 150 <= found.requests.high
    with pytest.raises(JobError, match="dedupe"):
        estimated(tmp_path, "response.dedupe=true", sample=100)


# Money and time


def test_each_route_has_its_price_and_its_way(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(50))
    found = estimated(tmp_path, compare=["qwen-flash", "openai/gpt-5"])
    named = [(cost.provider, cost.model, cost.route) for cost in found.costs]
    assert named[:3] == [
        ("dashscope", "qwen-plus", route) for route in ("realtime", "batch-chat", "batch-file")
    ]
    assert ("dashscope", "qwen-flash", "realtime") in named
    assert ("openai", "gpt-5", "realtime") in named
    assert {cost.currency for cost in found.costs if cost.provider == "openai"} == {"USD"}
    batch = found.costs[2]
    assert (batch.time_s, batch.bound_by) == (None, None)
    assert any("within 24 hours" in note for note in batch.notes)
    assert any("another tokenizer" in note for note in found.costs[-1].notes)
    for one, other in zip(found.costs[0:1], found.costs[1:2], strict=True):
        assert other.least == one.least / 2


def test_the_narrowest_limit_gives_the_time(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(100))
    found = estimated(tmp_path, "limits.requests_per_minute=20", "limits.tokens_per_minute=1000000")
    assert (found.costs[0].time_s, found.costs[0].bound_by) == (300, "20 requests a minute")
    found = estimated(tmp_path, "limits.tokens_per_minute=1000")
    assert found.costs[0].time_s == pytest.approx(found.input.value / 1000 * 60)
    assert found.costs[0].bound_by == "1,000 tokens a minute, answers left out"
    plan = plan_of(tmp_path, "limits.max_concurrency=1")
    options = options_of(plan, (), catalog.load)
    population = count_all(plan, limit=None)
    truth = truths(plan, rows_of(100), options)  # 40 ms each
    settled = Settled(
        sums=[0] * (len(FIGURES) + len(options)), pilot=[truth[index] for index in population.draw(20, 0)]
    )
    slow = judge(Known(plan=plan, population=population, options=options, own=settled)).costs[0]
    assert (slow.time_s, slow.bound_by) == (pytest.approx(80 * 0.04), "1 in flight")


def test_a_batch_breaks_even_where_the_cache_saves_as_much(tmp_path: Path) -> None:
    # Long prompts and short answers: the cache's discount on input can beat half the price.
    write_rows(tmp_path, *({"text": f"{n} " + "long " * 2_000} for n in range(30)))
    run(tmp_path, always(answer(prompt_tokens=2_000)), pilot=list(range(20)))
    found = estimated(tmp_path)
    even = found.break_even[0]
    assert even.route == "batch-chat"
    provider = catalog.load("dashscope")
    realtime, batch = (price(provider, "qwen-plus", route) for route in ("realtime", "batch-chat"))
    assert realtime is not None and batch is not None and even.cached_share is not None
    rate, half = realtime.rates[0], batch.rates[0]
    prompt, completion = found.input.value, 60
    cached = prompt * even.cached_share
    assert rate.implicit_hit is not None
    there = float(half.input) * prompt + float(half.output) * completion
    here = (
        float(rate.input) * (prompt - cached)
        + float(rate.implicit_hit) * cached
        + float(rate.output) * completion
    )
    assert here == pytest.approx(there, rel=1e-3)
    assert f"while less than {even.cached_share:.1%} of the prompt tokens are cached" in shown(found)


def test_where_answers_cost_most_no_cache_beats_a_batch(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(60))
    pilot(tmp_path, 20, "params.enable_thinking=false")
    found = estimated(tmp_path, "params.enable_thinking=false")
    assert [one.cached_share for one in found.break_even] == [None, None]
    assert "batch-chat and batch-file are cheaper than realtime whatever share" in shown(found)


def test_a_model_without_a_price_has_tokens_and_no_cost(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(5))
    plan = planned(tmp_path, text=JOB)
    options = options_of(plan, ["dashscope/qwen-plus"], catalog.load)
    found = judge(
        Known(
            plan=plan,
            population=count_all(plan, limit=None),
            options=options,
            own=read_own(plan, options, limit=None),
        )
    )
    assert found.input.value > 0
    assert (found.costs[0].currency, found.costs[0].most, found.paid) == (None, None, None)
    assert found.costs[1].least is not None
    assert any("no price is known for m at compatible" in note for note in found.notes)
    assert any("a tokenizer that is not known here" in note for note in found.notes)
    assert as_json(found)["costs"][0]["cost"] is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("qwen-pluss", "did you mean 'qwen-plus'"),
        ("local/smollm", "local has no prices"),
        ("zzz", "provider/name"),
    ],
)
def test_a_model_to_compare_that_has_no_price_is_refused(tmp_path: Path, name: str, hint: str) -> None:
    write_rows(tmp_path, {"text": "a"})
    with pytest.raises(JobError, match=hint):
        options_of(plan_of(tmp_path), [name], catalog.load)


def test_more_rows_than_there_are_cannot_be_drawn(tmp_path: Path) -> None:
    write_rows(tmp_path, {"text": "a"}, {"text": None})
    with pytest.raises(JobError, match=r"2 rows cannot be drawn: 1 of the dataset's 2 rows become requests"):
        count_all(plan_of(tmp_path), limit=None).draw(2, 0)


# How it is shown


def test_the_page_holds_the_tables_and_runs_nothing_of_the_datasets(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(40), {"text": None})
    pilot(tmp_path, 20)
    found = replace(estimated(tmp_path), job="<script>alert(1)</script>")
    page = page_of(found, whole_runs.now())
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    for text in (
        "batch-file",
        "output tokens",
        "cannot be sent: rows.jsonl:41",
        "judged by a pilot of 20 rows",
    ):
        assert text in page


def test_the_json_form_holds_every_figure(tmp_path: Path) -> None:
    write_rows(tmp_path, *rows_of(40))
    pilot(tmp_path, 20)
    said = json.loads(json.dumps(as_json(estimated(tmp_path))))
    assert said["source"] == {"kind": "pilot", "rows": 20, "folder": None}
    assert set(said["tokens"]) == {"input", "output", "reasoning", "most_output"}
    assert Decimal(said["costs"][0]["cost"]["low"]) < Decimal(said["costs"][0]["cost"]["high"])
    assert said["costs"][0]["own"] is True


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_counting_shows_a_bar_on_a_terminal_and_a_line_now_and_then_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    with counting_bar(whole_runs.notes(terminal), "counting prompts", 200) as told:
        told(100, 5_000)
        told(200, 9_000)
    assert "counting prompts" in terminal.getvalue()
    assert "200/200" in terminal.getvalue()
    times = iter([0.0, 5.0, 11.0, 12.0])
    with counting_bar(whole_runs.notes(pipe), "counting prompts", 200, clock=lambda: next(times)) as told:
        told(50, 1_000)
        told(100, 2_000)
        told(150, 3_000)
    assert pipe.getvalue() == "counting prompts: 100/200 rows, 2,000 tokens\n"
    quiet = io.StringIO()
    with counting_bar(whole_runs.notes(quiet, quiet=True), "counting prompts", 200) as told:
        told(100, 1)
    assert quiet.getvalue() == ""
