"""The native format: requests as the vendor documents them, whole answers, errors, and where each model is asked."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import catalog
from pipeline.failures import Dialect
from pipeline.protocol import native
from pipeline.protocol.compatible import EncodeError
from pipeline.protocol.native import MULTIMODAL_PATH, TEXT_PATH, decode, encode
from pipeline.protocol.wire import Compatible, Native, wire_format
from pipeline.records import Completion, Failure, FailureKind, Response, ToolCall, Usage
from tests.wire.test_compatible import BODY, JSON, STATUSES, assert_storable

BODIES = Path(__file__).parent / "bodies"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
URL = "https://dashscope.oss-cn-beijing.aliyuncs.com/images/dog_and_girl.jpeg"
K = FailureKind


def read(raw: Any, status: int = 200, **headers: str) -> Completion | Failure:
    raw = raw if isinstance(raw, bytes) else orjson.dumps(raw)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return decode(Response(status, names, raw, 1.0), Dialect.DASHSCOPE, NOW)


def completion(raw: Any, **headers: str) -> Completion:
    found = read(raw, **headers)
    assert isinstance(found, Completion), found
    return found


def answer(message: Any, finish: Any = "stop", usage: Any = None) -> dict[str, Any]:
    return {
        "output": {"choices": [{"message": message, "finish_reason": finish}]},
        "usage": usage,
        "request_id": "r",
    }


def sent(
    messages: list[dict[str, Any]], stream: bool = False, multimodal: bool = False, **params: Any
) -> Any:
    return orjson.loads(encode("m", messages, params, stream, multimodal=multimodal))


def parts(*content: Any, multimodal: bool = True) -> Any:
    body = sent([{"role": "user", "content": list(content)}], multimodal=multimodal)
    return body["input"]["messages"][0]["content"]


def test_the_documented_native_answer_is_read_field_by_field() -> None:
    found = completion((BODIES / "dashscope-native-document-curl.json").read_bytes())
    content = found.content or ""
    assert (content[:9], content[-7:], len(content)) == ("这篇文章是关于百炼", "参考售价范围。", 174)
    assert found == Completion(
        content=content,
        finish_reason="stop",
        usage=Usage(5395, 95, 5490, raw='{"total_tokens":5490,"output_tokens":95,"input_tokens":5395}'),
        request_id="45326bfa-e2cd-9f4f-8b3b-730faf7fd3e7",
    )


def test_an_image_answer_s_parts_are_joined_and_its_usage_is_mapped() -> None:
    usage = {
        "input_tokens": 1271,
        "output_tokens": 55,
        "image_tokens": 1247,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    found = completion(answer({"role": "assistant", "content": [{"text": "a"}, {"text": "b"}]}, usage=usage))
    assert (found.content, found.finish_reason) == ("ab", "stop")
    assert found.usage == Usage(1271, 55, 1326, 3, raw=orjson.dumps(usage).decode())


def test_all_counts_are_mapped() -> None:
    usage = {
        "input_tokens": 3019,
        "output_tokens": 104,
        "total_tokens": 3123,
        "prompt_tokens_details": {"cached_tokens": 2048, "cache_creation_input_tokens": 512},
        "output_tokens_details": {"reasoning_tokens": 64, "text_tokens": 40},
    }
    found = completion(answer({"content": "x"}, usage=usage)).usage
    assert found == Usage(3019, 104, 3123, 2048, 512, 64, raw=orjson.dumps(usage).decode())


@pytest.mark.parametrize(
    "usage", [None, [], {"input_tokens": "3", "output_tokens_details": None}, {"output_tokens": -1}]
)
def test_what_is_not_a_count_is_unknown(usage: Any) -> None:
    found = completion(answer({"content": "x"}, usage=usage)).usage
    assert found == Usage(raw=found.raw)


def test_reasoning_and_tool_calls_are_read_as_in_the_compatible_format() -> None:
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    found = completion(answer({"content": "", "reasoning_content": "hm", "tool_calls": [call]}, "tool_calls"))
    assert (found.reasoning_content, found.tool_calls) == ("hm", [ToolCall("1", "f", "{}")])
    assert (found.content, found.finish_reason, found.partial) == ("", "tool_calls", False)


def test_the_word_null_is_no_finish_reason_and_the_header_makes_an_answer_partial() -> None:
    assert completion(answer({"content": "half"}, "null")).partial
    assert completion(answer({"content": "x"}), x_dashscope_partialresponse="true").partial


def test_an_answer_of_result_format_text_is_read_too() -> None:
    body = {
        "output": {"text": "x", "finish_reason": "stop"},
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    found = completion(body)
    assert (found.content, found.finish_reason, found.usage.total_tokens) == ("x", "stop", 3)


@pytest.mark.parametrize(
    ("raw", "status", "kind", "code"),
    [
        ((BODIES / "dashscope-error-native.json").read_bytes(), 400, K.TOO_LARGE, "InvalidParameter"),
        ({"code": "InvalidApiKey", "message": "m"}, 401, K.AUTH, "InvalidApiKey"),
        ({"code": "Throttling.RateQuota", "message": "m"}, 429, K.RATE_REQUESTS, "Throttling.RateQuota"),
        ({"error": {"code": "invalid_api_key", "message": "m"}}, 401, K.AUTH, "invalid_api_key"),
        ({"code": "DataInspectionFailed", "message": "m", "output": None}, 200, K.BLOCKED, "DataInspectionFailed"),
        ({"code": "InvalidParameter", "message": "url error, please check url！"}, 400, K.INVALID_REQUEST, "InvalidParameter"),
        ({"output": {"choices": []}, "code": "", "message": ""}, 200, K.TRUNCATED_STREAM, "no_choices"),
        ({"output": {"choices": [None]}}, 200, K.TRUNCATED_STREAM, "no_choices"),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}, 200, K.TRUNCATED_STREAM, "no_choices"),
        (b'data:{"code":"InvalidParameter","message":"m"}\n\n', 400, K.INVALID_REQUEST, "InvalidParameter"),
        (b"", 200, K.TRUNCATED_STREAM, "empty_body"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_failure(raw: Any, status: int, kind: FailureKind, code: str) -> None:
    found = read(raw, status)
    assert isinstance(found, Failure)
    assert (found.kind, found.code, found.http_status) == (kind, code, status)


def test_parameters_stand_beside_the_result_format_and_win_over_ours() -> None:
    body = sent([{"role": "user", "content": "x"}], temperature=0, tools=[])
    assert body["parameters"] == {"result_format": "message", "temperature": 0, "tools": []}
    assert sent([], stream=True)["parameters"] == {"result_format": "message", "incremental_output": True}
    chosen = {"incremental_output": False, "result_format": "text"}
    assert sent([], stream=True, **chosen)["parameters"] == chosen


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "x"}, {"text": "x"}),
        (
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
            {"text": "x", "cache_control": {"type": "ephemeral"}},
        ),
        ({"type": "image_url", "image_url": {"url": URL}}, {"image": URL}),
        ({"type": "image_url", "image_url": URL}, {"image": URL}),
        ({"type": "image_url", "image_url": {"url": URL}, "min_pixels": 1}, {"image": URL, "min_pixels": 1}),
        ({"type": "video", "video": ["a", "b"], "fps": 2}, {"video": ["a", "b"], "fps": 2}),
        ({"type": "video_url", "video_url": {"url": "v"}, "fps": 0.5}, {"video": "v", "fps": 0.5}),
        ({"type": "input_audio", "input_audio": {"data": "UklG", "format": "mp3"}}, {"audio": "data:audio/mp3;base64,UklG"}),
        ({"type": "input_audio", "input_audio": {"data": "https://a/b.wav"}}, {"audio": "https://a/b.wav"}),
        ({"image": URL}, {"image": URL}),
    ],
)  # fmt: skip
def test_a_part_becomes_its_native_form(part: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parts(part) == [expected]
    assert parts(part, multimodal=False) == [expected]


def test_on_the_multimodal_path_texts_are_parts_but_for_tools() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]
    assert sent(messages, multimodal=True)["input"]["messages"] == [
        {"role": "system", "content": [{"text": "s"}]},
        messages[1],
        messages[2],
    ]
    assert sent(messages)["input"]["messages"] == messages


@pytest.mark.parametrize(
    ("content", "params", "says"),
    [
        ([{"type": "file", "file": {}}], {}, "messages[0].content[0] is a part of type 'file'"),
        (["x"], {}, "messages[0].content[0] is a part of type None"),
        ([{"type": []}], {}, "messages[0].content[0] is a part of type []"),
        ([{"text": "x"}, {"type": "image_url", "image_url": {}}], {}, "messages[0].content[1] is of type 'image_url'"),
        ([{"type": "text"}], {}, "messages[0].content[0] is of type 'text'"),
        ("half \ud83d", {}, "messages[0].content cannot be sent as JSON"),
        ("x", {"seed": 2**70}, "seed cannot be sent as JSON"),
        ("x", {"stream": True}, "params holds `stream`"),
        ("x", {"input": {}}, "params holds `input`"),
        ("x", {"model": "y"}, "params holds `model`"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_with_its_place(
    content: Any, params: dict[str, Any], says: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        encode("m", [{"role": "user", "content": content}], params)
    assert str(caught.value).startswith(says)


def test_the_prompt_itself_is_left_as_it_is() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": "y"},
    ]
    params = {"seed": 1}
    before = orjson.dumps([messages, params])
    encode("m", messages, params, True, multimodal=True)
    assert orjson.dumps([messages, params]) == before


@pytest.mark.parametrize(
    ("name", "multimodal"),
    [
        ("qwen-plus", False),
        ("qwen-long", False),
        ("qwen3-max", False),
        ("qwen-vl-plus", True),
        ("qwen3-vl-plus", True),
        ("qwen3.7-plus", True),
        # not in the catalogue: told by the name
        ("qwen-plus-2025-07-28", False),
        ("qwen2.5-72b-instruct", False),
        ("deepseek-v3.1", False),
        ("qwen-vl-max-2025-08-13", True),
        ("qwen2.5-vl-7b-instruct", True),
        ("qwen3.5-plus-2026-02-15", True),
        ("qvq-max-2025-03-25", True),
        ("qwen2.5-omni-7b", True),
    ],
)
def test_each_model_is_asked_on_the_path_it_answers(name: str, multimodal: bool) -> None:
    entry = catalog.load("dashscope").model(name)
    assert native.path(name, entry, has_media=False) == (MULTIMODAL_PATH if multimodal else TEXT_PATH)
    assert native.path(name, entry, has_media=True) == MULTIMODAL_PATH


def test_media_are_whatever_is_not_text() -> None:
    assert not native.has_media(
        [{"role": "user", "content": "x"}, {"content": None}, {"content": [{"type": "text"}]}]
    )
    assert native.has_media([{"role": "user", "content": [{"type": "text"}, {"type": "image_url"}]}])
    assert not native.has_media([{"content": [{"text": "x"}, "x", None]}])


def test_a_run_s_format_follows_its_job_and_its_model() -> None:
    plain = wire_format("compatible", "qwen-vl-plus", None, has_media=True)
    assert isinstance(plain, Compatible)
    assert (plain.path, dict(plain.stream_headers)) == ("/chat/completions", {})
    text = wire_format("native", "qwen-plus", None, has_media=False)
    assert isinstance(text, Native)
    assert (text.path, dict(text.stream_headers)) == (TEXT_PATH, {"X-DashScope-SSE": "enable"})
    vision = wire_format("native", "qwen-vl-plus", None, has_media=False)
    assert vision.path == MULTIMODAL_PATH
    body = orjson.loads(vision.encode("qwen-vl-plus", [{"role": "user", "content": "x"}], {}))
    assert body["input"]["messages"] == [{"role": "user", "content": [{"text": "x"}]}]


@given(st.fixed_dictionaries({}, optional={"output": BODY, "usage": JSON, "code": JSON}) | JSON, STATUSES)
def test_any_json_is_a_completion_or_a_failure(value: Any, status: int) -> None:
    assert_storable(read(orjson.dumps(value, default=str) if not _too_big(value) else b"{}", status))


def _too_big(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_too_big, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**64
