"""The text of a document by its format, as far as prompt tokens need it.

Text formats, docx, xlsx and epub are read. Of a pdf the texts of its plain and deflated streams are; where it
has none (a scan), and for mobi and images, nothing is read and tokens are nominal: one for each
`BYTES_PER_NOMINAL_TOKEN` bytes. Sources of the formats: ECMA-376 (docx, xlsx), ISO 32000-1 section 9.4 (pdf).
"""

import html
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from itertools import islice

TEXT_FORMATS = ("txt", "md", "csv", "json")
ZIPPED_FORMATS = ("docx", "xlsx", "epub")
IMAGE_FORMATS = ("bmp", "png", "jpg", "jpeg", "gif")
DOCUMENT_FORMATS = (*TEXT_FORMATS, *ZIPPED_FORMATS, "pdf", "mobi")
FORMATS = (*DOCUMENT_FORMATS, *IMAGE_FORMATS)
BYTES_PER_NOMINAL_TOKEN = 100
_MOST_UNPACKED = 64 * 1024 * 1024
_PARTS = {
    "docx": re.compile(r"word/document\.xml"),
    "xlsx": re.compile(r"xl/(sharedStrings|worksheets/.*)\.xml"),
    "epub": re.compile(r".*\.x?html?"),
}
_PARAGRAPH_END = re.compile(r"</(?:w:p|si|row|p|div|h\d|li)>")
_MOST_ENTRIES = 10_000
_MOST_TEXTS = 200_000  # about a second's work
# None of these reads a byte twice, whatever it is handed: what they look for cannot begin within itself.
_TAG = re.compile(r"<[^<>]*>")
_PDF_TEXT = re.compile(
    rb"\(((?:\\.|[^\\()])*+)\)\s*+(?:Tj|'|\")|\[((?:\((?:\\.|[^\\()])*+\)|[^\[\]()])*+)\]\s*+TJ", re.S
)
_PDF_STRING = re.compile(rb"\(((?:\\.|[^\\()])*+)\)", re.S)


def format_of(filename: str) -> str:
    """The format a file name claims: its ending, in lower case."""
    return filename.rpartition(".")[2].lower() if "." in filename else ""


def document_text(filename: str, content: bytes) -> str | None:
    """Read a document's text; None where its format is not read, or the file is not what its name claims."""
    kind = format_of(filename)
    if kind in TEXT_FORMATS:
        return _decoded(content)
    if kind in ZIPPED_FORMATS:
        return _zipped(kind, content)
    if kind == "pdf":
        return _pdf(content)
    return None


def _decoded(content: bytes) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("utf-8", "replace")


def _zipped(kind: str, content: bytes) -> str | None:
    if content.count(b"PK\x01\x02") > _MOST_ENTRIES:  # each is an object in memory before the first is read
        return None
    texts: list[str] = []
    room = _MOST_UNPACKED
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            for entry in archive.infolist():
                plain = entry.compress_type in (
                    zipfile.ZIP_STORED,
                    zipfile.ZIP_DEFLATED,
                )  # others unpack at once
                if plain and _PARTS[kind].fullmatch(entry.filename):
                    with archive.open(entry) as part:
                        markup = part.read(room).decode("utf-8", "replace")
                    room -= len(markup)
                    texts.append(html.unescape(_TAG.sub("", _PARAGRAPH_END.sub("\n", markup))))
                if room <= 0:
                    break
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return None
    return "\n".join(texts).strip()


def _pdf(content: bytes) -> str | None:
    found: list[bytes] = []
    room = _MOST_UNPACKED
    for data in _pdf_streams(content):
        with suppress(zlib.error):  # not deflated, or by a filter that is not read: plain text shows itself
            data = zlib.decompressobj().decompress(data, room)  # noqa: PLW2901
        room -= len(data)
        for text in islice(_PDF_TEXT.finditer(data), _MOST_TEXTS):
            shown = text[1] if text[1] is not None else b"".join(_PDF_STRING.findall(text[2]))
            found.append(re.sub(rb"\\(.)", rb"\1", shown, flags=re.S))
        if room <= 0 or len(found) > _MOST_TEXTS:
            break
    return b"\n".join(found).decode("latin-1") if found else None


def _pdf_streams(content: bytes) -> Iterator[bytes]:
    at = 0
    while (start := content.find(b"stream", at)) >= 0 and (end := content.find(b"endstream", start)) >= 0:
        at = end + len(b"endstream")
        data = content[start + len(b"stream") : end]
        if data.startswith((b"\n", b"\r\n")):
            yield data.removeprefix(b"\r").removeprefix(b"\n")
