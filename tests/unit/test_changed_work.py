"""A folder whose job or dataset changed: what was asked as it is asked now is not asked again, and nothing mixes."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.records import Status
from pipeline.storage import Disk
from tests.support.rig import FakeTransport, Reply, always, answer, refusal
from tests.support.whole_runs import notes, run, texts, write_rows

PRICED = (
    "model.provider='dashscope'",
    "model.name='qwen-plus'",
    "model.base_url='http://127.0.0.1:9/v1'",
)
Rows = list[dict[str, Any]]


def echo() -> FakeTransport:
    """Answers each prompt with its own words, so that an answer at the wrong row shows."""

    async def script(row_id: str, nth: int) -> Reply:
        said = transport.bodies[-1]["messages"][-1]["content"]
        return answer(f"you said: {said}")

    transport = FakeTransport(script)
    return transport


def results(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "out" / "results")


def assert_answers_fit(folder: Path, rows: Rows, *, template: str = "Say: {}") -> None:
    frame = results(folder)
    assert frame["text"].to_list() == [row["text"] for row in rows]
    assert frame["content"].to_list() == [f"you said: {template.format(row['text'])}" for row in rows]
    assert frame["input_index"].to_list() == list(range(len(rows)))


def changed(*, at: int | None = None, to: str = "new") -> Callable[[Rows], Rows]:
    return lambda rows: [{"text": to} if place == at else row for place, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "sent", "what"),
    [
        (lambda rows: [*rows, {"text": "new"}], 1, ["the dataset's files"]),
        (lambda rows: [{"text": "new"}, *rows], 1, ["the dataset's files"]),
        (changed(at=3), 1, ["the dataset's files"]),
        (lambda rows: rows[::-1], 0, ["the dataset's files"]),
        (lambda rows: rows[:2] + rows[3:], 0, ["the dataset's files"]),
        (lambda rows: [], 0, ["the dataset's files"]),
        (changed(), 0, []),
    ],
    ids=[
        "a row at the end",
        "a row before all",
        "a row edited",
        "another order",
        "a row less",
        "none",
        "nothing",
    ],
)
def test_a_changed_dataset_pays_for_what_is_new_alone(
    tmp_path: Path, change: Callable[[Rows], Rows], sent: int, what: list[str]
) -> None:
    before = texts(10)
    write_rows(tmp_path, *before)
    assert run(tmp_path, echo()).sent == 10
    after = change(before)
    if after != before:
        write_rows(tmp_path, *after)
    again = run(tmp_path, echo())
    assert (again.exit_code, again.sent, again.changed) == (0, sent, what)
    assert again.reused == (len(after) - sent if what else 0)
    if after:
        assert_answers_fit(tmp_path, after)


def test_an_edited_template_sends_all_and_to_take_it_back_sends_none(tmp_path: Path) -> None:
    rows = texts(10)
    write_rows(tmp_path, *rows)
    run(tmp_path, echo())
    edited = run(tmp_path, echo(), "prompt.user='Shout: {{ text }}'")
    assert (edited.sent, edited.reused, edited.changed) == (10, 0, ["prompt"])
    assert_answers_fit(tmp_path, rows, template="Shout: {}")
    back = run(tmp_path, echo())
    assert (back.sent, back.reused) == (0, 10)
    assert_answers_fit(tmp_path, rows)


def test_another_model_never_mixes_with_the_first_and_is_told_on_stderr(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(10))
    run(tmp_path, echo(), limit=5)
    stderr = io.StringIO()
    other = run(tmp_path, echo(), "model.name='n'", limit=5, notes=notes(stderr))
    assert (other.sent, other.changed) == (5, ["model"])
    assert "changed: model. What is asked as before keeps its answer, all else is asked" in stderr.getvalue()
    assert set(results(tmp_path)["run_id"]) == {other.run_id}


@pytest.mark.parametrize(
    "override",
    [
        "limits.max_concurrency=2",
        "limits.requests_per_minute=60_000",
        "retry.max_attempts=2",
        "budget.error_threshold=0.5",
        "output.columns=[]",
        "output.columns=['text']",
        "output.raw=true",
        "input.id='text'",
        "transport.total_timeout='5m'",
    ],
)
def test_what_decides_no_answer_may_change_between_runs_without_a_request(
    tmp_path: Path, override: str
) -> None:
    write_rows(tmp_path, *texts(10))
    run(tmp_path, echo(), limit=7)
    again = run(tmp_path, echo(), override, limit=7)
    assert (again.exit_code, again.sent, again.done) == (0, 0, 7)
    assert results(tmp_path)["content"].to_list() == [f"you said: Say: t{n}" for n in range(7)]


def test_identical_prompts_keep_the_answers_they_were_paid_for_in_their_order(tmp_path: Path) -> None:
    async def script(row_id: str, nth: int) -> Reply:
        return answer(f"the answer to row {row_id}")

    alike: Rows = [{"text": "same", "n": n} for n in range(6)]
    write_rows(tmp_path, *alike)
    run(tmp_path, FakeTransport(script), "limits.max_concurrency=1")
    write_rows(tmp_path, *alike, {"text": "same", "n": 6})
    again = run(tmp_path, FakeTransport(script), "limits.max_concurrency=1")
    assert (again.sent, again.reused) == (1, 6)
    assert results(tmp_path)["content"].to_list() == [f"the answer to row {n}" for n in range(7)]


def test_answers_of_rows_that_had_no_part_yet_are_taken_over_too(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(10))

    async def script(row_id: str, nth: int) -> Reply:
        return answer() if row_id not in ("1", "6", "9") else refusal(401)

    stopped = run(tmp_path, FakeTransport(script), "limits.max_concurrency=1")
    assert stopped.exit_code == 4
    write_rows(tmp_path, {"text": "new"}, *texts(10))
    again = run(tmp_path, always(answer()))
    assert (again.exit_code, again.sent, again.reused) == (0, 11 - stopped.done, stopped.done)


def test_everything_but_place_and_id_stays_as_it_was_the_price_too(tmp_path: Path) -> None:
    schema = (
        'response.schema={type="object", required=["stars"], properties={stars={type="integer"}, '
        'tags={type="array"}, ok={type="boolean"}, share={type="number"}}}'
    )
    reply = '{"stars": 3, "tags": ["a", "b"], "ok": true, "share": 0.5}'
    write_rows(tmp_path, *texts(9))
    first = run(tmp_path, always(answer(reply)), *PRICED, schema)
    before = results(tmp_path)
    assert before["cost"].sum() > 0
    write_rows(tmp_path, *texts(9)[::-1])
    again = run(tmp_path, always(answer(reply)), *PRICED, schema)
    assert (again.sent, again.cost, again.tokens) == (0, first.cost, first.tokens)
    same = [name for name in before.columns if name not in ("row_id", "input_index")]
    assert results(tmp_path)[same].equals(before[same][::-1])


class Dying(Disk):
    """A disk that goes with its process at the n-th removal or rename; what it did before stays done."""

    class Death(BaseException):
        pass

    def __init__(self, left: int) -> None:
        self.left = left

    def rename(self, path: Path, to: Path) -> None:
        self._live()
        super().rename(path, to)

    def remove(self, path: Path) -> None:
        self._live()
        super().remove(path)

    def _live(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Dying.Death


def test_a_run_killed_while_it_takes_answers_over_loses_none(tmp_path: Path) -> None:
    rows = texts(22)
    died = 0
    for step in range(12):
        folder = tmp_path / str(step)
        folder.mkdir()
        write_rows(folder, *rows)
        run(folder, echo())
        write_rows(folder, *rows[::-1], {"text": "new"})
        try:
            run(folder, echo(), disk=Dying(step))
        except Dying.Death:
            died += 1
        again = run(folder, echo())
        assert (again.exit_code, again.done) == (0, 23)
        assert again.sent <= 1
        assert_answers_fit(folder, [*rows[::-1], {"text": "new"}])
    assert died == 12


def retry(*statuses: Status) -> dict[str, Any]:
    return {"retry": frozenset(statuses or [Status.FAILED])}


def failing(*row_ids: str, reply: Reply | None = None) -> FakeTransport:
    async def script(row_id: str, nth: int) -> Reply:
        return (reply or refusal(400)) if row_id in row_ids else answer(f"fine {row_id}")

    return FakeTransport(script)


def test_retry_failed_asks_the_failed_rows_alone_and_the_others_stay_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(14))
    first = run(tmp_path, failing("2", "9", "13"))
    assert (first.exit_code, first.status["failed"]) == (3, 3)
    before = results(tmp_path)
    transport = failing("9")
    again = run(tmp_path, transport, **retry())
    assert transport.asked.keys() == {"2", "9", "13"}
    assert (again.done, again.status["ok"], again.status["failed"]) == (14, 13, 1)
    after = results(tmp_path)
    untouched = ~pl.col("row_id").is_in(["2", "9", "13"])
    assert after.filter(untouched).equals(before.filter(untouched))
    assert after.filter(row_id="13")["content"].item() == "fine 13"
    assert after["attempts"].to_list() == [2 if n in (2, 9, 13) else 1 for n in range(14)]
    assert again.attempts == 17
    assert run(tmp_path, always(refusal(500))).sent == 0


def test_a_row_asked_again_keeps_its_old_outcome_unless_the_new_one_is_better_and_bears_both_bills(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path, *texts(6))
    cut, again_cut = answer("cut here", finish="length"), answer("cut elsewhere", finish="length")
    run(tmp_path, failing("1", "2", "4", reply=cut))

    async def script(row_id: str, nth: int) -> Reply:
        return {"1": answer("whole"), "2": again_cut, "4": refusal(400)}[row_id]

    ended = run(tmp_path, FakeTransport(script), **retry(Status.TRUNCATED))
    rows = results(tmp_path)
    assert rows["content"].to_list()[1:5] == ["whole", "cut here", "fine 3", "cut here"]
    assert rows["status"].to_list()[1:5] == ["ok", "truncated", "ok", "truncated"]
    assert rows["total_tokens"].to_list() == [12, 24, 24, 12, 12, 12]
    assert ended.tokens["total_tokens"] == 96


@pytest.mark.parametrize("reached", range(1, 4))
def test_what_a_retry_was_answered_before_it_died_is_kept_by_the_next_run_and_nothing_is_asked_for_it(
    tmp_path: Path, reached: int
) -> None:
    write_rows(tmp_path, *texts(12))
    bad = ("1", "2", "3", "9")
    run(tmp_path, failing(*bad))
    answered: Counter[str] = Counter()

    async def script(row_id: str, nth: int) -> Reply:
        if len(answered) >= reached:
            return refusal(401)
        answered[row_id] += 1
        return answer("better")

    stopped = run(tmp_path, FakeTransport(script), "limits.max_concurrency=1", **retry())
    assert (stopped.exit_code, len(answered)) == (4, reached)
    assert results(tmp_path).height == 12
    plain = run(tmp_path, always(refusal(500)))
    assert (plain.sent, plain.done, plain.status["failed"]) == (0, 12, 4 - reached)
    rest = failing()
    ended = run(tmp_path, rest, **retry())
    assert rest.asked.keys() == set(bad) - answered.keys()
    assert (ended.exit_code, ended.status["ok"], ended.attempts) == (0, 12, 16)


def test_failed_rows_of_a_range_without_its_part_are_asked_again_too(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(8))

    async def script(row_id: str, nth: int) -> Reply:
        return refusal(400) if row_id == "1" else refusal(401) if row_id == "3" else answer()

    stopped = run(tmp_path, FakeTransport(script), "limits.max_concurrency=1")
    assert (stopped.exit_code, stopped.status["failed"]) == (4, 1)
    ended = run(tmp_path, always(answer()), **retry())
    assert (ended.exit_code, ended.done, ended.status["ok"]) == (0, 8, 8)
    assert results(tmp_path)["attempts"].to_list() == [1, 2, 1, *[1] * 5]


def test_identical_prompts_are_asked_once_and_the_others_cost_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"t{n % 5}"} for n in range(40)]
    write_rows(tmp_path, *rows)
    transport = echo()
    ended = run(tmp_path, transport, "response.dedupe=true")
    assert (ended.sent, ended.deduplicated, ended.done) == (5, 35, 40)
    assert_answers_fit(tmp_path, rows)
    frame = results(tmp_path)
    assert frame["total_tokens"].sum() == ended.tokens["total_tokens"] == 5 * 12
    assert frame.filter(pl.col("attempts") == 0).height == 35
    plain = tmp_path / "plain"
    plain.mkdir()
    write_rows(plain, *rows)
    assert run(plain, echo()).sent == 40


def test_an_identical_prompt_is_asked_where_the_first_failed_by_chance_and_not_where_it_was_refused(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path, *[{"text": "same"}] * 6)
    chance = run(tmp_path, always(refusal(500)), "response.dedupe=true", "retry.max_attempts=1")
    assert (chance.sent, chance.status["failed"]) == (6, 6)
    other = tmp_path / "other"
    other.mkdir()
    write_rows(other, *[{"text": "same"}] * 6)
    refused = run(other, always(refusal(400)), "response.dedupe=true")
    assert (refused.sent, refused.deduplicated, refused.status["failed"]) == (1, 5, 6)


def test_answers_are_shared_over_a_stop_and_not_kept_for_longer_than_the_work(tmp_path: Path) -> None:
    write_rows(tmp_path, *[{"text": f"t{n % 3}"} for n in range(12)])

    async def script(row_id: str, nth: int) -> Reply:
        return answer() if row_id in ("0", "1") else refusal(401)

    one = ("response.dedupe=true", "limits.max_concurrency=1")
    stopped = run(tmp_path, FakeTransport(script), *one)
    assert (stopped.exit_code, stopped.sent) == (4, 3)
    ended = run(tmp_path, always(answer()), *one)
    assert (ended.sent, ended.done) == (1, 12)


def test_failures_that_are_taken_over_or_shared_never_pass_for_a_provider_that_refuses(
    tmp_path: Path,
) -> None:
    rows = texts(60)
    write_rows(tmp_path, *rows)
    first = run(tmp_path, failing(*(str(n) for n in range(5, 60))))
    assert first.status["failed"] == 55
    write_rows(tmp_path, *rows[5:], *rows[:5], {"text": "new"})
    again = run(tmp_path, always(answer()))
    assert (again.exit_code, again.sent, again.reused, again.done) == (3, 1, 60, 61)
    alike = tmp_path / "alike"
    alike.mkdir()
    write_rows(alike, *[{"text": "same"}] * 40, {"text": "other"})
    shared = run(alike, always(refusal(400)), "response.dedupe=true")
    assert (shared.exit_code, shared.sent, shared.deduplicated) == (3, 2, 39)
