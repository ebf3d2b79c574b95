"""Media and documents of a row: values of its columns become content parts, or files to upload first.

    local.py    files below `input.root`, opened so that no path leads out of it
    kinds.py    what bytes are, and how large a picture is, from its header alone
    limits.py   what a model takes
    sources.py  one value: its URL, its data URL, or the upload it needs
    reader.py   `MediaReader`: values in, parts and token estimates out

Nothing here goes over the network, decodes a picture or keeps one beyond the call.
"""

from pipeline.media.limits import DOCUMENTS_PER_REQUEST, MediaLimits, limits_of
from pipeline.media.local import LocalFile, MediaProblem
from pipeline.media.reader import Documents, Media, MediaReader, MediaSettings, document_messages

__all__ = [
    "DOCUMENTS_PER_REQUEST",
    "Documents",
    "LocalFile",
    "Media",
    "MediaLimits",
    "MediaProblem",
    "MediaReader",
    "MediaSettings",
    "document_messages",
    "limits_of",
]
