"""Content to address: each document becomes a file id and each large medium a temporary URL, once, for all rows.

Rows that need the same content at the same time wait for one upload; what earlier runs uploaded is used again. A
failure comes back as a value to every row that waited, and the next row tries anew. How the services speak stands in
`documents.py` and `temporary.py`.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import httpx

from pipeline.failures import Dialect
from pipeline.media import LocalFile
from pipeline.records import Failure, FailureKind
from pipeline.uploads.calls import Calls
from pipeline.uploads.documents import FilesApi
from pipeline.uploads.store import UploadStore
from pipeline.uploads.temporary import TemporaryStorage


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadsSpec:
    """Where one run uploads to.

    `base_url` is the compatible one (`.../compatible-mode/v1`), `native_url` that of the native API (`.../api/v1`; None where
    the provider has none). `account` is `account_of(...)`. A temporary URL is renewed when it would expire within
    `margin_s`; a document is waited for up to `ready_timeout_s`.
    """

    base_url: str
    native_url: str | None
    account: str
    model: str
    dialect: Dialect
    headers: Mapping[str, str] = field(repr=False)
    max_attempts: int = 5
    ready_timeout_s: float = 300.0
    margin_s: float = 3600.0


class Deleted(NamedTuple):
    """What `delete_all` did: files deleted, and why others are still there."""

    files: int
    failures: list[Failure]


def account_of(identity: str, authorization: str) -> str:
    """The fingerprint of an account: of server and key, neither of which can be read back from it."""
    return hashlib.blake2b(f"{identity}\0{authorization}".encode(), digest_size=16).hexdigest()


class Uploads:
    """The uploads of one run; every method runs on its event loop. Takes over `client` and `store`, and closes them.

    `now` is the time of day, aware: temporary URLs expire by it.
    """

    def __init__(
        self, spec: UploadsSpec, client: httpx.AsyncClient, store: UploadStore, now: Callable[[], datetime]
    ) -> None:
        self._client = client
        self._store = store
        self._account = spec.account
        calls = Calls(
            client=client, headers=spec.headers, dialect=spec.dialect, now=now, max_attempts=spec.max_attempts
        )
        self._documents = FilesApi(
            calls=calls,
            store=store,
            url=spec.base_url.rstrip("/") + "/files",
            account=spec.account,
            ready_timeout_s=spec.ready_timeout_s,
        )
        self._temporary = None
        if spec.native_url is not None:
            self._temporary = TemporaryStorage(
                calls=calls,
                store=store,
                url=spec.native_url.rstrip("/") + "/uploads",
                account=spec.account,
                model=spec.model,
                margin_s=spec.margin_s,
                now=now,
            )
        self._running: dict[str, asyncio.Task[str | Failure]] = {}
        # Marker to id of the documents seen to be there in this run: as many as an account may hold, 10,000.
        self._ready: dict[str, str] = {}
        store.forget_expired(now_s=now().timestamp())

    @property
    def uploaded(self) -> int:
        """How many contents this run has uploaded."""
        return self._documents.uploaded + (self._temporary.uploaded if self._temporary else 0)

    async def place(
        self, messages: Sequence[dict[str, Any]], files: Sequence[LocalFile]
    ) -> list[dict[str, Any]] | Failure:
        """The messages with the marker of each of `files` replaced by its address, uploaded first where it must be.

        The messages given stay as they are: content keys are made from those.
        """
        unique = {file.marker: file for file in files}
        found = await asyncio.gather(*map(self.address, unique.values()))
        known: dict[str, str] = {}
        for marker, address in zip(unique, found, strict=True):
            if isinstance(address, Failure):
                return address
            known[marker] = address
        return [_placed(message, known) for message in messages]

    async def address(self, file: LocalFile) -> str | Failure:
        """The id of a document the provider has read, or an `oss://` URL that stays valid for at least `margin_s`."""
        if file.purpose == "document":
            if (ready := self._ready.get(file.marker)) is not None:
                return ready
            file_id = await self._once(file, self._documents.file_id)
            if not isinstance(file_id, Failure):
                self._ready[file.marker] = file_id
            return file_id
        if self._temporary is None:
            return Failure(
                FailureKind.INVALID_INPUT,
                "no_storage",
                'this provider has no temporary storage: leave out upload = "oss"',
            )
        return self._temporary.known(file) or await self._once(file, self._temporary.upload)

    def look_again(self, files: Sequence[LocalFile]) -> None:
        """Ask whether these documents are still there before they are next used: a request was refused for one."""
        for file in files:
            self._ready.pop(file.marker, None)

    async def delete_all(self) -> Deleted:
        """Delete every document that was uploaded for this run folder; nobody may be using them any more."""
        ids = self._store.files(self._account)
        self._ready.clear()
        failures = [failure for one in ids if (failure := await self._documents.delete(one)) is not None]
        return Deleted(len(ids) - len(failures), failures)

    async def aclose(self) -> None:
        """Stop what is under way, and close the client and the store."""
        running = list(self._running.values())
        for upload in running:
            upload.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._client.aclose()
        self._store.close()

    async def _once(
        self, file: LocalFile, upload: Callable[[LocalFile], Awaitable[str | Failure]]
    ) -> str | Failure:
        """The one upload of this content, whoever began it; a row that is cancelled leaves it to the others."""
        running = self._running.get(file.marker)
        if running is None:
            running = asyncio.ensure_future(upload(file))
            self._running[file.marker] = running
            running.add_done_callback(lambda _: self._running.pop(file.marker, None))
        return await asyncio.shield(running)


def _placed(message: dict[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        if message.get("role") != "system" or not content.startswith("fileid://"):
            return message
        ids = [one.removeprefix("fileid://") for one in content.split(",")]
        return {**message, "content": ",".join(f"fileid://{known.get(one, one)}" for one in ids)}
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part_placed(part, known) for part in content]}


def _part_placed(part: Any, known: Mapping[str, str]) -> Any:
    if not isinstance(part, dict):
        return part
    if isinstance(frames := part.get("video"), list):
        return {**part, "video": [known.get(frame, frame) for frame in frames]}
    for kind in ("image_url", "video_url"):
        value = part.get(kind)
        if part.get("type") == kind and isinstance(value, dict) and value.get("url") in known:
            return {**part, kind: {**value, "url": known[value["url"]]}}
    return part
