"""Images, frames and tools against figures that the provider printed with its own examples.

Pictures and figures: the image and video examples of the DashScope API pages (dog_and_girl.jpeg is 1372 x
2044, each frame 3840 x 2160) and the page's two weather tools.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import load
from pipeline.tokens import count_messages
from pipeline.vision_tokens import (
    DEFAULT_SYSTEM_TOKENS,
    EARLIER_RULE,
    MOST_ASPECT,
    TOKENS_AROUND,
    Size,
    VisionRule,
    call_tokens,
    frames_tokens,
    image_tokens,
    requested_rule,
    sampled_frames,
    smart_resize,
    tools_tokens,
    vision_rule,
)
from tests.support.reference import TOOLS


def rule_of(model: str) -> VisionRule:
    entry = load("dashscope").model(model)
    assert entry is not None
    return vision_rule(entry.image, model)


# The catalogue's present rule (squares of 32) and that of 2024 (squares of 28) agree on the examples.
@pytest.mark.parametrize("rule", [EARLIER_RULE, rule_of("qwen-vl-max"), rule_of("qvq-max")])
def test_the_examples_of_images_and_frames_count_as_billed(rule: VisionRule) -> None:
    picture = image_tokens(1372, 2044, rule)
    assert picture - TOKENS_AROUND == 1247
    asked = count_messages([{"role": "user", "content": "这是什么?"}])
    assert DEFAULT_SYSTEM_TOKENS + asked + picture == 1271
    named = count_messages([{"role": "user", "content": "Picture 1: 这是什么"}])
    assert DEFAULT_SYSTEM_TOKENS + named + picture == 1275
    video = count_messages([{"role": "user", "content": "描述这个视频的具体过程"}])
    assert DEFAULT_SYSTEM_TOKENS + video + frames_tokens(4, 3840, 2160, rule) == 1466


def test_the_picture_of_the_example_is_scaled_to_29_by_43_squares() -> None:
    assert smart_resize(Size(1372, 2044), 28, 4 * 28**2, 1280 * 28**2) == Size(29 * 28, 43 * 28)


SIDES = st.integers(min_value=11, max_value=9_000)


@given(width=SIDES, height=SIDES, model=st.sampled_from(["qwen-vl-max", "qwen3-vl-plus", "qvq-max"]))
def test_a_scaled_picture_is_within_the_bounds_and_of_whole_squares(
    width: int, height: int, model: str
) -> None:
    if max(width, height) > MOST_ASPECT * min(width, height):
        return  # such a picture is refused, not counted
    rule = rule_of(model)
    scaled = smart_resize(Size(width, height), rule.factor, rule.min_pixels, rule.max_pixels)
    assert scaled.width % rule.factor == scaled.height % rule.factor == 0
    assert rule.min_pixels <= scaled.width * scaled.height
    # A side is never below one square, so a sliver may pass the upper bound; nothing else does.
    assert scaled.width * scaled.height <= rule.max_pixels or rule.factor in scaled
    assert image_tokens(width, height, rule) == image_tokens(height, width, rule)


def test_a_small_picture_is_scaled_up_to_the_least_area() -> None:
    rule = rule_of("qwen3-vl-plus")
    assert image_tokens(20, 20, rule) == 64 + TOKENS_AROUND  # 256 x 256 in squares of 32
    assert image_tokens(320, 320, rule) == 100 + TOKENS_AROUND  # within the bounds: as it is


def test_a_part_may_ask_for_other_bounds_up_to_the_models_own() -> None:
    rule = rule_of("qwen3-vl-plus")
    assert requested_rule(rule, {"type": "image_url"}) is rule
    smaller = requested_rule(rule, {"max_pixels": 100 * 1024})
    assert image_tokens(1372, 2044, smaller) <= 100 + TOKENS_AROUND
    assert requested_rule(rule, {"max_pixels": 10**9}).max_pixels == rule.most_pixels
    assert requested_rule(rule, {"max_pixels": "much", "min_pixels": -1}) == rule
    high = requested_rule(rule, {"max_pixels": 100 * 1024}, high_resolution=True)
    assert high.max_pixels == rule.most_pixels
    assert image_tokens(4000, 4000, high) == 125 * 125 + TOKENS_AROUND


def test_frames_count_in_pairs_and_share_the_pixels_of_the_whole_video() -> None:
    rule = rule_of("qwen3-vl-plus")
    two = frames_tokens(2, 640, 640, rule)
    assert two == 20 * 20 + TOKENS_AROUND
    assert frames_tokens(3, 640, 640, rule) == frames_tokens(4, 640, 640, rule) == 2 * 400 + TOKENS_AROUND
    assert frames_tokens(0, 640, 640, rule) == 0
    many = frames_tokens(2_000, 3840, 2160, rule)
    assert many - TOKENS_AROUND <= rule.total_pixels // rule.factor**2
    assert frames_tokens(2, 3840, 2160, rule) <= 640 + TOKENS_AROUND
    assert 640 < frames_tokens(2, 3840, 2160, rule_of("qwen3.5-plus")) <= 768 + TOKENS_AROUND


@pytest.mark.parametrize(
    ("duration_s", "fps", "frames"), [(10, 2.0, 20), (1, 2.0, 4), (10.9, 1.0, 10), (9_000, 2.0, 512)]
)
def test_a_video_file_is_sampled_evenly_between_4_frames_and_the_most(
    duration_s: float, fps: float, frames: int
) -> None:
    assert sampled_frames(duration_s, fps) == frames


def test_the_example_of_tools_counts_as_billed() -> None:
    asked = count_messages([{"role": "user", "content": "杭州天气怎么样"}])
    assert asked + DEFAULT_SYSTEM_TOKENS + tools_tokens(TOOLS) == 224
    assert call_tokens("get_current_weather", '{"location": "杭州市"}') == 18
    assert tools_tokens([]) == 0


def test_the_order_of_a_tools_keys_does_not_count() -> None:
    turned = [{"function": dict(reversed(tool["function"].items())), "type": "function"} for tool in TOOLS]
    assert tools_tokens(turned) == tools_tokens(TOOLS)
