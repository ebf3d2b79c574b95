"""Large media through the provider's temporary storage: an `oss://` URL for 48 hours, bound to account and model.

Source: Alibaba Cloud Model Studio, "Upload local files to get temporary URLs"
(help.aliyun.com/zh/model-studio/get-temporary-file-url): GET /uploads?action=getPolicy, then a form posted to the host it
names, the file as its last field. The vendor calls it unfit for production: it has no promise of capacity.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pipeline.media import LocalFile
from pipeline.records import Failure, FailureKind
from pipeline.uploads.calls import Calls
from pipeline.uploads.content import opened
from pipeline.uploads.store import UploadStore

_KEPT_S = 48 * 3600.0
_POLICY_MARGIN_S = 60.0
_FORM_FIELDS = {
    "OSSAccessKeyId": "oss_access_key_id",
    "Signature": "signature",
    "policy": "policy",
    "x-oss-object-acl": "x_oss_object_acl",
    "x-oss-forbid-overwrite": "x_oss_forbid_overwrite",
}


class _Policy(NamedTuple):
    """Leave to upload into one folder of the storage, until a time of the loop's clock."""

    host: str
    folder: str
    fields: dict[str, str]
    most_bytes: float
    until_s: float


@dataclass(slots=True, kw_only=True)
class TemporaryStorage:
    """The temporary uploads of one account and model; a URL that would expire within `margin_s` is renewed."""

    calls: Calls
    store: UploadStore
    url: str
    account: str
    model: str
    margin_s: float
    now: Callable[[], datetime]
    uploaded: int = 0
    _policy: _Policy | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def _schemes(self) -> tuple[str, ...]:
        """How files may travel: never with less protection than the question where to."""
        return ("https://",) if self.url.startswith("https://") else ("https://", "http://")

    def known(self, file: LocalFile) -> str | None:
        """The URL of this content where there is one that stays valid for long enough."""
        valid_at_s = self.now().timestamp() + self.margin_s
        return self.store.temporary_url(self.account, self.model, file.digest, valid_at_s=valid_at_s)

    async def upload(self, file: LocalFile) -> str | Failure:
        """Upload the content; its URL is recorded with its expiry."""
        # The hours count from some moment of the upload: from its beginning is the safe side.
        began_s = self.now().timestamp()
        url = await self.calls.again(lambda: self._send(file))
        if isinstance(url, Failure):
            return url
        self.uploaded += 1
        self.store.keep_temporary(self.account, self.model, file.digest, url, expires_s=began_s + _KEPT_S)
        return url

    async def _send(self, file: LocalFile) -> str | Failure:
        policy = await self._leave(None)
        result = policy if isinstance(policy, Failure) else await self._post(file, policy)
        if isinstance(result, Failure) and result.http_status == 403 and not isinstance(policy, Failure):
            # "Policy expired": its time is counted by their clock.
            policy = await self._leave(policy)
            result = policy if isinstance(policy, Failure) else await self._post(file, policy)
        return result

    async def _post(self, file: LocalFile, policy: _Policy) -> str | Failure:
        if file.size_bytes > policy.most_bytes:
            return Failure(
                FailureKind.TOO_LARGE,
                "file_too_large",
                f"{file.name} is {file.size_bytes:,} bytes; temporary storage takes {policy.most_bytes:,.0f} for this model",
            )
        # Never one name twice: the storage does not overwrite, and a lost answer may have left the file there.
        name = (
            f"{file.digest[:16]}-{int(self.now().timestamp() * 1_000_000):x}{PurePosixPath(file.name).suffix}"
        )
        stream = await opened(file)
        if isinstance(stream, Failure):
            return stream
        with stream:
            key = f"{policy.folder}/{name}"
            # httpx writes fields before files: the storage reads no field behind the file.
            fields = {**policy.fields, "key": key, "success_action_status": "200"}
            failure = await self.calls.storage(
                policy.host, data=fields, files={"file": (name, stream, file.mime)}
            )
        return failure or f"oss://{key}"

    async def _leave(self, refused: _Policy | None) -> _Policy | Failure:
        """A policy that is good for a while; rows that need one at the same time ask once. `refused` is not used again."""
        async with self._asking:
            loop = asyncio.get_running_loop()
            policy = self._policy
            if policy is not None and policy is not refused and loop.time() < policy.until_s:
                return policy
            asked_s = loop.time()
            answer = await self.calls.api(
                "GET", self.url, params={"action": "getPolicy", "model": self.model}
            )
            if isinstance(answer, Failure):
                return answer
            data = answer.get("data") or answer.get(
                "output"
            )  # the page says data, the vendor's SDK reads output
            found = _policy(data if isinstance(data, dict) else {}, asked_s, self._schemes)
            if found is None:
                return Failure(
                    FailureKind.ROW_SUSPECT, "no_policy", "the answer to getPolicy lacks what an upload needs"
                )
            self._policy = found
            return found


def _policy(data: dict[str, Any], asked_s: float, schemes: tuple[str, ...]) -> _Policy | None:
    host, folder = data.get("upload_host"), data.get("upload_dir")
    fields = {name: data.get(source) for name, source in _FORM_FIELDS.items()}
    if not isinstance(host, str) or not host.startswith(schemes) or not isinstance(folder, str):
        return None
    if any(value is None for value in fields.values()):
        return None
    lasts_s = max(_number(data.get("expire_in_seconds"), 300.0) - _POLICY_MARGIN_S, 0.0)
    return _Policy(
        host=host,
        folder=folder.strip("/"),
        fields={name: str(value) for name, value in fields.items()},
        most_bytes=_number(data.get("max_file_size_mb"), math.inf) * 1024 * 1024,
        until_s=asked_s + lasts_s,
    )


def _number(value: Any, otherwise: float) -> float:
    """A figure that is documented as text and shown as a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return otherwise
