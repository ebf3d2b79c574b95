"""The uploads of one run: a prompt's local files placed at the provider before it is sent."""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import httpx

from pipeline.errors import RunFolderError
from pipeline.failures import without_secrets
from pipeline.masking import Secrets
from pipeline.media import LocalFile
from pipeline.plan import Plan
from pipeline.records import Failure, Prompt
from pipeline.transport import Endpoint, tls_context
from pipeline.uploads import Uploads, UploadsSpec, UploadStore, account_of

log = logging.getLogger("promptmill")


class Placing:
    """Uploads what prompts bring. Nothing is opened until the first prompt brings a file."""

    def __init__(self, open_uploads: Callable[[], Uploads], secrets: Secrets) -> None:
        self._open = open_uploads
        self._secrets = secrets
        self._uploads: Uploads | None = None

    async def place(self, prompt: Prompt) -> Prompt | Failure:
        """The prompt with the addresses of its files, uploaded where they were not yet."""
        if self._uploads is None:
            self._uploads = self._open()
        placed = await self._uploads.place(prompt.messages, prompt.files)
        if isinstance(placed, Failure):
            return without_secrets(placed, self._secrets)
        return replace(prompt, messages=placed)

    def look_again(self, files: Sequence[LocalFile]) -> None:
        """Ask anew whether these are still at the provider before they are next used."""
        if self._uploads is not None:
            self._uploads.look_again(files)

    async def close(self, *, delete: bool) -> None:
        """Let go of the connections; with `delete`, first of the files at the provider."""
        if delete and self._uploads is None:
            self._uploads = self._open()
        if self._uploads is None:
            return
        if delete:
            deleted = await self._uploads.delete_all()
            log.info("deleted %d uploaded files", deleted.files)
            for failure in deleted.failures:
                log.warning("an uploaded file is still there: %s: %s", failure.code, failure.message)
        await self._uploads.aclose()


def open_placing(
    plan: Plan, base_url: str, endpoint: Endpoint, folder: Path, now: Callable[[], datetime]
) -> Placing:
    """The uploads of a run whose compatible API stands at `base_url`, over TLS and proxy as its chat calls."""

    def uploads() -> Uploads:
        target = plan.target
        authorization = target.headers.get("Authorization", "")
        spec = UploadsSpec(
            base_url=target.api_url(base_url, "compatible"),
            native_url=target.api_url(base_url, "native") if target.provider.dialect == "dashscope" else None,
            account=account_of(target.identity, authorization),
            model=target.model_name,
            dialect=plan.dialect,
            headers=target.headers,
        )
        client = httpx.AsyncClient(
            verify=tls_context(endpoint),
            proxy=endpoint.proxy,
            trust_env=False,
            timeout=endpoint.total_timeout_s,
        )
        try:
            store = UploadStore(folder)
        except sqlite3.Error as error:
            raise RunFolderError(
                f"the list of uploads in {folder} cannot be opened: {error}. Remove it"
            ) from error
        return Uploads(spec, client, store, now)

    return Placing(uploads, plan.target.secrets)
