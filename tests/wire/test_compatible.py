"""The compatible wire format on documented bodies of every provider, and on anything else that may come.

The bodies in `bodies/` are those of the vendors' documentation and sources: Model Studio's API examples (2024),
OpenAI's API reference, and the error and answer shapes of vLLM, llama.cpp's server, DeepSeek, Ollama and LM Studio.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.failures import Dialect
from pipeline.protocol.compatible import HEADERS_READ, EncodeError, decode, encode
from pipeline.records import Completion, Failure, FailureKind, Response, ToolCall, Usage
from pipeline.transport import KEPT_HEADERS

BODIES = Path(__file__).parent / "bodies"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
D, O, G = Dialect.DASHSCOPE, Dialect.OPENAI, Dialect.GENERIC  # noqa: E741


def body(name: str) -> bytes:
    return (BODIES / f"{name}.json").read_bytes()


def read(
    raw: bytes | dict[str, Any], status: int = 200, dialect: Dialect = G, **headers: str
) -> Completion | Failure:
    raw = raw if isinstance(raw, bytes) else orjson.dumps(raw)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return decode(Response(status, names, raw, 1.0), dialect, NOW)


def completion(raw: bytes | dict[str, Any], dialect: Dialect = G, **headers: str) -> Completion:
    found = read(raw, 200, dialect, **headers)
    assert isinstance(found, Completion), found
    return found


def failure(raw: bytes | dict[str, Any], status: int = 200, dialect: Dialect = G, **headers: str) -> Failure:
    found = read(raw, status, dialect, **headers)
    assert isinstance(found, Failure), found
    return found


def answer(message: Any, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}


class Answer(NamedTuple):
    name: str
    model: str
    id: str
    tokens: tuple[int, int, int]
    begins: str
    ends: str
    length: int


DASHSCOPE_TEXTS = [
    Answer(
        "text-python",
        "qwen-plus",
        "chatcmpl-0da38de9-5d2b-916d-9c6a-7af95993e275",
        (22, 36, 58),
        "我是通义千问,由阿里云开",
        "可以帮助你的吗?",
        59,
    ),
    Answer(
        "text-node",
        "qwen-plus",
        "chatcmpl-3a8c00cc-9c9f-9aba-b2d9-dc431e27d1b5",
        (22, 17, 39),
        "我是来自阿里云的超大规模",
        ",我叫通义千问。",
        24,
    ),
    Answer(
        "text-curl",
        "qwen-plus",
        "chatcmpl-94149c5a-137f-9b87-b2c8-61235e85f540",
        (22, 36, 58),
        "我是通义千问,由阿里云开",
        "可以帮助你的吗?",
        59,
    ),
    Answer(
        "image-python",
        "qwen-vl-plus",
        "chatcmpl-9b2665ca-4d9c-9799-9675-e2947ccc2c3e",
        (1276, 79, 1355),
        "图中是一名女子和她的狗在",
        "之间的友谊时刻。",
        120,
    ),
    Answer(
        "image-curl",
        "qwen-vl-plus",
        "chatcmpl-5b471a38-02a4-92b0-a076-45378c986aea",
        (1275, 92, 1367),
        "这张图片显示了一位女士和",
        "的深厚情感连接。",
        157,
    ),
    Answer(
        "image-node",
        "qwen-vl-max",
        "chatcmpl-2c878e62-613c-9acd-a0e3-bb77cce98960",
        (1271, 55, 1326),
        "这是一张在海滩上拍摄的照",
        "造出温暖的氛围。",
        80,
    ),
    Answer(
        "video-python",
        "qwen-vl-max-latest",
        "chatcmpl-2be1f4f7-84c8-9dcc-9dab-d4608c5781ad",
        (1466, 210, 1676),
        "这个视频展示了一场足球比",
        "赛中的精彩瞬间。",
        313,
    ),
    Answer(
        "video-curl",
        "qwen-vl-max-latest",
        "chatcmpl-74b07727-7c7a-9e73-b5d9-2868cd3d4d7a",
        (1466, 152, 1618),
        "这个视频展示了一场足球比",
        "赛中的精彩瞬间。",
        238,
    ),
    Answer(
        "video-node",
        "qwen-vl-max-latest",
        "chatcmpl-d96b4000-5b7d-98e4-8be8-01d4ea3c6109",
        (1466, 189, 1655),
        "这个视频展示了一场足球比",
        "和守门员的反应。",
        282,
    ),
    Answer(
        "search-python",
        "qwen-plus",
        "chatcmpl-96ab11c8-4a9d-9bcf-a96c-8c604174f708",
        (542, 74, 616),
        "中国队在 2024 年巴",
        "牌数最多的纪录。",
        122,
    ),
    Answer(
        "search-curl",
        "qwen-plus",
        "chatcmpl-3f8f873d-b8b0-9f5c-9464-ef1b550d7285",
        (1109, 82, 1191),
        "中国队在 2024 巴黎",
        "数目的最高纪录。",
        149,
    ),
    Answer(
        "search-node",
        "qwen-plus",
        "chatcmpl-f1c5534e-2ff9-9bf7-9ad2-5b0ca7ae1fcc",
        (707, 53, 760),
        "中国队在 2024 年巴",
        " 24 枚铜牌。",
        95,
    ),
    Answer(
        "async-python",
        "qwen-plus",
        "chatcmpl-e517181d-5b98-9c23-b57e-e6de5178bd4a",
        (10, 17, 27),
        "我是来自阿里云的超大规模",
        ",我叫通义千问。",
        24,
    ),
    Answer(
        "document-python",
        "qwen-long",
        "chatcmpl-e4f7345c-e4b6-9a1e-babe-783a9adf7ea8",
        (5395, 63, 5458),
        "这篇文章介绍了多个型号的",
        "置和售价等信息。",
        114,
    ),
    Answer(
        "document-node",
        "qwen-long",
        "chatcmpl-ae5f726b-ffe0-9d46-b5a7-9c01028975d9",
        (5395, 108, 5503),
        "这篇文章介绍了百炼系列的",
        "科技生活的追求。",
        191,
    ),
]


@pytest.mark.parametrize("expected", DASHSCOPE_TEXTS, ids=lambda a: a.name)
def test_a_documented_dashscope_answer_is_read_field_by_field(expected: Answer) -> None:
    raw = body(f"dashscope-{expected.name}")
    found = completion(raw, D)
    content = found.content or ""
    assert (content[:12], content[-8:], len(content)) == (expected.begins, expected.ends, expected.length)
    prompt, made, total = expected.tokens
    assert found == Completion(
        content=content,
        finish_reason="stop",
        usage=Usage(prompt, made, total, raw=found.usage.raw),
        model=expected.model,
        request_id=expected.id,
    )
    assert json.loads(found.usage.raw or "") == json.loads(raw)["usage"]


@pytest.mark.parametrize(
    ("name", "id_", "call"),
    [
        ("tools-python", "chatcmpl-9894dd96-4cd9-9d10-9ad1-cd7d8ce7a579", "call_105fec8d4a954d89b280fe"),
        ("tools-curl", "chatcmpl-c1417bcf-10db-9fd3-8af0-8f99a15a833f", "call_b3b822e3aa6441369c42fc"),
        ("tools-node", "chatcmpl-fee4749f-7c2a-9e16-a8cc-4111d89cf9f2", "call_75cb935df86f48929cb606"),
    ],
)
def test_a_documented_dashscope_tool_call_is_read_field_by_field(name: str, id_: str, call: str) -> None:
    found = completion(body(f"dashscope-{name}"), D)
    assert found == Completion(
        content="",
        finish_reason="tool_calls",
        usage=Usage(224, 18, 242, raw=found.usage.raw),
        model="qwen-plus",
        request_id=id_,
        tool_calls=[ToolCall(call, "get_current_weather", '{"location": "杭州市"}')],
    )


def test_a_native_answer_is_not_taken_for_a_compatible_one() -> None:
    found = failure(body("dashscope-native-document-curl"), 200, D)
    assert (found.kind, found.code) == (FailureKind.TRUNCATED_STREAM, "no_choices")
    assert found.request_id == "45326bfa-e2cd-9f4f-8b3b-730faf7fd3e7"


def test_openai_answer() -> None:
    found = completion(body("openai-answer"), O, x_request_id="req_1")
    assert found == Completion(
        content="Hello! How can I assist you today?",
        finish_reason="stop",
        usage=Usage(19, 10, 29, cached_tokens=0, reasoning_tokens=0, raw=found.usage.raw),
        model="gpt-4.1-2025-04-14",
        request_id="req_1",
    )


def test_openai_refusal_is_the_answer_where_there_is_no_content() -> None:
    found = completion(body("openai-refusal"), O)
    assert found.content == "I'm sorry, I cannot assist with that request."
    assert found.finish_reason == "stop"


def test_of_several_choices_the_first_by_index_is_the_answer_and_all_are_kept() -> None:
    raw = body("openai-two-choices")
    found = completion(raw, O)
    assert (found.content, found.finish_reason) == ("first", "stop")
    second, first = json.loads(raw)["choices"]
    kept = [{name: part for name, part in one.items() if part is not None} for one in (first, second)]
    assert json.loads(found.choices or "") == kept


def test_logprobs_keep_the_choices() -> None:
    raw = body("openai-logprobs")
    assert json.loads(completion(raw, O).choices or "") == json.loads(raw)["choices"]


def test_a_content_filter_is_a_completion_since_its_usage_is_billed() -> None:
    found = completion(body("openai-content-filter"), O)
    assert (found.content, found.finish_reason, found.usage.total_tokens) == (None, "content_filter", 9)


def test_vllm_answer_with_reasoning_under_its_new_name() -> None:
    found = completion(body("vllm-answer"))
    assert found == Completion(
        content="4",
        finish_reason="stop",
        usage=Usage(15, 12, 27, raw=found.usage.raw),
        model="Qwen/Qwen3-8B",
        request_id="chatcmpl-5ee2",
        reasoning_content="2 plus 2 is 4.",
    )


def test_llamacpp_answer() -> None:
    found = completion(body("llamacpp-answer"))
    assert found == Completion(
        content="positive",
        finish_reason="stop",
        usage=Usage(41, 2, 43, raw=found.usage.raw),
        model="gpt-3.5-turbo",
        request_id="chatcmpl-Xq9",
    )


def test_deepseek_answer_with_its_own_cache_count() -> None:
    found = completion(body("deepseek-answer"))
    assert found == Completion(
        content="Hello!",
        finish_reason="stop",
        usage=Usage(16, 10, 26, cached_tokens=12, reasoning_tokens=6, raw=found.usage.raw),
        model="deepseek-reasoner",
        request_id="930c60df-bf64-41c9-a88e-3ec75f81e00e",
        reasoning_content="A greeting.",
    )


def test_deepseek_answer_given_up_for_want_of_capacity_is_asked_again() -> None:
    found = failure(body("deepseek-answer-given-up"))
    assert (found.kind, found.code) == (FailureKind.OVERLOADED, "insufficient_system_resource")
    assert found.maybe_paid


def test_blank_lines_while_deepseek_queues_do_not_matter() -> None:
    assert completion(b"\n\n\n" + body("deepseek-answer")).content == "Hello!"


def test_ollama_answer_with_a_tool_call() -> None:
    found = completion(body("ollama-answer"))
    assert found == Completion(
        content="",
        finish_reason="tool_calls",
        usage=Usage(169, 20, 189, raw=found.usage.raw),
        model="qwen3:0.6b",
        request_id="chatcmpl-892",
        reasoning_content="The weather is asked.",
        tool_calls=[ToolCall("call_x1", "get_current_weather", '{"location":"Paris"}')],
    )


def test_lmstudio_answer_without_text_and_finish_reason_is_a_failure() -> None:
    found = failure(body("lmstudio-empty"))
    assert (found.kind, found.code) == (FailureKind.TRUNCATED_STREAM, "no_answer")


LIMIT = (
    "You have exceeded your current request limit. For details, see: https://help.aliyun.com/zh/model-studio/"
)
K = FailureKind


@pytest.mark.parametrize(
    ("name", "dialect", "status", "kind", "code", "message", "request_id"),
    [
        ("dashscope-error-limit-requests", D, 429, K.RATE_REQUESTS, "limit_requests", LIMIT, None),
        (
            "dashscope-error-inspection",
            D,
            400,
            K.BLOCKED,
            "data_inspection_failed",
            "Input text data may contain inappropriate content.",
            "chatcmpl-1",
        ),
        (
            "dashscope-error-arrears",
            D,
            400,
            K.ARREARS,
            "Arrearage",
            "Access denied, please make sure",
            "86055e6c-8a5e-9f0a-9d5b-2f2f5f0d9d0a",
        ),
        (
            "dashscope-error-native",
            D,
            400,
            K.TOO_LARGE,
            "InvalidParameter",
            "Range of input length should be [1, 129024]",
            "fb53c4ec-1c12-4fc4-a580-cdb7c3261fc1",
        ),
        (
            "dashscope-error-prefixed",
            D,
            400,
            K.INVALID_REQUEST,
            "invalid_parameter_error",
            "<400> InternalError.Algo.InvalidParameter: Range of max_tokens",
            "2",
        ),
        (
            "dashscope-error-in-200",
            D,
            200,
            K.AUTH,
            "BailianGateway.Workspace.NotAuthorised",
            "The workspace is not authorised.",
            "3",
        ),
        ("openai-error-quota", O, 429, K.QUOTA_EXHAUSTED, "insufficient_quota", "You exceeded your", None),
        ("openai-error-quota", D, 429, K.RATE_TOKENS, "insufficient_quota", "You exceeded your", None),
        ("openai-error-tokens", O, 429, K.RATE_TOKENS, "rate_limit_exceeded", "Rate limit reached", None),
        ("openai-error-key", O, 401, K.AUTH, "invalid_api_key", "Incorrect API key provided: sk-...", None),
        ("vllm-error-old", G, 400, K.TOO_LARGE, "BadRequestError", "This model's maximum context", None),
        ("vllm-error-new", G, 400, K.TOO_LARGE, "BadRequestError", "You passed 5000 input tokens", None),
        ("vllm-error-missing", G, 404, K.MODEL_MISSING, "NotFoundError", "The model `nope` does not", None),
        ("llamacpp-error-loading", G, 503, K.NOT_READY, "unavailable_error", "Loading model", None),
        (
            "llamacpp-error-context",
            G,
            400,
            K.TOO_LARGE,
            "exceed_context_size_error",
            "the request exce",
            None,
        ),
        (
            "llamacpp-error-context",
            G,
            500,
            K.TOO_LARGE,
            "exceed_context_size_error",
            "the request exce",
            None,
        ),
        ("deepseek-error-balance", G, 402, K.ARREARS, "invalid_request_error", "Insufficient Balance", None),
        ("deepseek-error-risk", G, 400, K.BLOCKED, "invalid_request_error", "Content Exists Risk", None),
        ("ollama-error-object", G, 404, K.MODEL_MISSING, "api_error", 'model "nope" not found', None),
        ("ollama-error-text", G, 404, K.MODEL_MISSING, "http_404", "model 'nope' not found", None),
        ("fastapi-detail", G, 422, K.INVALID_REQUEST, "http_422", '[{"type":"missing","loc":["body"', None),
    ],
)
def test_a_documented_refusal_is_read_field_by_field(
    name: str,
    dialect: Dialect,
    status: int,
    kind: FailureKind,
    code: str,
    message: str,
    request_id: str | None,
) -> None:
    found = failure(body(name), status, dialect)
    assert found.message.startswith(message)
    assert found == Failure(kind, code, found.message, status, request_id)


def test_every_recorded_body_is_read_by_a_test() -> None:
    source = Path(__file__).read_text()
    unread = [p.stem for p in BODIES.glob("*.json") if f'"{p.stem.removeprefix("dashscope-")}"' not in source]
    assert [name for name in unread if f'"{name}"' not in source] == []


def test_the_partial_header_makes_a_finished_looking_answer_partial() -> None:
    raw = body("dashscope-text-python")
    assert completion(raw, D, x_dashscope_partialresponse="true").partial
    assert not completion(raw, D, x_dashscope_partialresponse="false").partial


@pytest.mark.parametrize("finish", [None, "null", "", 7])
def test_text_without_a_finish_reason_is_partial(finish: Any) -> None:
    found = completion(answer({"content": "half an ans"}, finish_reason=finish))
    assert (found.content, found.finish_reason, found.partial) == ("half an ans", None, True)


def test_a_foreign_finish_reason_is_kept_as_sent() -> None:
    assert completion(answer({"content": "x"}, finish_reason="eos_token")).finish_reason == "eos_token"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, None),
        ("", ""),
        ([{"type": "text", "text": "a"}, {"text": "b"}, "c", {"type": "image"}, None], "abc"),
        ([], ""),
        ({"text": "a"}, None),
        (7, None),
    ],
)
def test_content_may_be_text_parts_or_missing(content: Any, text: str | None) -> None:
    assert completion(answer({"content": content})).content == text


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([{"function": {"name": "f", "arguments": "{"}}], [ToolCall(None, "f", "{")]),
        ([{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}], [ToolCall("1", "f", '{"a":1}')]),
        ([{"id": 1, "function": None}, "no"], [ToolCall(None, None, None)]),
        ([], None),
        ("no", None),
    ],
)
def test_tool_calls_may_lack_any_part(calls: Any, expected: list[ToolCall] | None) -> None:
    assert completion(answer({"content": "", "tool_calls": calls})).tool_calls == expected


def test_the_former_function_call_is_a_tool_call_without_id() -> None:
    found = completion(answer({"content": None, "function_call": {"name": "f", "arguments": "{}"}}))
    assert found.tool_calls == [ToolCall(None, "f", "{}")]


@pytest.mark.parametrize("count", [-1, True, 1.0, "3", None, 10**30, 10**13, [], {}])
def test_what_is_not_a_count_is_unknown_and_not_zero(count: Any) -> None:
    usage = {
        "prompt_tokens": count,
        "completion_tokens": count,
        "total_tokens": count,
        "prompt_cache_hit_tokens": count,
        "prompt_tokens_details": {"cached_tokens": count, "cache_creation_input_tokens": count},
        "completion_tokens_details": {"reasoning_tokens": count},
    }
    raw = json.dumps({**answer({"content": "x"}), "usage": usage}).encode()
    found = completion(raw).usage
    assert found == Usage(raw=found.raw)


def test_usage_may_be_missing_or_have_no_details() -> None:
    assert completion(answer({"content": "x"})).usage == Usage()
    assert completion({**answer({"content": "x"}), "usage": None}).usage == Usage()
    usage = {"prompt_tokens": 3, "prompt_tokens_details": None, "completion_tokens_details": None}
    assert completion({**answer({"content": "x"}), "usage": usage}).usage.prompt_tokens == 3


def test_all_counts_of_dashscope_are_mapped_and_its_object_is_kept() -> None:
    usage = {
        "prompt_tokens": 3019,
        "completion_tokens": 104,
        "total_tokens": 3123,
        "prompt_tokens_details": {
            "cached_tokens": 2048,
            "cache_creation_input_tokens": 512,
            "text_tokens": 3019,
        },
        "completion_tokens_details": {"reasoning_tokens": 64},
    }
    found = completion({**answer({"content": "x"}), "usage": usage}, D).usage
    assert found == Usage(3019, 104, 3123, 2048, 512, 64, raw=orjson.dumps(usage).decode())


@pytest.mark.parametrize(
    ("raw", "status", "kind", "code", "message"),
    [
        (b"", 500, K.OVERLOADED, "http_500", "HTTP 500 without a message"),
        (b"", 200, K.TRUNCATED_STREAM, "empty_body", "the answer is empty"),
        (
            b"<html><head><title>502 Bad Gateway</title><style>h1{}</style></head>\n<h1>nginx</h1></html>",
            502,
            K.OVERLOADED,
            "http_502",
            "502 Bad Gateway nginx",
        ),
        (
            b"<html>Log in</html>",
            200,
            K.TRUNCATED_STREAM,
            "not_json",
            "the answer is not JSON, or was cut: Log in",
        ),
        (
            b'{"choices":[{"mess',
            200,
            K.TRUNCATED_STREAM,
            "not_json",
            'the answer is not JSON, or was cut: {"choi',
        ),
        (b'{"choices":[]}', 200, K.TRUNCATED_STREAM, "no_choices", "the answer has no choices"),
        (b'{"choices":[null]}', 200, K.TRUNCATED_STREAM, "no_choices", "the answer has no choices"),
        (b"null", 200, K.TRUNCATED_STREAM, "not_json", "the answer is not JSON"),
        (b'"what"', 503, K.OVERLOADED, "http_503", '"what"'),
        (b'{"error":"boom"}', 200, K.ROW_SUSPECT, "http_200", "boom"),
        (b'{"error":{"code":429,"message":"slow"}}', 200, K.RATE_REQUESTS, "429", "slow"),
        (b'{"error":{"code":400,"type":"X","message":"m"}}', 400, K.INVALID_REQUEST, "X", "m"),
        (b'[{"error":{"code":503,"status":"UNAVAILABLE","message":"m"}}]', 503, K.OVERLOADED, "503", "m"),
        (b'{"error":{}}', 400, K.INVALID_REQUEST, "http_400", '{"error":{}}'),
        (b'{"error":null,"detail":"Not Found"}', 404, K.MODEL_MISSING, "http_404", "Not Found"),
        (b'{"message":"no","code":7}', 403, K.AUTH, "7", "no"),
        (b'data: {"error":{"code":"c","message":"m"}}\n\n', 400, K.INVALID_REQUEST, "c", "m"),
        (b'data:{"error":{"code":"Throttling","message":"m"}}', 200, K.ROW_SUSPECT, "Throttling", "m"),
        (
            b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"c","message":"m"}\n',
            400,
            K.INVALID_REQUEST,
            "c",
            "m",
        ),
        (b"data: [DONE]", 500, K.OVERLOADED, "http_500", "data: [DONE]"),
        (b"\xef\xbb\xbf" + b'{"error":{"code":"c","message":"m"}}', 400, K.INVALID_REQUEST, "c", "m"),
    ],
)
def test_whatever_else_is_no_answer_is_told_as_far_as_it_can_be(
    raw: bytes, status: int, kind: FailureKind, code: str, message: str
) -> None:
    found = failure(raw, status)
    assert (found.kind, found.code, found.http_status) == (kind, code, status)
    assert found.message.startswith(message)


PAGE = b"<html><h1>Bad Gateway</h1></html>"
OWN_WORD = b'{"error":{"code":"internal_error","message":"m"}}'


@pytest.mark.parametrize(
    ("raw", "status", "maybe_paid"),
    [
        (OWN_WORD, 500, False),  # the provider says itself that it failed
        (PAGE, 500, True),
        (b"", 500, True),
        (PAGE, 502, True),
        (OWN_WORD, 502, True),  # a gateway speaks JSON, too
        (OWN_WORD, 504, True),
        (PAGE, 503, False),  # nothing was begun
        (PAGE, 413, False),
        (PAGE, 429, False),
    ],
)
def test_a_refusal_may_be_paid_where_a_gateway_or_a_crash_may_have_lost_the_answer(
    raw: bytes, status: int, maybe_paid: bool
) -> None:
    assert failure(raw, status).maybe_paid is maybe_paid


def test_an_answer_stands_although_an_empty_error_stands_beside_it() -> None:
    assert completion({**answer({"content": "x"}), "error": None, "code": "", "message": ""}).content == "x"


def test_a_good_body_under_a_bad_status_is_a_failure() -> None:
    assert failure(body("openai-answer"), 500).kind is K.OVERLOADED


def test_what_was_paid_for_is_read_even_if_its_unicode_is_broken() -> None:
    raw = b'{"choices":[{"message":{"content":"a\\ud83db\xff"},"finish_reason":"stop"}]}'
    assert completion(raw).content == "a?b\ufffd"


def test_the_wait_and_the_request_id_come_from_the_headers() -> None:
    raw = body("dashscope-error-limit-requests")
    found = failure(raw, 429, D, retry_after="3", x_request_id="abc")
    assert (found.retry_after_s, found.request_id) == (3.0, "abc")


def test_a_failure_s_message_is_one_short_line() -> None:
    found = failure({"error": {"code": "c\n" * 900, "message": "line\n" * 900}}, 400)
    assert len(found.message) <= 500
    assert len(found.code) <= 200
    assert "\n" not in found.message + found.code


def test_the_transports_keep_every_header_that_is_read() -> None:
    assert HEADERS_READ <= KEPT_HEADERS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def some_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with any of these fields, each well formed or anything at all; or anything at all."""
    return st.fixed_dictionaries({}, optional={name: it | JSON for name, it in fields.items()}) | JSON


CALL = some_of(id=st.text(), function=some_of(name=st.text(), arguments=st.text()))
MESSAGE = some_of(content=st.text(), reasoning=st.text(), tool_calls=st.lists(CALL, max_size=2))
CHOICE = some_of(
    index=st.integers(0, 2), message=MESSAGE, finish_reason=st.sampled_from(["stop", "null", "abort"])
)
DETAILS = some_of(cached_tokens=st.integers(), reasoning_tokens=st.integers())
USAGE = some_of(prompt_tokens=st.integers(), prompt_tokens_details=DETAILS, completion_tokens_details=DETAILS)
ERROR = st.text() | some_of(code=st.text() | st.integers(), message=st.text(), type=st.text())
BODY = some_of(
    id=st.text(),
    model=st.text(),
    choices=st.lists(CHOICE, max_size=3),
    usage=USAGE,
    error=ERROR,
    code=st.text(),
)


def assert_storable(found: Completion | Failure) -> None:
    """Its texts are UTF-8 and its counts fit the columns."""
    if isinstance(found, Failure):
        assert found.code
        assert found.message
        for text in (found.code, found.message, found.request_id or ""):
            text.encode()
        return
    for text in (found.content, found.finish_reason, found.model, found.request_id, found.reasoning_content):
        assert text is None or text.encode() is not None
    for call in found.tool_calls or []:
        assert all(part is None or isinstance(part, str) for part in (call.id, call.name, call.arguments))
    for count in (found.usage.prompt_tokens, found.usage.cached_tokens, found.usage.reasoning_tokens):
        assert count is None or (type(count) is int and 0 <= count < 2**63)


STATUSES = st.sampled_from([200, 200, 200, 204, 302, 400, 429, 500])


@given(BODY, STATUSES, st.sampled_from(Dialect))
def test_any_json_is_a_completion_or_a_failure(value: Any, status: int, dialect: Dialect) -> None:
    assert_storable(read(json.dumps(value).encode(), status, dialect))


@given(st.binary() | st.text().map(str.encode), STATUSES, st.sampled_from(Dialect))
@example(b"[" * 100_000, 200, G)
@example(b'{"choices":[{"message":{"content":"x"},"logprobs":' + b"[" * 900 + b"]" * 900 + b"}]}", 200, G)
@example(b'{"error":{"message":' + b"[" * 900 + b"]" * 900 + b"}}", 400, G)
@example(b'{"error":{"code":' + b"9" * 5000 + b"}}", 200, G)
@example(b"data:" * 1000, 200, G)
@example(b"<" * 100_000, 502, G)
def test_any_bytes_are_a_completion_or_a_failure(raw: bytes, status: int, dialect: Dialect) -> None:
    assert_storable(read(raw, status, dialect))


def test_a_request_is_model_messages_and_parameters_at_the_top_level() -> None:
    messages = [{"role": "system", "content": "You label."}, {"role": "user", "content": "你是谁?"}]
    assert (
        encode("qwen-plus", messages, {"temperature": 0, "enable_thinking": False})
        == (
            '{"model":"qwen-plus","messages":[{"role":"system","content":"You label."},'
            '{"role":"user","content":"你是谁?"}],"temperature":0,"enable_thinking":false}'
        ).encode()
    )


@given(
    st.text(), st.dictionaries(st.text().filter(lambda k: k not in ("model", "messages")), JSON, max_size=3)
)
def test_what_is_encoded_is_what_was_asked(text: str, params: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": text}]
    try:
        sent = json.loads(encode("m", messages, params))
    except EncodeError:
        assert any(abs(n) >= 2**63 for n in integers(params))
        return
    assert sent == {"model": "m", "messages": messages, **params}


def integers(value: Any) -> list[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for inner in value for n in integers(inner)]
    return [value] if isinstance(value, int) else []


@pytest.mark.parametrize(
    ("messages", "params", "where"),
    [
        ([{"role": "user", "content": "half \ud83d"}], {}, "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text", "text": "\udc00"}]}], {}, "messages[0].content"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": b"x"}], {}, "messages[1].content"),
        ([{"role": "user", "content": "x"}], {"seed": 2**70}, "seed"),
        ([{"role": "user", "content": "x"}], {"stop": {1: 2}}, "stop"),
        ([{"role": "user", 7: "x"}], {}, "the prompt"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_place(
    messages: list[dict[str, Any]], params: dict[str, Any], where: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        encode("m", messages, params)
    assert str(caught.value).startswith(f"{where} cannot be sent as JSON: ")


@pytest.mark.parametrize("name", ["model", "messages"])
def test_parameters_cannot_take_the_place_of_model_or_messages(name: str) -> None:
    with pytest.raises(EncodeError, match="their own place"):
        encode("m", [], {name: "x"})
