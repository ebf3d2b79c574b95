"""The client's wire formats and the simulator's, which share no code, must agree: one answer, four ways."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.protocol.wire import Compatible, Native, WireFormat
from pipeline.records import Completion, Failure, FailureKind, Response
from tests.support.simulators import Place, at_simulator, data_url, png

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PLACES = ("杭州", "北京")
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "当你想查询指定城市的天气时非常有用。",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


async def ask(
    place: Place, form: WireFormat, model: str, messages: Any, params: dict[str, Any], fault: str = "none"
) -> tuple[Completion | Failure, Completion | Failure]:
    """Ask one question plainly and streamed, as the client does."""
    native = isinstance(form, Native)
    base = place.simulator.native_base_url if native else place.simulator.base_url
    read = []
    for stream in (False, True):
        body = form.encode(model, messages, params, stream)
        headers = {"X-Simulate": fault, **(form.stream_headers if stream else {})}
        answer = await place.http.post(base + form.path, content=body, headers=headers)
        headers = dict(answer.headers)
        if not stream or answer.status_code != 200:
            response = Response(answer.status_code, headers, answer.content, 0.0)
            read.append(form.decode(response, "dashscope", NOW))
            continue
        assembler = form.assembler(params)
        for start in range(0, len(answer.content), 7):
            assembler.feed(answer.content[start : start + 7])
        read.append(assembler.finish(Response(200, headers, b"", 0.0), "dashscope", NOW))
    return read[0], read[1]


def essence(completion: Completion | Failure) -> dict[str, Any]:
    """What a row keeps of an answer, whatever the way it came."""
    assert isinstance(completion, Completion), completion
    usage = completion.usage
    return {
        "content": completion.content or "",
        "reasoning": completion.reasoning_content,
        "finish": completion.finish_reason,
        "calls": completion.tool_calls,
        "partial": completion.partial,
        "tokens": (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            usage.reasoning_tokens,
        ),
    }


@pytest.mark.parametrize(
    ("model", "messages", "params"),
    [
        ("qwen-plus", asked("Why is the sky blue?"), {}),
        ("qwen-plus", asked("Why is the sky blue?"), {"max_tokens": 4}),
        ("qwen-plus", asked("Why is the sky blue?"), {"enable_thinking": True}),
        ("qwen-plus", asked("Why is the sky blue?"), {"n": 2}),
        ("qwen-plus", asked("杭州和北京天气怎么样"), {"tools": [WEATHER], "parallel_tool_calls": True}),
        ("qwen-plus", asked("Who won?"), {"enable_search": True}),
        (
            "qwen3-vl-plus",
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data_url(png(320, 320))}},
                        {"type": "text", "text": "What is this?"},
                    ],
                }
            ],
            {},
        ),
    ],
)
def test_the_same_question_is_read_alike_streamed_or_not_in_either_dialect(
    model: str, messages: list[dict[str, Any]], params: dict[str, Any]
) -> None:
    forms: list[WireFormat] = [Compatible(), Native(multimodal="vl" in model)]

    async def use(place: Place) -> None:
        read = [
            completion for form in forms for completion in await ask(place, form, model, messages, params)
        ]
        essences = [essence(completion) for completion in read]
        assert all(one == essences[0] for one in essences), essences
        assert essences[0]["content"] or essences[0]["calls"]

    at_simulator(use)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("cut_stream", FailureKind.TRUNCATED_STREAM),
        ("error_event", FailureKind.BLOCKED),
        ("400_prefixed", FailureKind.TOO_LARGE),
        ("Throttling.AllocationQuota", FailureKind.RATE_TOKENS),
        ("limit_burst_rate", FailureKind.RATE_BURST),
        ("Arrearage", FailureKind.ARREARS),
        ("InvalidParameter: File parsing in progress, please try again later.", FailureKind.NOT_READY),
    ],
)
def test_what_goes_wrong_with_a_stream_is_one_kind_of_failure_in_either_dialect(
    fault: str, kind: FailureKind
) -> None:
    async def use(place: Place) -> None:
        for form in (Compatible(), Native(multimodal=False)):
            _, streamed = await ask(place, form, "qwen-plus", asked("Why is the sky blue?"), {}, fault)
            assert isinstance(streamed, Failure), streamed
            assert streamed.kind is kind

    at_simulator(use)
