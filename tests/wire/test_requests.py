"""The bodies we send for the inputs of Model Studio's API examples (2024, curl) equal the bodies shown there."""

import json
from typing import Any, NamedTuple

import pytest

from pipeline import catalog
from pipeline.protocol.native import MULTIMODAL_PATH, TEXT_PATH
from pipeline.protocol.wire import wire_format

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
IMAGE = "https://dashscope.oss-cn-beijing.aliyuncs.com/images/dog_and_girl.jpeg"
FRAMES = [
    "https://img.alicdn.com/imgextra/i3/O1CN01K3SgGo1eqmlUgeE9b_!!6000000003923-0-tps-3840-2160.jpg",
    "https://img.alicdn.com/imgextra/i4/O1CN01BjZvwg1Y23CF5qIRB_!!6000000003000-0-tps-3840-2160.jpg",
    "https://img.alicdn.com/imgextra/i4/O1CN01Ib0clU27vTgBdbVLQ_!!6000000007859-0-tps-3840-2160.jpg",
    "https://img.alicdn.com/imgextra/i1/O1CN01aygPLW1s3EXCdSN4X_!!6000000005710-0-tps-3840-2160.jpg",
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_current_time",
            "description": "当你想知道现在的时间时非常有用。",
            "parameters": {},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "当你想查询指定城市的天气时非常有用。",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "城市或县区,比如北京市、杭州市、余杭区等。"}
                },
                "required": ["location"],
            },
        },
    },
]


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


PICTURE = {"type": "image_url", "image_url": {"url": IMAGE}}
VIDEO = {"type": "video", "video": FRAMES}
WHO, WHAT, WATCH = "你是谁?", "这是什么", "描述这个视频的具体过程"
WEATHER = "杭州天气怎么样"
MEDALS, ABOUT = "中国队在巴黎奥运会获得了多少枚金牌", "这篇文章讲了什么?"


def body(model: str, *messages: dict[str, Any], **params: Any) -> dict[str, Any]:
    return {"model": model, "messages": list(messages), **params}


def native_body(model: str, *messages: dict[str, Any], **params: Any) -> dict[str, Any]:
    parameters = {"result_format": "message", **params}
    return {"model": model, "input": {"messages": list(messages)}, "parameters": parameters}


class Example(NamedTuple):
    """What a job brings, and the body that the examples show for it."""

    name: str
    model: str
    messages: list[dict[str, Any]]
    body: dict[str, Any]
    params: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    stream: bool = False


DOCUMENT = {"role": "system", "content": "fileid://file-fe-xxx"}
SEARCH: dict[str, Any] = {"enable_search": True}
# stream_options is that of the Python example: without it no usage comes.
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
COMPATIBLE = [
    Example("text", "qwen-plus", [SYSTEM, user(WHO)], body("qwen-plus", SYSTEM, user(WHO))),
    Example(
        "stream",
        "qwen-plus",
        [SYSTEM, user(WHO)],
        body("qwen-plus", SYSTEM, user(WHO), **STREAMED),
        stream=True,
    ),
    Example(
        "image",
        "qwen-vl-plus",
        [user(text(WHAT), PICTURE)],
        body("qwen-vl-plus", user(text(WHAT), {"type": "image_url", "image_url": {"url": IMAGE}})),
    ),
    Example(
        "video",
        "qwen-vl-max-latest",
        [user(VIDEO, text(WATCH))],
        body("qwen-vl-max-latest", user({"type": "video", "video": FRAMES}, {"type": "text", "text": WATCH})),
    ),
    Example(
        "tools",
        "qwen-plus",
        [SYSTEM, user(WEATHER)],
        body("qwen-plus", SYSTEM, user(WEATHER), tools=TOOLS),
        {"tools": TOOLS},
    ),
    Example(
        "search",
        "qwen-plus",
        [SYSTEM, user(MEDALS)],
        body("qwen-plus", SYSTEM, user(MEDALS), enable_search=True),
        SEARCH,
    ),
    Example("document", "qwen-long", [DOCUMENT, user(ABOUT)], body("qwen-long", DOCUMENT, user(ABOUT))),
]
# The document call is of the API examples; the others of "DashScope API reference" (read September 2026).
NATIVE = [
    Example(
        "document", "qwen-long", [DOCUMENT, user(ABOUT)], native_body("qwen-long", DOCUMENT, user(ABOUT))
    ),
    Example(
        "stream",
        "qwen-plus",
        [SYSTEM, user(WHO)],
        native_body("qwen-plus", SYSTEM, user(WHO), incremental_output=True),
        stream=True,
    ),
    Example(
        "text of a multimodal model",
        "qwen3.8-max",
        [SYSTEM, user(WHO)],
        native_body(
            "qwen3.8-max",
            {"role": "system", "content": [{"text": "You are a helpful assistant."}]},
            user({"text": WHO}),
        ),
    ),
    Example(
        "image",
        "qwen3-vl-plus",
        [user(PICTURE, text(WHAT))],
        native_body("qwen3-vl-plus", user({"image": IMAGE}, {"text": WHAT}), incremental_output=True),
        stream=True,
    ),
    Example(
        "video",
        "qwen-vl-max",
        [user(VIDEO, text(WATCH))],
        native_body("qwen-vl-max", user({"video": FRAMES}, {"text": WATCH})),
    ),
    Example(
        "tools",
        "qwen-plus",
        [user(WEATHER)],
        native_body("qwen-plus", user(WEATHER), tools=TOOLS),
        {"tools": TOOLS},
    ),
    Example(
        "search",
        "qwen-plus",
        [user(MEDALS)],
        native_body("qwen-plus", user(MEDALS), enable_search=True),
        SEARCH,
    ),
]


def encoded(protocol: Any, example: Example) -> Any:
    entry = catalog.load("dashscope").model(example.model)
    form = wire_format(protocol, example.model, entry, has_media=False)
    return json.loads(form.encode(example.model, example.messages, example.params, example.stream))


@pytest.mark.parametrize("example", COMPATIBLE, ids=lambda e: e.name)
def test_a_compatible_request_is_the_documented_one(example: Example) -> None:
    assert encoded("compatible", example) == example.body


@pytest.mark.parametrize("example", NATIVE, ids=lambda e: e.name)
def test_a_native_request_is_the_documented_one_on_its_path(example: Example) -> None:
    assert encoded("native", example) == example.body
    entry = catalog.load("dashscope").model(example.model)
    form = wire_format("native", example.model, entry, has_media=False)
    assert form.path == (
        MULTIMODAL_PATH if example.name in ("text of a multimodal model", "image", "video") else TEXT_PATH
    )


def test_the_usage_is_asked_for_whatever_else_the_stream_options_say() -> None:
    form = wire_format("compatible", "m", None, has_media=False)
    options = {"include_usage": False, "chunk_size": 8}
    body = json.loads(form.encode("m", [], {"stream_options": options}, True))
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True, "chunk_size": 8})
