"""Failures: every documented refusal has its kind, every kind its policy, and foreign headers never hurt."""

import asyncio
import inspect
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import failure_codes
from pipeline.failures import (
    MAX_RETRY_AFTER_S,
    POLICIES,
    RETRY_HEADERS,
    Backoff,
    Dialect,
    classify,
    one_line,
    retry_after_s,
    status_of,
)
from pipeline.records import Completion, Failure, FailureKind, Request, Status, Usage
from pipeline.transport import Endpoint, HttpxTransport

K, D, O, G = FailureKind, Dialect.DASHSCOPE, Dialect.OPENAI, Dialect.GENERIC  # noqa: E741
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

QUOTA = "You exceeded your current quota, please check your plan and billing details."
BURST = (
    "Request rate increased too quickly. To ensure system stability, please adjust your client logic to scale "
    "requests more smoothly over time."
)
# dialect, HTTP status, the code in each of its styles, message, kind. Sources: those named in failure_codes.py.
DOCUMENTED: list[tuple[Dialect, int, str, str, FailureKind]] = [
    (
        D,
        400,
        "InvalidParameter|invalid_parameter_error",
        "Range of input length should be [1, 129024]",
        K.TOO_LARGE,
    ),
    (
        D,
        400,
        "InvalidParameter|invalid_parameter_error",
        "Range of max_tokens should be [1, 8192]",
        K.INVALID_REQUEST,
    ),
    (
        D,
        400,
        "invalid_request_error",
        "parameter.enable_thinking only support stream call",
        K.INVALID_REQUEST,
    ),
    (
        D,
        400,
        "InvalidParameter.NotSupportEnableThinking",
        "The model x does not support it.",
        K.INVALID_REQUEST,
    ),
    (D, 400, "InvalidParameter", "File not found.", K.INVALID_REQUEST),
    (
        D,
        400,
        "invalid_parameter_error",
        "<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]",
        K.INVALID_REQUEST,
    ),
    (D, 500, "internal_error", "<400> InternalError.Algo.InvalidParameter: no", K.INVALID_REQUEST),
    (
        D,
        400,
        "bad",
        "<400> InternalError.Algo.DataInspectionFailed: Input data may contain inappropriate content.",
        K.BLOCKED,
    ),
    (
        D,
        400,
        "InvalidParameter|invalid_parameter_error",
        "File parsing in progress, please try again later.",
        K.NOT_READY,
    ),
    (D, 400, "InvalidParameter|invalid_parameter_error", "Download multimodal file timed out", K.ROW_SUSPECT),
    (D, 400, "InvalidParameter.DataInspection", "Failed to download multimodal content.", K.ROW_SUSPECT),
    (D, 400, "InvalidParameter.DataInspection", "", K.ROW_SUSPECT),
    (D, 400, "InvalidParameter|invalid_parameter_error", "Model not exist.", K.MODEL_MISSING),
    (
        D,
        400,
        "DataInspectionFailed|data_inspection_failed",
        "Input text data may contain inappropriate content.",
        K.BLOCKED,
    ),
    (D, 200, "data_inspection_failed", "Output data may contain inappropriate content.", K.BLOCKED),
    (D, 400, "DataInspectionFailed|data_inspection_failed", "", K.BLOCKED),
    (D, 400, "IPInfringementSuspect|ip_infringement_suspect", "", K.BLOCKED),
    (D, 400, "CustomRoleBlocked|custom_role_blocked", "", K.BLOCKED),
    (D, 400, "FaqRuleBlocked|faq_rule_blocked", "", K.BLOCKED),
    (D, 400, "Arrearage", "Access denied, please make sure your account is in good standing.", K.ARREARS),
    (D, 400, "BadRequest.EmptyInput|BadRequest.EmptyParameters|BadRequest.EmptyModel", "", K.INVALID_REQUEST),
    (D, 400, "BadRequest.IllegalInput|BadRequest.InputDownloadFailed", "", K.INVALID_REQUEST),
    (D, 400, "BadRequest.ResourceNotExist|BadRequest.UnsupportedFileFormat", "", K.INVALID_REQUEST),
    (D, 400, "BadRequest.TooLarge|bad_request_too_large", "Payload Too Large.", K.TOO_LARGE),
    (D, 400, "InvalidURL|InvalidSchema|UnsupportedOperation|unsupported_operation", "", K.INVALID_REQUEST),
    (D, 400, "ServiceUnavailableError", "Role must be user or assistant", K.INVALID_REQUEST),
    (D, 400, "InvalidURL.ConnectionRefused|InvalidURL.Timeout", "", K.ROW_SUSPECT),
    (D, 400, "APIConnectionError|ClientDisconnect|client_disconnect", "", K.ROW_SUSPECT),
    (D, 401, "InvalidApiKey|invalid_api_key", "Incorrect API key provided.", K.AUTH),
    (D, 401, "NOT AUTHORIZED", "", K.AUTH),
    (D, 403, "AccessDenied|access_denied|AccessDenied.Unpurchased", "", K.AUTH),
    (D, 403, "Model.AccessDenied|Workspace.AccessDenied|App.AccessDenied", "", K.AUTH),
    (D, 403, "AllocationQuota.FreeTierOnly|allocation_quota_free_tier_only", "", K.QUOTA_EXHAUSTED),
    (D, 403, "", "The free tier of the model has been exhausted. If you wish", K.QUOTA_EXHAUSTED),
    (D, 404, "ModelNotFound|model_not_found|model_not_supported", "", K.MODEL_MISSING),
    (D, 404, "", "Unsupported model x for OpenAI compatibility mode.", K.MODEL_MISSING),
    (D, 404, "WorkSpaceNotFound", "", K.AUTH),
    (D, 404, "NotFound|not_found", "", K.MODEL_MISSING),
    (D, 408, "", "", K.TIMEOUT),
    (D, 409, "Conflict|conflict", "", K.OVERLOADED),
    (D, 413, "request_too_large", "The request exceeds the maximum allowed size of 6MB.", K.TOO_LARGE),
    (D, 429, "concurrency_limit_exceeded", "Too many concurrent requests.", K.OVERLOADED),
    (D, 429, "rate_limit_exceeded", "", K.RATE_REQUESTS),
    (D, 503, "service_unavailable", "", K.OVERLOADED),
    (D, 504, "request_timeout", "", K.TIMEOUT),
    (D, 429, "Throttling|Throttling.RateQuota|throttling_rate_quota", "", K.RATE_REQUESTS),
    (
        D,
        429,
        "LimitRequests|limit_requests",
        "You have exceeded your current request limit.",
        K.RATE_REQUESTS,
    ),
    (D, 429, "Throttling.AllocationQuota|insufficient_quota", QUOTA, K.RATE_TOKENS),
    (D, 429, "", QUOTA, K.RATE_TOKENS),
    (D, 429, "Throttling.BurstRate|limit_burst_rate", BURST, K.RATE_BURST),
    (D, 429, "Throttling", BURST, K.RATE_BURST),
    (
        D,
        429,
        "Throttling",
        "Too many requests. Batch requests are being throttled due to system capacity limits.",
        K.OVERLOADED,
    ),
    (D, 429, "CommodityNotPurchased", "", K.AUTH),
    (D, 429, "PrepaidBillOverdue|PostpaidBillOverdue", "", K.ARREARS),
    (D, 429, "Throttling.AllocationQuota", "Free allocated quota exceeded.", K.QUOTA_EXHAUSTED),
    (D, 500, "InternalError|internal_error|SystemError|ModelServiceFailed", "", K.OVERLOADED),
    (D, 500, "InternalError.Timeout|RequestTimeOut", "", K.TIMEOUT),
    (D, 500, "InternalError.Algo", "list index out of range", K.ROW_SUSPECT),
    (D, 500, "InternalError.Algo|internal_error_algo", "Role must be in [user, assistant]", K.ROW_SUSPECT),
    (D, 500, "internal_error", "Expecting ',' delimiter: line 1 column 5 (char 4)", K.ROW_SUSPECT),
    (D, 500, "InternalError.Algo.Whatever", "", K.ROW_SUSPECT),
    (D, 400, "AccessDenied.Whatever", "", K.AUTH),
    (D, 500, "ModelServingError", "", K.OVERLOADED),
    (D, 503, "ModelServingError|ModelUnavailable", "", K.OVERLOADED),
    (D, 504, "GatewayTimeout", "", K.OVERLOADED),
    (D, 200, "BailianGateway.Workspace.NotAuthorised", "", K.AUTH),
    (D, 400, "mismatched_model|duplicate_custom_id", "", K.INVALID_REQUEST),
    (D, 400, "model_not_found", "The model is not supported by the Batch API", K.MODEL_MISSING),
    (O, 401, "invalid_api_key", "Incorrect API key provided: sk-abc", K.AUTH),
    (O, 403, "unsupported_country_region_territory", "", K.AUTH),
    (O, 404, "model_not_found", "", K.MODEL_MISSING),
    (O, 429, "insufficient_quota", QUOTA, K.QUOTA_EXHAUSTED),
    (O, 429, "billing_not_active", "", K.ARREARS),
    (O, 429, "rate_limit_exceeded", "Rate limit reached for x on requests per min (RPM)", K.RATE_REQUESTS),
    (O, 429, "rate_limit_exceeded", "Rate limit reached for x on tokens per min (TPM)", K.RATE_TOKENS),
    (O, 429, "rate_limit_exceeded", "Request too large for x on tokens per min (TPM): Limit 3", K.TOO_LARGE),
    (O, 400, "context_length_exceeded", "", K.TOO_LARGE),
    (O, 400, "content_policy_violation|content_filter", "", K.BLOCKED),
    (O, 503, "server_error", "Slow down", K.RATE_BURST),
    (O, 500, "server_error", "", K.OVERLOADED),
    (O, 200, "server_error", "", K.OVERLOADED),
    (G, 400, "invalid_request_error", "Invalid format", K.INVALID_REQUEST),
    (G, 400, "invalid_request_error", "Content Exists Risk", K.BLOCKED),
    (G, 400, "invalid_request_error", "Model Not Exist", K.MODEL_MISSING),
    (G, 401, "invalid_request_error", "Authentication Fails", K.AUTH),
    (G, 402, "invalid_request_error", "Insufficient Balance", K.ARREARS),
    (G, 422, "invalid_request_error", "Invalid parameters", K.INVALID_REQUEST),
    (G, 429, "invalid_request_error", "Rate limit reached", K.RATE_REQUESTS),
    (G, 500, "server_error", "", K.OVERLOADED),
    (G, 503, "server_error", "", K.OVERLOADED),
    (G, 400, "BadRequestError", "This model's maximum context length is 4096 tokens.", K.TOO_LARGE),
    (G, 400, "BadRequestError", "However, the model's context length is only 4096 tokens.", K.TOO_LARGE),
    (G, 400, "BadRequestError", "x (length 9) is longer than the maximum model length of 8", K.TOO_LARGE),
    (G, 400, "context_length_exceeded", "", K.TOO_LARGE),
    (G, 404, "NotFoundError", "The model `x` does not exist.", K.MODEL_MISSING),
    (G, 400, "exceed_context_size_error", "", K.TOO_LARGE),
    (G, 500, "exceed_context_size_error", "", K.TOO_LARGE),
    (G, 501, "not_supported_error", "", K.INVALID_REQUEST),
    (G, 503, "unavailable_error", "Loading model", K.NOT_READY),
    (G, 404, "api_error", 'model "x" not found, try pulling it first', K.MODEL_MISSING),
    (G, 429, "insufficient_quota", QUOTA, K.QUOTA_EXHAUSTED),
]
DOCUMENTED_ROWS = [
    pytest.param(dialect, status, code, message, kind, id=f"{dialect}-{status}-{code}-{message[:24]}")
    for dialect, status, codes, message, kind in DOCUMENTED
    for code in codes.split("|")
]


@pytest.mark.parametrize(("dialect", "status", "code", "message", "kind"), DOCUMENTED_ROWS)
def test_a_documented_refusal_has_its_kind(
    dialect: Dialect, status: int, code: str, message: str, kind: FailureKind
) -> None:
    assert classify(dialect, status, code, message) is kind


@pytest.mark.parametrize(
    ("dialect", "table"),
    [
        (D, failure_codes.DASHSCOPE),
        (O, failure_codes.OPENAI),
        (G, failure_codes.GENERIC),
        (O, failure_codes.COMMON),
        (G, failure_codes.COMMON),
    ],
)
def test_no_row_of_a_table_is_hidden_by_one_above_it(
    dialect: Dialect, table: tuple[failure_codes.Rule, ...]
) -> None:
    for rule in table:
        for code in rule.codes or ("",):
            said = " ".join((*rule.begins[:1], *rule.says[:1]))
            status = rule.statuses[0] if rule.statuses else 418
            assert classify(dialect, status, code, said) is rule.kind, (rule, code)


def test_nothing_that_ends_the_run_is_told_by_words_a_row_could_have_put_there() -> None:
    for rule in (
        *failure_codes.DASHSCOPE,
        *failure_codes.OPENAI,
        *failure_codes.GENERIC,
        *failure_codes.COMMON,
    ):
        assert POLICIES[rule.kind].ends == "row" or not rule.says, rule
    quoted = "Bad value: 'Model not exist. Insufficient Balance. Free allocated quota exceeded.'"
    for dialect in Dialect:
        assert classify(dialect, 400, "", quoted) is K.INVALID_REQUEST


def test_every_kind_has_a_policy_and_only_the_account_and_the_server_end_a_run() -> None:
    assert set(POLICIES) == set(FailureKind)
    assert {kind for kind, policy in POLICIES.items() if policy.ends == "run"} == {
        K.AUTH,
        K.ARREARS,
        K.QUOTA_EXHAUSTED,
        K.MODEL_MISSING,
        K.CERTIFICATE,
    }


def test_every_policy_is_complete_in_itself() -> None:
    for kind, policy in POLICIES.items():
        assert policy.retry == (policy.backoff is not None), kind
        assert not (policy.retry and policy.ends == "run"), kind
        assert policy.status not in (Status.OK, Status.TRUNCATED), kind
        assert (policy.give_up_after_s is None) == (policy.becomes is None), kind
        assert policy.becomes is None or POLICIES[policy.becomes].ends == "run", kind
    assert POLICIES[K.BLOCKED].status is Status.BLOCKED
    assert POLICIES[K.INVALID_ANSWER].status is Status.INVALID
    assert POLICIES[K.ROW_SUSPECT].max_attempts == 2


@pytest.mark.parametrize("dialect", Dialect)
def test_every_http_status_has_a_kind_with_a_policy(dialect: Dialect) -> None:
    kinds = {status: classify(dialect, status, "", "") for status in range(400, 600)}
    assert set(kinds.values()) <= set(POLICIES)
    expected = {401: K.AUTH, 402: K.ARREARS, 403: K.AUTH, 404: K.MODEL_MISSING, 407: K.AUTH, 408: K.TIMEOUT}
    expected |= {409: K.OVERLOADED, 413: K.TOO_LARGE, 425: K.NOT_READY, 429: K.RATE_REQUESTS}
    expected |= {501: K.INVALID_REQUEST, 505: K.INVALID_REQUEST}
    for status, kind in kinds.items():
        unknown = K.INVALID_REQUEST if status < 500 else K.OVERLOADED
        assert kind is expected.get(status, unknown), status


def test_an_unknown_code_does_not_change_what_the_status_says() -> None:
    assert classify(D, 418, "Teapot", "short and stout") is K.INVALID_REQUEST
    assert classify(D, 599, "Teapot", "short and stout") is K.OVERLOADED
    assert classify(D, 200, "Teapot", "short and stout") is K.ROW_SUSPECT


@given(st.sampled_from(Dialect), st.integers(100, 999), st.text(), st.text())
def test_any_refusal_has_a_kind(dialect: Dialect, status: int, code: str, message: str) -> None:
    assert classify(dialect, status, code, message) in POLICIES


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:59:30 GMT"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 13:00:00 GMT"}, MAX_RETRY_AFTER_S),
        ({"retry-after": "86400"}, MAX_RETRY_AFTER_S),
        ({"retry-after": "1795000000"}, None),
        *(({"retry-after": bad}, None) for bad in ("-1", "nan", "inf", "1e3", "", "soon", "١٢", "9" * 400)),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "250ms"}, 0.25),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h2m3s"}, MAX_RETRY_AFTER_S),
        ({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "2s",
            },
            2.0,
        ),
    ],
)
def test_the_wait_the_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


@given(
    st.dictionaries(
        st.sampled_from(sorted(RETRY_HEADERS)), st.text() | st.from_regex(r"[0-9.mshd:, GMT]{1,20}")
    )
)
def test_no_header_makes_the_wait_raise_or_grow_beyond_its_bound(headers: dict[str, str]) -> None:
    found = retry_after_s(headers, NOW)
    assert found is None or 0 <= found <= MAX_RETRY_AFTER_S


def test_backoff_doubles_up_to_its_bound_with_the_last_share_at_random() -> None:
    backoff = Backoff(initial_s=2, max_s=60)
    assert [backoff.wait_s(n, 1.0) for n in (1, 2, 3, 4, 5, 6, 5000)] == [2, 4, 8, 16, 32, 60, 60]
    assert backoff.wait_s(1, 0.0) == 1
    assert Backoff(initial_s=2, max_s=60, jitter=0).wait_s(2, 0.7) == 4


@pytest.mark.parametrize(
    ("finish_reason", "partial", "status"),
    [
        ("stop", False, Status.OK),
        ("tool_calls", False, Status.OK),
        ("length", False, Status.TRUNCATED),
        ("stop", True, Status.TRUNCATED),
        (None, True, Status.TRUNCATED),
        ("content_filter", False, Status.BLOCKED),
    ],
)
def test_the_status_a_completion_has(finish_reason: str | None, partial: bool, status: Status) -> None:
    assert status_of(Completion("text", finish_reason, Usage(), partial=partial)) is status


def test_a_foreign_message_becomes_one_short_printable_line_without_keys() -> None:
    assert one_line("two\r\n\tlines\x1b[31m \u2028 end") == "two lines [31m end"
    assert one_line("provided: sk-abcd1234****wxyz.") == "provided: sk-...."
    assert len(one_line("x" * 10_000)) == 500


# What httpx may raise below a transport, and what our httpx core makes of it when nothing had been answered.
RAISED_BELOW = {
    "TransportError": K.TRANSPORT,
    "TimeoutException": K.TIMEOUT,
    "ConnectTimeout": K.TIMEOUT,
    "ReadTimeout": K.TIMEOUT,
    "WriteTimeout": K.TIMEOUT,
    "PoolTimeout": K.TIMEOUT,
    "NetworkError": K.TRANSPORT,
    "ConnectError": K.TRANSPORT,
    "ReadError": K.TRANSPORT,
    "WriteError": K.TRANSPORT,
    "CloseError": K.TRANSPORT,
    "ProtocolError": K.TRANSPORT,
    "LocalProtocolError": K.TRANSPORT,
    "RemoteProtocolError": K.TRANSPORT,
    "ProxyError": K.TRANSPORT,
    "UnsupportedProtocol": K.TRANSPORT,
}
# Only httpx's client and its response object raise these, and a transport uses neither.
RAISED_ABOVE = {
    "HTTPError",
    "RequestError",
    "HTTPStatusError",
    "TooManyRedirects",
    "DecodingError",
    "InvalidURL",
    "CookieConflict",
    "StreamError",
    "StreamConsumed",
    "StreamClosed",
    "ResponseNotRead",
    "RequestNotRead",
}


def test_every_exception_class_of_httpx_is_accounted_for() -> None:
    found = {name for name, it in vars(httpx).items() if inspect.isclass(it) and issubclass(it, Exception)}
    assert found == set(RAISED_BELOW) | RAISED_ABOVE


@pytest.mark.parametrize("name", RAISED_BELOW)
def test_an_exception_of_httpx_becomes_a_failure_of_its_kind(name: str) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise getattr(httpx, name)("it broke")

    async def send() -> object:
        endpoint = Endpoint(url="http://127.0.0.1:9/v1/chat/completions", headers={}, max_connections=1)
        transport = HttpxTransport(endpoint, httpx.MockTransport(fail))
        try:
            return await transport.send(Request(0, "0", "key", b"{}", 1))
        finally:
            await transport.aclose()

    failure = asyncio.run(send())
    assert isinstance(failure, Failure)
    assert failure.kind is RAISED_BELOW[name]
