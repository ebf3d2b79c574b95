"""The providers' documented error codes and messages, as data: which failure kind each one is.

Only rows live here; how they are matched and what a kind entails stands in `failures.py`. Within a table the
first row that matches wins, so a narrower row stands above a wider one. A row matches when each condition it
gives holds:

    codes     one of these, in any style: `Throttling.RateQuota`, `throttling_rate_quota` and `THROTTLING
              RATEQUOTA` are equal, and `Throttling` also matches every code below it (`Throttling.Anything`)
    says      one of these occurs in the message, whatever the case (plain text: a foreign message meets no
              regular expression)
    begins    the message begins with one of these; what ends a run is told by this, never by `says`, as a
              server may quote the row in its message
    statuses  the HTTP status is one of these; 200 stands for an error inside an answer that began well

Sources: Alibaba Cloud Model Studio, "Error codes" (help.aliyun.com/zh/model-studio/error-code, read May to
September 2026) and the error registry of its Python package dashscope 2.0.2; OpenAI, "Error codes" and "Rate
limits" guides; DeepSeek, "Error codes" (api-docs.deepseek.com); the sources of vLLM, llama.cpp's server and
Ollama. Checked 22 November 2026.
"""

from typing import NamedTuple

from pipeline.records import FailureKind as Kind


class Rule(NamedTuple):
    """One row of a table; an empty condition holds for everything."""

    kind: Kind
    codes: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()


DASHSCOPE: tuple[Rule, ...] = (
    # Messages that say more than their code: most of these come as InvalidParameter.
    Rule(Kind.NOT_READY, says=("file parsing in progress",)),
    Rule(Kind.BLOCKED, says=("inappropriate content",)),
    Rule(
        Kind.QUOTA_EXHAUSTED,
        begins=("free allocated quota exceeded", "the free tier of the model has been exhausted"),
    ),
    Rule(Kind.MODEL_MISSING, begins=("model not exist", "unsupported model")),
    Rule(
        Kind.TOO_LARGE,
        says=(
            "range of input length should be",
            "payload too large",
            "exceeded limit on max bytes per data-uri item",
            "total message token length exceed",
            "exceeds size limit",
        ),
    ),
    Rule(
        Kind.ROW_SUSPECT,
        says=("download multimodal file timed out", "failed to download multimodal content"),
    ),
    # Account and model: nothing will succeed until somebody acts.
    Rule(Kind.QUOTA_EXHAUSTED, codes=("AllocationQuota.FreeTierOnly",)),
    Rule(Kind.ARREARS, codes=("Arrearage", "PrepaidBillOverdue", "PostpaidBillOverdue")),
    Rule(
        Kind.AUTH,
        codes=(
            "InvalidApiKey",  # also a good key of another region or plan
            "NOT AUTHORIZED",
            "AccessDenied",
            "Model.AccessDenied",
            "Workspace.AccessDenied",
            "App.AccessDenied",
            "BailianGateway.Workspace.NotAuthorised",  # arrives inside HTTP 200
            "WorkSpaceNotFound",
            "CommodityNotPurchased",
        ),
    ),
    Rule(Kind.MODEL_MISSING, codes=("ModelNotFound", "model_not_supported", "NotFound")),
    # Rates. `insufficient_quota` is the throttle on tokens here, unlike OpenAI's.
    Rule(Kind.RATE_BURST, codes=("Throttling.BurstRate", "limit_burst_rate")),
    Rule(Kind.RATE_BURST, begins=("request rate increased too quickly",)),
    Rule(Kind.RATE_TOKENS, codes=("Throttling.AllocationQuota", "insufficient_quota")),
    Rule(
        Kind.RATE_TOKENS,
        begins=("you exceeded your current quota", "allocated quota exceeded"),
        statuses=(200, 429),
    ),
    Rule(
        Kind.OVERLOADED,
        says=("batch requests are being throttled due to system capacity",),
    ),
    Rule(Kind.OVERLOADED, codes=("concurrency_limit_exceeded",)),  # fewer at once is the cure
    Rule(
        Kind.RATE_REQUESTS,
        codes=("Throttling", "Throttling.RateQuota", "LimitRequests", "rate_limit_exceeded"),
    ),
    # The row.
    Rule(
        Kind.ROW_SUSPECT,
        codes=(
            "InvalidParameter.DataInspection",  # the inspection could not fetch the media
            "InvalidURL.ConnectionRefused",
            "InvalidURL.Timeout",
            "APIConnectionError",
            "ClientDisconnect",
        ),
    ),
    Rule(
        Kind.BLOCKED,
        codes=("DataInspectionFailed", "IPInfringementSuspect", "CustomRoleBlocked", "FaqRuleBlocked"),
    ),
    Rule(Kind.TOO_LARGE, codes=("BadRequest.TooLarge",)),
    Rule(
        Kind.INVALID_REQUEST,
        codes=("InternalError.Algo.InvalidParameter", "mismatched_model", "duplicate_custom_id"),
    ),
    Rule(Kind.INVALID_REQUEST, codes=("ServiceUnavailableError",), statuses=(400,)),  # mis-shaped roles
    Rule(
        Kind.INVALID_REQUEST,
        codes=(
            "InvalidParameter",
            "invalid_parameter_error",
            "invalid_request_error",
            "BadRequest",
            "InvalidURL",
            "InvalidSchema",
            "UnsupportedOperation",
        ),
        statuses=(200, 400),
    ),
    Rule(
        Kind.ROW_SUSPECT,
        says=("list index out of range", "role must be in [user, assistant]", "expecting ',' delimiter"),
        statuses=(200, 500),
    ),
    Rule(Kind.ROW_SUSPECT, codes=("InternalError.Algo",)),
    # The service.
    Rule(Kind.TIMEOUT, codes=("InternalError.Timeout", "RequestTimeOut")),
    Rule(
        Kind.OVERLOADED,
        codes=(
            "InternalError",
            "SystemError",
            "ModelServiceFailed",
            "ModelServingError",
            "ModelUnavailable",
            "GatewayTimeout",
            "service_unavailable",
            "Conflict",
        ),
        statuses=(200, 409, 500, 502, 503, 504),
    ),
)

OPENAI: tuple[Rule, ...] = (
    Rule(Kind.QUOTA_EXHAUSTED, codes=("insufficient_quota", "billing_hard_limit_reached")),
    Rule(Kind.ARREARS, codes=("billing_not_active",)),
    Rule(Kind.AUTH, codes=("invalid_api_key", "unsupported_country_region_territory")),
    # A single request above the per-minute limit is refused as a rate, but can never pass.
    Rule(Kind.TOO_LARGE, begins=("request too large for",), statuses=(200, 429)),
    Rule(Kind.RATE_TOKENS, says=("tokens per min", "tokens per day"), statuses=(200, 429)),
    Rule(Kind.RATE_REQUESTS, codes=("rate_limit_exceeded",)),
    Rule(Kind.RATE_BURST, begins=("slow down",), statuses=(503,)),
    Rule(Kind.BLOCKED, codes=("content_policy_violation", "invalid_prompt")),
    Rule(Kind.TOO_LARGE, codes=("string_above_max_length",)),
    Rule(Kind.ROW_SUSPECT, says=("timeout while downloading",), statuses=(400,)),
)

GENERIC: tuple[Rule, ...] = (
    # llama.cpp server: the context overflow comes with status 400 or 500, a feature it lacks with 501.
    Rule(Kind.TOO_LARGE, codes=("exceed_context_size_error",)),
    Rule(Kind.NOT_READY, says=("loading model",), statuses=(200, 503)),
    Rule(Kind.INVALID_REQUEST, codes=("not_supported_error",)),
    # vLLM: the wording changed over its versions, these words did not.
    Rule(Kind.TOO_LARGE, says=("longer than the maximum model length",)),
    # DeepSeek sends `invalid_request_error` with nearly every status, so only its words count.
    Rule(Kind.BLOCKED, begins=("content exists risk",)),
    Rule(Kind.ARREARS, begins=("insufficient balance",)),
    Rule(Kind.MODEL_MISSING, begins=("model not exist",)),
)

COMMON: tuple[Rule, ...] = (
    Rule(Kind.TOO_LARGE, codes=("context_length_exceeded", "request_too_large")),
    Rule(
        Kind.TOO_LARGE,
        says=("maximum context length", "model's context length"),
        statuses=(200, 400, 413, 422),
    ),
    Rule(Kind.MODEL_MISSING, codes=("model_not_found",)),
    Rule(Kind.BLOCKED, codes=("content_filter",)),
    Rule(Kind.TIMEOUT, codes=("request_timeout",)),
    # Wide names: they count only inside an answer with a good status, which says nothing itself.
    Rule(Kind.AUTH, codes=("authentication_error", "permission_error"), statuses=(200,)),
    Rule(
        Kind.INVALID_REQUEST,
        codes=("invalid_request_error", "BadRequestError"),
        statuses=(200,),
    ),
    Rule(
        Kind.RATE_REQUESTS,
        codes=("rate_limit_error", "RateLimitError"),
        statuses=(200,),
    ),
    Rule(
        Kind.OVERLOADED,
        codes=("server_error", "InternalServerError", "overloaded_error"),
        statuses=(200,),
    ),
)
