"""Width and height of an image from the first bytes of its file: PNG, JPEG, GIF, BMP, WebP, TIFF.

Headers only: no pixel is read, so a picture that ends early still has its size.
"""

import struct

from pipeline.vision_tokens import Size


def picture_size(content: bytes) -> Size | None:
    """Read the size of an image file; None where it is none of the formats, or its header is cut off."""
    try:
        for begins, read in _READERS:
            if content.startswith(begins):
                size = read(content)
                return size if size is not None and min(size) > 0 else None
    except (struct.error, IndexError):
        return None
    return None


def _png(content: bytes) -> Size:
    return Size(*struct.unpack_from(">II", content, 16))


def _gif(content: bytes) -> Size:
    return Size(*struct.unpack_from("<HH", content, 6))


def _bmp(content: bytes) -> Size:
    width, height = struct.unpack_from("<ii", content, 18)
    return Size(width, abs(height))  # a negative height says that the rows run downwards


def _jpeg(content: bytes) -> Size | None:
    at = 2
    while at < len(content):
        if content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker == 0xFF:  # filler
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", content, at + 5)
            return Size(width, height)
        at += 2 + int(struct.unpack_from(">H", content, at + 2)[0])
    return None


def _webp(content: bytes) -> Size | None:
    if content[8:12] != b"WEBP":
        return None
    kind = content[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return Size(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        bits = int(struct.unpack_from("<I", content, 21)[0])
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", content, 24)
        return Size((high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1)
    return None


def _tiff(content: bytes) -> Size | None:
    order = "<" if content.startswith(b"II") else ">"
    first = int(struct.unpack_from(order + "I", content, 4)[0])
    found: dict[int, int] = {}
    for i in range(int(struct.unpack_from(order + "H", content, first)[0])):
        tag, kind = struct.unpack_from(order + "HH", content, first + 2 + 12 * i)
        form = "H" if kind == 3 else "I"
        found[tag] = int(struct.unpack_from(order + form, content, first + 10 + 12 * i)[0])
    return Size(found[256], found[257]) if 256 in found and 257 in found else None


_READERS = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)
