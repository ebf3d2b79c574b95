"""Token counts of what is not plain text: images, frames, and the declarations of tools.

Pure arithmetic on sizes, besides the text of tools: no image is opened here, no model is looked up. Sources:
the provider's page on visual understanding with its sample code (help.aliyun.com/zh/model-studio/vision), and
for tools the chat template of the open Qwen2.5 and Qwen3 models; checked against the figures that the
provider printed with its own examples (1247, 1271, 1275, 1466 and 224).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from pipeline.tokens import count_text

# One token before and one after an image or a list of frames.
TOKENS_AROUND = 2
# "You are a helpful assistant." as a system message (5 + 6): vision models are given it where the messages
# begin without one, and so is any model that is given tools.
DEFAULT_SYSTEM_TOKENS = 11
# The instructions that the template writes before and after the declarations, behind a system message that ends
# with a full stop (which joins the blank line to one token; any other ending is one more).
TOOLS_TOKENS = 86
# A call is billed as its JSON and one token more.
TOKENS_PER_CALL = 1
FRAMES_PER_STEP = 2  # frames are read in pairs; an odd last one counts as a pair
LEAST_SIDE_PIXELS = 11  # both sides must be larger than 10
MOST_ASPECT = 200


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class ImageBounds(Protocol):
    """What the catalogue knows of a model's images (`catalog.Image` is one)."""

    @property
    def factor(self) -> int: ...
    @property
    def min_pixels(self) -> int: ...
    @property
    def default_max_pixels(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionRule:
    """How a model turns pixels into tokens: one for each `factor` x `factor` square of the scaled picture.

    Pixels are areas. An image is scaled into `min_pixels` to `max_pixels`, which a request may move up to
    `most_pixels`; a frame into `frame_min_pixels` to `frame_max_pixels`, and less where all the frames of a
    video together would pass `total_pixels`.
    """

    factor: int
    min_pixels: int
    max_pixels: int
    most_pixels: int
    frame_min_pixels: int
    frame_max_pixels: int
    total_pixels: int


# The models of 2024, and any vision model that the catalogue has no bounds for.
EARLIER_RULE = VisionRule(
    factor=28,
    min_pixels=4 * 28**2,
    max_pixels=1280 * 28**2,
    most_pixels=16_384 * 28**2,
    frame_min_pixels=128 * 28**2,
    frame_max_pixels=768 * 28**2,
    total_pixels=65_536 * 28**2,
)


def vision_rule(image: ImageBounds | None, model: str = "") -> VisionRule:
    """Make the rule of a model from the catalogue's bounds; without them it is that of the models of 2024.

    The name decides the size of a frame alone: the sample code gives qwen3-vl 640 squares, all others 768.
    """
    if image is None:
        return EARLIER_RULE
    square = image.factor**2
    early = image.factor == EARLIER_RULE.factor
    return VisionRule(
        factor=image.factor,
        min_pixels=image.min_pixels,
        max_pixels=image.default_max_pixels,
        most_pixels=image.max_pixels,
        frame_min_pixels=EARLIER_RULE.frame_min_pixels if early else 4 * square,
        frame_max_pixels=(640 if model.startswith("qwen3-vl") else 768) * square,
        total_pixels=EARLIER_RULE.total_pixels if early else 131_072 * square,
    )


def requested_rule(rule: VisionRule, part: Mapping[str, Any], *, high_resolution: bool = False) -> VisionRule:
    """Apply what a content part asks for (`min_pixels`, `max_pixels`, `total_pixels`) to its model's rule.

    `high_resolution` is the parameter `vl_high_resolution_images`, which takes images (not frames) as large
    as the model can and overrules the part's `max_pixels`. A value that is no positive number is not heeded.
    """
    least, most, total = (_pixels(part.get(name)) for name in ("min_pixels", "max_pixels", "total_pixels"))
    if least is most is total is None and not high_resolution:
        return rule
    top = rule.most_pixels if high_resolution else min(most or rule.max_pixels, rule.most_pixels)
    return replace(
        rule,
        min_pixels=min(least or rule.min_pixels, top),
        max_pixels=top,
        frame_min_pixels=least or rule.frame_min_pixels,
        frame_max_pixels=most or rule.frame_max_pixels,
        total_pixels=total or rule.total_pixels,
    )


def _pixels(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def smart_resize(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Scale a picture to multiples of `factor` near its size, its area within the bounds, its shape kept.

    Sides must be above 0. A picture too large is rounded down, so it stays below `max_pixels`; one too small
    is rounded up.
    """
    width, height = (max(factor, round(side / factor) * factor) for side in size)
    if width * height > max_pixels:
        shrink = math.sqrt(size.width * size.height / max_pixels)
        width, height = (max(factor, math.floor(side / shrink / factor) * factor) for side in size)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / (size.width * size.height))
        width, height = (math.ceil(side * grow / factor) * factor for side in size)
    return Size(width, height)


def image_tokens(width: int, height: int, rule: VisionRule) -> int:
    """Count the tokens of one image in a prompt; what usage calls image_tokens is `TOKENS_AROUND` fewer."""
    scaled = smart_resize(Size(width, height), rule.factor, rule.min_pixels, rule.max_pixels)
    return scaled.width * scaled.height // rule.factor**2 + TOKENS_AROUND


def frames_tokens(frames: int, width: int, height: int, rule: VisionRule) -> int:
    """Count the tokens of a video given as so many frames, all of one size."""
    if frames <= 0:
        return 0
    shared = rule.total_pixels * FRAMES_PER_STEP // frames
    most = max(min(rule.frame_max_pixels, shared), int(rule.frame_min_pixels * 1.05))
    scaled = smart_resize(Size(width, height), rule.factor, rule.frame_min_pixels, most)
    pairs = -(-frames // FRAMES_PER_STEP)
    return pairs * (scaled.width * scaled.height // rule.factor**2) + TOKENS_AROUND


def sampled_frames(duration_s: float, fps: float = 2.0, most: int = 512) -> int:
    """Say how many frames are taken of a video file: `fps` a second, at least 4, an even number."""
    return max(4, min(most, math.floor(duration_s * fps) // FRAMES_PER_STEP * FRAMES_PER_STEP))


def gives_default_system(model: str) -> bool:
    """Whether a model is given the default system prompt (`DEFAULT_SYSTEM_TOKENS`) where messages begin without one."""
    return "-vl" in model or model.startswith("qvq")


def numbers_pictures(model: str) -> bool:
    """Whether a model has each picture announced ("Picture 1: "), as the billed examples of qwen-vl-plus show."""
    return model.startswith("qwen-vl-plus")


def tools_tokens(tools: Sequence[Mapping[str, Any]]) -> int:
    """Count what the declarations of tools add to a prompt, its own system message not counted.

    Each is written as one line of JSON with sorted keys, between instructions of a fixed length. Models
    differ: an estimate that is exact for the provider's own example (224 with two tools).
    """
    if not tools:
        return 0
    lines = (json.dumps(tool, ensure_ascii=False, sort_keys=True) + "\n" for tool in tools)
    return TOOLS_TOKENS + sum(map(count_text, lines))


def call_tokens(name: str, arguments: str) -> int:
    """Count the completion tokens of one tool call; `arguments` is the JSON text as sent."""
    said = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}'
    return count_text(said) + TOKENS_PER_CALL
