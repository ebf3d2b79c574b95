"""Uploads over HTTP: the Files API of the compatible mode, policies, and the endpoint that forms are posted to.

Rates: 3 uploads a second, 10 queries, lists and deletions together (the provider's page on its file interface).
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import orjson
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from pipeline.simulator.bodies import BodyRoom, Reading
from pipeline.simulator.ledger import Ledger, UploadTally
from pipeline.simulator.quota import WindowCount
from pipeline.simulator.refusals import (
    EMPTY_INPUT,
    LIMIT_REQUESTS,
    METHOD_NOT_ALLOWED,
    Refusal,
    invalid_parameter,
)
from pipeline.simulator.settings import Settings
from pipeline.simulator.storage.files import FileStore
from pipeline.simulator.storage.oss import ObjectStore

JSON = "application/json"
MOST_LISTED = 2_000
_MOST_FIELD_BYTES = 64 * 1024
_MOST_PARTS = 100
_MOST_FILE_BYTES = 500 * 1024 * 1024


@dataclass(slots=True)
class Form:
    """A multipart form: its fields in text, and its file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    content: bytes | None = None


class StorageEndpoints:
    """Serves the stores of one simulator."""

    def __init__(
        self, settings: Settings, ledger: Ledger, room: BodyRoom, now_s: Callable[[], float]
    ) -> None:
        self.files = FileStore(settings, now_s)
        self.objects = ObjectStore(now_s)
        self._ledger = ledger
        self._room = room
        self._now_s = now_s
        self._uploads = _per_second(settings.file_uploads_per_second)
        self._queries = _per_second(settings.file_queries_per_second)

    async def handle_files(self, request: web.BaseRequest, file_id: str) -> web.Response:
        """Serve `/files` and `/files/ID`."""
        if request.method == "POST" and not file_id:
            return await self._upload(request)
        if request.method not in ("GET", "DELETE") or (request.method == "DELETE" and not file_id):
            return _refuse(METHOD_NOT_ALLOWED)
        if not self._passes(self._queries):
            return _refuse(LIMIT_REQUESTS)
        if not file_id:
            return self._list(request)
        if file_id.endswith("/content"):
            return _refuse(invalid_parameter("Only the output files of batches can be downloaded."))
        if request.method == "GET":
            found = self.files.poll(file_id)
            return _refuse(found) if isinstance(found, Refusal) else _answer(found)
        refusal = self.files.delete(file_id)
        if refusal is not None:
            return _refuse(refusal)
        self._ledger.files.deleted += 1
        return _answer({"object": "file", "deleted": True, "id": file_id})

    async def _upload(self, request: web.BaseRequest) -> web.Response:
        with Reading(self._room) as reading:
            return self._uploaded(await _read_form(request, reading))

    def _uploaded(self, form: Form | Refusal) -> web.Response:
        tally = self._ledger.files
        if isinstance(form, Refusal):
            return _refused_upload(form, tally)
        if not self._passes(self._uploads):
            return _refused_upload(LIMIT_REQUESTS, tally)
        if form.content is None:
            return _refused_upload(EMPTY_INPUT, tally)
        stored = self.files.store(form.filename, form.fields.get("purpose", ""), form.content)
        if isinstance(stored, Refusal):
            return _refused_upload(stored, tally)
        tally.add(form.content)
        return _answer(self.files.describe(stored))

    def _list(self, request: web.BaseRequest) -> web.Response:
        try:
            limit = min(max(int(request.query.get("limit", MOST_LISTED)), 1), MOST_LISTED)
        except ValueError:
            return _refuse(invalid_parameter("limit must be an integer."))
        listed, more = self.files.listed(request.query.get("after"), limit)
        data = [self.files.describe(stored) for stored in listed]
        return _answer({"object": "list", "data": data, "has_more": more})

    def policy(self, request: web.BaseRequest, host: str) -> web.Response:
        """Serve `/api/v1/uploads?action=getPolicy&model=M`; forms are then posted to `host`."""
        model = request.query.get("model")
        if request.query.get("action") != "getPolicy" or not model:
            return _refuse(
                invalid_parameter("action must be getPolicy, and model must be given."), native=True
            )
        return _answer({"request_id": str(uuid.uuid4()), "data": self.objects.policy(model, host)})

    async def handle_form(self, request: web.BaseRequest) -> web.Response:
        """Take the form that brings a file: 200 without a body, or an error in XML, as an OSS bucket says it."""
        with Reading(self._room) as reading:
            return self._posted(await _read_form(request, reading, file_last=True))

    def _posted(self, form: Form | Refusal) -> web.Response:
        if isinstance(form, Refusal):
            return self._refused_form(form)
        if form.content is None:
            return self._refused_form(EMPTY_INPUT)
        refusal = self.objects.store(form.fields, form.content)
        if refusal is not None:
            return self._refused_form(refusal)
        self._ledger.oss.add(form.content)
        return web.Response(status=200)

    def _refused_form(self, refusal: Refusal) -> web.Response:
        self._ledger.oss.refused += 1
        error = f"<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message></Error>"
        return web.Response(text=error, status=refusal.status, content_type="application/xml")

    def _passes(self, rate: WindowCount | None) -> bool:
        if rate is None:
            return True
        rate.roll(self._now_s())
        if not rate.has_room:
            return False
        rate.spend(1)
        return True


def _per_second(rate: float | None) -> WindowCount | None:
    return None if rate is None else WindowCount(60 * rate, 1.0)


async def _read_form(
    request: web.BaseRequest, reading: Reading, *, file_last: bool = False
) -> Form | Refusal:
    """Read a multipart form; with `file_last` the fields behind its file do not count, as OSS has it."""
    if not request.content_type.startswith("multipart/"):
        return invalid_parameter("The request must be multipart/form-data.")
    form = Form()
    parts = 0
    try:
        async for part in await request.multipart():
            parts += 1
            if parts > _MOST_PARTS:
                return invalid_parameter(f"A form may have {_MOST_PARTS} parts.")
            if not isinstance(part, BodyPartReader):
                return invalid_parameter("A multipart form within a form cannot be read.")
            if isinstance(part.filename, str):
                content = await reading.part(part, _MOST_FILE_BYTES)
                if isinstance(content, Refusal):
                    return content
                form.filename, form.content = part.filename, content
                continue
            value = await reading.part(part, _MOST_FIELD_BYTES)
            if isinstance(value, Refusal):
                return value
            if form.content is None or not file_last:
                form.fields[part.name or ""] = value.decode("utf-8", "replace")
    except (ValueError, HttpProcessingError) as error:
        return invalid_parameter(f"The multipart form cannot be read: {error}")
    return form


def _answer(said: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(said), content_type=JSON)


def _refuse(refusal: Refusal, *, native: bool = False) -> web.Response:
    request_id = str(uuid.uuid4())
    body = refusal.native_body(request_id) if native else refusal.body(request_id)
    return web.Response(
        body=body, status=refusal.status, content_type=JSON, headers={"x-request-id": request_id}
    )


def _refused_upload(refusal: Refusal, tally: UploadTally) -> web.Response:
    tally.refused += 1
    return _refuse(refusal)
