"""Opening what is to be uploaded, at the moment it is sent: it must still be what its row was rendered with."""

import asyncio
from typing import BinaryIO

from pipeline.media import LocalFile, MediaProblem
from pipeline.media.local import digest_of
from pipeline.records import Failure, FailureKind


async def opened(file: LocalFile) -> BinaryIO | Failure:
    """The content, at its start; or the failure of a file that has gone or changed since its row was rendered."""
    try:
        stream = file.open()
    except MediaProblem as problem:
        return Failure(FailureKind.INVALID_INPUT, "file_gone", str(problem))
    try:
        # In a thread: a document of 150 MB takes a while to read and hash.
        digest = await asyncio.to_thread(digest_of, stream)
        stream.seek(0)
    except OSError as error:
        stream.close()
        return Failure(
            FailureKind.INVALID_INPUT, "file_unreadable", f"{file.name} cannot be read: {error.strerror}"
        )
    except BaseException:
        stream.close()
        raise
    if digest != file.digest:
        stream.close()
        return Failure(
            FailureKind.INVALID_INPUT,
            "file_changed",
            f"{file.name} changed while the run went on; run it again",
        )
    return stream
