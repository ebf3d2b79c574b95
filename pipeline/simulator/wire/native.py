"""The native protocol, server's side: bodies with input, parameters and output, and its own kind of events.

Shapes: the provider's API examples and its page on the native protocol. An event is

    id:1
    event:result
    :HTTP_STATUS/200
    data:{"output":...,"usage":...,"request_id":...}

with the usage so far in each (of its own choice, where there are several: so the provider's SDK reads it), and
no end mark. While an answer goes on its finish reason is the text "null".
"""

from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.simulator.chat.call import Call, Dialect
from pipeline.simulator.chat.respond import Answered, Choice
from pipeline.simulator.refusals import (
    EMPTY_INPUT,
    EMPTY_MODEL,
    NO_PROMPT,
    NOT_A_STRING,
    NOT_JSON,
    WRONG_MODALITY,
    Refusal,
)
from pipeline.simulator.wire.stream import Step, Stream, steps_of

GOING_ON = "null"
_KINDS = ("text", "image", "video")


def read(body: bytes, *, stream: bool, multimodal_path: bool) -> Call | Refusal:
    """Read a request body; `stream` is what its headers say."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return NOT_JSON
    if not isinstance(request, dict):
        return NOT_JSON
    model, given = request.get("model"), request.get("input")
    if not isinstance(model, str) or not model:
        return EMPTY_MODEL
    if not isinstance(given, dict):
        return EMPTY_INPUT
    params = request.get("parameters")
    params = params if isinstance(params, dict) else {}
    messages = given.get("messages")
    if messages is None and isinstance(given.get("prompt"), str):
        messages = [{"role": "user", "content": given["prompt"]}]
    if messages is None:
        return NO_PROMPT
    messages = _openai_style(messages, multimodal_path)
    if isinstance(messages, Refusal):
        return messages
    incremental = params.get("incremental_output")
    return Call(
        dialect=Dialect.NATIVE,
        model=model,
        messages=messages,
        params=params,
        stream=stream,
        multimodal_path=multimodal_path,
        incremental=incremental if isinstance(incremental, bool) else None,
        result_format="message" if multimodal_path else params.get("result_format", "text"),
    )


def _openai_style(messages: Any, multimodal_path: bool) -> Any:
    """Rewrite contents that are lists; what is no message at all is left for the checks to refuse."""
    if not isinstance(messages, list):
        return messages
    rewritten = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            rewritten.append(message)
            continue
        if not multimodal_path:
            return NOT_A_STRING
        parts = [_part(part) for part in content]
        if None in parts:
            return WRONG_MODALITY
        rewritten.append({**message, "content": parts})
    return rewritten


def _part(part: Any) -> dict[str, Any] | None:
    if not isinstance(part, Mapping):
        return None
    kind = next((kind for kind in _KINDS if kind in part), None)
    if kind is None:
        return None
    value = part[kind]
    besides = {name: other for name, other in part.items() if name != kind}
    if kind == "text":
        return {"type": "text", "text": value}
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": value}, **besides}
    if isinstance(value, list):
        return {"type": "video", "video": value, **besides}
    return {"type": "video_url", "video_url": {"url": value}, **besides}


def refusal_body(refusal: Refusal, request_id: str) -> bytes:
    return refusal.native_body(request_id)


def body(answered: Answered, request_id: str) -> bytes:
    """Encode a plain answer, with its usage."""
    finished = [
        _choice(answered, choice, i, choice.finish_reason) for i, choice in enumerate(answered.choices)
    ]
    usage = _usage(answered, answered.completion_tokens, answered.reasoning_tokens)
    return _envelope(answered, finished, usage, request_id)


def stream(answered: Answered, request_id: str, pieces: int | None) -> Stream:
    """Encode an answer as events, each with a piece of it or, unless incremental, with all of it so far."""
    call = answered.ask.call
    traits = answered.ask.traits
    incremental = traits.thinking in ("on", "always") if call.incremental is None else call.incremental
    frames: list[bytes] = []
    whole = [Choice("", None, 0) for _ in answered.choices]
    for step in steps_of(answered, pieces):
        shown = Choice("", None, 0) if incremental else whole[step.index]
        calls = _add(shown, step, incremental)
        choice = _choice(answered, shown, step.index, GOING_ON, calls)
        usage = _usage(answered, step.tokens, step.reasoning_tokens)
        frames.append(_event(len(frames) + 1, _envelope(answered, [choice], usage, request_id)))
    unfinished = len(frames)
    for i, made in enumerate(answered.choices):
        # What was cut off in time has no finish reason: its last event says that it goes on.
        finish = made.finish_reason or GOING_ON
        last = _choice(answered, Choice("", None, 0) if incremental else made, i, finish)
        usage = _usage(answered, made.tokens + made.reasoning_tokens, made.reasoning_tokens)
        frames.append(_event(len(frames) + 1, _envelope(answered, [last], usage, request_id)))
    return Stream(frames, unfinished)


def error_event(refusal: Refusal, number: int, request_id: str) -> bytes:
    """Encode an error that ends a stream, as its event of this number."""
    return _event(number, refusal.native_body(request_id), "error", refusal.status)


def tokens_body(tokens: int, request_id: str) -> bytes:
    """Encode the answer of the tokenizer's path."""
    return orjson.dumps({"output": {}, "usage": {"input_tokens": tokens}, "request_id": request_id})


def _event(number: int, data: bytes, kind: str = "result", status: int = 200) -> bytes:
    return b"id:%d\nevent:%s\n:HTTP_STATUS/%d\ndata:%s\n\n" % (number, kind.encode(), status, data)


def _add(shown: Choice, step: Step, incremental: bool) -> list[dict[str, Any]] | None:
    """Add a step to what is shown; of a tool call only the piece where the stream is incremental."""
    shown.reasoning += step.reasoning or ""
    shown.content += step.content or ""
    if step.logprobs is not None:
        shown.logprobs = (shown.logprobs or []) + step.logprobs
    if step.call is None:
        return None
    number, call, piece, first = step.call
    if incremental:
        name = {"name": call.name} if first else {}
        function = {**name, "arguments": piece}
        return [{"index": number, "id": call.id if first else "", "type": "function", "function": function}]
    if first:
        shown.calls.append(type(call)(call.id, call.name, ""))
    shown.calls[-1].arguments += piece
    return None


def _choice(
    answered: Answered,
    choice: Choice,
    index: int,
    finish_reason: str | None,
    calls: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    call = answered.ask.call
    if call.result_format != "message":
        return {"finish_reason": finish_reason, "text": choice.content}
    listed = (
        ([{"text": choice.content}] if choice.content else []) if call.multimodal_path else choice.content
    )
    message: dict[str, Any] = {"role": "assistant", "content": listed}
    if choice.reasoning or answered.ask.thinking:
        message["reasoning_content"] = choice.reasoning
    if calls is None and choice.calls:
        calls = [
            {
                "index": i,
                "id": made.id,
                "type": "function",
                "function": {"name": made.name, "arguments": made.arguments},
            }
            for i, made in enumerate(choice.calls)
        ]
    if calls is not None:
        message["tool_calls"] = calls
    shown: dict[str, Any] = {"finish_reason": finish_reason, "message": message}
    if len(answered.choices) > 1:
        shown["index"] = index
    if choice.logprobs is not None:
        shown["logprobs"] = {"content": choice.logprobs}
    return shown


def _envelope(
    answered: Answered, choices: list[dict[str, Any]], usage: dict[str, Any], request_id: str
) -> bytes:
    ask = answered.ask
    output: dict[str, Any] = choices[0] if ask.call.result_format != "message" else {"choices": choices}
    options = ask.call.params.get("search_options")
    if ask.searches and isinstance(options, dict) and options.get("enable_source"):
        output["search_info"] = {"search_results": _SOURCES}
    return orjson.dumps({"output": output, "usage": usage, "request_id": request_id})


_SOURCES = [
    {
        "index": i,
        "title": title,
        "url": f"https://example.com/{i}",
        "site_name": "example.com",
        "icon": "",
    }
    for i, title in ((1, "A simulated source"), (2, "Another simulated source"))
]


def _usage(answered: Answered, output_tokens: int, reasoning_tokens: int) -> dict[str, Any]:
    prompt = answered.ask.prompt
    usage: dict[str, Any] = {
        "total_tokens": prompt.tokens + output_tokens,
        "output_tokens": output_tokens,
        "input_tokens": prompt.tokens,
    }
    if reasoning_tokens:
        usage["output_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    media = {"image_tokens": prompt.image_tokens, "video_tokens": prompt.video_tokens}
    seen = {name: tokens for name, tokens in media.items() if tokens}
    if seen:
        usage |= seen
        usage["input_tokens_details"] = {"text_tokens": prompt.tokens - sum(seen.values()), **seen}
    return usage
