"""The simulator's streams in both dialects: what each event holds, and how a stream goes wrong."""

import asyncio
from itertools import pairwise
from typing import Any

import httpx
import pytest

from pipeline.simulator.settings import Settings, settings_from_options
from tests.support.simulators import (
    NATIVE_MULTIMODAL,
    WHO,
    Place,
    at_simulator,
    events,
    native_events,
)

USAGE = {"include_usage": True}
TIME_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "now", "parameters": {}}}
WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"enum": [3]}}},
    },
}


def joined(chunks: list[Any], key: str = "content", index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(key) or "" for choice in choices)


def test_a_compatible_stream_is_role_deltas_finish_usage_and_end_mark() -> None:
    async def use(place: Place) -> None:
        plain = (await place.chat()).json()
        answer = await place.chat(stream=True, stream_options=USAGE)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.endswith("data: [DONE]\n\n")
        first, *deltas, finish, usage = events(answer)
        assert first["choices"][0]["delta"] == {"content": "", "role": "assistant"}
        assert len(deltas) > 3
        assert all(d["choices"][0]["finish_reason"] is None and d["usage"] is None for d in deltas)
        assert finish["choices"][0]["delta"] == {"content": ""}
        assert finish["choices"][0]["finish_reason"] == "stop"
        assert (usage["choices"], usage["usage"]) == ([], plain["usage"])
        assert joined(deltas) == plain["choices"][0]["message"]["content"]
        assert len({chunk["id"] for chunk in (first, *deltas, finish, usage)}) == 1
        assert place.totals["modes"] == {"compatible": 2, "stream": 1}

    at_simulator(use)


def test_usage_comes_only_where_it_is_asked_for() -> None:
    async def use(place: Place) -> None:
        chunks = events(await place.chat(stream=True))
        assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
        refused = await place.chat(stream_options=USAGE)
        assert refused.status_code == 400 and "stream_options" in refused.text

    at_simulator(use)


def test_a_native_stream_tells_pieces_or_all_so_far_with_the_usage_so_far() -> None:
    async def use(place: Place) -> None:
        plain = (await place.native()).json()
        said = plain["output"]["choices"][0]["message"]["content"]
        pieces = native_events(await place.native(stream=True, incremental_output=True))
        whole = native_events(await place.native(stream=True, incremental_output=False))
        for read in (pieces, whole):
            assert {(kind, status) for kind, status, _ in read} == {("result", 200)}
            reasons = [data["output"]["choices"][0]["finish_reason"] for *_, data in read]
            assert set(reasons[:-1]) == {"null"} and reasons[-1] == "stop"
            counts = [data["usage"]["output_tokens"] for *_, data in read]
            assert counts == sorted(counts) and read[-1][2]["usage"] == plain["usage"]
        texts = [data["output"]["choices"][0]["message"]["content"] for *_, data in pieces]
        assert "".join(texts) == said and texts[-1] == ""
        growing = [data["output"]["choices"][0]["message"]["content"] for *_, data in whole]
        assert growing[-1] == said
        assert all(later.startswith(earlier) for earlier, later in pairwise(growing))
        assert native_events(await place.native(stream=True))[-1][2]["output"] == whole[-1][2]["output"]

    at_simulator(use)


def test_the_same_question_has_the_same_answer_streamed_or_not_in_either_dialect() -> None:
    async def use(place: Place) -> None:
        plain = (await place.chat(enable_thinking=True)).json()["choices"][0]["message"]
        chunks = events(await place.chat(stream=True, enable_thinking=True))
        assert joined(chunks) == plain["content"]
        assert joined(chunks, "reasoning_content") == plain["reasoning_content"] != ""
        native = (await place.native(enable_thinking=True)).json()["output"]["choices"][0]["message"]
        assert native == plain
        read = native_events(await place.native(stream=True, enable_thinking=True, incremental_output=True))
        messages = [data["output"]["choices"][0]["message"] for *_, data in read]
        assert "".join(m["content"] for m in messages) == plain["content"]
        assert "".join(m["reasoning_content"] for m in messages) == plain["reasoning_content"]
        by_text = (await place.native(result_format="text")).json()["output"]
        whole = (await place.chat()).json()["choices"][0]
        assert by_text == {"finish_reason": "stop", "text": whole["message"]["content"]}
        parts = [{"role": "user", "content": [{"text": "你是谁?"}]}]
        seen = await place.native(parts, model="qwen3-vl-plus", path=NATIVE_MULTIMODAL)
        asked = [{"role": "user", "content": [{"type": "text", "text": "你是谁?"}]}]
        compatible = await place.chat(asked, model="qwen3-vl-plus")
        text = compatible.json()["choices"][0]["message"]["content"]
        assert seen.json()["output"]["choices"][0]["message"]["content"] == [{"text": text}]

    at_simulator(use)


def test_reasoning_is_streamed_before_the_content_and_counted_apart() -> None:
    async def use(place: Place) -> None:
        first, *chunks, usage = events(
            await place.chat(stream=True, stream_options=USAGE, enable_thinking=True)
        )
        assert first["choices"][0]["delta"] == {"content": None, "reasoning_content": "", "role": "assistant"}
        kinds = ["reasoning_content" in chunk["choices"][0]["delta"] for chunk in chunks]
        assert kinds == sorted(kinds, reverse=True) and True in kinds and False in kinds
        thought = usage["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert 0 < thought < usage["usage"]["completion_tokens"]

    at_simulator(use)


@pytest.mark.parametrize("incremental", [True, False])
def test_tool_calls_are_streamed_by_index_with_their_name_first(incremental: bool) -> None:
    asked = [{"role": "user", "content": "Weather in Paris and in London?"}]
    wanted: dict[str, Any] = {"tools": [TIME_TOOL, WEATHER_TOOL], "parallel_tool_calls": True}

    async def use(place: Place) -> None:
        plain = (await place.chat(asked, **wanted)).json()["choices"][0]
        calls = plain["message"]["tool_calls"]
        assert plain["finish_reason"] == "tool_calls" and len(calls) == 2
        assert [call["function"]["arguments"] for call in calls] == [
            '{"city": "Paris", "days": 3}',
            '{"city": "London", "days": 3}',
        ]
        chunks = events(await place.chat(asked, stream=True, **wanted))
        deltas = [part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", ())]
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        for call in calls:
            own = [part for part in deltas if part["index"] == call["index"]]
            assert own[0]["id"] == call["id"] and own[0]["function"]["name"] == "get_weather"
            assert all(part["id"] == "" and "name" not in part["function"] for part in own[1:])
            assert "".join(part["function"]["arguments"] for part in own) == call["function"]["arguments"]
        read = native_events(await place.native(asked, stream=True, incremental_output=incremental, **wanted))
        messages = [data["output"]["choices"][0]["message"] for *_, data in read]
        if incremental:
            pieces = [part for message in messages for part in message.get("tool_calls", ())]
            for call in calls:
                told = "".join(p["function"]["arguments"] for p in pieces if p["index"] == call["index"])
                assert told == call["function"]["arguments"]
        else:
            assert messages[-1]["tool_calls"] == calls
        assert read[-1][2]["output"]["choices"][0]["finish_reason"] == "tool_calls"

    at_simulator(use)


def test_several_choices_and_log_probabilities_are_streamed_whole() -> None:
    wanted: dict[str, Any] = {"n": 3, "logprobs": True, "top_logprobs": 2}

    async def use(place: Place) -> None:
        plain = (await place.chat(**wanted)).json()
        chunks = events(await place.chat(stream=True, stream_options=USAGE, **wanted))
        for choice in plain["choices"]:
            assert joined(chunks, index=choice["index"]) == choice["message"]["content"]
            own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
            words = [word for c in own if c["logprobs"] for word in c["logprobs"]["content"]]
            assert words == choice["logprobs"]["content"]
            assert "".join(word["token"] for word in words) == choice["message"]["content"]
            assert all(len(word["top_logprobs"]) == 2 for word in words)
        assert chunks[-1]["usage"] == plain["usage"]
        native = (await place.native(n=2)).json()["output"]["choices"]
        assert [choice["index"] for choice in native] == [0, 1]

    at_simulator(use)


def test_a_stream_has_as_many_pieces_as_are_set() -> None:
    async def use(place: Place) -> None:
        chunks = events(await place.chat([{"role": "user", "content": "Tell me all. " * 40}], stream=True))
        assert len(chunks) == 2 + 10

    at_simulator(use, Settings(stream_pieces=10))


def test_a_stream_that_is_cut_ends_in_good_order_without_a_finish_reason() -> None:
    async def use(place: Place) -> None:
        chunks = events(
            await place.chat(stream=True, stream_options=USAGE, headers={"X-Simulate": "cut_stream"})
        )
        assert len(chunks) > 1
        assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
        asked = await place.native(stream=True, headers={"X-Simulate": "cut_stream"})
        reasons = [data["output"]["choices"][0]["finish_reason"] for *_, data in native_events(asked)]
        assert len(reasons) > 1 and set(reasons) == {"null"}
        totals = place.totals
        assert (totals["answered"], totals["completed"], totals["faults"]) == (2, 0, {"cut_stream": 2})
        assert totals["completion_tokens"] > 0
        plain = await place.chat(headers={"X-Simulate": "cut_stream"})
        assert plain.json()["choices"][0]["finish_reason"] == "stop"
        assert place.totals["faults"] == {"cut_stream": 2}

    at_simulator(use)


def test_an_error_event_ends_a_stream_that_began_well() -> None:
    async def use(place: Place) -> None:
        *chunks, last = events(await place.chat(stream=True, headers={"X-Simulate": "error_event"}))
        assert len(chunks) > 1
        assert last["error"]["code"] == "data_inspection_failed"
        answer = await place.native(stream=True, headers={"X-Simulate": "error_event"})
        *results, (kind, status, data) = native_events(answer)
        assert len(results) > 1 and {k for k, *_ in results} == {"result"}
        assert (kind, status, data["code"]) == ("error", 400, "DataInspectionFailed")

    at_simulator(use)


def test_a_stream_that_stalls_has_begun_and_then_says_nothing() -> None:
    async def use(place: Place) -> None:
        body: dict[str, Any] = {"model": "qwen-plus", "messages": WHO, "stream": True}
        url = place.simulator.base_url + "/chat/completions"
        begun = asyncio.Event()

        async def listen() -> None:
            headers = {"X-Simulate": "stall_stream"}
            async with place.http.stream("POST", url, json=body, headers=headers, timeout=None) as answer:
                async for text in answer.aiter_text():
                    assert '"role":"assistant"' in text and '"finish_reason":"stop"' not in text
                    begun.set()

        listener = asyncio.create_task(listen())
        await begun.wait()
        assert not listener.done()
        assert place.totals["in_flight"] == 1
        listener.cancel()
        await asyncio.wait([listener])

    at_simulator(use)


def test_a_cut_connection_leaves_half_of_the_events() -> None:
    async def use(place: Place) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await place.chat(stream=True, headers={"X-Simulate": "cut"})
        assert place.totals["completed"] == 0
        slow = await place.chat(stream=True, headers={"X-Simulate": "slow"})
        assert events(slow)[-1]["choices"][0]["finish_reason"] == "stop"

    at_simulator(use, settings_from_options({"slow": "10ms"}))


def test_a_stream_may_be_spread_over_time_and_is_whole() -> None:
    async def use(place: Place) -> None:
        answer = await place.chat(stream=True)
        assert answer.text.endswith("data: [DONE]\n\n")
        assert place.totals["completed"] == 1

    at_simulator(use, settings_from_options({"stream": "20ms"}))


def test_a_partial_answer_is_streamed_without_a_finish_reason_but_with_its_header() -> None:
    async def use(place: Place) -> None:
        answer = await place.chat(stream=True, headers={"X-Simulate": "partial"})
        assert answer.headers["x-dashscope-partialresponse"] == "true"
        assert events(answer)[-1]["choices"][0]["finish_reason"] is None
        native = native_events(await place.native(stream=True, headers={"X-Simulate": "partial"}))
        assert native[-1][2]["output"]["choices"][0]["finish_reason"] == "null"

    at_simulator(use)


def test_a_refusal_may_stand_behind_a_data_prefix() -> None:
    async def use(place: Place) -> None:
        answer = await place.chat(stream=True, headers={"X-Simulate": "400_prefixed"})
        assert answer.status_code == 400
        assert events(answer)[0]["error"]["code"] == "invalid_parameter_error"

    at_simulator(use)
