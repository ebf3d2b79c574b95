"""How large a picture or a video behind a URL is. Nothing is fetched.

A data URL is opened; an `oss://` one names something uploaded here. A web address declares its size, the first
of these that it has: an entry in the settings' `sizes`, `?width=1372&height=2044` (and `&seconds=12` for a
video), `-tps-3840-2160` in the name as the provider's own image host writes it, else it is 1024 x 1024.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipeline.simulator.chat.pictures import picture_size
from pipeline.simulator.refusals import (
    INVALID_MEDIA_URL,
    UNREADABLE_IMAGE,
    Refusal,
    invalid_parameter,
)
from pipeline.vision_tokens import LEAST_SIDE_PIXELS, MOST_ASPECT, Size

UNDECLARED_SIZE = Size(1024, 1024)
UNDECLARED_SECONDS = 10.0
# The picture of the provider's examples, whose address does not tell its size.
KNOWN_SIZES: Mapping[str, Size] = {
    "https://dashscope.oss-cn-beijing.aliyuncs.com/images/dog_and_girl.jpeg": Size(1372, 2044)
}
_HEAD_CHARS = 96 * 1024  # of base64: most headers end here; the rest is decoded only for those that do not
_NAMED = re.compile(r"-tps-(\d{1,5})-(\d{1,5})\.")
_DECLARED = {
    name: re.compile(rf"[?&]{name}=(\d{{1,5}}(?:\.\d+)?)") for name in ("width", "height", "seconds")
}


class Uploads(Protocol):
    """Where `oss://` addresses lead."""

    def size_of(self, url: str, model: str) -> Size | Refusal | None:
        """The size of an uploaded picture, None for what is no picture, or why it cannot be had."""

    def digest_of(self, url: str) -> str | None:
        """A name for the content, the same wherever it was uploaded to."""


class Footage(NamedTuple):
    """A video file: its size and length."""

    size: Size
    seconds: float


@dataclass(slots=True)
class Media:
    """Sizes for one call: to which model, and whether its headers let `oss://` addresses be resolved."""

    sizes: Mapping[str, Size]
    uploads: Uploads
    model: str
    resolves_oss: bool
    most_data_uri_bytes: int

    def picture(self, url: str) -> Size | Refusal:
        """The size of one image, which must lie within the provider's limits."""
        if url.startswith("data:"):
            size = self._embedded(url)
        elif url.startswith("oss://"):
            size = self._uploaded(url)
        elif url.startswith(("http://", "https://")):
            size = self._declared(url)
        else:
            size = INVALID_MEDIA_URL
        return size if isinstance(size, Refusal) else (_out_of_limits(size) or size)

    def named(self, url: str) -> str:
        """What a question calls this medium: uploaded ones by their content, so that a second upload asks the same."""
        digest = self.uploads.digest_of(url) if url.startswith("oss://") else None
        return url if digest is None else f"oss://{digest}"

    def video(self, url: str) -> Footage | Refusal:
        """The size and length of one video file; both are nominal unless the address declares them."""
        if url.startswith("data:"):
            return self._too_large(url) or Footage(UNDECLARED_SIZE, UNDECLARED_SECONDS)
        if url.startswith("oss://"):
            found = self._uploaded(url)
            return found if isinstance(found, Refusal) else Footage(UNDECLARED_SIZE, UNDECLARED_SECONDS)
        if not url.startswith(("http://", "https://")):
            return INVALID_MEDIA_URL
        seconds = _DECLARED["seconds"].search(url)
        return Footage(self._declared(url), float(seconds[1]) if seconds else UNDECLARED_SECONDS)

    def _embedded(self, url: str) -> Size | Refusal:
        refusal = self._too_large(url)
        if refusal is not None:
            return refusal
        at = url.find(";base64,", 0, 256)
        if at < 0:
            return INVALID_MEDIA_URL
        start = at + len(";base64,")
        for end in (start + _HEAD_CHARS, len(url)):
            try:
                size = picture_size(b64decode(url[start:end]))
            except (binascii.Error, ValueError):
                return UNREADABLE_IMAGE
            if size is not None:
                return size
        return UNREADABLE_IMAGE

    def _too_large(self, url: str) -> Refusal | None:
        most = self.most_data_uri_bytes
        if len(url) <= most:
            return None
        return invalid_parameter(f"Exceeded limit on max bytes per data-uri item : {most}")

    def _uploaded(self, url: str) -> Size | Refusal:
        if not self.resolves_oss:
            return INVALID_MEDIA_URL
        found = self.uploads.size_of(url, self.model)
        return UNDECLARED_SIZE if found is None else found

    def _declared(self, url: str) -> Size:
        known = self.sizes.get(url) or KNOWN_SIZES.get(url)
        if known is not None:
            return known
        width, height = _DECLARED["width"].search(url), _DECLARED["height"].search(url)
        if width and height:
            return Size(int(float(width[1])), int(float(height[1])))
        named = _NAMED.search(url)
        return Size(int(named[1]), int(named[2])) if named else UNDECLARED_SIZE


def _out_of_limits(size: Size) -> Refusal | None:
    if min(size) < LEAST_SIDE_PIXELS:
        return invalid_parameter(
            "The image length and width do not meet the model restrictions. "
            f"[height:{size.height} or width:{size.width} must be larger than 10]"
        )
    if max(size) > MOST_ASPECT * min(size):
        return invalid_parameter(
            "The image length and width do not meet the model restrictions. "
            f"[absolute aspect ratio must be smaller than {MOST_ASPECT}]"
        )
    return None
