"""What a failure is and all that follows from it: the one place where that is decided.

`classify` says which kind a provider's refusal is (the codes are data: `failure_codes.py`); `POLICIES` says
what a kind entails: whether to send again and how long to wait, which limit cools down, whether the row or
the run ends, and the row's status. Here stand tables and pure functions on them; waiting, sending and
counting are done elsewhere, by these rules.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Literal

from pipeline import failure_codes
from pipeline.failure_codes import Rule
from pipeline.masking import Secrets, without_url_secrets
from pipeline.records import Completion, Failure, FailureKind, FinishReason, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before the next attempt, in seconds: exponential, the last share of it at random.

    ceiling(n) = min(max_s, initial_s * 2 ** (n - 1)) after the n-th failed attempt;
    wait(n)    = between (1 - jitter) * ceiling(n) and ceiling(n), uniformly.
    """

    initial_s: float
    max_s: float
    jitter: float = 0.5

    def wait_s(self, failed_attempts: int, uniform: float) -> float:
        """The wait after `failed_attempts` (from 1), for a random number `uniform` in [0, 1)."""
        doublings = min(
            max(failed_attempts - 1, 0), 60
        )  # beyond, every ceiling is max_s and floats would overflow
        ceiling = min(self.max_s, self.initial_s * 2.0**doublings)
        return ceiling * (1 - self.jitter + self.jitter * uniform)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What follows from one failure kind.

    `max_attempts`: so many attempts of a row may end in such a kind, and no more; the job's `[retry]` bounds all
    of them together. None: the job's alone.
    `slows`: what cools down for everyone: the pace of requests, the pace of tokens, both after a burst (a
    slow start), or the number in flight.
    `ends`: what is over once it is not retried (again). `row`: the row is settled with `status`. `run`: the
    run stops, and the row stays without outcome, so that the next run asks it once the cause is gone.
    `give_up_after_s`: once the kind has gone on this long in the run, without one completion between, it
    counts as `becomes`.
    """

    retry: bool
    ends: Literal["row", "run"] = "row"
    status: Status = Status.FAILED
    max_attempts: int | None = None
    backoff: Backoff | None = None
    slows: Literal["requests", "tokens", "burst", "concurrency"] | None = None
    give_up_after_s: float | None = None
    becomes: FailureKind | None = None


# Model Studio's advice on limits: exponential random waits of 1 to 60 s; they recover in about a minute.
_RATE = Backoff(initial_s=2, max_s=60)
_SHORT = Backoff(initial_s=0.5, max_s=8)
_ROW_ENDS = Policy(retry=False)
_RUN_ENDS = Policy(retry=False, ends="run")

POLICIES: Mapping[FailureKind, Policy] = {
    FailureKind.RATE_REQUESTS: Policy(retry=True, backoff=_RATE, slows="requests"),
    FailureKind.RATE_TOKENS: Policy(
        retry=True,
        backoff=Backoff(initial_s=8, max_s=60),
        slows="tokens",
        # DashScope names a passing throttle and a spent quota alike; only the second lasts.
        give_up_after_s=600,
        becomes=FailureKind.QUOTA_EXHAUSTED,
    ),
    FailureKind.RATE_BURST: Policy(retry=True, backoff=_RATE, slows="burst"),
    FailureKind.OVERLOADED: Policy(retry=True, backoff=Backoff(initial_s=1, max_s=60), slows="concurrency"),
    FailureKind.TRANSPORT: Policy(retry=True, backoff=_SHORT),
    FailureKind.TIMEOUT: Policy(retry=True, backoff=_SHORT),
    FailureKind.TRUNCATED_STREAM: Policy(retry=True, backoff=_SHORT),
    FailureKind.NOT_READY: Policy(retry=True, backoff=Backoff(initial_s=5, max_s=60)),
    FailureKind.ROW_SUSPECT: Policy(retry=True, max_attempts=2, backoff=_SHORT),
    # The job's `on_invalid` may forbid to ask again; the provider is well, so there is nothing to wait for.
    FailureKind.INVALID_ANSWER: Policy(
        retry=True, backoff=Backoff(initial_s=0, max_s=0), status=Status.INVALID
    ),
    FailureKind.INVALID_REQUEST: _ROW_ENDS,
    FailureKind.INVALID_INPUT: _ROW_ENDS,
    FailureKind.TOO_LARGE: _ROW_ENDS,
    FailureKind.BLOCKED: Policy(retry=False, status=Status.BLOCKED),
    FailureKind.INTERNAL: _ROW_ENDS,
    FailureKind.AUTH: _RUN_ENDS,
    FailureKind.ARREARS: _RUN_ENDS,
    FailureKind.QUOTA_EXHAUSTED: _RUN_ENDS,
    FailureKind.MODEL_MISSING: _RUN_ENDS,
    FailureKind.CERTIFICATE: _RUN_ENDS,
}


def status_of(completion: Completion) -> Status:
    """The status of a row with this completion, before its answer is held against `[response]`."""
    if completion.finish_reason == FinishReason.CONTENT_FILTER:
        return Status.BLOCKED
    if completion.partial or completion.finish_reason == FinishReason.LENGTH:
        return Status.TRUNCATED
    return Status.OK


class Dialect(StrEnum):
    """Whose error codes a server speaks; `generic` is DeepSeek, vLLM, llama.cpp, Ollama and the unknown."""

    DASHSCOPE = "dashscope"
    OPENAI = "openai"
    GENERIC = "generic"


def _flat(code: str) -> str:
    return "".join(filter(str.isalnum, code)).lower()


def _compiled(*tables: tuple[Rule, ...]) -> tuple[tuple[Rule, frozenset[str]], ...]:
    return tuple((rule, frozenset(map(_flat, rule.codes))) for table in tables for rule in table)


_RULES = {
    Dialect.DASHSCOPE: _compiled(failure_codes.DASHSCOPE, failure_codes.COMMON),
    Dialect.OPENAI: _compiled(failure_codes.OPENAI, failure_codes.COMMON),
    # Behind an unknown address stands an OpenAI-like service, often OpenAI itself through a proxy.
    Dialect.GENERIC: _compiled(failure_codes.GENERIC, failure_codes.OPENAI, failure_codes.COMMON),
}

_STATUS_DEFAULTS = {
    401: FailureKind.AUTH,
    402: FailureKind.ARREARS,
    403: FailureKind.AUTH,
    404: FailureKind.MODEL_MISSING,  # or a wrong base_url: no row can succeed either way
    407: FailureKind.AUTH,  # the proxy's
    408: FailureKind.TIMEOUT,
    409: FailureKind.OVERLOADED,
    413: FailureKind.TOO_LARGE,
    425: FailureKind.NOT_READY,
    429: FailureKind.RATE_REQUESTS,
    501: FailureKind.INVALID_REQUEST,  # not implemented: as little use tomorrow
    505: FailureKind.INVALID_REQUEST,
}


_INNER_CODE = re.compile(r"<[0-9]{3}> ([A-Za-z][A-Za-z0-9_.]{0,99}): ")


def classify(dialect: Dialect, http_status: int, code: str, message: str) -> FailureKind:
    """The kind of a provider's refusal: by the dialect's table, first match, else by the HTTP status alone.

    `http_status` 200 stands for an error inside an answer or stream that began well. What no table knows: a
    3xx or 4xx ends the row, a 5xx is retried, an error inside a 2xx is tried once more.
    """
    # DashScope's compatible mode may put the native code before the message: `<400> InternalError.Algo: ...`
    if inner := _INNER_CODE.match(message):
        message = message[inner.end() :]
    names = _names(code[:200]) | _names(inner[1] if inner else "")
    said = message[:2000].lower()
    status = 200 if http_status < 300 else http_status
    for rule, codes in _RULES[dialect]:
        if (
            (not rule.statuses or status in rule.statuses)
            and (not codes or not codes.isdisjoint(names))
            and (not rule.says or any(words in said for words in rule.says))
            and (not rule.begins or said.startswith(rule.begins))
        ):
            return rule.kind
    if status in _STATUS_DEFAULTS:
        return _STATUS_DEFAULTS[status]
    if status < 300:
        return FailureKind.ROW_SUSPECT
    return FailureKind.INVALID_REQUEST if status < 500 else FailureKind.OVERLOADED


def _names(code: str) -> set[str]:
    """The code and every code above it, without style: `A.B_c` gives `abc` and `a`."""
    parts = code.split(".")
    return {_flat(".".join(parts[:n])) for n in range(1, len(parts) + 1)} - {""}


MAX_RETRY_AFTER_S = 600.0
_NOT_A_WAIT_S = 30 * 86_400.0  # beyond a month it is a timestamp or garbage
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h|d)){1,5}")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

RETRY_HEADERS = frozenset(
    {
        "retry-after-ms",
        "retry-after",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
    }
)


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long the server asks us to wait, in seconds from `now` (aware); None where it does not say.

    Reads `retry-after-ms`, `retry-after` (seconds or an HTTP date), then `x-ratelimit-reset-*` of what has
    nothing remaining (the longer one); header names in lower case. More than `MAX_RETRY_AFTER_S` is cut down
    to it: by then it is worth asking again. Negative numbers, past dates and anything above a month count as
    not said. Never raises.
    """
    for found in (
        _number(headers.get("retry-after-ms"), 0.001),
        _number(headers.get("retry-after"), 1.0),
        _seconds_until(headers.get("retry-after"), now),
        _reset(headers),
    ):
        if found is not None and 0 <= found <= _NOT_A_WAIT_S:
            return min(found, MAX_RETRY_AFTER_S)
    return None


def _number(text: str | None, unit_s: float) -> float | None:
    if text is None or not _NUMBER.fullmatch(text := text.strip()):
        return None
    return float(text) * unit_s


def _seconds_until(text: str | None, now: datetime) -> float | None:
    if text is None or len(text) > 64:
        return None
    try:
        then = parsedate_to_datetime(text)
        return (then.replace(tzinfo=then.tzinfo or now.tzinfo) - now).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):  # garbage, as various Pythons say it
        return None


def _reset(headers: Mapping[str, str]) -> float | None:
    waits = []
    for what in ("requests", "tokens"):
        reset = headers.get(f"x-ratelimit-reset-{what}", "").strip()
        if headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0" and _DURATION.fullmatch(reset):
            waits.append(sum(_UNIT_S[unit] * float(n) for n, unit in _DURATION_PART.findall(reset)))
    return max(waits, default=None)


_KEY = re.compile(r"\b(sk-)[\w*-]{6,}")


def one_line(text: str, limit: int = 500) -> str:
    """A foreign message as one printable line of at most `limit` characters; API keys and signed addresses in it are masked."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    line = without_url_secrets(_KEY.sub(r"\1...", " ".join(printable.split())))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def without_secrets(failure: Failure, secrets: Secrets) -> Failure:
    """The failure, its words cleared of what the server may have repeated of our request's headers."""
    failure.message = secrets.masked(failure.message)
    failure.code = secrets.masked(failure.code)
    if failure.request_id is not None:
        failure.request_id = secrets.masked(failure.request_id)
    return failure
