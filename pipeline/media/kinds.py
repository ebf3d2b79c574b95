"""What bytes are, and how large a picture is: read from the head of the content, never from a file's name.

The signatures are those of the WHATWG MIME Sniffing standard, TIFF 6.0 and ISO/IEC 23008-12 (the brands of HEIF). Sizes are
read by imagesize, which parses headers alone; a signature is looked at first, so that it never meets a format that is
not listed here (its SVG branch is an XML parser).
"""

import io
from pathlib import PurePosixPath
from typing import Final

import imagesize  # type: ignore[import-untyped]  # annotated, but without a py.typed mark

from pipeline.vision_tokens import Size

HEAD_BYTES: Final = 64
# imagesize walks through foreign JPEG and HEIF byte by byte: 0.1 s for this much, seconds for a file at the limit.
_WINDOW_BYTES = 512 * 1024

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"FLV\x01", "video/x-flv"),
)
_RIFF = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})

TEXT_DOCUMENTS = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".json": "application/json",
}
DOCUMENTS = TEXT_DOCUMENTS | {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pdf": "application/pdf",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".epub": "application/epub+zip",
    ".mobi": "application/x-mobipocket-ebook",
}
DOCUMENT_IMAGES = {
    ".bmp": "image/bmp",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
}


def media_type(head: bytes) -> str | None:
    """The MIME type of an image or video from its first bytes (`HEAD_BYTES` are enough); None where it is neither."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _iso_type(head)
    return next((mime for signature, mime in _SIGNATURES if head.startswith(signature)), None)


def _iso_type(head: bytes) -> str | None:
    """HEIC, QuickTime and MP4 share one container; the brands it says it is compatible with tell them apart."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12]} | {head[at : at + 4] for at in range(16, end - 3, 4)}
    if brands & _HEIF_BRANDS:
        return "image/heic"
    if brands & {b"avif", b"avis", b"mif1", b"msf1"}:
        return "image/avif"
    return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"


def picture_size(content: bytes, mime: str) -> Size | None:
    """Width and height in pixels, from the header; None where it does not say them (broken, or too far behind)."""
    # A TIFF may keep its header at the end; it is reached by an offset, not by walking.
    seen = content if mime == "image/tiff" else content[:_WINDOW_BYTES]
    width, height = imagesize.get(io.BytesIO(seen), exif_rotation=False)
    return Size(int(width), int(height)) if width > 0 and height > 0 else None


def size_may_be_far(content: bytes, mime: str) -> bool:
    """Whether a picture without a size may still be sound: its header may lie behind what was looked at."""
    return mime in ("image/jpeg", "image/heic") and len(content) > _WINDOW_BYTES


def document_type(name: str) -> str | None:
    """The MIME type of a document or scan that can be uploaded, by the extension that the provider goes by."""
    suffix = PurePosixPath(name).suffix.lower()
    return DOCUMENTS.get(suffix) or DOCUMENT_IMAGES.get(suffix)
