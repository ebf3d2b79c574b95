"""Bodies of requests, read within bounds: each no larger than it may be, and all together no more than there is room for.

A body counts from its first byte until its request is answered. Nothing of it reaches a disk.
"""

from aiohttp import BodyPartReader, web

from pipeline.simulator.refusals import NO_ROOM, TOO_LARGE, Refusal

_CHUNK_BYTES = 256 * 1024


class BodyRoom:
    """The memory that all bodies share."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Take so much of it; False where it is not to be had."""
        if self.held_bytes + size_bytes > self._most_bytes:
            return False
        self.held_bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes


class Reading:
    """What one request has taken of the room; given back at the end of the block."""

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self._held_bytes = 0

    def __enter__(self) -> "Reading":
        return self

    def __exit__(self, *_: object) -> None:
        self._room.give_back(self._held_bytes)

    async def body(self, request: web.BaseRequest, most_bytes: int) -> bytes | Refusal:
        """Read a whole body, or say why not."""
        if (request.content_length or 0) > most_bytes:
            return TOO_LARGE
        parts: list[bytes] = []
        left = most_bytes
        async for part in request.content.iter_any():
            left -= len(part)
            if (refusal := self._take(len(part), left)) is not None:
                return refusal
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def part(self, part: BodyPartReader, most_bytes: int) -> bytes | Refusal:
        """Read one part of a form, or say why not."""
        chunks: list[bytes] = []
        left = most_bytes
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            left -= len(chunk)
            if (refusal := self._take(len(chunk), left)) is not None:
                return refusal
            chunks.append(bytes(chunk))
        return b"".join(chunks)

    def _take(self, size_bytes: int, left: int) -> Refusal | None:
        if left < 0:
            return TOO_LARGE
        if not self._room.take(size_bytes):
            return NO_ROOM
        self._held_bytes += size_bytes
        return None
