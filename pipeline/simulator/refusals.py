"""An error answer: status, code and message, its body in either dialect, and the ones the checks give.

Facts only, from the provider's page of error codes (help.aliyun.com/zh/model-studio/error-code); which request
gets which one is decided elsewhere. All codes that are said on demand stand in `documented`.
"""

from dataclasses import dataclass

import orjson

from pipeline.simulator.faults import FaultKind

_SAME = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One error answer; `code` is the compatible mode's, `native` the other's where it has its own name."""

    status: int
    code: str
    message: str
    type: str = _SAME
    native: str = _SAME

    def error(self) -> dict[str, str | None]:
        """The error object of the compatible mode."""
        return {"message": self.message, "type": self.type or self.code, "param": None, "code": self.code}

    def body(self, request_id: str) -> bytes:
        return orjson.dumps({"error": self.error(), "id": f"chatcmpl-{request_id}", "request_id": request_id})

    def native_body(self, request_id: str) -> bytes:
        code = self.native or self.code
        return orjson.dumps({"code": code, "message": self.message, "request_id": request_id})


def refused_parameter(message: str) -> Refusal:
    """What the gateway says of a request that the model cannot take."""
    return Refusal(400, "invalid_parameter_error", message, "invalid_request_error", "InvalidParameter")


def invalid_parameter(message: str) -> Refusal:
    """What the model's own checks say of a parameter: the same code, the message prefixed."""
    return refused_parameter(f"<400> InternalError.Algo.InvalidParameter: {message}")


def model_not_found(model: str) -> Refusal:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return Refusal(404, "model_not_found", message, "invalid_request_error", "ModelNotFound")


def thinking_not_supported(model: str) -> Refusal:
    message = f"The model {model} does not support enable_thinking."
    native = "InvalidParameter.NotSupportEnableThinking"
    return Refusal(400, "invalid_parameter_error", message, "invalid_request_error", native)


NOT_JSON = Refusal(400, "BadRequest.IllegalInput", "The input parameter requires json format.")
EMPTY_MODEL = Refusal(400, "BadRequest.EmptyModel", 'Required parameter "model" missing from request.')
EMPTY_INPUT = Refusal(400, "BadRequest.EmptyInput", "Required input parameter missing from request.")
TOO_LARGE = Refusal(400, "BadRequest.TooLarge", "Payload Too Large.")
NO_ROOM = Refusal(
    503, "ModelServingError", "Too many requests are being read at once. Please try again later."
)
NO_PROMPT = refused_parameter('Either "prompt" or "messages" must exist and cannot both be none')
WRONG_URL = refused_parameter("url error, please check url！")
WRONG_MODALITY = refused_parameter("The item of content should be a message of a certain modal.")
NOT_A_STRING = refused_parameter("input content must be a string.")
UNEXPECTED_ITEM = invalid_parameter("Unexpected item type in content.")
NO_USER_MESSAGE = refused_parameter("The input messages do not contain elements with the role of user.")
STRAY_TOOL_MESSAGE = refused_parameter(
    'messages with role "tool" must be a response to a preceeding message with "tool_calls".'
)
WORD_JSON_MISSING = invalid_parameter(
    "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
)
JSON_WHILE_THINKING = refused_parameter("Json mode response is not supported when enable_thinking is true")
STREAM_ONLY = refused_parameter(
    "This model only support stream mode, please enable the stream parameter to access the model."
)
THINKING_NOT_STREAMED = refused_parameter(
    "parameter.enable_thinking must be set to false for non-streaming calls"
)
THINKING_ONLY = refused_parameter("The value of the enable_thinking parameter is restricted to True.")
THINKING_NOT_INCREMENTAL = refused_parameter(
    'The incremental_output parameter must be "true" when enable_thinking is true'
)
NOT_INCREMENTAL = refused_parameter("The incremental_output parameter of this model cannot be set to False.")
THINKING_AS_TEXT = refused_parameter(
    'The result_format parameter must be "message" when enable_thinking is true'
)
NO_SEARCH = refused_parameter("This model does not support enable_search.")
TOOL_NAMED_SEARCH = refused_parameter("Tool names are not allowed to be [search]")
WRONG_TOOL_CHOICE = invalid_parameter('tool_choice is one of the strings that should be ["none", "auto"]')
WRONG_STOP = invalid_parameter(
    'The "stop" parameter must be of type "str", "list[str]", "list[int]", or "list[list[int]]", and all '
    "elements within the list must be of the same type."
)
FILE_NOT_READY = refused_parameter("File parsing in progress, please try again later.")
FILE_NOT_FOUND = refused_parameter("File not found.")
TOO_MANY_FILES = refused_parameter("Too many files provided.")
TOO_MANY_DOCUMENT_TOKENS = refused_parameter(
    "Total message token length exceed model limit (10000000 tokens)."
)
FILE_QUOTA = refused_parameter("Upload file number exceed limit.")
FILE_CAPACITY = refused_parameter("Upload file capacity exceed limit.")
BAD_FILE_FORMAT = Refusal(400, "BadRequest.UnsupportedFileFormat", "Input file format is not supported.")
INVALID_MEDIA_URL = invalid_parameter(
    "The provided URL does not appear to be valid. Ensure it is correctly formatted."
)
MEDIA_NOT_FOUND = Refusal(
    400,
    "invalid_parameter_error",
    "Failed to find the requested media resource during the data inspection process.",
    "invalid_request_error",
    "InvalidParameter.DataInspection",
)
MEDIA_NOT_ALLOWED = Refusal(
    400,
    "invalid_parameter_error",
    "Don't have authorization to access the media resource during the data inspection process.",
    "invalid_request_error",
    "InvalidParameter.DataInspection",
)
UNREADABLE_IMAGE = Refusal(
    400,
    "invalid_parameter_error",
    "Failed to decode the image during the data inspection.",
    "invalid_request_error",
    "InvalidParameter.DataInspection",
)
NO_ASYNC_CALLS = Refusal(
    403,
    "access_denied",
    "Current user api does not support asynchronous calls.",
    native="AccessDenied",
)
POLICY_EXPIRED = Refusal(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
WRONG_KEY = Refusal(
    401, "invalid_api_key", "Incorrect API key provided.", "invalid_request_error", "InvalidApiKey"
)
NOT_FOUND = Refusal(
    404, "NotFound", "There is nothing at this path; ask /compatible-mode/v1/chat/completions."
)
METHOD_NOT_ALLOWED = Refusal(405, "UnsupportedOperation", "This path does not take this method.")

LIMIT_REQUESTS = Refusal(
    429,
    "limit_requests",
    "You have exceeded your current request limit. For details, see: "
    "https://help.aliyun.com/zh/model-studio/error-code#rate-limit",
    native="Throttling.RateQuota",
)
BLOCKED_OUTPUT = Refusal(
    400,
    "data_inspection_failed",
    "Output data may contain inappropriate content.",
    native="DataInspectionFailed",
)

BY_FAULT: dict[FaultKind, Refusal] = {
    FaultKind.LIMIT_REQUESTS: LIMIT_REQUESTS,
    FaultKind.LIMIT_TOKENS: Refusal(
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
        native="Throttling.AllocationQuota",
    ),
    FaultKind.LIMIT_BURST: Refusal(
        429,
        "limit_burst_rate",
        "Request rate increased too quickly. To ensure system stability, please adjust your client logic to "
        "scale requests more smoothly over time.",
        native="Throttling.BurstRate",
    ),
    FaultKind.INTERNAL_ERROR: Refusal(
        500,
        "internal_error",
        "An internal error has occurred, please try again later.",
        native="InternalError",
    ),
    FaultKind.UNAVAILABLE: Refusal(503, "ModelUnavailable", "Model is unavailable, please try again later."),
    FaultKind.BLOCKED: Refusal(
        400,
        "data_inspection_failed",
        "Input text data may contain inappropriate content.",
        native="DataInspectionFailed",
    ),
    FaultKind.ERROR_200: Refusal(
        200, "internal_error", "The gateway answered, the model did not.", native="InternalError"
    ),
    FaultKind.PREFIXED_400: invalid_parameter("Range of input length should be [1, 129024]"),
}

HTML_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)
GARBAGE = b'{"id": "chatcmpl-0", "choices": [{"message": {"content": "no end'
