"""The documented error answers of the compatible mode: status, code and message, and their body.

Facts only, from the provider's error pages (help.aliyun.com/zh/model-studio/error-code); which request gets
which one is decided elsewhere.
"""

from dataclasses import dataclass

import orjson

from pipeline.simulator.faults import FaultKind


@dataclass(frozen=True, slots=True)
class Refusal:
    """One documented error answer."""

    status: int
    code: str
    message: str
    type: str | None = None  # the same as the code where it is not given

    def body(self, request_id: str) -> bytes:
        error = {"message": self.message, "type": self.type or self.code, "param": None, "code": self.code}
        return orjson.dumps({"error": error, "id": f"chatcmpl-{request_id}", "request_id": request_id})


def invalid_parameter(message: str) -> Refusal:
    return Refusal(
        400,
        "invalid_parameter_error",
        f"<400> InternalError.Algo.InvalidParameter: {message}",
        "invalid_request_error",
    )


def model_not_found(model: str) -> Refusal:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return Refusal(404, "model_not_found", message, "invalid_request_error")


NOT_JSON = Refusal(400, "BadRequest.IllegalInput", "The input parameter requires json format.")
EMPTY_MODEL = Refusal(400, "BadRequest.EmptyModel", 'Required parameter "model" missing from request.')
EMPTY_INPUT = Refusal(400, "BadRequest.EmptyInput", "Required input parameter missing from request.")
TOO_LARGE = Refusal(400, "BadRequest.TooLarge", "Payload Too Large.")
WORD_JSON_MISSING = invalid_parameter(
    "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
)
NOT_STREAMED = invalid_parameter("The simulator does not stream yet: send stream=false or leave it out.")
WRONG_KEY = Refusal(401, "invalid_api_key", "Incorrect API key provided.", "invalid_request_error")
NOT_FOUND = Refusal(
    404, "NotFound", "There is nothing at this path; ask /compatible-mode/v1/chat/completions."
)
METHOD_NOT_ALLOWED = Refusal(405, "UnsupportedOperation", "This path does not take this method.")

BY_FAULT: dict[FaultKind, Refusal] = {
    FaultKind.LIMIT_REQUESTS: Refusal(
        429,
        "limit_requests",
        "You have exceeded your current request limit. For details, see: "
        "https://help.aliyun.com/zh/model-studio/error-code#rate-limit",
    ),
    FaultKind.LIMIT_TOKENS: Refusal(
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    FaultKind.LIMIT_BURST: Refusal(
        429,
        "limit_burst_rate",
        "Request rate increased too quickly. To ensure system stability, please adjust your client logic to "
        "scale requests more smoothly over time.",
    ),
    FaultKind.INTERNAL_ERROR: Refusal(
        500, "internal_error", "An internal error has occurred, please try again later."
    ),
    FaultKind.UNAVAILABLE: Refusal(503, "ModelUnavailable", "Model is unavailable, please try again later."),
    FaultKind.BLOCKED: Refusal(
        400, "data_inspection_failed", "Input text data may contain inappropriate content."
    ),
    FaultKind.ERROR_200: Refusal(200, "internal_error", "The gateway answered, the model did not."),
}

HTML_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)
GARBAGE = b'{"id": "chatcmpl-0", "choices": [{"message": {"content": "no end'
