"""Prompt tokens as the provider bills them: texts, images, frames, tools, documents, what search adds.

The formulas are those of `tokens` and `vision_tokens`; here stands which of them a call meets, and the
refusals for media and documents that cannot be counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from pipeline.simulator.chat.media import Media
from pipeline.simulator.chat.models import Traits
from pipeline.simulator.refusals import (
    INVALID_MEDIA_URL,
    TOO_MANY_DOCUMENT_TOKENS,
    TOO_MANY_FILES,
    UNEXPECTED_ITEM,
    Refusal,
    invalid_parameter,
)
from pipeline.tokens import TOKENS_PER_MESSAGE, TOKENS_PER_PROMPT, count_text
from pipeline.vision_tokens import (
    DEFAULT_SYSTEM_TOKENS,
    TOKENS_AROUND,
    Size,
    call_tokens,
    frames_tokens,
    image_tokens,
    requested_rule,
    sampled_frames,
    tools_tokens,
)

FILE_SCHEME = "fileid://"
MOST_DOCUMENTS = 100
MOST_DOCUMENT_TOKENS = 10_000_000
LEAST_FRAMES = 4
THOUGHT_TAIL_TOKENS = 2  # "<think>\n", with which the prompt of a thinking call ends
# The provider's example asks the same 27 tokens three times and pays for 542, 707 and 1109.
SEARCH_TOKENS = (515, 680, 1082)
_COUNTED_CHARS = 1024 * 1024  # a second's work, in which nobody else is answered
_CACHED_CHARS = 1_000  # instructions and labels come again and again; long texts do not


class Document(Protocol):
    """A stored document, as far as a prompt needs it."""

    tokens: int
    excerpt: str
    digest: str


class Documents(Protocol):
    """Where `fileid://` leads."""

    def read(self, file_id: str) -> Document | Refusal:
        """The document of this id, or why it cannot be used."""


@dataclass(slots=True)
class Prompt:
    """What a call's messages come to.

    `tokens` is the whole. `image_tokens` and `video_tokens` are parts of it, without the marks around each.
    `texts` are the texts in order, documents by their beginnings; `media` the addresses,
    of uploads the contents; `documents` counts.
    """

    tokens: int = 0
    image_tokens: int = 0
    video_tokens: int = 0
    texts: list[str] = field(default_factory=list)
    media: list[str] = field(default_factory=list)
    pictures: int = 0
    videos: int = 0
    documents: int = 0


@dataclass(slots=True)
class Reader:
    """Counts one call's messages; each method returns the refusal that ends the count, or None."""

    traits: Traits
    media: Media
    documents: Documents
    high_resolution: bool
    prompt: Prompt = field(default_factory=Prompt)

    def count(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Refusal | None:
        prompt = self.prompt
        prompt.tokens = TOKENS_PER_PROMPT + TOKENS_PER_MESSAGE * len(messages) + tools_tokens(tools)
        if (tools or self.traits.default_system) and messages[0].get("role") != "system":
            prompt.tokens += DEFAULT_SYSTEM_TOKENS
        for message in messages:
            content = message.get("content")
            if isinstance(content, str):
                refusal = self._text(content, message.get("role") == "system")
            else:
                refusal = self._parts(content or ())
            if refusal is not None:
                return refusal
            for call in message.get("tool_calls") or ():
                function = call.get("function") or {}
                prompt.tokens += call_tokens(str(function.get("name")), str(function.get("arguments")))
        return None

    def _text(self, text: str, of_system: bool) -> Refusal | None:
        if of_system and self.traits.reads_files and text.startswith(FILE_SCHEME):
            return self._documents(text)
        self.prompt.texts.append(text)
        self.prompt.tokens += count(text)
        return None

    def _documents(self, text: str) -> Refusal | None:
        ids = [part.strip().removeprefix(FILE_SCHEME) for part in text.split(",")]
        self.prompt.documents += len(ids)
        if self.prompt.documents > MOST_DOCUMENTS:
            return TOO_MANY_FILES
        for file_id in ids:
            document = self.documents.read(file_id)
            if isinstance(document, Refusal):
                return document
            self.prompt.tokens += document.tokens
            self.prompt.texts.append(document.excerpt)
            self.prompt.media.append(document.digest)
        return TOO_MANY_DOCUMENT_TOKENS if self.prompt.tokens > MOST_DOCUMENT_TOKENS else None

    def _parts(self, parts: Sequence[Any]) -> Refusal | None:
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "text" and isinstance(part.get("text"), str):
                refusal = self._text(part["text"], of_system=False)
            elif not self.traits.sees:
                refusal = UNEXPECTED_ITEM
            elif kind == "image_url":
                refusal = self._image(part)
            elif kind == "video":
                refusal = self._frames(part)
            elif kind == "video_url":
                refusal = self._video(part)
            else:
                refusal = UNEXPECTED_ITEM
            if refusal is not None:
                return refusal
        return None

    def _image(self, part: Mapping[str, Any]) -> Refusal | None:
        url = _address(part.get("image_url"))
        size = self.media.picture(url) if url else INVALID_MEDIA_URL
        if isinstance(size, Refusal):
            return size
        prompt = self.prompt
        rule = requested_rule(self.traits.rule, part, high_resolution=self.high_resolution)
        tokens = image_tokens(size.width, size.height, rule)
        prompt.pictures += 1
        prompt.media.append(self.media.named(url))
        prompt.image_tokens += tokens - TOKENS_AROUND
        prompt.tokens += tokens
        if self.traits.numbers_pictures:
            prompt.tokens += count(f"Picture {prompt.pictures}: ")
        return None

    def _frames(self, part: Mapping[str, Any]) -> Refusal | None:
        urls = part.get("video")
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            return INVALID_MEDIA_URL
        if not LEAST_FRAMES <= len(urls) <= self.traits.most_frames:
            return invalid_parameter(
                "The video modality input does not meet the requirements because: the range of sequence images "
                f"shoule be ({LEAST_FRAMES}, {self.traits.most_frames})."
            )
        sizes: list[Size] = []
        for url in urls:
            size = self.media.picture(url)
            if isinstance(size, Refusal):
                return size
            sizes.append(size)
        self._add_frames(len(sizes), sizes[0], part)
        self.prompt.media.extend(map(self.media.named, urls))
        return None

    def _video(self, part: Mapping[str, Any]) -> Refusal | None:
        url = _address(part.get("video_url"))
        found = self.media.video(url) if url else INVALID_MEDIA_URL
        if isinstance(found, Refusal):
            return found
        fps = part.get("fps")
        fps = float(fps) if isinstance(fps, int | float) and 0.1 <= fps <= 10 else 2.0
        frames = sampled_frames(found.seconds, fps, self.traits.most_frames)
        self._add_frames(frames, found.size, part)
        self.prompt.media.append(self.media.named(url))
        return None

    def _add_frames(self, frames: int, size: Size, part: Mapping[str, Any]) -> None:
        tokens = frames_tokens(frames, size.width, size.height, requested_rule(self.traits.rule, part))
        self.prompt.videos += 1
        self.prompt.video_tokens += tokens - TOKENS_AROUND
        self.prompt.tokens += tokens


def _address(value: Any) -> str:
    """Read `{"url": ...}`, or the bare address that some clients send instead."""
    url = value.get("url") if isinstance(value, Mapping) else value
    return url if isinstance(url, str) else ""


def count(text: str) -> int:
    """Count the tokens of a text, short ones from memory; of a book, those of its beginning stand for the rest."""
    if len(text) <= _CACHED_CHARS:
        return _count_cached(text)
    if len(text) <= _COUNTED_CHARS:
        return count_text(text)
    return round(count_text(text[:_COUNTED_CHARS]) * len(text) / _COUNTED_CHARS)


@lru_cache(maxsize=4096)
def _count_cached(text: str) -> int:
    return count_text(text)
