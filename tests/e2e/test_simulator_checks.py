"""What the simulator refuses, in the documented words, and what it counts: media, tools, search, thinking."""

from typing import Any

import pytest

from pipeline.errors import JobError
from pipeline.simulator.documented import DOCUMENTED_CODES, parse_demand
from pipeline.simulator.faults import FaultKind
from pipeline.simulator.settings import Settings, settings_from_options
from pipeline.tokens import count_messages, count_text
from tests.support.simulators import (
    NATIVE_MULTIMODAL,
    NATIVE_TEXT,
    WHO,
    Place,
    at_simulator,
    data_url,
    events,
    png,
)

THINKING = "qwen3.7-plus"  # by default
OPEN = "qwen3-32b"  # thinks by default, and only while streaming
ALWAYS = "qwq-plus"
PLAIN = "qwen-max"  # never thinks
JSON_ASKED = [{"role": "user", "content": "Answer in JSON."}]
TOOL = {"type": "function", "function": {"name": "search", "parameters": {}}}
NOW = {"type": "function", "function": {"name": "now", "parameters": {}}}


def refused(sent: dict[str, Any], message: str, *, native: bool = False, code: str = "") -> None:
    """Ask, and expect a 400 with exactly this message (behind the prefix of the model's own checks)."""

    async def use(place: Place) -> None:
        answer = await (place.native(**sent) if native else place.chat(**sent))
        error = answer.json() if native else answer.json()["error"]
        said = error["message"].removeprefix("<400> InternalError.Algo.InvalidParameter: ")
        expected = code or ("InvalidParameter" if native else "invalid_parameter_error")
        assert (answer.status_code, error["code"], said) == (400, expected, message)

    at_simulator(use)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"model": OPEN}, "parameter.enable_thinking must be set to false for non-streaming calls"),
        (
            {"model": ALWAYS},
            "This model only support stream mode, please enable the stream parameter to access the model.",
        ),
        (
            {"model": ALWAYS, "stream": True, "enable_thinking": False},
            "The value of the enable_thinking parameter is restricted to True.",
        ),
        ({"model": PLAIN, "enable_thinking": True}, "The model qwen-max does not support enable_thinking."),
        (
            {"thinking_budget": 0},
            "The thinking_budget parameter must be a positive integer and not greater than 38912",
        ),
        (
            {"response_format": {"type": "json_object"}},
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
        ),
        (
            {"messages": JSON_ASKED, "response_format": {"type": "json_object"}, "enable_thinking": True},
            "Json mode response is not supported when enable_thinking is true",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
            "The parameter `response_format.type` specified in the request are not valid: invalid value: "
            "`json_schema`, supported values are: `json_object` and `text`",
        ),
        (
            {"response_format": "json"},
            "Unknown format of response_format, response_format should be a dict, includes 'type' and an optional "
            "key 'json_schema'. The response_format type from user is str.",
        ),
        ({"model": "qwen-long", "enable_search": True}, "This model does not support enable_search."),
        ({"tools": [TOOL]}, "Tool names are not allowed to be [search]"),
        (
            {"tools": [NOW], "tool_choice": "required"},
            'tool_choice is one of the strings that should be ["none", "auto"]',
        ),
        ({"tools": [NOW], "n": 2}, "n must be 1 when tools are given."),
        ({"messages": []}, "[] is too short - 'messages'"),
        (
            {"messages": [{"role": "system", "content": "x"}]},
            "The input messages do not contain elements with the role of user.",
        ),
        ({"messages": [{"role": "user"}]}, "The content field is a required field."),
        (
            {"messages": [*WHO, {"role": "tool", "content": "x"}]},
            'messages with role "tool" must be a response to a preceeding message with "tool_calls".',
        ),
        (
            {"stop": ["a", 1]},
            'The "stop" parameter must be of type "str", "list[str]", "list[int]", or "list[list[int]]", and all '
            "elements within the list must be of the same type.",
        ),
        ({"top_k": -1}, "Parameter top_k be greater than or equal to 0"),
        ({"seed": 2**31}, "Range of seed should be [0, 2147483647]"),
    ],
)
def test_a_call_the_model_cannot_take_is_refused_in_the_documented_words(
    sent: dict[str, Any], message: str
) -> None:
    refused(sent, message)


@pytest.mark.parametrize(
    ("sent", "message", "code"),
    [
        ({"model": "qwen3-vl-plus"}, "url error, please check url！", ""),
        ({"model": "qwen-plus", "path": NATIVE_MULTIMODAL}, "url error, please check url！", ""),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "input content must be a string.", ""),
        (
            {
                "messages": [{"role": "user", "content": [{"type": "text"}]}],
                "model": "qwen3-vl-plus",
                "path": NATIVE_MULTIMODAL,
            },
            "The item of content should be a message of a certain modal.",
            "",
        ),
        (
            {"enable_thinking": True, "stream": True},
            'The incremental_output parameter must be "true" when enable_thinking is true',
            "",
        ),
        (
            {"model": ALWAYS, "stream": True, "incremental_output": False},
            "The incremental_output parameter of this model cannot be set to False.",
            "",
        ),
        (
            {"enable_thinking": True, "result_format": "text"},
            'The result_format parameter must be "message" when enable_thinking is true',
            "",
        ),
        (
            {"model": PLAIN, "enable_thinking": True},
            "The model qwen-max does not support enable_thinking.",
            "InvalidParameter.NotSupportEnableThinking",
        ),
        ({"seed": 2**63}, "Range of seed should be [0, 9223372036854775807]", ""),
        ({"messages": None}, 'Either "prompt" or "messages" must exist and cannot both be none', ""),
    ],
)
def test_a_native_call_is_refused_in_the_documented_words(
    sent: dict[str, Any], message: str, code: str
) -> None:
    refused(sent, message, native=True, code=code)


def test_models_think_as_the_catalogue_says() -> None:
    async def use(place: Place) -> None:
        for sent in ({"model": THINKING}, {"enable_thinking": True}):
            answer = (await place.chat(**sent)).json()
            message = answer["choices"][0]["message"]
            thought = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
            assert thought == count_text(message["reasoning_content"])
            assert answer["usage"]["completion_tokens"] == thought + count_text(message["content"])
            assert answer["usage"]["prompt_tokens"] == 22 + 2
        for sent in ({"model": THINKING, "enable_thinking": False}, {}, {"model": PLAIN}):
            answer = (await place.chat(**sent)).json()
            assert "reasoning_content" not in answer["choices"][0]["message"]
            assert answer["usage"].keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert events(await place.chat(model=ALWAYS, stream=True))
        assert events(await place.chat(model=OPEN, stream=True))
        assert (await place.chat(model=OPEN, enable_thinking=False)).status_code == 200

    at_simulator(use)


def test_a_thinking_budget_cuts_the_reasoning_and_nothing_else() -> None:
    async def use(place: Place) -> None:
        whole = (await place.chat(enable_thinking=True)).json()["choices"][0]["message"]
        cut = (await place.chat(enable_thinking=True, thinking_budget=5)).json()
        message = cut["choices"][0]["message"]
        assert cut["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
        assert whole["reasoning_content"].startswith(message["reasoning_content"])
        assert message["content"] == whole["content"]
        bounded = (await place.chat(enable_thinking=True, max_completion_tokens=8)).json()
        assert bounded["usage"]["completion_tokens"] == 8
        assert bounded["choices"][0]["finish_reason"] == "length"
        answer_only = (await place.chat(enable_thinking=True, max_tokens=3)).json()
        thought = answer_only["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert answer_only["usage"]["completion_tokens"] == thought + 3

    at_simulator(use)


def test_json_is_answered_where_the_model_can() -> None:
    async def use(place: Place) -> None:
        schema = {"type": "object", "properties": {"mood": {"enum": ["calm"]}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = (await place.chat(model=THINKING, response_format=wanted)).json()
        assert answer["choices"][0]["message"]["content"] == '{"mood":"calm"}'
        asked = {"messages": JSON_ASKED, "response_format": {"type": "json_object"}}
        assert (await place.chat(**asked)).status_code == 200
        assert (await place.chat(model=THINKING, **asked)).status_code == 200
        assert place.totals["modes"] == {"compatible": 3, "json": 3, "thinking": 2}

    at_simulator(use)


def test_stop_ends_an_answer_before_its_words() -> None:
    async def use(place: Place) -> None:
        whole = (await place.chat()).json()["choices"][0]["message"]["content"]
        stop = whole[3:5]
        answer = (await place.chat(stop=["nowhere to be found", stop])).json()
        assert answer["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert (await place.chat(stop=[1, 2])).status_code == 200

    at_simulator(use)


def test_a_seed_changes_the_answer_and_the_same_one_repeats_it() -> None:
    async def use(place: Place) -> None:
        said = [(await place.chat(seed=seed)).json()["choices"] for seed in (1, 2, 1)]
        assert said[0] == said[2] != said[1]

    at_simulator(use)


def test_a_tool_is_chosen_by_the_question_forced_forbidden_or_answered() -> None:
    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "当你想查询指定城市的天气时非常有用。",
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
        },
    }
    asked = [{"role": "user", "content": "杭州天气怎么样"}]

    async def use(place: Place) -> None:
        answer = (await place.chat(asked, tools=[NOW, weather])).json()["choices"][0]
        call = answer["message"]["tool_calls"][0]
        assert call["function"] == {"name": "get_weather", "arguments": '{"location": "杭州市"}'}
        forced = {"type": "function", "function": {"name": "now"}}
        told = (await place.chat(asked, tools=[NOW, weather], tool_choice=forced)).json()["choices"][0]
        assert told["message"]["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
        spared = (await place.chat(asked, tools=[NOW, weather], tool_choice="none")).json()["choices"][0]
        assert spared["finish_reason"] == "stop" and "tool_calls" not in spared["message"]
        told_back = [*asked, answer["message"], {"role": "tool", "tool_call_id": call["id"], "content": "晴"}]
        done = (await place.chat(told_back, tools=[NOW, weather])).json()["choices"][0]
        assert done["finish_reason"] == "stop" and done["message"]["content"]
        missing = await place.chat(asked, tools=[NOW], tool_choice={"function": {"name": "other"}})
        assert missing.status_code == 400

    at_simulator(use)


def test_search_adds_hidden_prompt_tokens_and_its_sources_where_asked() -> None:
    async def use(place: Place) -> None:
        hidden = set()
        for i in range(12):
            asked = [{"role": "user", "content": f"Who won race {i}?"}]
            usage = (await place.chat(asked, enable_search=True)).json()["usage"]
            again = (await place.chat(asked, enable_search=True, stream=False)).json()["usage"]
            assert usage == again
            hidden.add(usage["prompt_tokens"] - count_messages(asked))
        assert hidden == {515, 680, 1082}
        told = await place.native(enable_search=True, search_options={"enable_source": True})
        assert told.json()["output"]["search_info"]["search_results"][0]["index"] == 1
        assert "search_info" not in (await place.native(enable_search=True)).json()["output"]

    at_simulator(use)


def picture(url: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}, **more}]}]


@pytest.mark.parametrize(
    ("url", "tokens"),
    [
        (data_url(png(320, 320)), 100),
        (data_url(png(640, 320, padding=200_000)), 200),
        ("https://example.com/a.jpg?width=320&height=640", 200),
        ("http://example.com/a.jpg", 32 * 32),
        ("https://img.example.com/i3/O1CN-0-tps-640-320.jpg", 200),
        ("https://example.com/set.png", 100),
    ],
)
def test_an_image_counts_by_its_true_or_declared_size(url: str, tokens: int) -> None:
    async def use(place: Place) -> None:
        answer = (await place.chat(picture(url), model="qwen3-vl-plus")).json()
        # The default system message, the message and the prompt's end, the marks around the image.
        assert answer["usage"]["prompt_tokens"] == 11 + 5 + 3 + tokens + 2
        assert place.totals["modes"]["images"] == 1

    at_simulator(use, settings_from_options({"sizes": {"https://example.com/set.png": "320x320"}}))


def test_a_part_may_bound_its_pixels_and_a_call_may_lift_the_bound() -> None:
    url = "https://example.com/a.jpg?width=4000&height=4000"

    async def use(place: Place) -> None:
        async def tokens(**params: Any) -> int:
            part = {name: params.pop(name) for name in ("max_pixels",) if name in params}
            answer = await place.chat(picture(url, **part), model="qwen3-vl-plus", **params)
            return int(answer.json()["usage"]["prompt_tokens"]) - 21

        assert await tokens(max_pixels=320 * 320) == 100
        assert await tokens() == 50 * 50
        assert await tokens(vl_high_resolution_images=True) == 125 * 125

    at_simulator(use)


FOUR = [f"https://example.com/{i}.jpg?width=640&height=640" for i in range(4)]


def test_frames_and_video_files_count_in_pairs() -> None:
    async def use(place: Place) -> None:
        async def tokens(part: dict[str, Any]) -> int:
            asked = [{"role": "user", "content": [part]}]
            answer = await place.chat(asked, model="qwen3-vl-plus")
            return int(answer.json()["usage"]["prompt_tokens"]) - 21

        assert await tokens({"type": "video", "video": FOUR}) == 2 * 400
        file = "https://example.com/a.mp4?width=640&height=640&seconds=8"
        assert await tokens({"type": "video_url", "video_url": {"url": file}}) == 8 * 400
        assert await tokens({"type": "video_url", "video_url": {"url": file}, "fps": 0.5}) == 2 * 400
        native = await place.native(
            [{"role": "user", "content": [{"video": FOUR, "fps": 2}]}],
            model="qwen3-vl-plus",
            path=NATIVE_MULTIMODAL,
        )
        assert native.json()["usage"]["video_tokens"] == 2 * 400
        assert place.totals["modes"]["video"] == 4

    at_simulator(use)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"type": "image_url", "image_url": {"url": data_url(png(10, 100))}},
            "The image length and width do not meet the model restrictions. "
            "[height:100 or width:10 must be larger than 10]",
        ),
        (
            {"type": "image_url", "image_url": {"url": data_url(png(11, 2_300))}},
            "The image length and width do not meet the model restrictions. "
            "[absolute aspect ratio must be smaller than 200]",
        ),
        (
            {"type": "image_url", "image_url": {"url": data_url(b"no image at all")}},
            "Failed to decode the image during the data inspection.",
        ),
        (
            {"type": "image_url", "image_url": {"url": "file:///tmp/a.png"}},
            "The provided URL does not appear to be valid. Ensure it is correctly formatted.",
        ),
        (
            {"type": "image_url", "image_url": {"url": "oss://a/b.png"}},
            "The provided URL does not appear to be valid. Ensure it is correctly formatted.",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (20 * 1024 * 1024)}},
            "Exceeded limit on max bytes per data-uri item : 20971520",
        ),
        (
            {"type": "video", "video": FOUR[:3]},
            "The video modality input does not meet the requirements because: the range of sequence images shoule "
            "be (4, 2000).",
        ),
        ({"type": "audio"}, "Unexpected item type in content."),
    ],
)
def test_media_that_cannot_be_taken_are_refused_in_the_documented_words(
    part: dict[str, Any], message: str
) -> None:
    refused({"messages": [{"role": "user", "content": [part]}], "model": "qwen3-vl-plus"}, message)


def test_a_model_that_does_not_see_refuses_images_and_takes_texts_in_parts() -> None:
    refused({"messages": picture(FOUR[0])}, "Unexpected item type in content.")

    async def use(place: Place) -> None:
        parts = [{"role": "user", "content": [{"type": "text", "text": "你是谁"}]}]
        assert (await place.chat(parts)).json()["usage"]["prompt_tokens"] == 10

    at_simulator(use)


def test_the_tokenizer_counts_as_the_usage_does() -> None:
    async def use(place: Place) -> None:
        url = place.simulator.native_base_url + "/tokenizer"
        for model, messages in (
            ("qwen-plus", WHO),
            ("qwen3-vl-plus", [{"role": "user", "content": "你是谁"}]),
        ):
            body = {"model": model, "input": {"messages": messages}}
            counted = (await place.http.post(url, json=body)).json()["usage"]["input_tokens"]
            billed = (await place.chat(messages, model=model)).json()["usage"]["prompt_tokens"]
            assert counted == billed
        wrong = await place.http.post(url, json={"model": "qwen-plus"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "BadRequest.EmptyInput")

    at_simulator(use)


@pytest.mark.parametrize("code", DOCUMENTED_CODES)
def test_every_documented_code_is_said_on_demand_in_either_dialect(code: str) -> None:
    demand = parse_demand(code)
    assert demand.refusal is not None
    assert code in (demand.refusal.code, demand.refusal.native)


def test_a_code_on_demand_comes_by_header_or_by_a_mark_in_the_prompt_as_often_as_asked() -> None:
    async def use(place: Place) -> None:
        by_header = await place.chat(headers={"X-Simulate": "Throttling.RateQuota"})
        assert (by_header.status_code, by_header.json()["error"]["code"]) == (429, "limit_requests")
        native = await place.native(headers={"X-Simulate": "limit_requests"})
        assert (native.status_code, native.json()["code"]) == (429, "Throttling.RateQuota")
        marked = [{"role": "user", "content": "Hello [[simulate:ModelServingError*2]]"}]
        assert [(await place.chat(marked)).status_code for _ in range(4)] == [503, 503, 200, 200]
        worded = [{"role": "user", "content": "[[simulate:InvalidParameter: Model not exist.]]"}]
        said = (await place.chat(worded)).json()["error"]
        assert (said["code"], said["message"]) == ("invalid_parameter_error", "Model not exist.")
        assert place.totals["faults"] == {
            "InvalidParameter": 1,
            "ModelServingError": 2,
            "Throttling.RateQuota": 1,
            "limit_requests": 1,
        }
        wrong = await place.chat(headers={"X-Simulate": "Throtling.RateQuota"})
        assert wrong.status_code == 400 and "did you mean 'Throttling.RateQuota'" in wrong.text

    at_simulator(use)


def test_a_header_that_asks_for_nothing_overrules_what_is_drawn_and_what_is_marked() -> None:
    async def use(place: Place) -> None:
        marked = [{"role": "user", "content": "[[simulate:Arrearage]]"}]
        assert (await place.chat(marked, headers={"X-Simulate": "none"})).status_code == 200

    at_simulator(use, Settings(faults={FaultKind.INTERNAL_ERROR: 1.0}))


def test_calls_that_ask_to_be_asynchronous_are_denied() -> None:
    async def use(place: Place) -> None:
        headers = {"X-DashScope-Async": "enable"}
        answer = await place.native(headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "AccessDenied")

    at_simulator(use)


def test_a_prompt_may_stand_for_the_messages_in_the_native_protocol() -> None:
    async def use(place: Place) -> None:
        body = {"model": "qwen-plus", "input": {"prompt": "你是谁"}}
        answer = await place.http.post(place.simulator.native_base_url + NATIVE_TEXT, json=body)
        assert answer.json()["usage"]["input_tokens"] == 10
        assert answer.json()["output"].keys() == {"text", "finish_reason"}

    at_simulator(use)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": {"http://x": "wide"}}, "expected 'http://x' to have a size such as 1372x2044"),
        ({"stream_pieces": 0}, "expected more than 0"),
        ({"file_processing": "soon"}, "expected a duration"),
    ],
)
def test_a_wrong_setting_says_what_was_expected(options: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        settings_from_options(options)
