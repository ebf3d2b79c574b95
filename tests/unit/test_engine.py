"""A whole run over a job file with a transport of the test's: what is claimed, counted and summed up."""

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import Interrupted, JobError
from pipeline.stopping import signals_interrupt
from tests.support.rig import FakeTransport, Reply, always, answer, refusal
from tests.support.whole_runs import notes, run, texts, write_rows


def first_answers(count: int, then: Callable[[], Reply]) -> FakeTransport:
    """Answers the first rows; those from `count` on end as `then` says."""

    async def script(row_id: str, nth: int) -> Reply:
        return answer() if int(row_id) < count else then()

    return FakeTransport(script)


def test_the_summary_of_a_resumed_run_covers_all_its_runs(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(10))
    stopped = run(tmp_path, first_answers(6, lambda: refusal(401)), "limits.max_concurrency=1")
    assert (stopped.exit_code, stopped.done, stopped.tokens["total_tokens"]) == (4, 6, 72)
    ended = run(tmp_path, always(answer()), "limits.max_concurrency=1")
    assert (ended.exit_code, ended.rows, ended.done, ended.sent, ended.attempts) == (0, 10, 10, 4, 10)
    assert (ended.status["ok"], ended.tokens["total_tokens"], ended.maybe_paid) == (10, 120, 0)
    told = json.loads((tmp_path / "out" / "run.json").read_text())["summary"]
    assert (told["run_id"], told["done"]) == (ended.run_id, 10)
    idle = run(tmp_path, always(refusal(500)), "limits.max_concurrency=1")
    assert (idle.exit_code, idle.done, idle.sent) == (0, 10, 0)


def test_what_a_run_may_have_paid_in_vain_is_told_by_it_and_by_every_later_run(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(3))
    labels = ("response.labels=['good']", "limits.max_concurrency=1")

    async def script(row_id: str, nth: int) -> Reply:
        return answer("banana") if nth == 1 else refusal(401)

    stopped = run(tmp_path, FakeTransport(script), *labels)
    assert (stopped.exit_code, stopped.done) == (4, 0)
    assert stopped.maybe_paid >= 1
    ended = run(tmp_path, always(answer("good")), *labels)
    assert (ended.exit_code, ended.maybe_paid) == (0, stopped.maybe_paid)


def test_a_run_that_died_before_its_last_part_writes_it_and_sends_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(6))
    blocked = tmp_path / "out" / "results" / "part-00001.parquet.tmp"

    async def script(row_id: str, nth: int) -> Reply:
        blocked.mkdir(exist_ok=True)
        return answer()

    with pytest.raises(Exception, match="cannot be written any more"):
        run(tmp_path, FakeTransport(script))
    blocked.rmdir()
    ended = run(tmp_path, always(refusal(500)))
    assert (ended.exit_code, ended.done, ended.sent) == (0, 6, 0)
    assert pl.read_parquet(tmp_path / "out" / "results")["text"].to_list() == [f"t{n}" for n in range(6)]


def test_a_signal_while_the_input_is_looked_over_ends_the_run_before_anything_is_sent(tmp_path: Path) -> None:
    class Signalling(io.StringIO):
        """A terminal on which the count of rows is shown: at its first word, somebody ends the run."""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            signal.raise_signal(signal.SIGTERM)
            return len(text)

    write_rows(tmp_path, *texts(3))
    transport = always(answer())
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as caught, signals_interrupt():
        run(tmp_path, transport, notes=notes(Signalling()))
    assert (caught.value.exit_code, transport.asked.total()) == (143, 0)
    assert "interrupted before the first row" in (tmp_path / "out" / "run.log").read_text()
    assert run(tmp_path, transport).done == 3


def test_a_job_that_was_refused_has_not_taken_the_folder(tmp_path: Path) -> None:
    write_rows(tmp_path, *texts(3))
    with pytest.raises(JobError, match="did you mean 'text'"):
        run(tmp_path, always(answer()), "output.columns=['txt']")
    assert run(tmp_path, always(answer()), "output.columns=['text']").exit_code == 0


def test_columns_that_only_later_rows_have_never_make_parts_that_cannot_be_read_together(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path, *texts(6), {"text": "t6", "late": "x"})
    assert run(tmp_path, always(answer()), limit=2).done == 2
    assert run(tmp_path, always(answer()), limit=6).done == 6
    wider = run(tmp_path, always(answer()))
    assert (wider.changed, wider.reused, wider.sent) == (["the input's columns"], 6, 1)
    assert pl.read_parquet(tmp_path / "out" / "results")["late"].to_list() == [*[None] * 6, "x"]
    write_rows(tmp_path, *texts(3), {"text": "t3", "late": "x"})
    trial = run(tmp_path, always(answer()), "output.path='trial'", limit=2)
    whole = run(tmp_path, always(answer()), "output.path='trial'")
    assert (trial.done, whole.done, whole.sent) == (2, 4, 2)
    assert pl.read_parquet(tmp_path / "trial" / "results")["late"].to_list() == [None, None, None, "x"]


def test_an_input_without_rows_ends_well(tmp_path: Path) -> None:
    write_rows(tmp_path)
    ended = run(tmp_path, always(answer()))
    assert (ended.exit_code, ended.rows, ended.done) == (0, 0, 0)
