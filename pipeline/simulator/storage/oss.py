"""Temporary uploads: a policy is issued, a form is posted with it, the object then has an `oss://` address.

Rules: the provider's page on temporary file URLs: a policy is good for 300 s, an object for 48 hours, and only
for the model it was uploaded for. Time comes in as a number of seconds.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from pipeline.simulator.chat.pictures import picture_size
from pipeline.simulator.refusals import (
    MEDIA_NOT_ALLOWED,
    MEDIA_NOT_FOUND,
    POLICY_EXPIRED,
    TOO_LARGE,
    Refusal,
    invalid_parameter,
)
from pipeline.vision_tokens import Size

T = TypeVar("T")
POLICY_SECONDS = 300
OBJECT_SECONDS = 48 * 3600
MOST_MEGABYTES = 100
MOST_KEPT = 100_000  # policies and objects; beyond, the oldest go
KEY_ID = "simulated-access-key-id"
_SECRET = b"the simulator signs with this, and with nothing else"
_NEEDED = (
    *("OSSAccessKeyId", "Signature", "policy", "key"),
    *("x-oss-object-acl", "x-oss-forbid-overwrite", "success_action_status"),
)


@dataclass(slots=True)
class StoredObject:
    """One uploaded file; `size` in pixels where it is a picture."""

    model: str
    stored_s: float
    size: Size | None
    digest: str


class ObjectStore:
    """Policies and objects of one account."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._policies: dict[str, tuple[str, float]] = {}  # folder -> model, until
        self._issued = 0
        self._objects: dict[str, StoredObject] = {}

    def policy(self, model: str, host: str) -> dict[str, Any]:
        """Issue a policy for uploads to `host` for a model."""
        folder = f"dashscope-instant/{hashlib.sha256(model.encode()).hexdigest()[:16]}/{self._issued}"
        self._issued += 1
        until = self._clock() + POLICY_SECONDS
        _keep(self._policies, folder, (model, until))
        policy = b64encode(orjson.dumps({"folder": folder, "until": until})).decode()
        return {
            "policy": policy,
            "signature": _signature(policy),
            "upload_dir": folder,
            "upload_host": host,
            "expire_in_seconds": POLICY_SECONDS,
            "max_file_size_mb": MOST_MEGABYTES,
            "capacity_limit_mb": 999_999_999,
            "oss_access_key_id": KEY_ID,
            "x_oss_object_acl": "private",
            "x_oss_forbid_overwrite": "true",
        }

    def store(self, fields: Mapping[str, str], content: bytes) -> Refusal | None:
        """Store what a form brings, or say why not. The file must have been the form's last field."""
        missing = [name for name in _NEEDED if name not in fields]
        if missing:
            return invalid_parameter(f"The form lacks {', '.join(missing)} before its file.")
        key = fields["key"]
        model, until = self._policies.get(key.rpartition("/")[0], ("", 0.0))
        signed = hmac.compare_digest(fields["Signature"], _signature(fields["policy"]))
        if not signed or fields["OSSAccessKeyId"] != KEY_ID or not model:
            return Refusal(
                403, "SignatureDoesNotMatch", "The policy was not issued here, or not for this key."
            )
        if self._clock() > until:
            return POLICY_EXPIRED
        if len(content) > MOST_MEGABYTES * 1024 * 1024:
            return TOO_LARGE
        if key in self._objects and fields["x-oss-forbid-overwrite"] == "true":
            return Refusal(
                409,
                "FileAlreadyExists",
                "The object you specified already exists and can not be overwritten.",
            )
        digest = hashlib.sha256(content).hexdigest()
        _keep(self._objects, key, StoredObject(model, self._clock(), picture_size(content), digest))
        return None

    def size_of(self, url: str, model: str) -> Size | Refusal | None:
        """Resolve an `oss://` address for a model: its size in pixels, or why it cannot be had."""
        found = self._objects.get(url.removeprefix("oss://"))
        if found is None:
            return MEDIA_NOT_FOUND
        if found.model != model or self._clock() - found.stored_s > OBJECT_SECONDS:
            return MEDIA_NOT_ALLOWED
        return found.size

    def digest_of(self, url: str) -> str | None:
        """Name the content behind an `oss://` address, or None where there is none."""
        found = self._objects.get(url.removeprefix("oss://"))
        return None if found is None else found.digest


def _keep(kept: dict[str, T], name: str, value: T) -> None:
    kept[name] = value
    if len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]


def _signature(policy: str) -> str:
    return b64encode(hmac.new(_SECRET, policy.encode(), hashlib.sha1).digest()).decode()
