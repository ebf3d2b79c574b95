"""Documents through the OpenAI-style Files API: upload, wait until the provider has read it, delete.

Source: Alibaba Cloud Model Studio, "OpenAI compatible - File" (help.aliyun.com/zh/model-studio/openai-file-interface):
POST /files with purpose=file-extract, GET and DELETE /files/{id}; 3 uploads a second, and 10 of the others together.
"""

import asyncio
from dataclasses import dataclass, field

from aiolimiter import AsyncLimiter

from pipeline.failures import one_line
from pipeline.media import LocalFile
from pipeline.records import Failure, FailureKind
from pipeline.uploads.calls import Answer, Calls, is_missing, quota_sentence
from pipeline.uploads.content import opened
from pipeline.uploads.store import UploadStore

_FIRST_LOOK_S = 0.5
_LONGEST_LOOK_S = 8.0


def _every(seconds: float) -> AsyncLimiter:
    """One at a time: a bucket of several would let the first ones out together, and the next ones soon after."""
    return AsyncLimiter(1, seconds)


@dataclass(slots=True, kw_only=True)
class FilesApi:
    """The documents of one account. `ready_timeout_s` bounds the wait for one document to be read."""

    calls: Calls
    store: UploadStore
    url: str
    account: str
    ready_timeout_s: float
    uploaded: int = 0
    _upload_pace: AsyncLimiter = field(default_factory=lambda: _every(1 / 3))
    _query_pace: AsyncLimiter = field(default_factory=lambda: _every(1 / 10))

    async def file_id(self, file: LocalFile) -> str | Failure:
        """The id of a file with this content that the provider has read: one that is there already, or a new one."""
        known = self.store.file_id(self.account, file.digest)
        if known is not None:
            failure = await self._read(known)
            if failure is None:
                return known
            if not is_missing(failure):
                return failure
            self.store.forget_file(self.account, known)
        answer = await self.calls.again(lambda: self._send(file))
        if isinstance(answer, Failure):
            return quota_sentence(answer)
        file_id = answer.get("id")
        if not isinstance(file_id, str) or not file_id:
            return Failure(
                FailureKind.ROW_SUSPECT, "no_file_id", "the upload was answered without the file's id"
            )
        self.uploaded += 1
        self.store.keep_file(self.account, file.digest, file_id, file.name)
        if answer.get("status") != "processed":
            failure = await self._read(file_id)
            if failure is not None:
                return failure
        return file_id

    async def delete(self, file_id: str) -> Failure | None:
        """Delete a file; one that is gone already counts as deleted."""
        answer = await self.calls.again(lambda: self._query("DELETE", file_id))
        if isinstance(answer, Failure) and not is_missing(answer):
            return answer
        self.store.forget_file(self.account, file_id)
        return None

    async def _send(self, file: LocalFile) -> Answer | Failure:
        await self._upload_pace.acquire()
        stream = await opened(file)
        if isinstance(stream, Failure):
            return stream
        with stream:
            form = {"file": (file.name, stream, file.mime)}
            return await self.calls.api("POST", self.url, data={"purpose": "file-extract"}, files=form)

    async def _read(self, file_id: str) -> Failure | None:
        """Wait until the provider has read the file."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.ready_timeout_s
        wait_s = _FIRST_LOOK_S
        while True:
            answer = await self.calls.again(lambda: self._query("GET", file_id))
            if isinstance(answer, Failure):
                return answer
            status = answer.get("status")
            if status == "processed":
                return None
            if status in ("error", "failed"):
                self.store.forget_file(self.account, file_id)
                reason = one_line(str(answer.get("status_details") or "no reason given"))
                return Failure(
                    FailureKind.INVALID_INPUT,
                    "file_not_parsed",
                    f"the provider could not read the document: {reason}",
                )
            if loop.time() + wait_s > until_s:
                return Failure(
                    FailureKind.NOT_READY,
                    "file_processing",
                    f"the provider is still reading the document after {self.ready_timeout_s:.0f} s; "
                    "the next run looks again",
                )
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_LOOK_S)

    async def _query(self, method: str, file_id: str) -> Answer | Failure:
        await self._query_pace.acquire()
        return await self.calls.api(method, f"{self.url}/{file_id}")
