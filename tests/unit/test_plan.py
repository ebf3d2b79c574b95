"""A job worked out: content keys, columns of the results, costs, and what is refused before anything is sent."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DatasetError, JobError
from pipeline.plan import Plan, missing_columns, scan_dataset
from pipeline.records import Completion, Outcome, Prompt, Request, Status, Usage
from tests.support.jobs import plan, write_rows

DASHSCOPE = ("model.provider=dashscope", "model.base_url=null", "model.name=qwen-plus")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(
        tmp_path / "rows.jsonl", {"id": "a", "text": "one", "n": 1}, {"id": "b", "text": "two", "n": 2}
    )
    return tmp_path


def first(plan: Plan) -> Request:
    prompt = plan.renderer.render(next(iter(plan.dataset.rows())))
    assert isinstance(prompt, Prompt)
    return plan.encode(prompt)


# Content keys


def test_a_key_is_the_same_in_any_folder_process_and_version(folder: Path) -> None:
    """Where this changes, every unchanged row of every user would be paid for again."""
    assert first(plan(folder)).key == "f5d61ea21298a76e121bf32513d4a12f"


@pytest.mark.parametrize(
    "override",
    [
        "prompt.user='Say: {{ text }}'",
        "prompt.system='x'",
        "params.seed=1",
        "model.name=other",
        "model.base_url=http://127.0.0.1:10/v1",
        "response.labels=['a']",
        "response.schema={properties={a={}}}",
    ],
)
def test_a_key_changes_with_all_that_decides_the_answer(folder: Path, override: str) -> None:
    assert first(plan(folder)).key != first(plan(folder, override)).key


@pytest.mark.parametrize(
    "override",
    [
        "limits.requests_per_minute=1",
        "limits.tokens_per_minute=1",
        "limits.max_concurrency=1",
        "retry.max_attempts=1",
        "retry.row_deadline=1",
        "budget.deadline=1h",
        "transport.core=httpx",
        "output.columns=['id']",
        "output.path=elsewhere",
        "output.raw=true",
        "input.id=id",
        "response.on_invalid=keep",
        "model.base_url=http://127.0.0.1:9/v1/",
        "name=other",
    ],
)
def test_a_key_does_not_change_with_how_it_is_asked_and_kept(folder: Path, override: str) -> None:
    assert first(plan(folder)).key == first(plan(folder, override)).key


def test_a_key_does_not_hang_on_the_order_of_params(folder: Path) -> None:
    one, other = plan(folder, "params.a=1", "params.b=2"), plan(folder, "params.b=2", "params.a=1")
    assert first(one).key == first(other).key


def test_a_key_differs_between_rows_that_ask_differently_alone(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "x", "n": 1}, {"text": "x", "n": 2}, {"text": "y", "n": 1})
    worked = plan(tmp_path)
    keys = []
    for row in worked.dataset.rows():
        prompt = worked.renderer.render(row)
        assert isinstance(prompt, Prompt)
        keys.append(worked.encode(prompt).key)
    assert keys[0] == keys[1] != keys[2]


# Requests


def test_a_request_holds_model_messages_and_params_and_nothing_else(folder: Path) -> None:
    request = first(plan(folder, "params.temperature=0", "params.stop=['x']", "response.labels=['a', 'b']"))
    assert orjson.loads(request.body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Say one"}],
        "temperature": 0,
        "stop": ["x"],
    }


@pytest.mark.parametrize("provider", ["local", "simulator"])
def test_labels_are_sent_as_a_grammar_only_to_a_server_that_follows_it(folder: Path, provider: str) -> None:
    worked = plan(folder, f"model.provider={provider}", "model.base_url=null", "response.labels=['a', 'b']")
    assert ("response_format" in worked.params) == (provider == "local")


def test_a_schema_is_sent_only_to_a_model_known_to_follow_it(folder: Path) -> None:
    schema = "response.schema={properties={a={type='string'}}}"
    names = {
        name for name, model in plan(folder, *DASHSCOPE).target.provider.models.items() if model.json_schema
    }
    assert names
    for name, known in ((min(names), True), ("qwen-plus", False), ("unknown", False)):
        said = "params.enable_thinking=false"
        assert (
            "response_format" in plan(folder, *DASHSCOPE, schema, f"model.name={name}", said).params
        ) is known


def test_a_response_format_of_the_jobs_own_is_left_alone(folder: Path) -> None:
    own = plan(
        folder, "model.provider=local", "response.labels=['a']", "params.response_format={type='text'}"
    )
    assert own.params["response_format"] == {"type": "text"}


# Row ids


def test_ids_come_from_the_id_column_else_the_index(folder: Path) -> None:
    assert first(plan(folder)).row_id == "0"
    assert first(plan(folder, "input.id=id")).row_id == "a"
    assert first(plan(folder, "input.id=n")).row_id == "1"


def test_batch_lines_bring_their_id_along(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    write_rows(
        tmp_path / "rows.jsonl",
        {"custom_id": "c-1", "method": "POST", "url": "/v1/chat/completions", "body": body},
    )
    worked = plan(tmp_path, "prompt.user=null", "prompt.format=openai-batch")
    assert first(worked).row_id == "c-1"
    scan = scan_dataset(worked, limit=None)
    assert [c.name for c in worked.layout(scan, tmp_path, rows_per_part=8, fingerprint="").inputs] == []


def test_a_repeated_id_is_refused_with_its_places(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "rows.jsonl", {"id": "a", "text": "x"}, {"id": "b", "text": "x"}, {"id": "a", "text": "y"}
    )
    with pytest.raises(DatasetError, match=r"'a' at rows\.jsonl:1 and rows\.jsonl:3.*Nothing was sent"):
        scan_dataset(plan(tmp_path, "input.id=id"), limit=None)


# Columns of the results


def names(folder: Path, *overrides: str) -> list[str]:
    worked = plan(folder, *overrides)
    layout = worked.layout(scan_dataset(worked, limit=None), folder, rows_per_part=8, fingerprint="")
    return [column.name for column in layout.inputs]


def test_all_input_columns_are_carried_in_their_order_unless_the_job_names_some(folder: Path) -> None:
    assert names(folder) == ["id", "text", "n"]
    assert names(folder, "output.columns=['n', 'id', 'n']") == ["n", "id"]
    assert names(folder, "output.columns=[]") == []


def test_the_gold_column_is_carried_besides_those_named(folder: Path) -> None:
    gold = ("response.labels=['a']", "response.gold=n")
    assert names(folder, *gold, "output.columns=['id']") == ["id", "n"]
    assert names(folder, *gold, "output.columns=['n']") == ["n"]


def test_a_messages_column_is_not_carried_by_default(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"chat": [{"role": "user", "content": "x"}], "k": 1})
    messages = ("prompt.user=null", "prompt.messages=chat")
    assert names(tmp_path, *messages) == ["k"]
    assert names(tmp_path, *messages, "output.columns=['chat']") == ["chat"]


def test_an_input_column_that_bears_a_result_columns_name_gets_a_suffix(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "x", "content": "y", "label": "z", "status": "w"})
    assert names(tmp_path) == ["text", "content_input", "label", "status_input"]
    assert names(tmp_path, "response.labels=['a']") == [
        "text",
        "content_input",
        "label_input",
        "status_input",
    ]
    assert names(tmp_path, "response.schema={properties={text={}}}")[0] == "text_input"


@pytest.mark.parametrize("columns", [["label", "label_input"], ["label_input", "label"]])
def test_results_fed_in_again_keep_every_name_that_is_free(tmp_path: Path, columns: list[str]) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "x", **dict.fromkeys(columns, "y")})
    renamed = {"label": "label_input_input", "label_input": "label_input"}
    assert names(tmp_path, "response.labels=['a']") == ["text", *(renamed[name] for name in columns)]


@pytest.mark.parametrize("override", ["output.columns=['txt']", "response.gold=txt"])
def test_a_column_that_is_not_there_is_refused_with_the_nearest(folder: Path, override: str) -> None:
    with pytest.raises(JobError, match=r"'txt', which the dataset has not; did you mean 'text'"):
        names(folder, override, "response.labels=['a']")


def test_parquet_columns_keep_their_types_and_others_are_text(tmp_path: Path, folder: Path) -> None:
    pq.write_table(
        pa.table({"text": ["x"], "n": pa.array([1], pa.int16()), "l": [[1.5]]}), tmp_path / "rows.parquet"
    )
    worked = plan(tmp_path, "input.path=rows.parquet")
    layout = worked.layout(scan_dataset(worked, limit=None), tmp_path, rows_per_part=8, fingerprint="")
    assert [column.type for column in layout.inputs] == [pa.string(), pa.int16(), pa.list_(pa.float64())]
    worked = plan(folder)
    layout = worked.layout(scan_dataset(worked, limit=None), folder, rows_per_part=8, fingerprint="")
    assert {column.type for column in layout.inputs} == {pa.string()}


@pytest.mark.parametrize("name", ["content", "status", "cost", "response", "row_id"])
def test_a_schema_property_named_like_a_result_column_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(JobError, match=f"property '{name}', which is the name of a result column: rename it"):
        plan(folder, f"response.schema={{properties={{{name}={{type='string'}}}}}}")


def test_the_columns_that_no_row_has_are_known(folder: Path) -> None:
    worked = plan(folder, "prompt.user='{{ text }} {{ nowhere }} {{ row.elsewhere }}'")
    assert missing_columns(worked, scan_dataset(worked, limit=None)) == ["nowhere"]


def test_no_input_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"rows\.jsonl"):
        plan(tmp_path)


# Rows of a part


def test_parts_of_long_rows_hold_fewer_of_them(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"text": "x" * 100_000}, {"text": "x" * 100_000})
    worked = plan(tmp_path)
    scan = scan_dataset(worked, limit=None)
    assert 64 <= worked.rows_per_part(scan, limited=False) * 100_000 / 100_000 <= 512
    assert plan(tmp_path, "output.rows_per_part=5000").rows_per_part(scan, limited=False) == 5000


def test_parts_of_short_rows_hold_the_usual_number(folder: Path) -> None:
    worked = plan(folder)
    assert worked.rows_per_part(scan_dataset(worked, limit=None), limited=False) == 8192


# Costs

USAGE = Usage(prompt_tokens=1000, completion_tokens=100)


def outcome(usage: Usage | None, **more: Any) -> Outcome:
    completion = None if usage is None else Completion("a", "stop", usage)
    return Outcome(0, "0", Status.OK, completion=completion, **more)


def test_a_row_costs_all_its_paid_answers(folder: Path) -> None:
    worked = plan(folder, *DASHSCOPE)
    once, twice = worked.costs([outcome(USAGE), outcome(USAGE, earlier=[USAGE])])
    assert once is not None
    assert once > 0
    assert twice == 2 * once


@pytest.mark.parametrize(
    "build",
    [lambda: outcome(None), lambda: outcome(Usage()), lambda: outcome(USAGE, earlier=[Usage()])],
    ids=["no answer", "no usage", "no usage of an earlier answer"],
)
def test_a_cost_that_is_not_wholly_known_is_null(folder: Path, build: Callable[[], Outcome]) -> None:
    assert plan(folder, *DASHSCOPE).costs([build()]) == [None]


def test_an_answer_of_nothing_costs_nothing_where_the_price_is_known(folder: Path) -> None:
    assert plan(folder, *DASHSCOPE).costs([outcome(Usage(prompt_tokens=0, completion_tokens=0))]) == [
        Decimal(0)
    ]


def test_without_a_price_every_cost_is_null(folder: Path) -> None:
    assert plan(folder).costs([outcome(USAGE), outcome(None)]) == [None, None]
