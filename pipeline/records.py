"""The records that travel with one row through the program, and the closed sets they use.

Only shapes live here: no I/O, no rules, no imports from the rest of the package. What follows a failure is decided in
`failures.py`; what a response means, in `protocol/`. The way of a row:

    Row -> Prompt -> Request -> (Response | Failure) -> (Completion | Failure) -> Outcome

Records on the hot path are slotted and mutable: frozen ones cost five times as much to build.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a row ended; the `status` column."""

    OK = "ok"
    TRUNCATED = "truncated"  # finish_reason length, or a partial answer
    BLOCKED = "blocked"  # content inspection
    INVALID = "invalid"  # not the asked schema or label
    FAILED = "failed"


# These rows have an answer, and were billed. A blocked one has where the provider filtered its answer
# (finish_reason content_filter).
ANSWERED = frozenset({Status.OK, Status.TRUNCATED, Status.INVALID})


class FinishReason(StrEnum):
    """The finish reasons we act on; any other string of the provider is kept as it is."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class FailureKind(StrEnum):
    """Why an attempt failed. What each kind entails stands in one table: `failures.POLICIES`."""

    RATE_REQUESTS = "rate_requests"
    RATE_TOKENS = "rate_tokens"
    RATE_BURST = "rate_burst"
    OVERLOADED = "overloaded"
    TRANSPORT = "transport"
    TIMEOUT = "timeout"
    TRUNCATED_STREAM = "truncated_stream"
    NOT_READY = "not_ready"
    INVALID_REQUEST = "invalid_request"
    INVALID_INPUT = "invalid_input"  # the row itself cannot be read or rendered; nothing was sent
    BLOCKED = "blocked"
    TOO_LARGE = "too_large"
    ROW_SUSPECT = "row_suspect"  # the row or the provider, nobody can tell: worth one more try only
    INVALID_ANSWER = "invalid_answer"
    AUTH = "auth"
    ARREARS = "arrears"
    QUOTA_EXHAUSTED = "quota_exhausted"
    MODEL_MISSING = "model_missing"
    CERTIFICATE = "certificate"  # the server's TLS certificate is not trusted
    INTERNAL = "internal"


class Route(StrEnum):
    """How requests reach the provider; each route has its own price."""

    REALTIME = "realtime"


@dataclass(slots=True)
class Row:
    """One row of a prompt dataset.

    `index` counts from 0 over the whole dataset, unreadable rows included, empty lines not. `line` is the 1-based line
    (or row, in Parquet) within `source`, a file name as a user would recognise it. A row that could not be read has no
    columns and says why in `problem`.
    """

    index: int
    columns: dict[str, Any]
    source: str
    line: int
    problem: str | None = None

    @property
    def where(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(slots=True)
class Prompt:
    """One row rendered: what is asked. `messages` are OpenAI-style; `params` are request-body keys.

    `files` are local files to upload before it is sent (`media.LocalFile`), named in the messages by markers.
    `media_tokens` is the estimate for pictures, frames and documents, in tokens.
    """

    index: int
    row_id: str
    messages: list[dict[str, Any]]
    params: dict[str, Any]
    files: Sequence[Any] = ()
    media_tokens: int = 0


@dataclass(slots=True)
class Request:
    """An encoded prompt: the exact bytes to send. `tokens_estimate` covers the prompt, in tokens.

    `most_cost` is the most that one attempt can be billed, in billionths of the currency unit; 0 where there is no price.
    """

    index: int
    row_id: str
    key: str
    body: bytes
    tokens_estimate: int
    most_cost: int = 0


@dataclass(slots=True)
class Response:
    """A raw HTTP answer, whole, whatever its status.

    `headers` has lower-case names and holds at least those in `transport.KEPT_HEADERS` that the server sent.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    latency_ms: float


@dataclass(slots=True)
class Priced:
    """What some usage cost by the prices of its day; a cost of None was unknown then, and stays so."""

    cost: Decimal | None
    currency: str | None
    price_version: str | None


@dataclass(slots=True)
class Usage:
    """Token counts as billed by the provider; None is unknown, never 0.

    `cached_tokens` and `cache_write_tokens` are parts of `prompt_tokens`; `reasoning_tokens` is a part of
    `completion_tokens`. `raw` is the provider's own usage object as JSON. `priced` is there where the cost is settled already: in
    what was read back from a part, whose counts are those of all the row's paid answers.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    raw: str | None = None
    priced: Priced | None = None


@dataclass(slots=True)
class ToolCall:
    """One call the model asks for; `arguments` is the JSON text as sent, which need not be valid."""

    id: str | None
    name: str | None
    arguments: str | None


@dataclass(slots=True)
class Completion:
    """A decoded answer. `partial` says that the provider cut it (its header, or no finish_reason at all)."""

    content: str | None
    finish_reason: str | None
    usage: Usage
    model: str | None = None
    request_id: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    choices: str | None = None  # JSON of every choice, where there is more than one or logprobs were asked
    partial: bool = False


@dataclass(slots=True)
class Failure:
    """A decoded non-success.

    `maybe_paid`: the request (or part of it) had been written and no answer came, so the provider may bill it.
    `uncounted`: a kept-alive connection was closed before the answer; sending again does not count as an attempt.
    """

    kind: FailureKind
    code: str
    message: str
    http_status: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    maybe_paid: bool = False
    uncounted: bool = False


@dataclass(slots=True)
class Outcome:
    """The settled result of a prompt; exactly one a row.

    `fields` holds the typed columns that `[response]` asks for, empty where the answer is not valid. `earlier` holds the
    usage of answers that were paid for before the one that counts (an invalid answer that was asked again).
    Times: `started_at_us` is Unix microseconds of the first attempt; the `_ms` ones are of the last attempt.
    """

    index: int
    row_id: str
    status: Status
    key: str | None = None
    completion: Completion | None = None
    failure: Failure | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    earlier: list[Usage] = field(default_factory=list)
    http_status: int | None = None
    attempts: int = 0
    maybe_paid: int = 0
    started_at_us: int | None = None
    latency_ms: float | None = None
    first_token_ms: float | None = None
    queue_ms: float | None = None
    run_id: str | None = None
    response: str | None = None
