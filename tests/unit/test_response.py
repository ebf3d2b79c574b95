"""Answers against labels or a schema: typed columns of what is right, a failure and a repair turn for what is not."""

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.records import Completion, Failure, FailureKind, ToolCall, Usage
from pipeline.response import AnswerCheck


def answer(text: str | None, **more: Any) -> Completion:
    return Completion(content=text, finish_reason="stop", usage=Usage(), **more)


def failed(check: AnswerCheck, text: str | None) -> Failure:
    result = check.check(answer(text))
    assert isinstance(result, Failure), result
    assert result.kind is FailureKind.INVALID_ANSWER
    return result


def by_schema(**properties: Any) -> AnswerCheck:
    return AnswerCheck(schema={"type": "object", "properties": properties})


# Nothing asked


def test_without_labels_or_schema_every_answer_is_valid_and_has_no_columns() -> None:
    check = AnswerCheck()
    assert (check.asked, check.fields(), check.response_format()) == (False, [], None)
    for text in (None, "", "anything"):
        assert check.check(answer(text)) == {}


# Labels

SENTIMENT = AnswerCheck(labels=["positive", "negative", "N/A"])


@pytest.mark.parametrize(
    "text",
    [
        "positive",
        "Positive",
        "POSITIVE.",
        ' "positive" ',
        "'positive'.",
        "**positive**",
        "`positive`",
        "positive!\n",
        "“positive”。",
    ],
)
def test_a_label_counts_without_what_models_put_around_it(text: str) -> None:
    assert SENTIMENT.check(answer(text)) == {"label": "positive"}


@pytest.mark.parametrize("text", ["好评", "好评。", "「好评」", "“好评”！", " 好评\n", "『好评』"])
def test_a_chinese_label_counts_likewise(text: str) -> None:
    assert AnswerCheck(labels=["好评", "差评"]).check(answer(text)) == {"label": "好评"}


@pytest.mark.parametrize(
    "label", ["U.S.", "C++", "!", "***", '"quoted"', 'say "hi"', "a\\b", "naïve", "Straße", "0", " padded "]
)
def test_every_label_counts_written_as_it_is_in_any_case_and_as_json(label: str) -> None:
    check = AnswerCheck(labels=["other", label])
    for text in (
        label,
        label.upper(),
        f" {label}\n",
        json.dumps(label),
        json.dumps(label, ensure_ascii=False),
    ):
        assert check.check(answer(text)) == {"label": label}, text


def test_a_label_that_only_differs_in_its_full_stop_is_told_apart() -> None:
    check = AnswerCheck(labels=["a", "a."])
    assert check.check(answer("a.")) == {"label": "a."}
    assert check.check(answer("a")) == {"label": "a"}


@pytest.mark.parametrize("text", [None, "", "  ", '""', "."])
def test_an_empty_answer_is_no_label(text: str | None) -> None:
    for check in (SENTIMENT, AnswerCheck(labels=["!", "x"])):
        assert failed(check, text).code == "not_a_label"


@pytest.mark.parametrize(
    "text", ["positive or negative", "neutral", "The label is positive", "posi", '["positive"]', '"x']
)
def test_any_other_text_is_no_label_and_is_shown(text: str) -> None:
    message = failed(SENTIMENT, text).message
    assert message == f"the answer is not one of positive, negative, N/A; found {text!r}"


def test_a_long_answer_is_cut_in_the_message() -> None:
    assert len(failed(SENTIMENT, "word\n" * 10_000).message) < 200


def test_an_answer_that_calls_a_tool_is_not_judged() -> None:
    assert SENTIMENT.check(answer(None, tool_calls=[ToolCall("1", "f", "{}")])) == {}


def test_labels_are_one_text_column_and_a_grammar() -> None:
    assert SENTIMENT.fields() == [pa.field("label", pa.string())]
    asked = SENTIMENT.response_format()
    assert asked is not None
    assert asked["json_schema"]["schema"] == {"type": "string", "enum": ["positive", "negative", "N/A"]}


# A schema

_NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ({"type": "string"}, pa.string()),
        ({"type": "integer"}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": ["integer", "null"]}, pa.int64()),
        ({"type": ["null", "boolean"]}, pa.bool_()),
        ({"type": ["integer", "number"]}, pa.float64()),
        ({"type": ["integer", "string"]}, pa.string()),
        ({"anyOf": [{"type": "integer"}, _NULL]}, pa.int64()),
        ({"oneOf": [_NULL, {"type": "number"}]}, pa.float64()),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, pa.string()),
        ({"enum": ["a", "b"]}, pa.string()),
        ({"enum": [1, 2, None]}, pa.int64()),
        ({"const": True}, pa.bool_()),
        ({"const": None}, pa.string()),
        ({"$ref": "#/$defs/Grade"}, pa.int64()),
        ({"allOf": [{"$ref": "#/$defs/Grade"}]}, pa.int64()),
        ({"anyOf": [{"$ref": "#/$defs/Grade"}, _NULL]}, pa.int64()),
        ({"$ref": "#/properties/x"}, pa.string()),
        ({"type": "object"}, pa.string()),
        ({"type": "array"}, pa.string()),
        ({}, pa.string()),
        (True, pa.string()),
    ],
)
def test_a_property_becomes_a_column_of_its_type_else_json_text(rule: Any, kind: pa.DataType) -> None:
    schema = {
        "type": "object",
        "properties": {"x": rule},
        "$defs": {"Grade": {"type": "integer", "minimum": 1}},
    }
    assert AnswerCheck(schema=schema).fields() == [pa.field("x", kind)]


def test_columns_stand_in_the_schemas_order() -> None:
    assert [field.name for field in by_schema(b={}, a={}, c={}).fields()] == ["b", "a", "c"]


TYPED = by_schema(
    s={"type": ["string", "null"]},
    i={"type": ["integer", "null"]},
    n={"type": "number"},
    b={"type": "boolean"},
    o={"type": "object"},
    any={},
)


def test_a_valid_answer_becomes_values_that_its_columns_take() -> None:
    text = '{"s": "好", "i": 3, "n": 2, "b": false, "o": {"k": [1, null]}, "any": 5, "more": 1}'
    columns = TYPED.check(answer(text))
    assert columns == {"s": "好", "i": 3, "n": 2.0, "b": False, "o": '{"k":[1,null]}', "any": "5"}
    assert isinstance(columns["n"], float)


def test_null_and_absent_are_null() -> None:
    assert TYPED.check(answer('{"s": null, "i": null}')) == dict.fromkeys(["s", "i", "n", "b", "o", "any"])


@pytest.mark.parametrize(
    "text",
    [
        '{"i": 1}',
        ' {"i":1}\n',
        '```json\n{"i": 1}\n```',
        '```\n{"i": 1}\n```',
        '```JSON {"i": 1}```',
        '```{"i":1}',
        '{"i": 1.0}',
    ],
)
def test_json_counts_with_and_without_a_fence(text: str) -> None:
    columns = by_schema(i={"type": "integer"}).check(answer(text))
    assert columns == {"i": 1}
    assert isinstance(columns["i"], int)


@pytest.mark.parametrize(
    "number", ["9223372036854775808", "-9223372036854775809", "1e300", "18446744073709551616"]
)
def test_an_integer_beyond_64_bits_is_invalid_and_fits_as_a_number(number: str) -> None:
    assert failed(by_schema(i={"type": "integer"}), f'{{"i": {number}}}').code == "not_the_schema"
    assert by_schema(i={"type": "number"}).check(answer(f'{{"i": {number}}}')) == {"i": float(number)}


@pytest.mark.parametrize("number", ["9223372036854775807", "-9223372036854775808"])
def test_the_ends_of_64_bits_are_kept_exactly(number: str) -> None:
    assert by_schema(i={"type": "integer"}).check(answer(f'{{"i": {number}}}')) == {"i": int(number)}


@pytest.mark.parametrize(
    "text",
    [None, "", "positive", '{"i": NaN}', '{"i": 1e999}', '{"i": 1} so', "{'i': 1}", '{"s": "\\ud800"}'],
)
def test_what_is_no_json_is_invalid(text: str | None) -> None:
    assert failed(TYPED, text).code == "not_json"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"i": "3"}', "i: "),
        ('{"i": 1.5}', "i: "),
        ('{"i": true}', "i: "),
        ('{"b": "true"}', "b: "),
        ('{"n": null}', "n: "),
        ('{"o": []}', "o: "),
        ("[]", "the answer: "),
        ("5", "the answer: "),
    ],
)
def test_what_is_not_the_schema_says_where(text: str, where: str) -> None:
    failure = failed(TYPED, text)
    assert (failure.code, failure.message.startswith(where)) == ("not_the_schema", True)


def test_an_answer_that_is_no_object_is_invalid_though_the_schema_allows_it() -> None:
    assert "not an object" in failed(AnswerCheck(schema={"properties": {"a": {}}}), "[1]").message


def test_a_required_property_must_be_there() -> None:
    check = AnswerCheck(schema={"properties": {"a": {}}, "required": ["a"]})
    assert failed(check, "{}").code == "not_the_schema"


@pytest.mark.parametrize("kind", ["integer", "number", "boolean"])
@pytest.mark.parametrize("value", ["[]", '"x"', "{}", "true", "3"])
def test_a_value_that_the_validator_lets_pass_never_spoils_its_column(kind: str, value: str) -> None:
    """Up to draft 7 a `$ref` hides the type beside it."""
    rule = {"$ref": "#/definitions/any", "type": kind}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"x": rule},
        "definitions": {"any": {}},
    }
    check = AnswerCheck(schema=schema)
    result = check.check(answer(f'{{"x": {value}}}'))
    if not isinstance(result, Failure):
        pa.array([result["x"]], check.fields()[0].type)


def test_json_nested_too_deeply_to_be_carried_is_invalid() -> None:
    assert failed(TYPED, '{"any": ' + "[" * 400 + "]" * 400 + "}").code == "not_the_schema"
    assert failed(TYPED, '{"any": ' + "[" * 5000 + "]" * 5000 + "}").code == "not_json"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "text"}}},
        {"properties": {"a": "string"}},
        {"properties": {"a": {"pattern": "("}}},
        {"properties": {"a": {"$ref": "#/$defs/none"}}},
        {"properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}},
        {"properties": {"a": {"$ref": "file:///etc/hostname"}}},
        {"$schema": "http://example.com/unknown", "properties": {"a": {}}},
    ],
)
def test_a_schema_that_is_wrong_or_not_whole_is_a_job_error(schema: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"\[response\] schema"):
        AnswerCheck(schema=schema)


# The repair turn

MESSAGES = [{"role": "user", "content": "Label this"}]


def test_the_repair_turn_shows_the_answer_and_asks_for_a_label_alone() -> None:
    failure = failed(SENTIMENT, "It is good")
    assert SENTIMENT.repair(MESSAGES, "It is good", failure) == [
        *MESSAGES,
        {"role": "assistant", "content": "It is good"},
        {
            "role": "user",
            "content": "Answer with exactly one of these, and nothing else: positive, negative, N/A",
        },
    ]
    assert len(MESSAGES) == 1


def test_the_repair_turn_says_what_was_wrong_and_repeats_the_schema() -> None:
    check = by_schema(i={"type": "integer"})
    failure = failed(check, '{"i": "3"}')
    wanted = check.repair(MESSAGES, '{"i": "3"}', failure)[-1]["content"]
    assert failure.message in wanted
    assert '{"type":"object","properties":{"i":{"type":"integer"}}}' in wanted


def test_an_empty_answer_is_not_repeated_in_the_repair_turn() -> None:
    assert [m["role"] for m in SENTIMENT.repair(MESSAGES, "", failed(SENTIMENT, ""))] == ["user", "user"]


# Anything at all

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("sinbo"), inner, max_size=4),
    max_leaves=8,
)
_CONTENT = (
    st.none() | st.text() | _JSON.map(json.dumps) | _JSON.map(lambda v: f"```json\n{json.dumps(v)}\n```")
)


@pytest.mark.parametrize("check", [AnswerCheck(), SENTIMENT, TYPED])
@given(content=_CONTENT)
def test_any_answer_is_invalid_or_fits_its_columns(check: AnswerCheck, content: str | None) -> None:
    result = check.check(answer(content))
    if isinstance(result, Failure):
        assert len(result.message) < 600
        check.repair(MESSAGES, content or "", result)
        return
    assert list(result) == [field.name for field in check.fields()]
    for field in check.fields():
        pa.array([result[field.name]], field.type)
