"""One HTTP call of the upload services, judged: the JSON of its answer, or a `Failure`.

Every refusal is classified by `failures.classify`, every fault on the wire becomes a failure, and none is raised. A call
that may succeed later is sent again, by the policy of its failure's kind and within a bound. Source of the shapes:
Alibaba Cloud Model Studio, "OpenAI compatible - File" and "Upload local files to get temporary URLs".
"""

import asyncio
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import httpx
import orjson
import tenacity

from pipeline.failures import POLICIES, Dialect, classify, one_line, retry_after_s
from pipeline.records import Failure, FailureKind

# What a chat request must carry whose messages hold an oss:// URL.
OSS_HEADER = ("X-DashScope-OssResourceResolve", "enable")

_TIMEOUT = httpx.Timeout(120.0, connect=10.0, pool=None)
# The words of this refusal are documented nowhere; the limits are: 10,000 files or 100 GB an account.
_QUOTA = re.compile(
    r"quota|\b10,?000\b|100 ?gb|capacity|(number|count|amount) of (uploaded )?files|files? (number|count)|too many files",
    re.I,
)
_MISSING = re.compile(r"not\s+found|not\s+exist|no\s+such\s+file|invalid file \[", re.I)
_XML = re.compile(rb"<(Code|Message)>([^<]{0,500})</")

Answer = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls of one account over one client. `headers` hold its key and go to the provider's own hosts only."""

    client: httpx.AsyncClient
    headers: Mapping[str, str]
    dialect: Dialect
    now: Callable[[], datetime]
    max_attempts: int

    async def api(self, method: str, url: str, **content: Any) -> Answer | Failure:
        """Call the provider's API once; `content` is httpx's (params, data, files)."""
        reply = await self._reply(method, url, headers=dict(self.headers), **content)
        if isinstance(reply, Failure):
            return reply
        body = _json(reply.content)
        if reply.is_success and not isinstance(body.get("error"), dict):
            return body
        return self._refused(reply, body)

    async def storage(self, url: str, **content: Any) -> Failure | None:
        """Post a form to the storage that a policy named; None where it was kept. The key is not sent there."""
        reply = await self._reply("POST", url, **content)
        if isinstance(reply, Failure):
            return reply
        if reply.is_success:
            return None
        said = {name: text.decode("utf-8", "replace") for name, text in _XML.findall(reply.content[:10_000])}
        code, message = said.get(b"Code", ""), said.get(b"Message", "")
        # Its codes are those of a storage: AccessDenied says that the policy does not fit, not that the key is wrong.
        kind = FailureKind.OVERLOADED if reply.status_code >= 500 else FailureKind.INVALID_REQUEST
        if reply.status_code == 429:
            kind = FailureKind.RATE_REQUESTS
        elif code == "RequestTimeout":
            kind = FailureKind.TIMEOUT
        elif code == "EntityTooLarge":
            kind = FailureKind.TOO_LARGE
        shown = one_line(message) or f"HTTP {reply.status_code} without a message"
        return Failure(
            kind,
            one_line(code, 100) or f"http_{reply.status_code}",
            f"temporary storage: {shown}",
            reply.status_code,
        )

    async def again(self, call: Callable[[], Awaitable[T | Failure]]) -> T | Failure:
        """Make the call until it succeeds, its failure is none to retry, or `max_attempts` are made."""

        async def attempt() -> T | Failure:
            return await call()

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(lambda got: isinstance(got, Failure) and POLICIES[got.kind].retry),
            stop=tenacity.stop_after_attempt(self.max_attempts),
            wait=_wait_s,
            sleep=asyncio.sleep,
            retry_error_callback=_last,
        )
        result: T | Failure = await retrying(attempt)
        return result

    async def _reply(self, method: str, url: str, **content: Any) -> httpx.Response | Failure:
        try:
            return await self.client.request(method, url, follow_redirects=False, timeout=_TIMEOUT, **content)
        except httpx.HTTPError as error:
            return _fault(error)
        except httpx.InvalidURL as error:
            return Failure(FailureKind.INVALID_REQUEST, "invalid_url", one_line(str(error)))

    def _refused(self, reply: httpx.Response, body: Answer) -> Failure:
        error = body.get("error")
        found = error if isinstance(error, dict) else body
        code, message = _text(found.get("code")) or _text(found.get("type")), _text(found.get("message"))
        if isinstance(error, str):
            message = error
        request_id = reply.headers.get("x-request-id") or _text(body.get("request_id"))
        return Failure(
            kind=classify(self.dialect, reply.status_code, code, message),
            code=one_line(code, 100) or f"http_{reply.status_code}",
            message=one_line(message) or f"HTTP {reply.status_code} without a message",
            http_status=reply.status_code,
            request_id=one_line(request_id, 100) or None,
            retry_after_s=retry_after_s(reply.headers, self.now()),
        )


def is_missing(failure: Failure) -> bool:
    """Whether a call about one file was refused because there is no such file (404, or 400 with these words)."""
    return failure.http_status == 404 or (
        failure.http_status == 400 and _MISSING.search(failure.message) is not None
    )


def quota_sentence(failure: Failure) -> Failure:
    """An upload refused because the account is full, said with what to do; any other failure as it is."""
    full = failure.kind in (FailureKind.INVALID_REQUEST, FailureKind.TOO_LARGE) and _QUOTA.search(
        failure.message
    )
    if not full:
        return failure
    return Failure(
        kind=FailureKind.QUOTA_EXHAUSTED,
        code="file_quota",
        message="the account holds as many files as it may (10,000, or 100 GB in all): delete some in the console, and "
        f'let runs clear up after themselves with files = "delete"; then run again. The provider said: {failure.message}',
        http_status=failure.http_status,
        request_id=failure.request_id,
    )


def _wait_s(state: tenacity.RetryCallState) -> float:
    failure = _last(state)
    if not isinstance(failure, Failure):
        return 0.0
    backoff = POLICIES[failure.kind].backoff
    drawn_s = backoff.wait_s(state.attempt_number, random.random()) if backoff else 0.0  # noqa: S311
    return max(drawn_s, failure.retry_after_s or 0.0)


def _last(state: tenacity.RetryCallState) -> Any:
    return state.outcome.result() if state.outcome is not None else None


def _fault(error: httpx.HTTPError) -> Failure:
    """What went wrong on the wire; an upload is never billed, so nothing of it is `maybe_paid`."""
    if isinstance(error, httpx.TimeoutException):
        return Failure(FailureKind.TIMEOUT, "timeout", "the upload service did not answer in time")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Failure(
                FailureKind.CERTIFICATE,
                "certificate_untrusted",
                "the certificate of the upload service is not trusted: name your own authority's file as ca_file",
            )
        cause = cause.__cause__ or cause.__context__
    return Failure(
        FailureKind.TRANSPORT,
        "transport",
        f"no answer from the upload service ({type(error).__name__}): check base_url and the network",
    )


def _json(content: bytes) -> Answer:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
