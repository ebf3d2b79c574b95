"""What a model takes of media: bytes, counts, formats. Data and its lookup; sizes in tokens are `vision_tokens.py`'s.

Source: Alibaba Cloud Model Studio, "Visual understanding" (help.aliyun.com/zh/model-studio/vision) and "OpenAI compatible -
File" (help.aliyun.com/zh/model-studio/openai-file-interface), September 2026. Checked 22 November 2026.
"""

from dataclasses import dataclass, replace
from typing import Final

from pipeline.vision_tokens import LEAST_SIDE_PIXELS, MOST_ASPECT

MIB: Final = 1024 * 1024
DOCUMENT_BYTES: Final = 150 * MIB
DOCUMENT_IMAGE_BYTES: Final = 20 * MIB
DOCUMENTS_PER_REQUEST: Final = 100
# Of all media in one request together: a row may name one large file hundreds of times.
INLINE_BYTES_PER_REQUEST: Final = 64 * MIB

_VISION_TYPES = frozenset({"image/bmp", "image/jpeg", "image/png", "image/tiff", "image/webp", "image/heic"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """What one request may carry.

    `inline_bytes` bounds a whole data URL, `linked_bytes` a picture that is sent by its address, `inline_video_bytes` and
    `linked_video_bytes` likewise. Sides in pixels; `max_aspect` is the longer over the shorter. Images: at most
    `linked_images` in all, of them `inline_images` as data URLs. `image_types` None: any.
    """

    inline_bytes: int
    linked_bytes: int
    inline_video_bytes: int = 10 * MIB
    linked_video_bytes: int = 150 * MIB
    min_side_pixels: int = LEAST_SIDE_PIXELS
    max_aspect: int = MOST_ASPECT
    inline_images: int = 250
    linked_images: int = 256
    videos: int = 64
    min_frames: int = 4
    max_frames: int = 80
    min_fps: float = 0.1
    max_fps: float = 10.0
    image_types: frozenset[str] | None = _VISION_TYPES


_NEWER = MediaLimits(inline_bytes=20 * MIB, linked_bytes=20 * MIB)
_OLDER = MediaLimits(inline_bytes=10 * MIB, linked_bytes=10 * MIB)
_GIB = 1024 * MIB
# By the beginning of the model's name, the first that fits.
_DASHSCOPE: tuple[tuple[str, MediaLimits], ...] = (
    ("qwen3.8", replace(_NEWER, max_frames=8000, linked_images=2048, linked_video_bytes=2 * _GIB)),
    ("qwen3.7-plus", replace(_NEWER, max_frames=8000, linked_images=2048, linked_video_bytes=2 * _GIB)),
    ("qwen3.7", replace(_NEWER, max_frames=8000, linked_video_bytes=2 * _GIB)),
    ("qwen3.6", replace(_NEWER, max_frames=8000, linked_video_bytes=2 * _GIB)),
    ("qwen3.5", replace(_NEWER, max_frames=8000, linked_video_bytes=2 * _GIB)),
    ("qwen3-vl-plus", replace(_NEWER, max_frames=2000, linked_video_bytes=_GIB)),
    ("qwen3-vl-flash", replace(_NEWER, max_frames=2000, linked_video_bytes=_GIB)),
    ("qwen3-vl-235b", replace(_NEWER, max_frames=2000, linked_video_bytes=_GIB)),
    ("qwen3-vl", replace(_NEWER, max_frames=512, linked_video_bytes=_GIB)),
    ("qwen2.5-vl", replace(_OLDER, max_frames=512, linked_video_bytes=_GIB)),
    ("qvq", replace(_OLDER, max_frames=512, linked_video_bytes=_GIB)),
    ("", _OLDER),
)
# Of other servers nothing is known: only our own memory is bounded.
_UNKNOWN = MediaLimits(
    inline_bytes=64 * MIB,
    linked_bytes=64 * MIB,
    inline_video_bytes=64 * MIB,
    min_side_pixels=1,
    max_aspect=2**31,
    inline_images=100_000,
    linked_images=100_000,
    videos=100_000,
    min_frames=1,
    max_frames=100_000,
    min_fps=0.0,
    max_fps=1000.0,
    image_types=None,
)


def limits_of(dialect: str, model: str) -> MediaLimits:
    """The limits of a model; `dialect` is the catalogue's. Models of other servers have none but our memory's."""
    if dialect != "dashscope":
        return _UNKNOWN
    return next(limits for beginning, limits in _DASHSCOPE if model.startswith(beginning))
