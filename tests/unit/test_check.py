"""What `check` finds before anything is sent."""

from pathlib import Path

import orjson
import pytest

from pipeline.check import EXAMPLES, Report, check_plan, shown_request
from pipeline.counting import exact_tokens
from pipeline.plan import scan_dataset
from tests.support.jobs import SMALLEST, plan, write_rows


def checked(
    folder: Path, *overrides: str, limit: int | None = None, show: int = 1, text: str = SMALLEST
) -> Report:
    worked = plan(folder, *overrides, text=text)
    return check_plan(worked, scan_dataset(worked, limit=limit), limit=limit, show=show)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", *({"id": f"r{n}", "text": f"text {n}"} for n in range(8)))
    return tmp_path


def test_a_sound_job_is_fine_and_shows_its_first_requests(folder: Path) -> None:
    report = checked(folder, show=2)
    assert report.fine
    assert (report.rows, report.rendered, report.bad_rows, len(report.requests)) == (8, 8, 0, 2)
    said = orjson.loads(shown_request(report.requests[1].request))
    assert said == orjson.loads(report.requests[1].request.body)
    assert said["messages"] == [{"role": "user", "content": "Say text 1"}]


def test_a_limit_looks_at_the_first_rows_alone(folder: Path) -> None:
    report = checked(folder, limit=3)
    assert (report.rows, report.rendered) == (3, 3)


def test_no_request_is_shown_where_none_is_asked_for(folder: Path) -> None:
    assert checked(folder, show=0).requests == []


def test_rows_that_cannot_be_sent_are_counted_with_a_few_examples(tmp_path: Path) -> None:
    rows = [{"text": None}] * 7 + [{"text": "fine"}, {"text": "x" * 50}]
    path = write_rows(tmp_path / "rows.jsonl", *rows)
    with path.open("ab") as file:
        file.write(b"\n{broken\n")
    report = checked(tmp_path)
    assert not report.fine
    assert (report.rows, report.rendered, report.bad_rows) == (10, 2, 8)
    assert len(report.bad_examples) == EXAMPLES
    assert report.bad_examples[0].startswith("rows.jsonl:1: a column it uses is null")
    assert report.problems == []
    assert "1 empty lines are skipped" in report.notes


def test_a_column_that_no_row_has_is_a_problem_where_the_template_fails_without_it(folder: Path) -> None:
    report = checked(folder, "prompt.user='{{ txt }}'")
    assert report.problems == [
        "the prompt needs the column 'txt', which no row has; the columns are: id, text"
    ]


def test_a_column_that_the_template_does_without_is_worth_a_note(folder: Path) -> None:
    report = checked(folder, "prompt.user='{{ text }}{{ note | default(1) }}'")
    assert report.fine
    assert "no row has the column 'note'; the template does without it" in report.notes


def test_half_a_surrogate_pair_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "\\ud800"}\n')
    report = checked(tmp_path)
    assert (report.rendered, report.bad_rows) == (0, 1)


def test_an_input_that_changes_while_it_is_looked_at_is_a_problem(folder: Path) -> None:
    worked = plan(folder)
    scan = scan_dataset(worked, limit=None)
    write_rows(folder / "rows.jsonl", {"id": "new", "text": "other"})
    report = check_plan(worked, scan, limit=None, show=1)
    assert any("rows.jsonl" in problem for problem in report.problems)


def test_progress_is_told_every_ten_thousand_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "x"}\n' * 10_001)
    worked = plan(tmp_path)
    heard: list[int] = []
    check_plan(worked, scan_dataset(worked, limit=None), limit=None, show=0, on_progress=heard.append)
    assert heard == [10_000]


def test_a_long_request_is_cut_and_says_so(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "x" * 50_000})
    shown = shown_request(checked(tmp_path).requests[0].request)
    assert len(shown) < 2_100
    assert shown.endswith(" characters in all)")


def test_tokens_are_counted_by_the_vocabulary(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "你是谁"})
    worked = plan(tmp_path, "prompt.user='{{ text }}'", "prompt.system=null")
    (shown,) = check_plan(worked, scan_dataset(worked, limit=None), limit=None, show=1).requests
    assert exact_tokens(worked, shown.prompt) == 10  # as the provider bills its own example


# Notes


def test_what_is_unknown_of_a_model_is_noted(folder: Path) -> None:
    dashscope = ("model.provider=dashscope", "model.base_url=null")
    known = checked(folder, *dashscope, "model.name=qwen-plus")
    assert known.notes == []
    unknown = checked(folder, *dashscope, "model.name=qwen-of-tomorrow")
    assert "the catalogue does not know qwen-of-tomorrow at dashscope" in unknown.notes[0]
    assert "no limit of requests or tokens a minute is known" in unknown.notes[1]
    assert unknown.fine


def test_lines_that_name_another_model_are_noted(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "x"}]
    models = ["gpt-4o-mini", "m", None, ["list"], {"d": 1}, "a\x1b[31m" + "b" * 500]
    lines = ({"custom_id": f"c{n}", "body": {"model": m, "messages": messages}} for n, m in enumerate(models))
    write_rows(tmp_path / "rows.jsonl", *lines, {"custom_id": "none", "body": "text"})
    report = checked(tmp_path, "prompt.user=null", "prompt.format=openai-batch")
    (note,) = (note for note in report.notes if note.startswith("lines name the model"))
    assert "gpt-4o-mini; the job's m is asked instead" in note
    assert note.isprintable()
    assert len(note) < 200
    assert (report.rendered, report.bad_rows) == (6, 1)
