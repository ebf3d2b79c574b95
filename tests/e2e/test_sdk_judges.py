"""The provider's recorded examples, asked through the official SDKs: the simulator must answer in their shape.

Requests, figures and shapes are those of the provider's API examples (July to October 2024), one test a section;
the SDKs are `openai` for the compatible mode and `dashscope` for the native protocol. What an answer says is
the simulator's own; which keys it has, of which types, and what its prompt is billed are the provider's.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import dashscope
import openai
import pytest
from dashscope.api_entities.http_request import close_shared_sync_session

from pipeline.simulator.server import Simulator, running
from pipeline.simulator.settings import Settings
from pipeline.tokens import count_text
from tests.support.reference import TOOLS
from tests.support.simulators import PATIENCE_S, WHO, png

MODEL = "qwen-plus"
DOG_AND_GIRL = "https://dashscope.oss-cn-beijing.aliyuncs.com/images/dog_and_girl.jpeg"
FRAMES = [
    "https://img.alicdn.com/imgextra/i3/O1CN01K3SgGo1eqmlUgeE9b_!!6000000003923-0-tps-3840-2160.jpg",
    "https://img.alicdn.com/imgextra/i4/O1CN01BjZvwg1Y23CF5qIRB_!!6000000003000-0-tps-3840-2160.jpg",
    "https://img.alicdn.com/imgextra/i4/O1CN01Ib0clU27vTgBdbVLQ_!!6000000007859-0-tps-3840-2160.jpg",
    "https://img.alicdn.com/imgextra/i1/O1CN01aygPLW1s3EXCdSN4X_!!6000000005710-0-tps-3840-2160.jpg",
]
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
MEDALS: list[Any] = [SYSTEM, {"role": "user", "content": "中国队在巴黎奥运会获得了多少枚金牌"}]

# The recorded bodies, their texts shortened.
CHAT_ANSWER = {
    "choices": [
        {
            "message": {"role": "assistant", "content": "我是..."},
            "finish_reason": "stop",
            "index": 0,
            "logprobs": None,
        }
    ],
    "object": "chat.completion",
    "usage": {"prompt_tokens": 22, "completion_tokens": 17, "total_tokens": 39},
    "created": 1728455191,
    "system_fingerprint": None,
    "model": "qwen-plus",
    "id": "chatcmpl-3a8c00cc-9c9f-9aba-b2d9-dc431e27d1b5",
}
TOOL_CALL = {
    "function": {"name": "get_current_weather", "arguments": '{"location": "杭州市"}'},
    "index": 0,
    "id": "call_b3b822e3aa6441369c42fc",
    "type": "function",
}
TOOL_ANSWER = {
    **CHAT_ANSWER,
    "choices": [
        {
            "message": {"content": "", "role": "assistant", "tool_calls": [TOOL_CALL]},
            "finish_reason": "tool_calls",
            "index": 0,
            "logprobs": None,
        }
    ],
}
CHUNK: dict[str, Any] = {
    "choices": [{"delta": {"content": "阿里"}, "finish_reason": None, "index": 0, "logprobs": None}],
    "object": "chat.completion.chunk",
    "usage": None,
    "created": 1724916884,
    "system_fingerprint": None,
    "model": "qwen-plus",
    "id": "chatcmpl-e45656c0-efae-940b-a3b8-18c9e6528ecb",
}
FIRST_CHUNK = {
    **CHUNK,
    "choices": [
        {"delta": {"content": "", "role": "assistant"}, "index": 0, "logprobs": None, "finish_reason": None}
    ],
}
LAST_CHUNK = {
    **CHUNK,
    "choices": [{"delta": {"content": ""}, "finish_reason": "stop", "index": 0, "logprobs": None}],
}
USAGE_CHUNK = {**CHUNK, "choices": [], "usage": CHAT_ANSWER["usage"]}
NATIVE_ANSWER = {
    "output": {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "..."}}]},
    "usage": {"total_tokens": 5490, "output_tokens": 95, "input_tokens": 5395},
    "request_id": "45326bfa-e2cd-9f4f-8b3b-730faf7fd3e7",
}
# What the `openai` package prints of an answer and of a chunk, besides what was sent.
PRINTED = {"id", "choices", "created", "model", "object", "service_tier", "system_fingerprint", "usage"}
PRINTED_MESSAGE = {"content", "refusal", "role", "function_call", "tool_calls"}


def shape(value: Any) -> Any:
    """Reduce a JSON value to its keys and types; the elements of a list must be alike."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        shapes = [shape(inner) for inner in value]
        assert all(one == shapes[0] for one in shapes)
        return shapes[:1]
    return type(value).__name__


def with_openai(use: Callable[[openai.AsyncOpenAI, Simulator], Awaitable[None]]) -> None:
    """Run `use` with the official client against a fresh simulator."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), running(Settings()) as simulator:
            http = openai.DefaultAsyncHttpxClient(trust_env=False)
            async with openai.AsyncOpenAI(
                base_url=simulator.base_url, api_key="sk-any", max_retries=0, http_client=http
            ) as client:
                await use(client, simulator)

    asyncio.run(main())


async def answered(client: openai.AsyncOpenAI, recorded: Any, **asked: Any) -> Any:
    """Ask as the example does; the body must have the recorded shape, and the SDK must read it."""
    raw = await client.chat.completions.with_raw_response.create(**asked)
    body = json.loads(raw.text)
    assert shape(body) == shape(recorded)
    completion = raw.parse()
    printed = completion.model_dump()
    assert printed.keys() >= PRINTED
    assert printed["choices"][0]["message"].keys() >= PRINTED_MESSAGE
    assert completion.usage is not None
    said = completion.choices[0].message.content
    if completion.choices[0].finish_reason == "stop":
        assert said and completion.usage.completion_tokens == count_text(said)
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )
    return completion


def test_text_input() -> None:
    async def use(client: openai.AsyncOpenAI, _: Simulator) -> None:
        completion = await answered(client, CHAT_ANSWER, model=MODEL, messages=WHO)
        assert completion.usage.prompt_tokens == 22
        assert completion.choices[0].finish_reason == "stop"

    with_openai(use)


@pytest.mark.parametrize("include_usage", [True, False])
def test_streaming_output(include_usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if include_usage else {}

    async def use(client: openai.AsyncOpenAI, simulator: Simulator) -> None:
        stream = await client.chat.completions.create(model=MODEL, messages=WHO, stream=True, **options)  # type: ignore[arg-type]
        chunks = [chunk async for chunk in stream]
        assert all(chunk.model_dump().keys() >= PRINTED for chunk in chunks)
        assert chunks[0].choices[0].delta.role == "assistant"
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        if include_usage:
            usage = chunks[-1].usage
            assert usage is not None and usage.prompt_tokens == 22
            assert usage.completion_tokens == count_text(said)
        raw = client.chat.completions.with_streaming_response
        async with raw.create(model=MODEL, messages=WHO, stream=True, **options) as response:  # type: ignore[arg-type]
            lines = [line async for line in response.iter_lines() if line]
        assert lines.pop() == "data: [DONE]"
        sent = [json.loads(line.removeprefix("data: ")) for line in lines]
        if include_usage:
            assert shape(sent.pop()) == shape(USAGE_CHUNK)
        assert shape(sent[0]) == shape(FIRST_CHUNK)
        assert shape(sent[-1]) == shape(LAST_CHUNK)
        assert {json.dumps(shape(chunk), sort_keys=True) for chunk in sent[1:-1]} == {
            json.dumps(shape(CHUNK), sort_keys=True)
        }

    with_openai(use)


def image_question(text: str) -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": DOG_AND_GIRL}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]


@pytest.mark.parametrize(
    ("model", "text", "billed"), [("qwen-vl-plus", "这是什么", 1275), ("qwen-vl-max", "这是什么?", 1271)]
)
def test_image_input(model: str, text: str, billed: int) -> None:
    async def use(client: openai.AsyncOpenAI, _: Simulator) -> None:
        completion = await answered(client, CHAT_ANSWER, model=model, messages=image_question(text))
        assert completion.usage.prompt_tokens == billed

    with_openai(use)


def test_video_input() -> None:
    parts = [{"type": "video", "video": FRAMES}, {"type": "text", "text": "描述这个视频的具体过程"}]

    async def use(client: openai.AsyncOpenAI, _: Simulator) -> None:
        asked = {"model": "qwen-vl-max-latest", "messages": [{"role": "user", "content": parts}]}
        completion = await answered(client, CHAT_ANSWER, **asked)
        assert completion.usage.prompt_tokens == 1466

    with_openai(use)


@pytest.mark.parametrize("before", [[], [SYSTEM]])
def test_tool_calling(before: list[Any]) -> None:
    messages = [*before, {"role": "user", "content": "杭州天气怎么样"}]

    async def use(client: openai.AsyncOpenAI, _: Simulator) -> None:
        completion = await answered(client, TOOL_ANSWER, model=MODEL, messages=messages, tools=TOOLS)
        choice = completion.choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "")
        (call,) = choice.message.tool_calls
        assert (call.function.name, call.function.arguments) == (
            "get_current_weather",
            '{"location": "杭州市"}',
        )
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (224, 18)

    with_openai(use)


def test_tool_calling_streamed_is_put_together_by_the_sdk() -> None:
    messages: Any = [{"role": "user", "content": "杭州天气怎么样"}]

    async def use(client: openai.AsyncOpenAI, _: Simulator) -> None:
        tools: Any = TOOLS
        async with client.chat.completions.stream(model=MODEL, messages=messages, tools=tools) as stream:
            completion = await stream.get_final_completion()
        calls = completion.choices[0].message.tool_calls
        assert calls is not None and len(calls) == 1
        assert (calls[0].function.name, calls[0].function.arguments) == (
            "get_current_weather",
            '{"location": "杭州市"}',
        )
        assert completion.choices[0].finish_reason == "tool_calls"

    with_openai(use)


def test_web_search() -> None:
    async def use(client: openai.AsyncOpenAI, _: Simulator) -> None:
        extra = {"enable_search": True}
        completion = await answered(client, CHAT_ANSWER, model=MODEL, messages=MEDALS, extra_body=extra)
        assert completion.usage.prompt_tokens in (542, 707, 1109)  # 27 without what search adds

    with_openai(use)


def test_asynchronous_calls() -> None:
    async def use(client: openai.AsyncOpenAI, simulator: Simulator) -> None:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "你是谁"}]}
        several = await asyncio.gather(*(answered(client, CHAT_ANSWER, **asked) for _ in range(8)))
        assert {completion.usage.prompt_tokens for completion in several} == {10}
        assert simulator.ledger.totals()["completed"] == 8

    with_openai(use)


def test_document_understanding(tmp_path: Path) -> None:
    text = "百炼 X1 是一款手机，售价 4599 元。" * 40
    document = tmp_path / "百炼系列手机产品介绍.txt"
    document.write_text(text, encoding="utf-8")

    async def use(client: openai.AsyncOpenAI, simulator: Simulator) -> None:
        stored = await client.files.create(file=document, purpose="file-extract")  # type: ignore[arg-type]
        assert (stored.filename, stored.status) == (document.name, "processed")
        assert [file.id async for file in client.files.list()] == [stored.id]
        assert (await client.files.retrieve(stored.id)).bytes == len(text.encode())
        messages = [
            {"role": "system", "content": f"fileid://{stored.id}"},
            {"role": "user", "content": "这篇文章讲了什么?"},
        ]
        completion = await answered(client, CHAT_ANSWER, model="qwen-long", messages=messages)
        around = 5 + 5 + count_text("这篇文章讲了什么?") + 3
        assert completion.usage.prompt_tokens == count_text(text) + around
        native = await asyncio.to_thread(
            dashscope.Generation.call,
            model="qwen-long",
            messages=messages,
            result_format="message",
            api_key="sk-any",
            base_address=simulator.native_base_url,
        )
        assert native.usage.input_tokens == completion.usage.prompt_tokens
        assert (await client.files.delete(stored.id)).deleted
        with pytest.raises(openai.BadRequestError, match="Invalid file"):
            await client.chat.completions.create(model="qwen-long", messages=messages)  # type: ignore[arg-type]

    with_openai(use)


def test_errors_are_the_classes_the_sdk_has_for_them() -> None:
    async def use(client: openai.AsyncOpenAI, _: Simulator) -> None:
        for code, kind in {
            "Throttling.RateQuota": openai.RateLimitError,
            "InvalidApiKey": openai.AuthenticationError,
            "AccessDenied": openai.PermissionDeniedError,
            "ModelNotFound": openai.NotFoundError,
            "InternalError": openai.InternalServerError,
        }.items():
            with pytest.raises(kind):
                await client.chat.completions.create(
                    model=MODEL,
                    messages=WHO,  # type: ignore[arg-type]
                    extra_headers={"X-Simulate": code},
                )
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=WHO,  # type: ignore[arg-type]
            stream=True,
            extra_headers={"X-Simulate": "error_event"},
        )
        with pytest.raises(openai.APIError, match="inappropriate content"):
            async for _chunk in stream:
                pass

    with_openai(use)


@pytest.fixture
def native_sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The `dashscope` package set up for loopback alone; its pooled connections are closed afterwards."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(dashscope, "api_key", "sk-any")
    yield
    close_shared_sync_session()


def with_dashscope(use: Callable[[], None], settings: Settings | None = None) -> Simulator:
    """Run `use`, which blocks, beside a fresh simulator that the SDK takes for the service."""

    async def main() -> Simulator:
        async with asyncio.timeout(PATIENCE_S), running(settings or Settings()) as simulator:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(dashscope, "base_http_api_url", simulator.native_base_url)
                await asyncio.to_thread(use)
            return simulator

    return asyncio.run(main())


def sent_body(answer: Any) -> dict[str, Any]:
    """What the SDK was sent, as far as it tells: without what it adds itself, or leaves null."""
    read: dict[str, Any] = json.loads(str(answer))
    output = {key: value for key, value in read["output"].items() if value is not None}
    return {"output": output, "usage": read["usage"], "request_id": read["request_id"]}


@pytest.mark.usefixtures("native_sdk")
def test_native_text_and_its_streams() -> None:
    def use() -> None:
        asked: dict[str, Any] = {"model": MODEL, "messages": WHO, "result_format": "message"}
        answer = dashscope.Generation.call(**asked)
        assert answer.status_code == HTTPStatus.OK
        assert shape(sent_body(answer)) == shape(NATIVE_ANSWER)
        assert answer.usage.input_tokens == 22
        said = answer.output.choices[0].message.content
        assert answer.usage.output_tokens == count_text(said)
        pieces = list(dashscope.Generation.call(**asked, stream=True, incremental_output=True))
        assert all(shape(sent_body(piece)) == shape(NATIVE_ANSWER) for piece in pieces)
        assert "".join(piece.output.choices[0].message.content for piece in pieces) == said
        assert {piece.output.choices[0].finish_reason for piece in pieces[:-1]} == {"null"}
        assert pieces[-1].output.choices[0].finish_reason == "stop"
        growing = list(dashscope.Generation.call(**asked, stream=True, incremental_output=False))
        assert growing[-1].output.choices[0].message.content == said
        old = dashscope.Generation.call(model=MODEL, prompt="你是谁", result_format="text")
        assert (old.output.finish_reason, bool(old.output.text), old.usage.input_tokens) == ("stop", True, 10)

    simulator = with_dashscope(use)
    assert simulator.ledger.totals()["modes"] == {"native": 4, "stream": 2}


@pytest.mark.usefixtures("native_sdk")
def test_native_images_and_frames() -> None:
    def use() -> None:
        asked = [{"role": "user", "content": [{"image": DOG_AND_GIRL}, {"text": "这是什么?"}]}]
        answer = dashscope.MultiModalConversation.call(model="qwen-vl-max", messages=asked)
        assert answer.status_code == HTTPStatus.OK
        assert (answer.usage.input_tokens, answer.usage["image_tokens"]) == (1271, 1247)
        assert [set(part) for part in answer.output.choices[0].message.content] == [{"text"}]
        frames = [{"role": "user", "content": [{"video": FRAMES}, {"text": "描述这个视频的具体过程"}]}]
        answer = dashscope.MultiModalConversation.call(model="qwen-vl-max-latest", messages=frames)
        assert (answer.usage.input_tokens, answer.usage["video_tokens"]) == (1466, 1440)
        told = dashscope.MultiModalConversation.call(
            model="qwen3-vl-plus", messages=asked, stream=True, incremental_output=True
        )
        parts = [part for piece in told for part in piece.output.choices[0].message.content]
        assert "".join(part["text"] for part in parts)
        wrong = dashscope.Generation.call(model="qwen-vl-max", messages=WHO, result_format="message")
        assert (wrong.status_code, wrong.message) == (400, "url error, please check url！")

    with_dashscope(use)


@pytest.mark.usefixtures("native_sdk")
def test_native_media_from_a_local_file_are_uploaded_and_resolved(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(320, 320))

    def use() -> None:
        asked = [{"role": "user", "content": [{"image": f"file://{picture}"}, {"text": "这是什么?"}]}]
        answer = dashscope.MultiModalConversation.call(model="qwen3-vl-plus", messages=asked)
        assert answer.status_code == HTTPStatus.OK
        assert answer.usage["image_tokens"] == 100

    totals = with_dashscope(use).ledger.totals()
    assert (totals["oss"]["uploaded"], totals["modes"]["oss"]) == (1, 1)


@pytest.mark.usefixtures("native_sdk")
def test_native_tools_thinking_and_search() -> None:
    def use() -> None:
        asked = [{"role": "user", "content": "杭州天气怎么样"}]
        answer = dashscope.Generation.call(model=MODEL, messages=asked, tools=TOOLS, result_format="message")
        choice = answer.output.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert shape(choice.message.tool_calls) == shape([TOOL_CALL])
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (224, 18)
        thought = list(
            dashscope.Generation.call(
                model=MODEL,
                messages=WHO,
                enable_thinking=True,
                result_format="message",
                stream=True,
                incremental_output=True,
            )
        )
        assert thought[0].output.choices[0].message.reasoning_content
        assert thought[-1].usage["output_tokens_details"]["reasoning_tokens"] > 0
        found = dashscope.Generation.call(
            model=MODEL,
            messages=MEDALS,
            enable_search=True,
            search_options={"enable_source": True},
            result_format="message",
        )
        assert found.usage.input_tokens in (542, 707, 1109)
        assert found.output.search_info["search_results"]

    with_dashscope(use)


@pytest.mark.usefixtures("native_sdk")
def test_native_errors_and_token_counts() -> None:
    def use() -> None:
        for code, status in {"Throttling.RateQuota": 429, "InvalidApiKey": 401, "SystemError": 500}.items():
            answer = dashscope.Generation.call(model=MODEL, messages=WHO, headers={"X-Simulate": code})
            assert (answer.status_code, answer.code) == (status, code)
            assert answer.request_id and answer.message
        *_, last = dashscope.Generation.call(
            model=MODEL,
            messages=WHO,
            result_format="message",
            stream=True,
            incremental_output=True,
            headers={"X-Simulate": "error_event"},
        )
        assert (last.code, last.output) == ("DataInspectionFailed", None)
        counted = dashscope.Tokenization.call(model=MODEL, messages=WHO)
        assert counted.usage["input_tokens"] == 22

    with_dashscope(use)
