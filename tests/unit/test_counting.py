"""Prompts of whole datasets counted: here and in workers alike, as the provider bills them."""

from pathlib import Path

import pytest

from pipeline import counting
from pipeline.counting import REPEATED, UNSENDABLE, count_rows, row_chars
from pipeline.records import Row
from tests.support.jobs import plan, write_rows

SYSTEM = "prompt.system='You are a helpful assistant.'"
AS_IT_IS = "prompt.user='{{ text }}'"


def test_prompts_count_as_the_provider_bills_its_own_examples(tmp_path: Path) -> None:
    texts = ["你是谁?", "你好！有什么可以帮助你的吗？", "What is 2+2?"]
    write_rows(tmp_path / "rows.jsonl", *({"text": text} for text in texts))
    worked = plan(tmp_path, SYSTEM, AS_IT_IS)
    assert list(count_rows(worked, worked.dataset.rows()).tokens) == [22, 26, 26]
    write_rows(tmp_path / "rows.jsonl", {"text": "你是谁"})
    worked = plan(tmp_path, AS_IT_IS)
    assert list(count_rows(worked, worked.dataset.rows()).tokens) == [10]


def test_workers_count_what_is_counted_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_WORTH_WORKERS_CHARS", 1_000)
    rows = [{"text": f"row {n} " * (n % 17)} for n in range(1_500)]
    rows[700]["text"] = None  # type: ignore[assignment]
    write_rows(tmp_path / "rows.jsonl", *rows)
    worked = plan(tmp_path, "params.max_tokens=9")
    heard: list[tuple[int, int]] = []
    here = count_rows(worked, worked.dataset.rows(), workers=1)
    there = count_rows(worked, worked.dataset.rows(), workers=2, on_progress=lambda *said: heard.append(said))
    assert there == here
    assert (len(here.tokens), here.tokens[700], here.problems[0][:14]) == (
        1_500,
        UNSENDABLE,
        "rows.jsonl:701",
    )
    assert heard[-1] == (1_500, sum(here.tokens) + 1)  # a row that cannot be sent stands as -1
    assert heard == sorted(heard)


def test_identical_prompts_are_marked_where_they_share_an_answer(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", *({"text": text} for text in ("a", "b", "a", "a")))
    for dedupe, repeated in (("true", [2, 3]), ("false", [])):
        worked = plan(tmp_path, f"response.dedupe={dedupe}")
        tokens = count_rows(worked, worked.dataset.rows()).tokens
        assert [place for place, count in enumerate(tokens) if count == REPEATED] == repeated


@pytest.mark.parametrize(
    ("model", "params", "most"),
    [
        ("qwen-plus", ["params.max_tokens=100"], 116),
        ("qwen-plus", ["params.max_tokens=100", "params.n=2"], 232),
        ("m", [], -1),
    ],
)
def test_the_most_of_an_answer_is_what_its_parameters_allow(
    tmp_path: Path, model: str, params: list[str], most: int
) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "x"})
    provider = ["model.provider=dashscope"] if model == "qwen-plus" else []
    worked = plan(tmp_path, f"model.name={model}", *provider, *params)
    assert list(count_rows(worked, worked.dataset.rows()).most) == [most]


def test_lines_of_a_batch_file_have_their_own_bound(tmp_path: Path) -> None:
    body = {"model": "qwen-plus", "messages": [{"role": "user", "content": "hi"}]}
    lines = [
        {
            "custom_id": str(n),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "max_tokens": n},
        }
        for n in (5, 50)
    ]
    write_rows(tmp_path / "rows.jsonl", *lines)
    text = """
name = "b"
[input]
path = "rows.jsonl"
[prompt]
format = "openai-batch"
[model]
provider = "dashscope"
name = "qwen-plus"
[output]
path = "out"
"""
    worked = plan(tmp_path, text=text)
    assert list(count_rows(worked, worked.dataset.rows()).most) == [21, 66]


def test_a_rows_length_is_that_of_what_its_prompt_needs(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "abc", "other": "much longer than that"})
    worked = plan(tmp_path)
    assert [row_chars(worked, row) for row in worked.dataset.rows()] == [3]
    assert row_chars(worked, Row(0, {}, "rows.jsonl", 1, problem="no JSON")) == UNSENDABLE
