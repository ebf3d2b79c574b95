"""The OpenAI-compatible chat format, one whole answer at a time: requests to bytes, responses to records.

Spoken by DashScope's compatible mode, OpenAI, DeepSeek, vLLM, llama.cpp, Ollama and others, each in its own
accent; what they send is foreign, so nothing here trusts its shape and `decode` never raises. What an error
code means is not decided here but in `failures.py`. Streams are not read here.

A 200 is not yet an answer. It is a `Completion` if it is JSON with a choice in which the model said, called
or finished something; it is `partial` where the provider cut it (its header, or text without a finish
reason). Everything else is a `Failure`.
"""

import json
import re
from datetime import datetime
from typing import Any

import orjson

from pipeline.failures import RETRY_HEADERS, Dialect, classify, one_line, retry_after_s
from pipeline.records import Completion, Failure, FailureKind, Response, ToolCall, Usage

# The response headers that `decode` reads; a transport has to keep these.
HEADERS_READ = RETRY_HEADERS | {"x-request-id", "x-dashscope-partialresponse"}

# The server gave up on the answer in these: DeepSeek for want of capacity, vLLM and proxies when the engine
# let go.
_GIVEN_UP = frozenset({"insufficient_system_resource", "abort", "error"})
# No answer bills more; a larger number is not a count, and would not fit the column.
_MAX_TOKENS = 10**12
_MAX_NAME_CHARS = 200


class EncodeError(ValueError):
    """A prompt cannot be written as JSON; the message says where and why."""


def encode(model: str, messages: list[dict[str, Any]], params: dict[str, Any]) -> bytes:
    """The request body: model, messages, then every parameter at the top level, as UTF-8 JSON without
    escapes.

    Raises `EncodeError` for what JSON or UTF-8 cannot hold: half a surrogate pair, foreign objects, integers
    beyond 64 bits.
    """
    if "model" in params or "messages" in params:
        raise EncodeError("params holds `model` or `messages`, which have their own place in the job")
    try:
        return orjson.dumps({"model": model, "messages": messages, **params})
    except TypeError as error:
        raise EncodeError(_why_not_json(messages, params, error)) from error


def _why_not_json(messages: list[dict[str, Any]], params: dict[str, Any], error: TypeError) -> str:
    places = [(f"messages[{n}].{key}", value) for n, m in enumerate(messages) for key, value in m.items()]
    for where, value in [*places, *params.items()]:
        try:
            orjson.dumps(value)
        except TypeError as its_error:
            return f"{where} cannot be sent as JSON: {one_line(str(its_error))}"
    return f"the prompt cannot be sent as JSON: {one_line(str(error))}"


def decode(response: Response, dialect: Dialect, now: datetime) -> Completion | Failure:
    """What a response means. `now` (aware) counts only where the server names a date to wait for. Never
    raises.

    `content` is the first choice's text (parts joined; else the model's refusal). A choice that ends with
    `content_filter` is a completion, since it carries the usage that was billed: `failures.status_of` calls
    it blocked.
    """
    body = _loads(response.body)
    if 200 <= response.status < 300 and type(body) is dict:
        choices = body.get("choices")
        if type(choices) is list and choices and type(choices[0]) is dict:
            return _answer(response, body, choices)
    return _refusal(response, body, dialect, now)


def _answer(response: Response, body: dict[str, Any], choices: list[Any]) -> Completion | Failure:
    choice: dict[str, Any] = choices[0]
    if len(choices) > 1:
        choice = next((c for c in choices if type(c) is dict and c.get("index") == 0), choice)
    message = _dict(choice.get("message"))
    content = message.get("content")
    if type(content) is not str:
        content = _joined(content)
        if content is None:
            content = _str(message.get("refusal"))
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    calls = _tool_calls(message)
    finish = choice.get("finish_reason")
    if type(finish) is not str or finish in ("", "null"):
        finish = None
        if not content and not calls:
            return _unfinished(response, body, "no_answer", "the answer has neither text nor a finish reason")
    elif finish in _GIVEN_UP:
        failure = _unfinished(response, body, finish, f"the server gave up on the answer: {finish}")
        failure.kind = FailureKind.OVERLOADED
        return failure
    cut = response.headers.get("x-dashscope-partialresponse", "").strip().lower() == "true"
    return Completion(
        content=content,
        finish_reason=finish,
        usage=_usage(body.get("usage")),
        model=_str(body.get("model")),
        request_id=_request_id(response, body),
        reasoning_content=reasoning if type(reasoning) is str else None,
        tool_calls=calls,
        choices=_json(choices) if len(choices) > 1 or choice.get("logprobs") else None,
        partial=cut or finish is None,
    )


def _tool_calls(message: dict[str, Any]) -> list[ToolCall] | None:
    calls = message.get("tool_calls")
    if type(calls) is not list or not calls:
        legacy = message.get("function_call")
        if type(legacy) is not dict:
            return None
        calls = [{"function": legacy}]
    found = []
    for call in calls:
        if type(call) is dict:
            function = _dict(call.get("function"))
            arguments = function.get("arguments")
            if arguments is not None and type(arguments) is not str:
                arguments = _json(arguments)  # Ollama's own shape: an object
            found.append(ToolCall(_str(call.get("id")), _str(function.get("name")), arguments))
    return found or None


def _usage(usage: Any) -> Usage:
    if type(usage) is not dict:
        return Usage()
    given = _dict(usage.get("prompt_tokens_details"))
    made = _dict(usage.get("completion_tokens_details"))
    cached = _count(given.get("cached_tokens"))
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        # DeepSeek counts its cache hits beside the details
        cached_tokens=_count(usage.get("prompt_cache_hit_tokens")) if cached is None else cached,
        cache_write_tokens=_count(given.get("cache_creation_input_tokens")),
        reasoning_tokens=_count(made.get("reasoning_tokens")),
        raw=_json(usage),
    )


def _refusal(response: Response, body: Any, dialect: Dialect, now: datetime) -> Failure:
    status = response.status
    if type(body) is list and body:
        body = body[0]  # Google's compatible mode wraps its error in a list
    error = _error_of(body) if type(body) is dict else None
    if error is None:
        if status < 300:
            return _unfinished(response, _dict(body), *_what_is_missing(response.body, body))
        error = ("", "", _plain_text(response.body))
    code, number, message = error
    if status < 300 and number.isascii() and number.isdigit() and 400 <= int(number[:9]) <= 599:
        status = int(number)
    code = code or number
    return Failure(
        kind=classify(dialect, status, code, message),
        code=one_line(code, _MAX_NAME_CHARS) or f"http_{response.status}",
        message=one_line(message) or f"HTTP {response.status} without a message",
        http_status=response.status,
        request_id=_request_id(response, _dict(body)),
        retry_after_s=retry_after_s(response.headers, now),
    )


def _error_of(body: dict[str, Any]) -> tuple[str, str, str] | None:
    """Name, number and message of the error in a body; None if there is none.

    The error stands under `error` (object or text) or at the top level. The name is `code`, unless that is a
    number (vLLM, llama.cpp) or missing: then it is `type`.
    """
    error = body.get("error")
    if type(error) is str and error:
        error = {"code": body.get("code"), "message": error}
    elif type(error) is not dict or not error:
        error = body
    code, kind = error.get("code"), _str(error.get("type")) or ""
    message = error.get("message") or error.get("detail") or error.get("msg") or ""
    if type(message) is not str:
        message = _json(message) or ""  # FastAPI's detail is a list
    if type(code) is int:
        code = str(code)
    if type(code) is not str:
        code = ""
    if not (code or message or error is not body):
        return None
    return (kind, code, message) if not code or code.isdigit() else (code, "", message)


def _what_is_missing(raw: bytes, body: Any) -> tuple[str, str]:
    if not raw.strip():
        return "empty_body", "the answer is empty"
    if body is None:
        return "not_json", f"the answer is not JSON, or was cut: {_plain_text(raw)}"
    return "no_choices", f"the answer has no choices: {_plain_text(raw)}"


def _unfinished(response: Response, body: dict[str, Any], code: str, message: str) -> Failure:
    return Failure(
        kind=FailureKind.TRUNCATED_STREAM,
        code=code,
        message=one_line(message),
        http_status=response.status,
        request_id=_request_id(response, body),
        maybe_paid=True,  # a model may have worked on it
    )


def _request_id(response: Response, body: dict[str, Any]) -> str | None:
    found = response.headers.get("x-request-id") or body.get("request_id") or body.get("id")
    return found[:_MAX_NAME_CHARS] if type(found) is str else None


def _loads(raw: bytes) -> Any:
    """The JSON in a body, or None. The strict parser first; what it refuses, once more and leniently.

    Lenient: a byte order mark, blank lines before, `data:` before an error, broken UTF-8 and halves of
    surrogate pairs (replaced), NaN (null): the answer was paid for.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    text = raw.decode("utf-8-sig", "replace").strip()
    if text.startswith(("data:", "event:", "id:", ":")):
        frames = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        text = frames[0] if frames else ""
    try:
        lenient = json.loads(text, parse_constant=lambda _: None)
        return orjson.loads(json.dumps(lenient, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


_MARKUP = re.compile(r"<(style|script)\b.*?</\1>|<[^<>]*>", re.DOTALL | re.IGNORECASE)


def _plain_text(raw: bytes) -> str:
    """The readable beginning of a body that is not what was expected, such as a proxy's HTML page."""
    return one_line(_MARKUP.sub(" ", raw[:4000].decode("utf-8", "replace")))


def _joined(content: Any) -> str | None:
    """The text of a content that is a list of parts, as strings or `{"text": ...}`."""
    if type(content) is not list:
        return None
    texts = [part if type(part) is str else _str(_dict(part).get("text")) for part in content]
    return "".join(text for text in texts if text is not None)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def _str(value: Any) -> str | None:
    return value if type(value) is str else None


def _dict(value: Any) -> dict[str, Any]:
    return value if type(value) is dict else {}


def _json(value: Any) -> str | None:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # nested deeper than the writer goes, though the reader did
        return None
