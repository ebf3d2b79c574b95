"""What a report knows of a run: every row counted once, unknown told apart from none, all of it of bounded size."""

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.errors import RunFolderError
from pipeline.journal import Journal
from pipeline.kept import encode
from pipeline.masking import Secrets
from pipeline.records import Completion, Outcome, Status, Usage
from pipeline.report.facts import MOST_EXTREMES, MOST_NAMES, OTHERS, Moments, MomentSums, summed
from pipeline.report.labelled import agreement, per_label
from pipeline.report.read import Reading, read_run
from pipeline.s3 import S3Settings
from tests.support.reported import START, answer, facts_of, failure, run_folder


def test_sums_are_those_of_the_rows_by_what_they_have_in_common(tmp_path: Path) -> None:
    rows = [
        answer(0),
        answer(1, attempts=3),
        answer(2, status="truncated", finish_reason="length", completion_tokens=64),
        failure(3),
        failure(4, "timeout", attempts=6),
        answer(5, model="qwen-max", cost=Decimal("0.5")),
    ]
    facts = facts_of(run_folder(tmp_path / "run", rows))
    total = facts.total()
    assert (total.rows, total.answers, total.attempts) == (6, 4, 1 + 3 + 1 + 1 + 6 + 1)
    assert total.tokens["completion_tokens"] == 10 + 10 + 64 + 10
    assert total.cost == Decimal("0.503")
    by_status = summed(facts.cells, lambda cell: cell.status)
    assert {status: sums.rows for status, sums in by_status.items()} == {"ok": 3, "truncated": 1, "failed": 2}
    by_model = summed(facts.cells, lambda cell: cell.model)
    assert {model: sums.cost for model, sums in by_model.items()} == {
        "qwen-plus": Decimal("0.003"),
        "qwen-max": Decimal("0.5"),
        None: Decimal(0),
    }
    assert facts.attempts == {1: 4, 3: 1, 6: 1}
    assert facts.about.rows == 6


def test_unknown_is_none_and_counted(tmp_path: Path) -> None:
    unknown = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens", "cost", "currency"))
    total = facts_of(run_folder(tmp_path / "run", [answer(0, **unknown), answer(1), failure(2)])).total()
    assert (total.known_tokens("prompt_tokens"), total.answers - total.told["prompt_tokens"]) == (100, 1)
    assert total.known_tokens("cached_tokens") is None
    assert (total.known_cost, total.unpriced) == (Decimal("0.001"), 1)
    alone = facts_of(run_folder(tmp_path / "other", [answer(0, **unknown)])).total()
    assert (alone.known_cost, alone.known_tokens("prompt_tokens")) == (None, None)
    failed = facts_of(run_folder(tmp_path / "failed", [failure(0)])).total()
    assert (failed.known_cost, failed.unpriced) == (Decimal(0), 0)


def test_an_answer_that_the_filter_cut_is_an_answer(tmp_path: Path) -> None:
    rows = [answer(0, status="blocked", finish_reason="content_filter", error_kind="blocked", cost=None)]
    total = facts_of(run_folder(tmp_path / "run", rows)).total()
    assert (total.answers, total.unpriced) == (1, 1)


def test_each_failure_has_its_number_and_an_example(tmp_path: Path) -> None:
    rows = [
        answer(0),
        failure(1, error_message="first"),
        failure(2, error_message="second"),
        failure(3, error_code=None),
    ]
    failures = facts_of(run_folder(tmp_path / "run", rows)).failures
    one = failures["invalid_request", "bad"]
    assert (one.rows, one.row_id, one.message, one.http_status) == (2, "r1", "first", 400)
    assert failures["invalid_request", None].rows == 1


def test_the_rows_that_stand_out_are_shown_with_their_answers(tmp_path: Path) -> None:
    slow, dear = 17, 3
    rows = [answer(n) for n in range(30)]
    rows[slow]["latency_ms"] = 9e4
    rows[dear]["cost"] = Decimal(7)
    rows[dear]["content"] = "x" * 10_000
    facts = facts_of(run_folder(tmp_path / "run", rows))
    slowest, dearest = facts.slowest.rows, facts.dearest.rows
    assert len(slowest) == MOST_EXTREMES
    assert (slowest[0].row_id, slowest[0].content, slowest[1].row_id) == ("r17", "answer 17", "r29")
    assert (dearest[0].row_id, dearest[0].cost) == ("r3", Decimal(7))
    assert dearest[0].content is not None and len(dearest[0].content) < 1000
    assert [row.row_id for row in dearest[1:4]] == ["r0", "r1", "r2"], "of equals the first in the input"


def test_rows_whose_part_is_still_open_count(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [answer(n) for n in range(4)], wanted=8)
    usage = Usage(prompt_tokens=1000, completion_tokens=1, total_tokens=1001)
    later = Outcome(
        index=5,
        row_id="r5",
        status=Status.OK,
        key="k5",
        completion=Completion(content="late", finish_reason="stop", usage=usage, model="qwen-plus"),
        attempts=2,
        latency_ms=5e5,
    )
    journal = Journal(folder)
    journal._db.execute("INSERT INTO outcomes VALUES (?, ?)", (5, encode(later)))
    journal.close()
    facts = facts_of(folder)
    assert (facts.total().rows, facts.about.open_rows, facts.about.rows) == (5, 1, 8)
    assert facts.total().tokens["prompt_tokens"] == 1400
    assert facts.total().unpriced == 1, "the price list is another by now"
    assert (facts.slowest.rows[0].row_id, facts.slowest.rows[0].content) == ("r5", "late")


def test_labels_are_scored_against_known_ones(tmp_path: Path) -> None:
    pairs = [
        ("yes", "yes"),
        ("yes", "no"),
        ("no", "no"),
        (" NO", "no"),
        ("maybe", "no"),
        ("yes", None),
        (None, "yes"),
    ]
    rows = [answer(n, gold=gold, label=label) for n, (gold, label) in enumerate(pairs)]
    job = {"response": {"labels": ["yes", "no"], "gold": "gold"}}
    labels = facts_of(run_folder(tmp_path / "run", rows, job=job)).labels
    assert labels is not None
    assert labels.given == {"yes": 2, "no": 4, None: 1}
    assert labels.pairs[OTHERS, "no"] == 1
    yes, no = per_label(labels)
    assert (yes.known, yes.precision, yes.recall, yes.f1) == (3, 1.0, pytest.approx(1 / 3), 0.5)
    assert (no.known, no.precision, no.recall, no.f1) == (2, 0.5, 1.0, pytest.approx(2 / 3))
    agreed = agreement(labels)
    assert agreed is not None
    assert (agreed.known, agreed.agreed, agreed.accuracy) == (6, 3, 0.5)
    assert agreed.mean.f1 == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_labels_without_known_ones_are_counted(tmp_path: Path) -> None:
    job = {"response": {"labels": ["yes", "no"]}}
    labels = facts_of(run_folder(tmp_path / "run", [answer(0, label="yes")], job=job)).labels
    assert labels is not None
    assert (labels.given["yes"], agreement(labels)) == (1, None)


def test_days_are_those_of_utc(tmp_path: Path) -> None:
    midnight = START.replace(hour=0) + timedelta(days=1)
    rows = [
        answer(0, started_at=midnight - timedelta(seconds=1)),
        answer(1, started_at=midnight),
        failure(2, started_at=None),
    ]
    by_day = summed(facts_of(run_folder(tmp_path / "run", rows)).cells, lambda cell: cell.day)
    assert set(by_day) == {date(2026, 11, 20), date(2026, 11, 21), None}


def test_a_server_with_ever_new_names_does_not_make_a_report_grow(tmp_path: Path) -> None:
    count = MOST_NAMES * 3
    rows = [answer(n, model=f"m{n}", finish_reason=f"f{n}") for n in range(count)]
    rows += [failure(count + n, error_code=f"c{n}") for n in range(count)]
    facts = facts_of(run_folder(tmp_path / "run", rows, rows_per_part=200))
    by_model = summed(facts.cells, lambda cell: cell.model)
    assert len(by_model) == MOST_NAMES + 2
    assert by_model[OTHERS].rows == count - MOST_NAMES
    assert len(facts.failures) <= MOST_NAMES
    assert sum(one.rows for one in facts.failures.values()) == count
    assert facts.total().rows == 2 * count


def test_moments_are_put_together_where_there_are_too_many() -> None:
    moments = Moments()
    for second in range(10_000):
        moments.add(1_000_000 + second, MomentSums(1, 0, 10, Decimal(1)))
    assert moments.width_s == 5
    assert sum(span.rows for span in moments.spans.values()) == 10_000
    assert all(start % 5 == 0 for start in moments.spans)
    assert moments.busiest_minute("rows") == 60
    assert moments.busiest_minute("tokens") == 600


def test_the_busiest_minute_is_any_sixty_seconds() -> None:
    moments = Moments()
    for second in (59, 60, 61, 119, 200):
        moments.add(second, MomentSums(10, 0, 0, Decimal(0)))
    assert moments.busiest_minute("rows") == 30


def test_secrets_are_taken_out_of_what_others_wrote(tmp_path: Path) -> None:
    key = "sk-0123456789abcdef"
    rows = [
        answer(0, content=f"the key is {key}"),
        failure(1, error_message=f"wrong key {key} at https://u:pw@host/x?token=abc"),
    ]
    facts = read_run(run_folder(tmp_path / "run", rows), Reading(s3=S3Settings(), secrets=Secrets([key])))
    said = repr(facts.failures) + repr(facts.slowest.rows)
    assert "***" in said and key not in said and "pw@" not in said


def test_a_folder_without_run_file_or_parts_is_a_run_still(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [], wanted=3)
    (folder / "run.json").unlink()
    facts = facts_of(folder)
    assert (facts.total().rows, facts.about.rows, facts.about.model) == (0, 3, None)
    (folder / "run.json").write_text("[]")
    assert facts_of(folder).about == facts.about
    (folder / "results").rmdir()
    assert facts_of(folder).about == facts.about


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [answer(0)])
    part = folder / "results" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(RunFolderError, match=r"part-00000\.parquet is damaged"):
        facts_of(folder)


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        facts_of(tmp_path)


def test_limits_are_the_jobs_own_or_the_catalogues(tmp_path: Path) -> None:
    about = facts_of(run_folder(tmp_path / "a", [answer(0)])).about
    assert about.requests_per_minute is not None
    own = {"limits": {"requests_per_minute": 7.0}}
    assert facts_of(run_folder(tmp_path / "b", [answer(0)], job=own)).about == replace(
        about, folder=str(tmp_path / "b"), requests_per_minute=7.0
    )
