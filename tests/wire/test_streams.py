"""Streams put together: recorded ones cut anywhere, made-up answers in every format, and anything else that may come.

`streams/dashscope-text-*` are the streams of Model Studio's API examples (2024); the others have the documented shapes
of Model Studio, OpenAI, DeepSeek, llama.cpp's server and vLLM.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.failures import Dialect
from pipeline.protocol import compatible
from pipeline.protocol.assemble import Assembler, Form
from pipeline.protocol.wire import Compatible, Native, WireFormat
from pipeline.records import Completion, Failure, FailureKind, Response, ToolCall, Usage
from tests.wire.test_compatible import BODY, STATUSES, assert_storable

STREAMS = Path(__file__).parent / "streams"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HEAD = Response(200, {"content-type": "text/event-stream"}, b"", 1.0)
COMPATIBLE, NATIVE = Compatible(), Native(multimodal=False)
K = FailureKind

CURL = "chatcmpl-e45656c0-efae-940b-a3b8-18c9e6528ecb"
NODE = "chatcmpl-bdcd77c7-6c52-9501-9ad0-fbda95386bbc"
PYTHON = "chatcmpl-ecd76cbd-ec86-9546-880f-556fd2bb44b5"
RID = "54dc32fd-968b-9aed-b6a8-ae63d6fda4d5"
WHO = "我是阿里云开发的一款超大规模语言模型,我叫通义千问。"
CALLS = [
    ToolCall("call_b3b822e3aa6441369c42fc", "get_current_weather", '{"location": "杭州市"}'),
    ToolCall("call_8", "get_current_time", "{}"),
]
THOUGHT = 'The user asks "2+2".'
TWO = [
    {"finish_reason": "stop", "index": 0, "message": {"content": "one two", "role": "assistant"}},
    {"finish_reason": "length", "index": 1, "message": {"content": "eins zwei", "role": "assistant"}},
]
LOGPROBS = [
    {"bytes": [72, 101, 108], "logprob": -0.25, "token": "Hel", "top_logprobs": []},
    {"bytes": [108, 111], "logprob": -0.25, "token": "lo", "top_logprobs": []},
]
HELLO = [{**TWO[0], "logprobs": {"content": LOGPROBS}, "message": {"content": "Hello", "role": "assistant"}}]


def text(content: str, usage: Usage, model: str | None, request_id: str, **more: Any) -> Completion:
    return Completion(content, "stop", usage, model, request_id, **more)


def called(model: str | None, request_id: str) -> Completion:
    return Completion("", "tool_calls", Usage(224, 18, 242), model, request_id, tool_calls=CALLS)


def as_json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


RECORDED: dict[str, Completion | tuple[FailureKind, str, bool]] = {
    "dashscope-text-python": text(WHO, Usage(22, 17, 39), "qwen-plus", PYTHON),
    "dashscope-text-curl": text(WHO, Usage(), "qwen-plus", CURL),
    "dashscope-text-node": text("我是来自阿里云的大规模语言模型,我叫通义千问。", Usage(), "qwen-plus", NODE),
    "dashscope-thinking": text(
        "2+2 is 4.", Usage(15, 24, 39, 0, None, 16), "qwen-plus", "chatcmpl-1", reasoning_content=THOUGHT
    ),
    "dashscope-tools": called("qwen-plus", "chatcmpl-1"),
    "dashscope-two-choices": text(
        "one two", Usage(10, 4, 14), "qwen-plus", "chatcmpl-1", choices=as_json(TWO)
    ),
    "dashscope-blocked": (K.BLOCKED, "data_inspection_failed", True),
    "dashscope-cut": (K.TRUNCATED_STREAM, "no_finish_reason", True),
    "openai-logprobs": text("Hello", Usage(9, 2, 11), "gpt-4o-mini", "chatcmpl-9", choices=as_json(HELLO)),
    "deepseek-keep-alive": text("Hello!", Usage(16, 2, 18, 0), "deepseek-chat", "930c"),
    "llamacpp-timings": text("positive", Usage(41, 2, 43), "m.gguf", "chatcmpl-Xq9"),
    "vllm-error": (K.OVERLOADED, "InternalServerError", True),
    "native-text": text(WHO, Usage(22, 17, 39), None, RID),
    "native-cumulative": text(WHO, Usage(22, 17, 39), None, RID),
    "native-result-format-text": text(WHO, Usage(22, 17, 39), None, RID),
    "native-image": text("这是一张在海滩上拍摄的照片。", Usage(1271, 8, 1279), None, RID),
    "native-thinking": text(
        "2+2 is 4.", Usage(15, 24, 39, 0, None, 16), None, RID, reasoning_content=THOUGHT
    ),
    "native-tools": called(None, RID),
    "native-search": text("40 枚金牌", Usage(542, 3, 545), None, RID),
    "native-two-choices": text("one two", Usage(10, 4, 14), None, RID, choices=as_json(TWO)),
    "native-blocked": (K.BLOCKED, "DataInspectionFailed", True),
    "native-throttled": (K.RATE_REQUESTS, "Throttling.RateQuota", False),
}
NAMES = sorted(RECORDED)
STRAIGHT = [name for name in NAMES if isinstance(RECORDED[name], Completion)]


def recorded(name: str) -> bytes:
    return (STREAMS / f"{name}.txt").read_bytes()


def assembler(name: str) -> Assembler:
    form: WireFormat = NATIVE if name.startswith("native") else COMPATIBLE
    return form.assembler({"incremental_output": name != "native-cumulative"})


def put_together(name: str, pieces: Sequence[bytes], head: Response = HEAD) -> Completion | Failure:
    parts = assembler(name)
    for piece in pieces:
        parts.feed(piece)
    return parts.finish(head, Dialect.DASHSCOPE, NOW)


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(place for place in places if place < len(raw))})
    return [raw[a:b] for a, b in itertools.pairwise(edges)]


def one_by_one(raw: bytes) -> list[bytes]:
    return cut(raw, range(len(raw)))


def test_every_recorded_stream_has_its_expected_answer() -> None:
    assert {path.stem for path in STREAMS.glob("*.txt")} == set(RECORDED)


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_stream_is_put_together_field_by_field(name: str) -> None:
    expected, found = RECORDED[name], put_together(name, [recorded(name)])
    if isinstance(expected, Completion):
        assert isinstance(found, Completion), found
        assert replace(found, usage=replace(found.usage, raw=None)) == expected
        assert (found.usage.raw is None) is (expected.usage == Usage())
    else:
        assert isinstance(found, Failure)
        assert (found.kind, found.code, found.maybe_paid) == expected
        assert found.http_status == 200


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_cut_at_any_byte_gives_the_same(name: str) -> None:
    raw = recorded(name)
    whole = put_together(name, [raw])
    assert put_together(name, one_by_one(raw)) == whole
    for place in range(1, len(raw)):
        assert put_together(name, [raw[:place], raw[place:]]) == whole


@pytest.mark.parametrize("name", NAMES)
def test_the_ends_of_lines_do_not_matter(name: str) -> None:
    raw = recorded(name)
    whole = put_together(name, [raw])
    for other in (raw.replace(b"\n", b"\r\n"), raw.replace(b"\n", b"\r")):
        assert put_together(name, [other]) == put_together(name, one_by_one(other)) == whole
    by_event = [event + b"\n\n" for event in raw.split(b"\n\n")]
    assert put_together(name, by_event) == whole
    assert (
        put_together(name, [b"data:" + event[6:] if event[:6] == b"data: " else event for event in by_event])
        == whole
    )


@given(st.sampled_from(NAMES), st.lists(st.integers(0, 3200), max_size=30))
def test_a_stream_cut_at_random_places_gives_the_same(name: str, places: list[int]) -> None:
    raw = recorded(name)
    assert put_together(name, cut(raw, places)) == put_together(name, [raw])


@pytest.mark.parametrize("name", STRAIGHT)
def test_a_stream_that_breaks_off_is_a_truncated_stream_until_its_finish_reason_has_come(name: str) -> None:
    raw = recorded(name)
    whole = put_together(name, [raw])
    assert isinstance(whole, Completion)
    parts = assembler(name)
    for place in range(0, len(raw), 3):
        found = put_together(name, [raw[:place]])
        if isinstance(found, Failure):
            assert (found.kind, found.maybe_paid, parts.complete) == (K.TRUNCATED_STREAM, True, False)
        else:  # what may still be missing is the usage
            assert replace(found, usage=whole.usage) == whole
        parts.feed(raw[place : place + 3])
    assert parts.complete


@pytest.mark.parametrize(
    "name", ["dashscope-text-python", "native-text", "deepseek-keep-alive", "native-image"]
)
def test_blank_lines_between_events_and_done_may_be_missing(name: str) -> None:
    raw = recorded(name).replace(b"data: [DONE]\n\n", b"")
    assert put_together(name, [raw]) == put_together(name, [raw.replace(b"\n\n", b"\n")])
    assert isinstance(put_together(name, [raw]), Completion)


def event(*choices: Any, **fields: Any) -> bytes:
    return b"data: " + orjson.dumps({"id": "x", "choices": list(choices), **fields}) + b"\n\n"


def delta(finish: Any = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": finish}


def ask(*pieces: bytes) -> Completion | Failure:
    return put_together("compatible", pieces)


STOP = event(delta("stop"))


@pytest.mark.parametrize(
    ("piece", "started"),
    [
        (b": keep-alive\n\n", False),
        (event(delta(role="assistant", content="")), False),
        (event(delta(content=None, reasoning_content="")), False),
        (event(delta("stop")), False),
        (event(usage={"prompt_tokens": 1}), False),
        (event(delta(content="x")), True),
        (event(delta(content=[{"text": "x"}])), True),
        (event(delta(reasoning_content="x")), True),
        (event(delta(reasoning="x")), True),
        (event(delta(tool_calls=[{"index": 0, "function": {"name": "f"}}])), True),
        (event(delta(refusal="no")), True),
    ],
)
def test_a_stream_has_started_with_the_first_token_of_any_kind(piece: bytes, started: bool) -> None:
    parts = COMPATIBLE.assembler({})
    parts.feed(piece[:-1])
    assert not parts.started
    parts.feed(piece[-1:])
    assert parts.started is started


@pytest.mark.parametrize(
    ("pieces", "kind", "code", "maybe_paid"),
    [
        ([], K.TRUNCATED_STREAM, "empty_body", True),
        ([b"data: [DONE]\n\n"], K.TRUNCATED_STREAM, "empty_body", True),
        ([b": keep-alive\n\n" * 9], K.TRUNCATED_STREAM, "empty_body", True),
        ([b"<html>Log in</html>"], K.TRUNCATED_STREAM, "not_json", True),
        ([event(delta(content="x"))], K.TRUNCATED_STREAM, "no_finish_reason", True),
        ([event(delta("null", content="x"))], K.TRUNCATED_STREAM, "no_finish_reason", True),
        ([event(delta("stop", content="x"), delta(None, 1, content="y"))], K.TRUNCATED_STREAM, "no_finish_reason", True),
        ([event(delta(content="x")), b'data: {"choices":[{"del\n\n', STOP], K.TRUNCATED_STREAM, "not_json", True),
        ([event(delta("abort", content="x"))], K.OVERLOADED, "abort", True),
        ([event(error={"message": "m", "code": "c"})], K.ROW_SUSPECT, "c", False),
        ([event(delta("error", content=""), error={"message": "m", "code": 502})], K.OVERLOADED, "502", False),
        ([b'data: {"error":"boom"}\n\n'], K.ROW_SUSPECT, "http_200", False),
        ([b"event: error\ndata: boom\n\n"], K.TRUNCATED_STREAM, "not_json", True),
        ([b'event: error\nstatus: 503\ndata: {"code":"c","message":"m"}\n\n'], K.OVERLOADED, "c", False),
        ([b'{"error":{"code":"rate_limit_error",\n"message":"m"}}'], K.RATE_REQUESTS, "rate_limit_error", False),
        ([event(delta("stop", content="x")), b'data: {"error":{"code":"c"}}\n\n'], K.ROW_SUSPECT, "c", True),
    ],
)  # fmt: skip
def test_a_stream_that_is_no_answer_is_a_failure(
    pieces: list[bytes], kind: FailureKind, code: str, maybe_paid: bool
) -> None:
    found = ask(*pieces)
    assert isinstance(found, Failure), found
    assert (found.kind, found.code, found.maybe_paid, found.http_status) == (kind, code, maybe_paid, 200)


def test_what_comes_after_done_or_is_no_chunk_does_not_matter() -> None:
    noise = [b"data: ping\n\n", b"data:\n\n", b'data: {"type":"ping"}\n\n', b"data: 7\n\n", b"data: null\n\n"]
    noise += [event(prompt_filter_results=[]), b'data: {"choices":[null]}\n\n', b"event: x\nid: 1\n\n"]
    answer = [
        event(delta(content="a")),
        event(delta(content="")),
        *noise,
        event(delta(content="b")),
        *noise,
        STOP,
    ]
    late = [b"data: [DONE]\n\n", event(delta(content="c")), b'data: {"error":{"code":"c"}}\n\n']
    found = ask(*answer, *late)
    assert found == ask(b"".join(answer) + b"".join(late))
    assert isinstance(found, Completion)
    assert (found.content, found.finish_reason, found.request_id) == ("ab", "stop", "x")


def test_an_unreadable_end_after_the_finish_reason_costs_the_usage_alone() -> None:
    found = ask(event(delta("stop", content="a")), b'data: {"choices":[],"usage":{"prompt')
    assert isinstance(found, Completion)
    assert (found.content, found.usage) == ("a", Usage())


CALL = {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a"'}}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([CALL, {"index": 0, "function": {"arguments": ":1}"}}], [("1", "f", '{"a":1}')]),
        ([CALL, {"index": 0, "id": "", "function": {"name": "", "arguments": ":1}"}}], [("1", "f", '{"a":1}')]),
        ([CALL, {**CALL, "function": {"name": "f", "arguments": ":1}"}}], [("1", "f", '{"a":1}')]),
        ([CALL, {"function": {"arguments": ":1}"}}], [("1", "f", '{"a":1}')]),
        ([CALL, {"index": 0, "function": {"name": "oo"}}], [("1", "foo", '{"a"')]),
        ([{**CALL, "index": None}, {"function": {"arguments": ":1}"}}], [("1", "f", '{"a":1}')]),
        (
            [CALL, {**CALL, "index": 1, "id": "2"}, {"index": 0, "function": {"arguments": "}"}}],
            [("1", "f", '{"a"}'), ("2", "f", '{"a"')],
        ),
        ([CALL, {**CALL, "id": "2"}], [("1", "f", '{"a"'), ("2", "f", '{"a"')]),
        ([{"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}], [(None, "f", '{"a":1}')]),
        ([{"index": 0, "id": 7, "function": None}, "no", {"index": []}], [(None, None, None)]),
    ],
)  # fmt: skip
def test_tool_calls_are_put_together_however_servers_number_them(
    parts: list[Any], expected: list[tuple[str | None, ...]]
) -> None:
    found = ask(*(event(delta(tool_calls=[part])) for part in parts), event(delta("tool_calls")))
    assert isinstance(found, Completion)
    assert found.tool_calls == [ToolCall(*call) for call in expected]
    assert found.content == ""


def test_the_former_function_call_is_a_tool_call_without_id() -> None:
    pieces = [{"name": "f", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ":1}"}]
    found = ask(*(event(delta(function_call=piece)) for piece in pieces), event(delta("function_call")))
    assert isinstance(found, Completion)
    assert found.tool_calls == [ToolCall(None, "f", '{"a":1}')]


def test_an_answer_that_comes_whole_is_read_as_one() -> None:
    body = orjson.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "id": "x"})
    whole = compatible.decode(replace(HEAD, body=body), Dialect.DASHSCOPE, NOW)
    assert isinstance(whole, Completion)
    assert put_together("compatible", [], replace(HEAD, body=body)) == whole
    assert put_together("compatible", [body]) == whole, "as an event stream that is none"
    stream = event(delta("stop", content="x"))
    assert put_together("compatible", [], replace(HEAD, body=stream)) == whole, "as a body that is a stream"


def test_a_refusal_before_the_stream_is_read_with_its_prefix() -> None:
    body = b'data: {"error":{"code":"invalid_parameter_error","message":"m"}}\n\n'
    found = put_together("compatible", [], replace(HEAD, status=400, body=body))
    assert isinstance(found, Failure)
    assert (found.kind, found.code, found.http_status) == (K.INVALID_REQUEST, "invalid_parameter_error", 400)


def test_the_headers_count_as_for_a_whole_answer() -> None:
    head = replace(HEAD, headers={"x-request-id": "r", "x-dashscope-partialresponse": "true"})
    found = put_together("compatible", [event(delta("stop", content="x"))], head)
    assert isinstance(found, Completion)
    assert (found.request_id, found.partial) == ("r", True)


@pytest.mark.parametrize("piece", [event(delta(content="x" * 50)), b"data: {", b": comment\n\n"])
def test_a_stream_beyond_the_bound_is_a_failure(piece: bytes) -> None:
    form = Form(compatible.choices, compatible.usage_of, compatible.decode)
    parts = Assembler(form, max_stream_bytes=1000)
    for _ in range(200):
        parts.feed(piece)
    found = parts.finish(HEAD, Dialect.DASHSCOPE, NOW)
    assert isinstance(found, Failure)
    assert (found.kind, found.code, found.maybe_paid) == (K.TOO_LARGE, "response_too_large", True)


# The same answer in every format. Words that stand around a text are the ones that could be taken for it.
WORDS = [
    "content",
    "role",
    "assistant",
    "index",
    "choices",
    '"',
    "\\",
    "\n",
    "\x00",
    "中文",
    "🐕",
    "?",
    "a b",
    "{",
    "}",
]
WORDS += ['"},"finish_reason":"stop"', "data: ", "\r\n\r\n", "", "x", "null", "\u2028"]
TEXT = st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=8)
CALL_PIECES = st.tuples(st.sampled_from(["f", "get_weather"]), TEXT)


def whole(pieces: list[str]) -> str:
    return "".join(pieces)


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """One to three choices, their texts in pieces."""
    found = []
    for index in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        calls = draw(st.just([]) | st.lists(CALL_PIECES, max_size=2))
        found.append(
            {
                "index": index,
                "content": draw(TEXT),
                "reasoning": draw(st.just([]) | TEXT),
                "calls": [
                    {"id": f"call_{n}", "name": name, "arguments": a} for n, (name, a) in enumerate(calls)
                ],
                "logprobs": draw(
                    st.just([]) | st.lists(st.just({"token": "t", "logprob": -1.5}), max_size=3)
                ),
                "finish": draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"])),
            }
        )
    return found


def tool_call(call: dict[str, Any], index: int) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": whole(call["arguments"])}
    return {"id": call["id"], "type": "function", "index": index, "function": function}


def message(one: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": whole(one["content"])}
    if reasoning := whole(one["reasoning"]):
        found["reasoning_content"] = reasoning
    if one["calls"]:
        found["tool_calls"] = [tool_call(call, n) for n, call in enumerate(one["calls"])]
    return found


def whole_choices(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "message": message(one),
            "finish_reason": one["finish"],
            "index": one["index"],
            "logprobs": {"content": one["logprobs"]} if one["logprobs"] else None,
        }
        for one in answer
    ]


def deltas(one: dict[str, Any]) -> list[tuple[dict[str, Any], Any]]:
    """What each event says of a choice, beside its finish reason: the message's part, and the logprobs."""
    found: list[tuple[dict[str, Any], Any]] = [({"role": "assistant", "content": ""}, None)]
    found += [({"content": None, "reasoning_content": piece}, None) for piece in one["reasoning"]]
    found += [({"content": piece}, None) for piece in one["content"]]
    found += [({"content": ""}, {"content": [entry]}) for entry in one["logprobs"]]
    for n, call in enumerate(one["calls"]):
        first = {
            "index": n,
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": ""},
        }
        found.append(({"content": None, "tool_calls": [first]}, None))
        for piece in call["arguments"]:
            later = {"index": n, "id": "", "type": "function", "function": {"arguments": piece}}
            found.append(({"content": None, "tool_calls": [later]}, None))
    return found


def compatible_stream(answer: list[dict[str, Any]], usage: dict[str, Any]) -> list[bytes]:
    found = []
    for one in answer:
        for fields, logprobs in deltas(one):
            found.append(
                event({**delta(None, one["index"], **fields), "logprobs": logprobs}, model="m", usage=None)
            )
    found += [event(delta(one["finish"], one["index"], content=""), model="m", usage=None) for one in answer]
    return [*found, event(model="m", usage=usage), b"data: [DONE]\n\n"]


def frame(number: int, choice: dict[str, Any], usage: dict[str, Any]) -> bytes:
    body = orjson.dumps({"output": {"choices": [choice]}, "usage": usage, "request_id": "x"})
    return b"id:%d\nevent:result\n:HTTP_STATUS/200\ndata:%s\n\n" % (number, body)


def native_stream(answer: list[dict[str, Any]], usage: dict[str, Any], parts: bool) -> list[bytes]:
    """Frames whose usage grows; of several choices each counts its own output."""
    found: list[bytes] = []
    for one in answer:
        made = usage["output_tokens"] if one["index"] == 0 else 0
        steps = [*deltas(one), ({"content": ""}, None)]
        for n, (fields, logprobs) in enumerate(steps, 1):
            said = {"role": "assistant", **fields, "content": fields["content"] or ""}
            if parts:
                said["content"] = [{"text": said["content"]}] if said["content"] else []
            last = n == len(steps)
            choice = {
                "message": said,
                "finish_reason": one["finish"] if last else "null",
                "index": one["index"],
            }
            now = {**usage, "output_tokens": made if last else min(n, made)}
            now["total_tokens"] = now["input_tokens"] + now["output_tokens"]
            found.append(frame(len(found) + 1, {**choice, "logprobs": logprobs}, now))
    return found


def begun(call: dict[str, Any], length: int) -> dict[str, Any]:
    return {**call, "function": {name: value[:length] for name, value in call["function"].items()}}


def cumulative_stream(answer: list[dict[str, Any]], usage: dict[str, Any]) -> list[bytes]:
    """Frames that repeat all there is so far."""
    found = []
    for whole_choice in whole_choices(answer):
        content = whole_choice["message"]["content"]
        for end in range(0, len(content), 3):
            so_far = {**whole_choice["message"], "content": content[:end]}
            if "tool_calls" in so_far:
                so_far["tool_calls"] = [begun(call, end + 1) for call in so_far["tool_calls"]]
            found.append(frame(end, {**whole_choice, "message": so_far, "finish_reason": "null"}, usage))
        found.append(frame(len(content), whole_choice, usage))
    return found


def row(found: Completion | Failure) -> Completion | Failure:
    """Without what tells the formats apart: their own usage object, and the model, which the native one leaves out."""
    if isinstance(found, Completion):
        return replace(found, usage=replace(found.usage, raw=None), model=None)
    return found


ONE_CALL: dict[str, Any] = {"id": "call_0", "name": "get_weather", "arguments": ["{", "}"]}
CALLING: dict[str, Any] = {
    "index": 0,
    "content": ["hel", "lo"],
    "reasoning": [],
    "calls": [ONE_CALL],
    "logprobs": [],
}


@settings(max_examples=60)
@example([{**CALLING, "finish": "tool_calls"}], 17, False, [])
@given(answers(), st.integers(1, 40), st.booleans(), st.lists(st.integers(0, 4000), max_size=6))
def test_the_same_answer_is_the_same_row_streamed_or_not_in_either_format(
    answer: list[dict[str, Any]], made: int, parts: bool, places: list[int]
) -> None:
    usage = {"prompt_tokens": 22, "completion_tokens": made, "total_tokens": 22 + made}
    native_usage = {"input_tokens": 22, "output_tokens": made, "total_tokens": 22 + made}
    choices = whole_choices(answer)
    body = orjson.dumps({"choices": choices, "usage": usage, "model": "m", "id": "x"})
    expected = row(compatible.decode(replace(HEAD, body=body), Dialect.DASHSCOPE, NOW))
    assert isinstance(expected, Completion)
    native_body = orjson.dumps({"output": {"choices": choices}, "usage": native_usage, "request_id": "x"})
    assert row(NATIVE.decode(replace(HEAD, body=native_body), Dialect.DASHSCOPE, NOW)) == expected
    streams = [
        ("compatible", compatible_stream(answer, usage)),
        ("native", native_stream(answer, native_usage, parts)),
    ]
    if len(answer) == 1:
        streams.append(("native-cumulative", cumulative_stream(answer, native_usage)))
    for name, pieces in streams:
        assert row(put_together(name, pieces)) == expected, name
        assert row(put_together(name, cut(b"".join(pieces), places))) == expected, name


LOOKALIKE = st.sampled_from(
    ["content", "role", "x", "?x", "index", "reasoning_content", '"', "\\", "\n", "", "中"]
)


@given(st.lists(st.tuples(st.sampled_from(["content", "reasoning_content"]), LOOKALIKE), max_size=12))
@example([("content", "content"), ("reasoning_content", "content"), ("content", "role")])
@example([("content", "x"), ("content", "\\"), ("content", '"'), ("content", "\\")])
def test_texts_that_look_like_what_is_around_them_are_kept_as_they_are(pieces: list[tuple[str, str]]) -> None:
    events = [event({"x": "x", **delta(None, 0, **{field: text})}, model="content") for field, text in pieces]
    events.append(event(delta("stop", content="")))
    found = ask(*events)
    assert isinstance(found, Completion)
    assert ask(b"".join(events)) == found
    assert found.content == "".join(text for field, text in pieces if field == "content")
    assert (found.reasoning_content or "") == "".join(text for field, text in pieces if field != "content")


def test_a_long_answer_in_one_piece_is_kept_whole_whatever_stands_between_its_events() -> None:
    texts = [f"word {n} " if n % 97 else 'a "quoted" \\ word\n' for n in range(3000)]
    events = [event(delta(content=one)) for one in texts]
    for place in range(2900, 0, -300):
        events.insert(place, b": keep-alive\n\n")
    found = ask(b"".join([*events, event(delta("stop", content=""))]))
    assert isinstance(found, Completion)
    assert found.content == "".join(texts)


@pytest.mark.parametrize("last", [{}, {"usage": None}, {"usage": {"input_tokens": 9, "output_tokens": 5}}])
def test_the_last_usage_counts_wherever_it_came(last: dict[str, Any]) -> None:
    counts = [{"input_tokens": 9, "output_tokens": n} for n in (1, 2, 3, 4)]
    said = [{"message": {"content": "x"}, "finish_reason": "null"}] * 4
    frames = [frame(n, choice, usage) for n, (choice, usage) in enumerate(zip(said, counts, strict=True))]
    end = {"output": {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}, **last}
    found = put_together("native", [*frames, b"data:" + orjson.dumps(end) + b"\n\n"])
    assert isinstance(found, Completion)
    made = 5 if last.get("usage") else 4
    assert (found.content, found.usage.completion_tokens, found.usage.total_tokens) == (
        "xxxx",
        made,
        9 + made,
    )


def test_counts_elsewhere_in_an_event_are_not_its_usage() -> None:
    usage = {"prompt_tokens": 1}
    events = [
        event(delta(content="y"), other={"usage": {"prompt_tokens": n}}, usage=usage) for n in (1, 2, 3)
    ]
    found = ask(*events, event(delta("stop")))
    assert isinstance(found, Completion)
    assert (found.content, found.usage.prompt_tokens) == ("yyy", 1)


def test_unicode_that_was_broken_between_events_does_not_break_the_answer() -> None:
    dog = "🐕".encode()
    broken = [
        event(delta(content="@")).replace(b"@", piece) for piece in (b"a", dog[:2], dog[2:], b"b", b"\xff")
    ]
    found = ask(*broken, STOP)
    assert isinstance(found, Completion)
    assert (found.content or "")[0] == "a"
    assert found == ask(b"".join([*broken, STOP]))
    assert_storable(found)


EVENT = st.one_of(
    BODY.map(json.dumps).map(str.encode),
    st.lists(st.sampled_from(["a", '"', "b"]), max_size=3).map(
        lambda t: event(delta(content="".join(t)))[6:-2]
    ),
    st.binary(max_size=20),
    st.sampled_from([STOP[6:-2], b"[DONE]", b"{", b'{"output":{"text":"x","finish_reason":"stop"}}']),
)
FRAME = st.tuples(
    st.sampled_from([b"data: ", b"data:", b"event: error\ndata: ", b":HTTP_STATUS/9\ndata:", b""]), EVENT
)


@given(st.lists(FRAME, max_size=6), STATUSES, st.sampled_from(Dialect), st.booleans(), st.booleans())
@example([(b"data: ", b"[" * 100_000)], 200, Dialect.GENERIC, False, False)
@example(
    [(b"data: ", b'{"choices":[{"delta":{"content":' + b"[" * 900 + b"]" * 900 + b"}}]}")],
    200,
    Dialect.GENERIC,
    False,
    False,
)
@example([(b"data: ", b'{"choices":[{"index":' + b"9" * 5000 + b"}]}")], 200, Dialect.GENERIC, False, False)
def test_any_events_are_a_completion_or_a_failure(
    frames: list[tuple[bytes, bytes]], status: int, dialect: Dialect, native: bool, cumulative: bool
) -> None:
    form: WireFormat = NATIVE if native else COMPATIBLE
    parts = form.assembler({"incremental_output": not cumulative})
    for before, data in frames:
        parts.feed(before + data + b"\n\n")
    assert_storable(parts.finish(replace(HEAD, status=status), dialect, NOW))


@given(st.lists(st.binary(), max_size=5), st.binary(), STATUSES, st.booleans())
def test_any_bytes_are_a_completion_or_a_failure(
    pieces: list[bytes], body: bytes, status: int, native: bool
) -> None:
    form: WireFormat = NATIVE if native else COMPATIBLE
    parts = form.assembler({})
    for piece in pieces:
        parts.feed(piece)
    assert_storable(parts.finish(replace(HEAD, status=status, body=body), Dialect.DASHSCOPE, NOW))
