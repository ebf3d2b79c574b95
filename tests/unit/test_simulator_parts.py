"""The simulator's smaller parts: image headers, pieces of a stream, tool calls, what models can do."""

import json
import struct
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import load
from pipeline.simulator.chat.models import traits_of
from pipeline.simulator.chat.pictures import picture_size
from pipeline.simulator.chat.pieces import pieces_of, word_logprobs
from pipeline.simulator.chat.tool_calls import calls_for
from pipeline.simulator.documented import demanded
from pipeline.simulator.refusals import invalid_parameter
from tests.support.simulators import png

SIZE = (640, 480)
EXIF = b"\xff\xe1" + struct.pack(">H", 10) + b"12345678"
START_OF_FRAME = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, SIZE[1], SIZE[0], 3)
VP8X = b"VP8X" + struct.pack("<II", 10, 0) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
VP8L = b"VP8L" + struct.pack("<IB", 5, 0x2F) + struct.pack("<I", 639 | 479 << 14)
VP8 = b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", *SIZE)


def tiff(order: str) -> bytes:
    entries = struct.pack(order + "HHII", 256, 4, 1, SIZE[0])
    entries += struct.pack(order + "HHIHH", 257, 3, 1, SIZE[1], 0)
    begin = b"II*\0" if order == "<" else b"MM\0*"
    return begin + struct.pack(order + "IH", 8, 2) + entries


@pytest.mark.parametrize(
    "content",
    [
        png(*SIZE),
        b"\xff\xd8" + EXIF + b"\xff" + START_OF_FRAME,
        b"GIF89a" + struct.pack("<HH", *SIZE),
        b"BM" + b"\0" * 16 + struct.pack("<ii", SIZE[0], -SIZE[1]),
        b"RIFF\0\0\0\0WEBP" + VP8X,
        b"RIFF\0\0\0\0WEBP" + VP8L,
        b"RIFF\0\0\0\0WEBP" + VP8,
        tiff("<"),
        tiff(">"),
    ],
)
def test_the_size_of_a_picture_is_read_from_its_header(content: bytes) -> None:
    assert picture_size(content) == SIZE
    for end in range(len(content) - 1):
        cut = picture_size(content[:end])
        assert cut is None or cut == SIZE


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"RIFF\0\0\0\0WAVEfmt ", png(0, 10), b"\xff\xd8\0\0"])
def test_what_is_no_picture_has_no_size(content: bytes) -> None:
    assert picture_size(content) is None


@given(
    st.binary(max_size=200), st.sampled_from([b"\xff\xd8", b"RIFF\0\0\0\0WEBP", b"II*\0", b"MM\0*", b"BM"])
)
def test_a_hostile_header_is_no_error(rest: bytes, begin: bytes) -> None:
    picture_size(begin + rest)


@given(st.text(max_size=200), st.none() | st.integers(min_value=1, max_value=60))
def test_the_pieces_of_a_text_are_the_text(text: str, pieces: int | None) -> None:
    divided = pieces_of(text, pieces)
    assert "".join(divided) == text
    assert all(divided)
    assert pieces is None or len(divided) <= pieces
    assert "".join(word["token"] for word in word_logprobs(text, 2, Random(0))) == text


def function(name: str, description: str = "", **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


TOOLS = [
    function("get_time", "Use it to tell the time", zone={"type": "string"}),
    function(
        "get_weather", "Use it for the weather of a city", city={"type": "string"}, days={"type": "integer"}
    ),
]


def test_the_tool_a_question_is_about_is_called_with_the_place_it_names() -> None:
    (call,) = calls_for("What is the weather in Paris?", TOOLS, {}, Random(0))
    arguments = json.loads(call.arguments)
    assert (call.name, arguments["city"], isinstance(arguments["days"], int)) == (
        "get_weather",
        "Paris",
        True,
    )
    assert calls_for("What is the time?", TOOLS, {}, Random(0))[0].name == "get_time"
    assert calls_for("Hm.", TOOLS, {}, Random(0))[0].name == "get_time"


def test_parallel_calls_are_at_least_two() -> None:
    parallel = {"parallel_tool_calls": True}
    both = calls_for("The time and the weather?", TOOLS, parallel, Random(0))
    assert {call.name for call in both} == {"get_time", "get_weather"}
    assert len({call.id for call in both}) == 2
    cities = [json.loads(c.arguments)["city"] for c in calls_for("weather", TOOLS[1:], parallel, Random(0))]
    assert cities == ["杭州市", "北京市"]


def test_a_place_does_not_overrule_the_values_a_schema_allows() -> None:
    tools = [function("visit", city={"enum": ["Rome", "Oslo"]})]
    (call,) = calls_for("Visit Paris", tools, {}, Random(0))
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")


def test_every_model_of_the_catalogue_has_traits_and_a_snapshot_has_those_of_its_family() -> None:
    for name, model in load("simulator").models.items():
        traits = traits_of(name)
        assert traits.stream_only == model.stream_only
        assert traits.multimodal == model.native_multimodal
    assert traits_of("qwen-vl-max-latest").rule == traits_of("qwen-vl-max").rule
    assert traits_of("qwen3-max-2025-09-23").thinking == "off"
    assert traits_of("qwq-32b").stream_only
    unknown = traits_of("my-own-model")
    assert (unknown.multimodal, unknown.json_schema, unknown.thinking) == (None, True, "off")
    assert traits_of("new-vl-7b").default_system


def test_a_demand_for_so_many_times_is_over_after_them() -> None:
    body = b"... [[simulate:SystemError*2]] ..."
    named = [demanded(None, body, seen) for seen in (1, 2, 3)]
    assert [bool(demand and demand.refusal) for demand in named] == [True, True, False]
    assert demanded(None, b"nothing is asked for", 1) is None
    assert demanded("none", body, 1) is not None


def test_a_refusal_says_the_same_in_both_dialects_under_the_code_of_each() -> None:
    refusal = invalid_parameter("x")
    compatible = json.loads(refusal.body("r"))
    native = json.loads(refusal.native_body("r"))
    assert compatible["error"]["message"] == native["message"]
    assert (compatible["error"]["code"], native["code"]) == ("invalid_parameter_error", "InvalidParameter")
    assert compatible["request_id"] == native["request_id"] == "r"
