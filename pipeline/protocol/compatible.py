"""The OpenAI-compatible chat format: requests to bytes, whole answers to records.

Spoken by DashScope's compatible mode, OpenAI, DeepSeek, vLLM, llama.cpp, Ollama and others, each in its own
accent; what they send is foreign, so nothing here trusts its shape and `decode` never raises. What an error
code means is not decided here but in `failures.py`. Streams (`assemble.py`) and the native format
(`native.py`) are put into the shape of a whole compatible answer and read here too: the same answer is the
same row.

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


def encode(model: str, messages: list[dict[str, Any]], params: dict[str, Any], stream: bool = False) -> bytes:
    """The request body: model, messages, then every parameter at the top level, as UTF-8 JSON without
    escapes.

    A stream is asked for with its usage, without which no answer could be priced. Raises `EncodeError` for
    what JSON or UTF-8 cannot hold: half a surrogate pair, foreign objects, integers beyond 64 bits.
    """
    if "model" in params or "messages" in params:
        raise EncodeError("params holds `model` or `messages`, which have their own place in the job")
    body = {"model": model, "messages": messages, **params}
    if stream:
        options = params.get("stream_options")
        body["stream"] = True
        body["stream_options"] = {**(options if type(options) is dict else {}), "include_usage": True}
    return to_json(body, messages, params)


def to_json(body: dict[str, Any], messages: list[dict[str, Any]], params: dict[str, Any]) -> bytes:
    """A request body as bytes. Raises `EncodeError` that names the message or parameter at fault."""
    try:
        return orjson.dumps(body)
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
    body = loads(response.body)
    if 200 <= response.status < 300 and type(body) is dict:
        found = choices(body)
        if found and type(found[0]) is dict:
            return answer(response, body, found, usage_of(body.get("usage")))
    return refusal(response, body, dialect, now)


def choices(body: dict[str, Any]) -> list[Any] | None:
    """The choices in a body or event."""
    found = body.get("choices")
    return found if type(found) is list else None


def answer(response: Response, body: dict[str, Any], found: list[Any], usage: Usage) -> Completion | Failure:
    """The completion in a body with choices, or why it is none. `body` names the model and the request."""
    choice: dict[str, Any] = found[0]
    if len(found) > 1:
        choice = next((c for c in found if type(c) is dict and c.get("index") == 0), choice)
    message = _dict(choice.get("message"))
    content = message.get("content")
    if type(content) is not str:
        content = joined(content)
        if content is None:
            content = _str(message.get("refusal"))
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    calls = _tool_calls(message)
    if content is None and (calls or reasoning):
        content = ""  # beside a call or a chain of thought some send null, others ""; rows must not differ
    finish = choice.get("finish_reason")
    if type(finish) is not str or finish in ("", "null"):
        finish = None
        if not content and not calls:
            return unfinished(response, body, "no_answer", "the answer has neither text nor a finish reason")
    elif finish in _GIVEN_UP:
        failure = unfinished(response, body, finish, f"the server gave up on the answer: {finish}")
        failure.kind = FailureKind.OVERLOADED
        return failure
    cut = response.headers.get("x-dashscope-partialresponse", "").strip().lower() == "true"
    return Completion(
        content=content,
        finish_reason=finish,
        usage=usage,
        model=_str(body.get("model")),
        request_id=request_id(response, body),
        reasoning_content=reasoning if type(reasoning) is str else None,
        tool_calls=calls,
        choices=_all_choices(found) if len(found) > 1 or choice.get("logprobs") else None,
        partial=cut or finish is None,
    )


def _all_choices(found: list[Any]) -> str | None:
    """The choices as JSON, in order, with sorted keys and without what is null, however they came."""
    kept = []
    for place, choice in enumerate(found):
        if type(choice) is dict:
            message = {name: part for name, part in _dict(choice.get("message")).items() if part is not None}
            if type(message.get("content")) is list:
                message["content"] = joined(message["content"])
            if type(message.get("tool_calls")) is list:
                calls = [call for call in message["tool_calls"] if type(call) is dict]
                message["tool_calls"] = [_without_index(call) for call in calls]
            kept.append({"index": place, **choice, "message": message})
    kept.sort(key=lambda choice: choice["index"] if type(choice["index"]) is int else -1)
    kept = [{name: part for name, part in choice.items() if part is not None} for choice in kept]
    return json_text(kept, orjson.OPT_SORT_KEYS)


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
                arguments = json_text(arguments)  # Ollama's own shape: an object
            found.append(ToolCall(_str(call.get("id")), _str(function.get("name")), arguments))
    return found or None


def usage_of(usage: Any) -> Usage:
    """The token counts in a usage object of this format."""
    if type(usage) is not dict:
        return Usage()
    given = _dict(usage.get("prompt_tokens_details"))
    made = _dict(usage.get("completion_tokens_details"))
    cached = count(given.get("cached_tokens"))
    return Usage(
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        total_tokens=count(usage.get("total_tokens")),
        # DeepSeek counts its cache hits beside the details
        cached_tokens=count(usage.get("prompt_cache_hit_tokens")) if cached is None else cached,
        cache_write_tokens=count(given.get("cache_creation_input_tokens")),
        reasoning_tokens=count(made.get("reasoning_tokens")),
        raw=json_text(usage),
    )


def refusal(response: Response, body: Any, dialect: Dialect, now: datetime) -> Failure:
    """The failure in a body that holds no answer: an error as any server writes it, or nothing of use."""
    status = response.status
    if type(body) is list and body:
        body = body[0]  # Google's compatible mode wraps its error in a list
    error = error_of(body) if type(body) is dict else None
    if error is None:
        if status < 300:
            return unfinished(response, _dict(body), *_what_is_missing(response.body, body))
        error = ("", "", _plain_text(response.body))
        # No word of the provider's. Something on the way, or a crash, may have lost an answer; 503 says that none was begun.
        lost = status >= 500 and status != 503
    else:
        lost = status in (502, 504)  # a gateway's: the server behind it broke off, or was still at work
    code, number, message = error
    if status < 300 and number.isascii() and number.isdigit() and 400 <= int(number[:9]) <= 599:
        status = int(number)
    code = code or number
    return Failure(
        kind=classify(dialect, status, code, message),
        code=one_line(code, _MAX_NAME_CHARS) or f"http_{response.status}",
        message=one_line(message) or f"HTTP {response.status} without a message",
        http_status=response.status,
        request_id=request_id(response, _dict(body)),
        retry_after_s=retry_after_s(response.headers, now),
        maybe_paid=lost,
    )


def error_of(body: dict[str, Any]) -> tuple[str, str, str] | None:
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
        message = json_text(message) or ""  # FastAPI's detail is a list
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


def unfinished(response: Response, body: dict[str, Any], code: str, message: str) -> Failure:
    """The failure of an answer that began well and is not one."""
    return Failure(
        kind=FailureKind.TRUNCATED_STREAM,
        code=code,
        message=one_line(message),
        http_status=response.status,
        request_id=request_id(response, body),
        maybe_paid=True,  # a model may have worked on it
    )


def request_id(response: Response, body: dict[str, Any]) -> str | None:
    """What the provider calls the request: its header, else the id in the body."""
    found = response.headers.get("x-request-id") or body.get("request_id") or body.get("id")
    return found[:_MAX_NAME_CHARS] if type(found) is str else None


def loads(raw: bytes) -> Any:
    """The JSON in a body, or None. The strict parser first; what it refuses, once more and leniently.

    Lenient: a byte order mark, blank lines before, `data:` before an error, broken UTF-8 and halves of
    surrogate pairs (replaced), NaN (null): the answer was paid for.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    text = raw.decode("utf-8-sig", "replace").strip()
    if is_event_stream(raw):
        frames = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        text = frames[0] if frames else ""
    try:
        lenient = json.loads(text, parse_constant=lambda _: None)
        return orjson.loads(json.dumps(lenient, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def is_event_stream(raw: bytes) -> bool:
    """Whether a body looks like server-sent events, whatever its content type said."""
    return raw[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"data:", b"event:", b"id:", b":"))


_MARKUP = re.compile(r"<(style|script)\b.*?</\1>|<[^<>]*>", re.DOTALL | re.IGNORECASE)


def _plain_text(raw: bytes) -> str:
    """The readable beginning of a body that is not what was expected, such as a proxy's HTML page."""
    return one_line(_MARKUP.sub(" ", raw[:4000].decode("utf-8", "replace")))


def joined(content: Any) -> str | None:
    """The text of a content that is a list of parts, as strings or `{"text": ...}`."""
    if type(content) is not list:
        return None
    texts = [part if type(part) is str else _str(_dict(part).get("text")) for part in content]
    return "".join(text for text in texts if text is not None)


def count(value: Any) -> int | None:
    """A token count, or None for what is not one."""
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def _str(value: Any) -> str | None:
    return value if type(value) is str else None


def _dict(value: Any) -> dict[str, Any]:
    return value if type(value) is dict else {}


def _without_index(call: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in call.items() if part is not None and name != "index"}


def json_text(value: Any, option: int | None = None) -> str | None:
    """A foreign value as JSON, or None where it cannot be written."""
    try:
        return orjson.dumps(value, option=option).decode()
    except TypeError:  # nested deeper than the writer goes, though the reader did
        return None
