"""Where the provider finds one value: its own URL, a data URL made of local bytes, or an upload still to come.

Each is held against the model's limits before anything is sent. Headers alone are read; content lives as long as
the call, and its data URL as long as the row.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pipeline.media.kinds import HEAD_BYTES, media_type, picture_size, size_may_be_far
from pipeline.media.limits import MIB, MediaLimits
from pipeline.media.local import LocalFile, MediaProblem, digest_at, locate, open_file, shown, stamp_of
from pipeline.vision_tokens import Size

LINKS = ("http://", "https://", "oss://")

Kind = Literal["image", "video"]


class Address(NamedTuple):
    """Where the provider finds one value; `size` where its header was seen, `file` where it must be uploaded first."""

    url: str
    size: Size | None = None
    file: LocalFile | None = None

    @property
    def inline(self) -> bool:
        return self.url.startswith("data:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of one job's media; `root` is a real path, or None where no local file may be read."""

    root: Path | None
    limits: MediaLimits
    upload_over_bytes: int | None

    def address(self, value: Any, kind: Kind) -> Address:
        match value:
            case str() if value.startswith("data:"):
                return self._data_url(value, kind)
            case str() if value.lower().startswith(LINKS):
                return Address(value)
            case str():
                return self._local(value, kind)
            case bytes() | bytearray() | memoryview():
                return self._bytes(bytes(value), kind)
            case {"bytes": bytes() as content}:
                return self._bytes(content, kind)
            case {"path": str() as path}:
                return self._local(path, kind)
        raise MediaProblem(f"{kind}: expected a URL, a path or bytes; found {kind_of(value)}")

    def _local(self, path: str, kind: Kind) -> Address:
        located = locate(self.root, path)
        name = f"{kind} {shown(path)}"
        with open_file(located) as file:
            stamp = stamp_of(file)
            uploads = self._uploads(stamp.size_bytes)
            self._check_bytes(name, kind, stamp.size_bytes, uploads)
            # Of a video that is uploaded the head is enough; it may be gigabytes.
            whole = kind == "image" or not uploads
            content = file.read(stamp.size_bytes + 1 if whole else HEAD_BYTES)
        if whole and len(content) != stamp.size_bytes:
            raise MediaProblem(f"{name} changed while it was read")
        mime, size = self._looked_at(name, kind, content)
        if not uploads:
            return Address(_data_url(mime, content), size)
        digest = _digest(content) if whole else digest_at(located, stamp)
        return _uploaded(_name(path, digest, mime), mime, stamp.size_bytes, digest, size, located=located)

    def _bytes(self, content: bytes, kind: Kind) -> Address:
        name = f"{kind} of {len(content):,} bytes"
        uploads = self._uploads(len(content))
        self._check_bytes(name, kind, len(content), uploads)
        mime, size = self._looked_at(name, kind, content)
        if not uploads:
            return Address(_data_url(mime, content), size)
        digest = _digest(content)
        return _uploaded(_name("", digest, mime), mime, len(content), digest, size, content=content)

    def _data_url(self, url: str, kind: Kind) -> Address:
        limit = self.limits.inline_bytes if kind == "image" else self.limits.inline_video_bytes
        if len(url) > limit:
            raise MediaProblem(f"{kind}: its data URL is {mib(len(url))}; this model takes {mib(limit)}")
        head, comma, encoded = url.partition(",")
        if not comma or not head.startswith(f"data:{kind}/") or not head.endswith(";base64"):
            raise MediaProblem(
                f"{kind}: {shown(head)} does not begin a data URL of base64 (data:{kind}/...;base64,)"
            )
        if kind == "video":
            return Address(url)
        try:
            content = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise MediaProblem("image: its data URL is not valid base64") from None
        return Address(url, self._looked_at("image in a data URL", kind, content)[1])

    def _uploads(self, size_bytes: int) -> bool:
        over = self.upload_over_bytes
        return over is not None and size_bytes > over

    def _check_bytes(self, name: str, kind: Kind, size_bytes: int, uploads: bool) -> None:
        limits = self.limits
        if size_bytes == 0:
            raise MediaProblem(f"{name} is empty")
        if uploads:
            limit = limits.linked_bytes if kind == "image" else limits.linked_video_bytes
            if size_bytes > limit:
                raise MediaProblem(f"{name} is {mib(size_bytes)}; this model takes {mib(limit)}")
            return
        limit = limits.inline_bytes if kind == "image" else limits.inline_video_bytes
        if _encoded_bytes(size_bytes) > limit:
            raise MediaProblem(
                f"{name} is {mib(size_bytes)}, as a data URL {mib(_encoded_bytes(size_bytes))}; "
                f"this model takes data URLs of {mib(limit)}"
            )

    def _looked_at(self, name: str, kind: Kind, content: bytes) -> tuple[str, Size | None]:
        """The true MIME type, and the size of an image; both within the model's limits."""
        mime = media_type(content[:HEAD_BYTES])
        types = self.limits.image_types
        if mime is None or not mime.startswith(f"{kind}/"):
            raise MediaProblem(f"{name} is no {kind} by its content{f' but {mime}' if mime else ''}")
        if kind == "video":
            return mime, None
        if types is not None and mime not in types:
            known = ", ".join(sorted(one.removeprefix("image/") for one in types))
            raise MediaProblem(f"{name} is {mime}; this model takes {known}")
        size = picture_size(content, mime)
        if size is None:
            if size_may_be_far(content, mime):
                return mime, None
            raise MediaProblem(f"{name} begins like {mime}, but its header is broken")
        shorter, longer = sorted(size)
        if shorter < self.limits.min_side_pixels or longer > shorter * self.limits.max_aspect:
            raise MediaProblem(
                f"{name} is {size.width} x {size.height} pixels; this model takes sides of at least "
                f"{self.limits.min_side_pixels}, the longer at most {self.limits.max_aspect} times the shorter"
            )
        return mime, size


def kind_of(value: Any) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"


def _name(path: str, digest: str, mime: str) -> str:
    """A file name for the provider: its extension says the true type, whatever ours was called."""
    stem = PurePosixPath(path).stem or digest[:16]
    return f"{stem}.{mime.partition('/')[2].removeprefix('x-')}"


def _uploaded(
    name: str, mime: str, size_bytes: int, digest: str, size: Size | None, **source: Any
) -> Address:
    file = LocalFile(purpose="media", name=name, mime=mime, size_bytes=size_bytes, digest=digest, **source)
    return Address(file.marker, size, file)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _data_url(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def _encoded_bytes(size_bytes: int) -> int:
    return -(-size_bytes // 3) * 4 + len("data:image/jpeg;base64,")


def mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.1f} MiB"
