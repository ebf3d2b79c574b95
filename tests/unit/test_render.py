"""Rows to prompts: whatever stands in a row, it is text in a prompt or a failure that says why, and never runs."""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.jobspec import PromptSection
from pipeline.protocol.compatible import EncodeError, encode
from pipeline.records import Failure, FailureKind, Prompt, Row
from pipeline.render import Renderer

PARAMS = {"temperature": 0}


def row_of(columns: Mapping[str, Any]) -> Row:
    return Row(7, dict(columns), "rows.jsonl", 8)


def renderer(**section: Any) -> Renderer:
    return Renderer(PromptSection(**section), PARAMS, lambda row: f"r{row.index}")


def asked(template: str, **columns: Any) -> str:
    prompt = renderer(user=template).render(row_of(columns))
    assert isinstance(prompt, Prompt), prompt
    content: str = prompt.messages[0]["content"]
    return content


def refused(template: str, **columns: Any) -> str:
    return said(renderer(user=template).render(row_of(columns)))


def said(result: Prompt | Failure) -> str:
    assert isinstance(result, Failure), result
    assert result.kind is FailureKind.INVALID_INPUT
    assert result.message.startswith("rows.jsonl:8: ")
    return result.message


# Templates over columns


def test_system_and_user_become_two_messages_with_the_jobs_params() -> None:
    prompt = renderer(system="Judge {{ lang }}.", user="\n{{ text }}\n").render(
        row_of({"text": "好", "lang": "zh"})
    )
    assert prompt == Prompt(
        7, "r7", [{"role": "system", "content": "Judge zh."}, {"role": "user", "content": "\n好\n"}], PARAMS
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ 7 * 7 }}",
        "{% include '/etc/passwd' %}",
        "{# x #}",
        "{% raw %}",
        "<b>&amp;</b>",
        "${x}",
        "%s",
        "\x1b[0m\0",
    ],
)
def test_template_syntax_in_data_is_inert(text: str) -> None:
    assert asked("{{ text }}", text=text) == text
    assert asked("{{ a.b[0] }}", a={"b": [text]}) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ text.__class__ }}",
        "{{ text.__class__.__mro__[1].__subclasses__() }}",
        "{{ text | attr('__class__') }}",
        "{{ text['__class__'] }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ text.format(text) }}",
        "{{ (text ~ '').format_map({'0': text}) }}",
        "{% set x = numbers.append(1) %}",
        "{{ row.update({'text': 1}) }}",
    ],
)
def test_the_sandbox_turns_an_escape_into_a_failed_row(template: str) -> None:
    refused(template, text="{0.__class__.__init__.__globals__}", numbers=[1])


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ txet }}", "'txet' is undefined"),
        ("{{ txet or '' }}", "'txet' is undefined"),
        ("{{ meta.lang }}", "has no attribute 'lang'"),
        ("{{ row['my col'] }}", "the row has no attribute 'my col'"),
        ("{{ nothing }}", "a column it uses is null"),
        ("{{ meta.empty }}", "a column it uses is null"),
        ("{{ 1 / zero }}", "division by zero"),
        ("{{ 'x' * huge }}", "failed on it"),
        ("{% for i in range(huge) %}x{% endfor %}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ raw | tojson }}", "not JSON serializable"),
        ("{% include 'other' %}", "no loader"),
        ("{{ text + zero }}", "failed on it"),
        ("{{ numbers[5] }}", "has no element 5"),
    ],
)
def test_a_row_the_template_fails_on_says_what_is_wrong(template: str, why: str) -> None:
    columns: dict[str, Any] = {
        "text": "x",
        "nothing": None,
        "meta": {"empty": None},
        "zero": 0,
        "huge": 10**18,
    }
    assert why in refused(template, **columns, raw=b"\xff", numbers=[1])


def test_null_is_fine_where_the_template_says_so() -> None:
    assert asked("{{ note or 'none' }}", note=None) == "none"
    assert asked("{% if note is none %}-{% endif %}", note=None) == "-"
    assert asked("{{ note | default('none') }}") == "none"
    assert asked("{% if note is defined %}{{ note }}{% endif %}") == ""


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0, "0"),
        (False, "False"),
        ("", ""),
        (1.5, "1.5"),
        (Decimal("1.50"), "1.50"),
        ([1, "a"], "[1, 'a']"),
        ({}, "{}"),
    ],
)
def test_a_value_that_is_not_null_prints_as_it_is(value: object, printed: str) -> None:
    assert asked("{{ x }}", x=value) == printed


def test_a_column_may_bear_any_name() -> None:
    columns = {"my col": "A", "": "B", "{{x}}": "C", "价格": "D", "a-b": "E", "None": "F"}
    template = "{{ row['my col'] }}{{ row[''] }}{{ row['{{x}}'] }}{{ 价格 }}{{ row['a-b'] }}{{ row['None'] }}"
    assert asked(template, **columns) == "ABCDEF"


@pytest.mark.parametrize(
    "name", ["range", "dict", "namespace", "cycler", "joiner", "lipsum", "loop", "caller", "environment"]
)
def test_a_column_named_like_a_word_of_jinja_is_the_column(name: str) -> None:
    assert asked(f"{{{{ {name} }}}}", **{name: "mine"}) == "mine"
    refused(f"{{{{ {name} }}}}", other="x")


def test_what_stands_for_itself_only_by_mistake_is_never_sent() -> None:
    for template in (
        "{{ order.items }}",
        "{{ range }}",
        "{{ self }}",
        "{% for c in 'x' %}{{ loop }}{% endfor %}",
    ):
        assert "it would print a method or a part of the template" in refused(
            template, order={"items": 1}, self="x"
        )
    assert asked("{{ order['items'] }}{{ row.self }}", order={"items": [1]}, self="x") == "[1]x"


def test_row_is_always_the_whole_row() -> None:
    assert "`row` is the whole row" in refused("{{ row }}", row="mine")
    assert asked("{{ row['row'] }}", row="mine") == "mine"
    assert json.loads(asked("{{ row | tojson }}", a=1, row="mine")) == {"a": 1, "row": "mine"}
    assert asked("{% for name in row | sort %}{{ name }}{% endfor %}", b=1, a=2) == "ab"


@pytest.mark.parametrize("template", ["{{ words | random }}", "{% if %}", "{{ x | nofilter }}", "{{ x"])
def test_a_template_that_cannot_be_or_would_draw_by_chance_is_a_job_error(template: str) -> None:
    with pytest.raises(JobError, match=r"\[prompt\] user: the template is not valid, line 1"):
        renderer(user=template)


def test_the_columns_that_prompts_need_are_known() -> None:
    assert renderer(system="{{ a.b }}", user="{% for x in c %}{{ x }}{% endfor %}{{ row.d }}").columns == {
        "a",
        "c",
    }
    assert renderer(messages="chat").columns == {"chat"}
    assert renderer(format="openai-batch").columns == {"body"}


def test_a_row_is_not_changed_by_rendering_it() -> None:
    row = row_of({"text": "x", "row": "y"})
    renderer(user="{{ text }}{{ row.text }}").render(row)
    assert row.columns == {"text": "x", "row": "y"}


def test_an_unreadable_row_fails_with_its_own_reason() -> None:
    result = renderer(user="x").render(Row(7, {}, "rows.jsonl", 8, "not valid JSON: x at column 3"))
    assert said(result) == "rows.jsonl:8: not valid JSON: x at column 3"


def test_a_row_without_id_fails() -> None:
    result = Renderer(PromptSection(user="x"), {}, lambda _: None).render(row_of({}))
    assert "its id is missing, null, or neither text nor an integer" in said(result)


def test_a_failure_is_one_short_line_whatever_the_row_holds() -> None:
    key = "sk-0123456789abcdef\x1b[31m\n" + "x" * 100_000
    message = refused("{{ row[text] }}", text=key)
    assert len(message) <= 500
    assert message.isprintable()
    assert "0123456789" not in message


def test_half_a_surrogate_pair_renders_and_is_refused_at_encoding() -> None:
    form = renderer(user="{{ text }}")
    prompt = form.render(row_of({"text": "a\ud800"}))
    assert isinstance(prompt, Prompt)
    with pytest.raises(EncodeError) as caught:
        encode("m", prompt.messages, prompt.params)
    failure = form.not_encodable(row_of({}), caught.value)
    assert failure.code == "not_encodable"
    assert "messages[0].content" in said(failure)


# A column of messages

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("value", [CHAT, json.dumps(CHAT), json.dumps(CHAT).encode()])
def test_messages_come_as_a_list_or_as_json(value: object) -> None:
    assert renderer(messages="chat").render(row_of({"chat": value})) == Prompt(7, "r7", CHAT, PARAMS)


def test_nulls_that_a_struct_brings_for_other_rows_are_dropped_but_not_a_null_content() -> None:
    part = {"type": "text", "text": "Hi", "image_url": None}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}", "extra": None}}
    chat = [
        {"role": "user", "content": [part], "name": None, "tool_calls": None},
        {"role": "assistant", "content": None, "name": None, "tool_calls": [call]},
    ]
    prompt = renderer(messages="chat").render(row_of({"chat": chat}))
    assert isinstance(prompt, Prompt)
    function = {"name": "f", "arguments": "{}"}
    assert prompt.messages == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
    ]


def test_template_syntax_in_messages_is_inert() -> None:
    prompt = renderer(messages="chat").render(row_of({"chat": [{"role": "user", "content": "{{ 1 }}"}]}))
    assert isinstance(prompt, Prompt)
    assert prompt.messages[0]["content"] == "{{ 1 }}"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "is not a list of messages"),
        ([], "is not a list of messages"),
        ("[", "is not JSON"),
        ("\ud800", "is not JSON"),
        (b"\xff", "is not JSON"),
        ('"text"', "is not a list of messages"),
        ({"role": "user"}, "is not a list of messages"),
        (["text"], "[0] is not a message with a role"),
        ([*CHAT, {"content": "x"}], "[2] is not a message with a role"),
        ([{"role": "robot", "content": "x"}], "[0] is not a message with a role"),
        ([{"role": ["user"], "content": "x"}], "[0] is not a message with a role"),
        ([{"role": {}, "content": "x"}], "[0] is not a message with a role"),
        ([[("role", "user")]], "[0] is not a message with a role"),
        ('[{"role": "user", "content": ' + "[" * 1000 + "]" * 1000 + "}]", "nested too deeply"),
    ],
)
def test_a_column_that_is_no_conversation_fails_its_row(value: object, why: str) -> None:
    message = said(renderer(messages="chat").render(row_of({"chat": value})))
    assert why in message
    assert "'chat'" in message or why == "nested too deeply"


def test_a_row_without_the_messages_column_says_so() -> None:
    assert "it has no column 'chat'" in said(renderer(messages="chat").render(row_of({"caht": CHAT})))


# OpenAI-batch lines


def line(**body: Any) -> dict[str, Any]:
    return {
        "custom_id": "c1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": CHAT, **body},
    }


def test_the_body_of_a_batch_line_wins_over_the_jobs_params() -> None:
    form = Renderer(
        PromptSection(format="openai-batch"),
        {"temperature": 0, "seed": 1},
        lambda row: row.columns["custom_id"],
    )
    prompt = form.render(row_of(line(temperature=1, top_p=0.5)))
    assert prompt == Prompt(7, "c1", CHAT, {"temperature": 1, "seed": 1, "top_p": 0.5})


def test_what_the_job_decides_for_all_lines_is_dropped_from_them() -> None:
    prompt = renderer(format="openai-batch").render(
        row_of(line(model="other", stream=True, stream_options={"include_usage": True}, temperature=None))
    )
    assert isinstance(prompt, Prompt)
    assert prompt.params == PARAMS


def test_a_params_own_nulls_are_kept() -> None:
    tools = [{"type": "function", "function": {"parameters": {"properties": {"a": {"default": None}}}}}]
    prompt = renderer(format="openai-batch").render(row_of(line(tools=tools)))
    assert isinstance(prompt, Prompt)
    assert prompt.params["tools"] == tools


@pytest.mark.parametrize("as_text", [str, str.encode])
def test_a_body_may_be_json_text(as_text: Any) -> None:
    columns = {
        "custom_id": "c1",
        "body": as_text(orjson.dumps(line()["body"]).decode()),
        "method": None,
        "url": None,
    }
    assert renderer(format="openai-batch").render(row_of(columns)) == Prompt(7, "r7", CHAT, PARAMS)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"method": "GET"}, "it asks for GET"),
        ({"url": "/v1/embeddings"}, "it asks for POST /v1/embeddings"),
        ({"url": ["/v1"]}, "it asks for POST"),
        ({"body": None}, "it has no body object"),
        ({"body": [1]}, "it has no body object"),
        ({"body": "{"}, "its body is not JSON"),
        ({"body": {}}, "body.messages is not a list of messages"),
        ({"body": {"messages": [1]}}, "body.messages[0] is not a message"),
    ],
)
def test_a_line_that_is_no_chat_request_fails_its_row(change: dict[str, Any], why: str) -> None:
    assert why in said(renderer(format="openai-batch").render(row_of({**line(), **change})))


# Anything at all

_ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=5) | st.datetimes() | st.decimals()
    | st.text(st.characters(), max_size=10) | st.sampled_from(["user", "POST", "/v1/chat/completions", "[{}]"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.sampled_from(["role", "content", "messages"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_COLUMNS = st.dictionaries(
    st.text(max_size=5) | st.sampled_from(["a", "b", "row", "self", "body", "chat", "method", "url"]),
    _ANY,
    max_size=5,
)
_FORMS = [
    renderer(user="{{ a }}{{ b | upper }}{{ a.x }}{{ row['b'] }}"),
    renderer(
        user="{% for x in a %}{{ x | int + b }}{{ x | tojson }}{% endfor %}",
        system="{{ b[:2] }}{{ a | length }}",
    ),
    renderer(user="{{ a | join(b) | trim | truncate(5) }}{{ '%s' | format(a) }}{{ a | sum }}{{ b | round }}"),
    renderer(messages="chat"),
    renderer(format="openai-batch"),
]


@pytest.mark.parametrize("form", _FORMS)
@given(columns=_COLUMNS)
def test_any_row_is_a_prompt_or_a_failure_and_any_prompt_is_sent_or_refused(
    form: Renderer, columns: dict[str, Any]
) -> None:
    result = form.render(row_of(columns))
    if isinstance(result, Failure):
        said(result)
        return
    assert result.messages
    try:
        body = encode("m", result.messages, result.params)
    except EncodeError as error:
        said(form.not_encodable(row_of(columns), error))
    else:
        assert [m["role"] for m in orjson.loads(body)["messages"]] == [m["role"] for m in result.messages]


@given(text=st.text(), when=st.datetimes(max_value=datetime(2100, 1, 1)))
def test_the_same_row_gives_the_same_prompt(text: str, when: datetime) -> None:
    form = renderer(user="{{ text }} {{ when }} {{ row | length }}")
    columns = {"text": text, "when": when}
    assert form.render(row_of(columns)) == form.render(row_of(columns))
