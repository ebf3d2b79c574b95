"""Every documented error code, so that any of them can be asked for, and how a demand is written.

A demand stands in the header `X-Simulate` or, as `[[simulate:DEMAND]]`, anywhere in the body:

    429                         a fault kind of `faults`
    Throttling.RateQuota        a documented code, in the name of either dialect
    InvalidParameter: any text  a code with a message of one's own
    DEMAND*2                    only for the first two requests with this body: the third fares better

Codes, messages and statuses: the provider's page of error codes (help.aliyun.com/zh/model-studio/error-code).
"""

import re
from difflib import get_close_matches
from typing import NamedTuple

from pipeline.errors import JobError
from pipeline.simulator.faults import NO_FAULT, FaultKind
from pipeline.simulator.refusals import Refusal

# Status, native code, the compatible mode's (where it differs), message.
_ROWS: tuple[tuple[int, str, str, str], ...] = (
    (400, "InvalidParameter", "invalid_parameter_error", "Range of input length should be [1, 129024]"),
    (400, "InvalidParameter", "invalid_request_error", "you must provide a model parameter."),
    (
        400,
        "InvalidParameter.DataInspection",
        "",
        "Unable to download the media resource during the data inspection process.",
    ),
    (
        400,
        "InvalidParameter.NotSupportEnableThinking",
        "",
        "The model xxx does not support enable_thinking.",
    ),
    (
        400,
        "DataInspectionFailed",
        "data_inspection_failed",
        "Input text data may contain inappropriate content.",
    ),
    (400, "IPInfringementSuspect", "", "Input data is suspected of being involved in IP infringement."),
    (
        400,
        "CustomRoleBlocked",
        "",
        "Input or output data may contain inappropriate content with custom rule.",
    ),
    (400, "FaqRuleBlocked", "", "Input or output data is blocked by faq rule."),
    (400, "Arrearage", "", "Access denied, please make sure your account is in good standing."),
    (400, "BadRequest.EmptyInput", "", "Required input parameter missing from request."),
    (400, "BadRequest.EmptyParameters", "", 'Required parameter "parameters" missing from request.'),
    (400, "BadRequest.EmptyModel", "", 'Required parameter "model" missing from request.'),
    (400, "BadRequest.IllegalInput", "", "The input parameter requires json format."),
    (400, "BadRequest.InputDownloadFailed", "", "Failed to download the input file."),
    (400, "BadRequest.UnsupportedFileFormat", "", "Input file format is not supported."),
    (400, "BadRequest.TooLarge", "", "Payload Too Large."),
    (400, "BadRequest.ResourceNotExist", "", "The Required resource not exist."),
    (400, "BadRequestException", "", "Invalid part type."),
    (400, "InvalidURL", "", "Invalid URL provided in your request."),
    (400, "InvalidURL.ConnectionRefused", "", "Connection to xxx refused, please provide available URL."),
    (400, "InvalidURL.Timeout", "", "Download xxx timeout, please check network connection."),
    (400, "InvalidSchema", "", "Database schema is invalid for text2sql."),
    (400, "UnsupportedOperation", "", "The operation is unsupported on the referee object."),
    (
        400,
        "ServiceUnavailableError",
        "",
        "Role must be user or assistant and Content length must be greater than 0.",
    ),
    (400, "APIConnectionError", "", "Connection error."),
    (400, "ClientDisconnect", "", "Client disconnected before task finished!"),
    (401, "InvalidApiKey", "invalid_api_key", "Incorrect API key provided."),
    (
        401,
        "NOT AUTHORIZED",
        "",
        "Access denied: Either you are not authorized to access this workspace, or the workspace does not exist.",
    ),
    (403, "AccessDenied", "access_denied", "Access denied."),
    (
        403,
        "AccessDenied.Unpurchased",
        "",
        "Access to model denied. Please make sure you are eligible for using the model.",
    ),
    (403, "Model.AccessDenied", "", "Model access denied."),
    (403, "Workspace.AccessDenied", "", "Workspace access denied."),
    (403, "App.AccessDenied", "", "App access denied."),
    (403, "Endpoint.AccessDenied", "", "Workspace endpoint access denied."),
    (
        403,
        "AllocationQuota.FreeTierOnly",
        "",
        "The free tier of the model has been exhausted. If you wish to continue access the model on a paid basis, "
        'please disable the "use free tier only" mode in the management console.',
    ),
    (404, "ModelNotFound", "model_not_found", "Model can not be found."),
    (404, "ModelNotSupported", "model_not_supported", "Unsupported model xxx for OpenAI compatibility mode."),
    (404, "WorkSpaceNotFound", "", "WorkSpace can not be found."),
    (404, "NotFound", "", "Not found!"),
    (408, "request_timeout", "", "The request timed out."),
    (409, "Conflict", "", "Model instance xxx already exists, please specify a suffix."),
    (413, "RequestTooLarge", "request_too_large", "The request exceeds the maximum allowed size of 10MB."),
    (429, "Throttling", "", "Requests throttling triggered."),
    (
        429,
        "Throttling.RateQuota",
        "limit_requests",
        "Requests rate limit exceeded, please try again later.",
    ),
    (
        429,
        "Throttling.AllocationQuota",
        "insufficient_quota",
        "Allocated quota exceeded, please increase your quota limit.",
    ),
    (
        429,
        "Throttling.BurstRate",
        "limit_burst_rate",
        "Request rate increased too quickly. To ensure system stability, please adjust your client logic to scale "
        "requests more smoothly over time.",
    ),
    (429, "LimitRequests", "", "You have exceeded your request limit."),
    (429, "ConcurrencyLimitExceeded", "concurrency_limit_exceeded", "Too many concurrent requests."),
    (429, "RateLimitExceeded", "rate_limit_exceeded", "Requests rate limit exceeded."),
    (429, "CommodityNotPurchased", "", "Commodity has not purchased yet."),
    (429, "PrepaidBillOverdue", "", "The prepaid bill is overdue."),
    (429, "PostpaidBillOverdue", "", "The postpaid bill is overdue."),
    (500, "InternalError", "internal_error", "An internal error has occured, please try again later."),
    (500, "InternalError.Algo", "", "inference internal error."),
    (500, "InternalError.Timeout", "", "An internal timeout error has occured during execution."),
    (500, "SystemError", "", "An system error has occured, please try again later."),
    (500, "ModelServiceFailed", "", "Failed to request model service."),
    (500, "RequestTimeOut", "", "Request timed out, please try again later."),
    (
        503,
        "ModelServingError",
        "",
        "Too many requests. Your requests are being throttled due to system capacity limits. Please try again later.",
    ),
    (503, "ModelUnavailable", "", "Model is unavailable, please try again later."),
    (503, "ServiceUnavailable", "service_unavailable", "The service is unavailable."),
    (504, "GatewayTimeout", "", "The gateway timed out."),
    (
        200,
        "BailianGateway.Workspace.NotAuthorised",
        "",
        "Access to this workspace is not authorised.",
    ),
)

_INVALID = "invalid_request_error"
_TYPED = {"invalid_parameter_error": _INVALID, "invalid_api_key": _INVALID, "model_not_found": _INVALID}


def _by_name() -> dict[str, Refusal]:
    table: dict[str, Refusal] = {}
    for status, native, compatible, message in _ROWS:
        code = compatible or native
        refusal = Refusal(status, code, message, _TYPED.get(code, ""), native)
        table.setdefault(native.lower(), refusal)
        table.setdefault(code.lower(), refusal)
    return table


_TABLE = _by_name()
_FAULTS = {kind.value: kind for kind in FaultKind}
DOCUMENTED_CODES = tuple(dict.fromkeys(name for row in _ROWS for name in row[1:3] if name))
_MARK = b"[[simulate:"
_MARKED = re.compile(rb"\[\[simulate:([^\]]{1,300})\]\]")
_TIMES = re.compile(r"\*(\d{1,6})$")


class Demand(NamedTuple):
    """What is to go wrong, under the name it was asked by; neither fault nor refusal: nothing is."""

    name: str
    fault: FaultKind | None = None
    refusal: Refusal | None = None


def demanded(header: str | None, body: bytes, seen: int) -> Demand | None:
    """Read the demand of a request, the header's before the body's; None where there is none.

    `seen` counts the requests with this body. `JobError` names the nearest known demand to an unknown one.
    """
    if header is not None:
        return parse_demand(header, seen)
    if _MARK not in body:
        return None
    found = _MARKED.search(body)
    return parse_demand(found[1].decode("utf-8", "replace"), seen) if found else None


def parse_demand(text: str, seen: int = 1) -> Demand:
    """Read one demand; one whose times are over demands that nothing goes wrong."""
    text = text.strip()
    times = _TIMES.search(text)
    if times:
        text = text[: times.start()]
    name, colon, message = text.partition(":")
    name, message = name.strip(), message.strip()
    demand = _demand(name, message if colon else "")
    return Demand(NO_FAULT) if times and seen > int(times[1]) else demand


def _demand(name: str, message: str) -> Demand:
    if name == NO_FAULT:
        return Demand(name)
    if (fault := _FAULTS.get(name)) is not None:
        return Demand(name, fault=fault)
    refusal = _TABLE.get(name.lower())
    if refusal is None:
        known = [*_FAULTS, *DOCUMENTED_CODES]
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise JobError(f"unknown fault {name!r}; {hint}")
    if message:
        refusal = Refusal(refusal.status, refusal.code, message, refusal.type, refusal.native)
    return Demand(name, refusal=refusal)
