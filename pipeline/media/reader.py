"""Turns the media values of a row into OpenAI-style content parts, and checks them against what the model takes.

A value is a URL (http, https, oss, data: sent as it is), a path below `input.root`, bytes, a `{bytes, path}` pair as
image datasets in Parquet have it, or a list of any of these. What cannot be sent is a `MediaProblem`, before anything
is. Uploading is `uploads`' business: here a file that needs it gets a marker for an address.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pipeline.errors import JobError
from pipeline.media.kinds import DOCUMENT_IMAGES, TEXT_DOCUMENTS, document_type
from pipeline.media.limits import (
    DOCUMENT_BYTES,
    DOCUMENT_IMAGE_BYTES,
    DOCUMENTS_PER_REQUEST,
    INLINE_BYTES_PER_REQUEST,
    MediaLimits,
)
from pipeline.media.local import LocalFile, MediaProblem, digest_at, locate, open_file, shown, stamp_of
from pipeline.media.sources import LINKS, Address, Kind, Sources, kind_of, mib
from pipeline.vision_tokens import (
    Size,
    VisionRule,
    frames_tokens,
    image_tokens,
    requested_rule,
    sampled_frames,
)

# A picture behind a URL is not looked at: as large as any, so that its estimate is the most it can cost.
_ANY_SIZE = Size(4096, 4096)
_ANY_FRAME = Size(1920, 1080)
_ANY_VIDEO_S = 60.0  # a guess, as a video is not opened; the usage that comes back settles it
_TEXT_BYTES_PER_TOKEN = 3
_OFFICE_BYTES_PER_TOKEN = 20  # packed, and mostly layout: of the right order at best

Parts = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSettings:
    """How the media of one job are read.

    `root` is `input.root`, or None where the job has none. `high_resolution` is the parameter
    `vl_high_resolution_images`. Local media of more than `upload_over_bytes` are uploaded; None: all become data URLs.
    """

    root: Path | None
    rule: VisionRule
    limits: MediaLimits
    high_resolution: bool = False
    upload_over_bytes: int | None = None


@dataclass(slots=True)
class Media:
    """What values became: `parts` (or whole messages), the tokens they are estimated at, the files to upload first."""

    parts: Parts = field(default_factory=list)
    tokens: int = 0
    files: list[LocalFile] = field(default_factory=list)


class Documents(NamedTuple):
    """The system messages that name documents, the tokens they are guessed at, and the files to upload first."""

    messages: Parts
    tokens: int
    files: list[LocalFile]


@dataclass(slots=True)
class _Counts:
    images: int = 0
    inline_images: int = 0
    inline_bytes: int = 0
    videos: int = 0


class MediaReader:
    """Reads the media of one job's rows. Raises JobError where `root` is no folder."""

    def __init__(self, settings: MediaSettings) -> None:
        root = settings.root
        if root is not None:
            root = root.resolve()
            if not root.is_dir():
                raise JobError(
                    f"[input] root: there is no folder {root}; local media and documents are read from it"
                )
        self._root = root
        self._sources = Sources(
            root=root, limits=settings.limits, upload_over_bytes=settings.upload_over_bytes
        )
        self._settings = settings
        self._limits = settings.limits

    def image_parts(self, value: Any) -> Media:
        """One `image_url` part for each value in `value`. Raises MediaProblem."""
        media, counts = Media(), _Counts()
        for one in _flat(value, "image"):
            self._add_image(media, counts, {"type": "image_url", "image_url": {}}, one)
        return media

    def video_parts(self, value: Any, fps: float | None = None) -> Media:
        """A `video` part of a list of frames, or a `video_url` part of a single value. Raises MediaProblem.

        `fps` says how many frames a second the list holds, or how many are to be taken of the file.
        """
        media, counts = Media(), _Counts()
        more = {} if fps is None else {"fps": fps}
        if isinstance(value, list | tuple):
            self._add_frames(media, counts, {"type": "video", **more}, value)
        else:
            self._add_video(media, counts, {"type": "video_url", "video_url": {}, **more}, value)
        return media

    def messages(self, messages: Sequence[dict[str, Any]]) -> Media:
        """Messages with every local path or bytes in their media parts replaced; others are passed on as they are.

        `parts` holds the messages; those that bring no media are the same objects. Raises MediaProblem.
        """
        media, counts = Media(), _Counts()
        done: Parts = []
        for message in messages:
            content = message.get("content")
            if isinstance(content, list):
                media.parts = []
                for part in content:
                    self._add_part(media, counts, part)
                done.append({**message, "content": media.parts})
            else:
                done.append(message)
        media.parts = done
        return media

    def documents(self, value: Any) -> Documents:
        """System messages that name the documents in `value`: local paths, or `fileid://` of files already there.

        Raises MediaProblem.
        """
        ids: list[str] = []
        files: dict[str, LocalFile] = {}
        tokens = 0
        values = _flat(value, "document")
        if len(values) > DOCUMENTS_PER_REQUEST:
            raise MediaProblem(f"it names {len(values)} documents; a request takes {DOCUMENTS_PER_REQUEST}")
        for one in values:
            if isinstance(one, str) and one.startswith("fileid://"):
                ids.append(_file_id(one))
                continue
            if not isinstance(one, str):
                raise MediaProblem(f"a document is named by its path; found {kind_of(one)}")
            if one.startswith((*LINKS, "data:")):
                raise MediaProblem(
                    f"document {shown(one)}: documents are uploaded, so a local path is needed"
                )
            file = self._document(one)
            if file.marker not in ids:
                ids.append(file.marker)
                files[file.digest] = file
                tokens += _document_tokens(file)
        return Documents(document_messages(ids), tokens, list(files.values()))

    def _add_part(self, media: Media, counts: _Counts, part: Any) -> None:
        if isinstance(part, dict):
            # A Parquet struct brings every field of every part, null where one lacks it.
            part = {name: value for name, value in part.items() if value is not None}
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            self._add_image(media, counts, part, _url_in(part, kind))
        elif kind == "video_url":
            self._add_video(media, counts, part, _url_in(part, kind))
        elif kind == "video":
            self._add_frames(media, counts, part, part.get("video"))
        else:
            media.parts.append(part)

    def _add_image(self, media: Media, counts: _Counts, part: dict[str, Any], value: Any) -> None:
        counts.images += 1
        address = self._address(counts, value, "image")
        counts.inline_images += address.inline
        self._check(counts)
        self._keep(media, part | {"image_url": _with_url(part["image_url"], address.url)}, address)
        rule = requested_rule(self._settings.rule, part, high_resolution=self._settings.high_resolution)
        media.tokens += image_tokens(*(address.size or _ANY_SIZE), rule)

    def _add_video(self, media: Media, counts: _Counts, part: dict[str, Any], value: Any) -> None:
        fps = self._fps(part)
        counts.videos += 1
        self._check(counts)
        address = self._address(counts, value, "video")
        self._keep(media, part | {"video_url": _with_url(part["video_url"], address.url)}, address)
        frames = sampled_frames(_ANY_VIDEO_S, fps or 2.0, most=max(self._limits.max_frames, 4))
        media.tokens += frames_tokens(frames, *_ANY_FRAME, requested_rule(self._settings.rule, part))

    def _add_frames(self, media: Media, counts: _Counts, part: dict[str, Any], values: Any) -> None:
        self._fps(part)
        frames = _flat(values, "frame")
        least, most = self._limits.min_frames, self._limits.max_frames
        if not least <= len(frames) <= most:
            raise MediaProblem(f"its video has {len(frames)} frames; this model takes {least} to {most}")
        counts.videos += 1
        self._check(counts)
        addresses = [self._address(counts, frame, "image") for frame in frames]
        media.parts.append(part | {"video": [address.url for address in addresses]})
        media.files += [address.file for address in addresses if address.file is not None]
        largest = max(
            (a.size for a in addresses if a.size), key=lambda s: s.width * s.height, default=_ANY_FRAME
        )
        media.tokens += frames_tokens(len(frames), *largest, requested_rule(self._settings.rule, part))

    def _address(self, counts: _Counts, value: Any, kind: Kind) -> Address:
        address = self._sources.address(value, kind)
        if address.inline:
            counts.inline_bytes += len(address.url)
            if counts.inline_bytes > INLINE_BYTES_PER_REQUEST:
                raise MediaProblem(
                    f"its media are more than {mib(INLINE_BYTES_PER_REQUEST)} as data URLs: take fewer or smaller ones, or "
                    '[media] upload = "oss"'
                )
        return address

    @staticmethod
    def _keep(media: Media, part: dict[str, Any], address: Address) -> None:
        media.parts.append(part)
        if address.file is not None:
            media.files.append(address.file)

    def _fps(self, part: Mapping[str, Any]) -> float | None:
        fps = part.get("fps")
        if fps is None:
            return None
        least, most = self._limits.min_fps, self._limits.max_fps
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not least <= fps <= most:
            raise MediaProblem(f"fps = {fps!r}: expected a number from {least} to {most}")
        return float(fps)

    def _check(self, counts: _Counts) -> None:
        limits = self._limits
        for found, most, what in (
            (counts.images, limits.linked_images, "images"),
            (counts.inline_images, limits.inline_images, "images as data URLs"),
            (counts.videos, limits.videos, "videos"),
        ):
            if found > most:
                raise MediaProblem(f"it holds {found} {what} or more; a request takes {most}")

    def _document(self, path: str) -> LocalFile:
        name = f"document {shown(path)}"
        mime = document_type(path)
        if mime is None:
            raise MediaProblem(
                f"{name}: its extension is not one of txt, md, csv, json, docx, pdf, xlsx, epub, mobi, or of a picture "
                "(bmp, png, jpg, jpeg, gif)"
            )
        located = locate(self._root, path)
        with open_file(located) as file:
            stamp = stamp_of(file)
        limit = DOCUMENT_IMAGE_BYTES if mime in DOCUMENT_IMAGES.values() else DOCUMENT_BYTES
        if stamp.size_bytes == 0:
            raise MediaProblem(f"{name} is empty")
        if stamp.size_bytes > limit:
            raise MediaProblem(f"{name} is {mib(stamp.size_bytes)}; at most {mib(limit)} can be uploaded")
        return LocalFile(
            purpose="document",
            name=PurePosixPath(path).name,
            mime=mime,
            size_bytes=stamp.size_bytes,
            digest=digest_at(located, stamp),
            located=located,
        )


def document_messages(ids: Sequence[str]) -> Parts:
    """The system message that names uploaded files (or their markers), comma-separated, as qwen-long reads it."""
    return [{"role": "system", "content": ",".join(f"fileid://{one}" for one in ids)}] if ids else []


def _url_in(part: Mapping[str, Any], kind: str) -> Any:
    """The URL of a part, whether it stands in an object, as documented, or bare."""
    value = part.get(kind)
    return value.get("url") if isinstance(value, dict) and "url" in value else value


def _with_url(value: Any, url: str) -> dict[str, Any]:
    return {**value, "url": url} if isinstance(value, dict) and "bytes" not in value else {"url": url}


def _flat(value: Any, what: str) -> list[Any]:
    """The values in a value, a list, or a list of values and lists, as templates beside list columns make it."""
    values: list[Any] = []
    for one in value if isinstance(value, list | tuple) else [value]:
        values += one if isinstance(one, list | tuple) else [one]
    if not values or value is None:
        raise MediaProblem(f"it has no {what} where one is asked for")
    return values


def _file_id(value: str) -> str:
    found = value.removeprefix("fileid://")
    if not found or not all(c.isalnum() or c in "-_." for c in found):
        raise MediaProblem(f"{shown(value)} is not the id of one file (fileid://file-fe-...)")
    return found


def _document_tokens(file: LocalFile) -> int:
    per_token = _TEXT_BYTES_PER_TOKEN if file.mime in TEXT_DOCUMENTS.values() else _OFFICE_BYTES_PER_TOKEN
    return file.size_bytes // per_token + 1
