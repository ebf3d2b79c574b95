"""The compatible mode, server's side: OpenAI-style bodies and server-sent events.

Shapes: the provider's API examples (July to October 2024), key for key; with reasoning also its page on deep
thinking.
"""

from typing import Any

import orjson

from pipeline.simulator.chat.call import Call, Dialect
from pipeline.simulator.chat.respond import Answered, Choice
from pipeline.simulator.refusals import EMPTY_INPUT, EMPTY_MODEL, NOT_JSON, Refusal, invalid_parameter
from pipeline.simulator.wire.stream import Step, Stream, steps_of

CONTENT_TYPE = "text/event-stream;charset=UTF-8"
# Fixed, not the time of day: the same request gets the same bytes.
CREATED = 1_767_225_600
MODELS = ("qwen-plus", "qwen-flash", "qwen-turbo", "qwen-max", "qwen3-max", "qwen3-vl-plus", "qwen-long")
_DONE = b"data: [DONE]\n\n"


def read(body: bytes) -> Call | Refusal:
    """Read a request body; every key besides model and messages is a parameter."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return NOT_JSON
    if not isinstance(request, dict):
        return NOT_JSON
    model = request.pop("model", None)
    if not isinstance(model, str) or not model:
        return EMPTY_MODEL
    messages = request.pop("messages", None)
    if messages is None:
        return EMPTY_INPUT
    stream = bool(request.get("stream"))
    options = request.get("stream_options")
    if options is not None and not stream:
        return invalid_parameter("'stream_options' can only be set when 'stream' is true.")
    return Call(
        dialect=Dialect.COMPATIBLE,
        model=model,
        messages=messages,
        params=request,
        stream=stream,
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def refusal_body(refusal: Refusal, request_id: str) -> bytes:
    return refusal.body(request_id)


def body(answered: Answered, request_id: str) -> bytes:
    """Encode a plain answer, with its usage."""
    return orjson.dumps(
        {
            "choices": [
                {
                    "message": _message(choice),
                    "finish_reason": choice.finish_reason,
                    "index": index,
                    "logprobs": _logprobs(choice.logprobs),
                }
                for index, choice in enumerate(answered.choices)
            ],
            "object": "chat.completion",
            "usage": _usage(answered),
            "created": CREATED,
            "system_fingerprint": None,
            "model": answered.ask.model,
            "id": f"chatcmpl-{request_id}",
        }
    )


def stream(answered: Answered, request_id: str, pieces: int | None) -> Stream:
    """Encode an answer as events: role, deltas, finish, usage where it was asked for, [DONE]."""
    envelope = {
        "object": "chat.completion.chunk",
        "usage": None,
        "created": CREATED,
        "system_fingerprint": None,
        "model": answered.ask.model,
        "id": f"chatcmpl-{request_id}",
    }

    def event(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"delta": delta, "index": index, "logprobs": logprobs, "finish_reason": finish}
        return _event({"choices": [choice], **envelope})

    frames = [event(i, _role(choice)) for i, choice in enumerate(answered.choices)]
    frames.extend(
        event(s.index, _delta(s), logprobs=_logprobs(s.logprobs)) for s in steps_of(answered, pieces)
    )
    unfinished = len(frames)
    for i, choice in enumerate(answered.choices):
        frames.append(event(i, {"content": ""}, choice.finish_reason))
    if answered.ask.call.include_usage:
        frames.append(_event({"choices": [], **envelope, "usage": _usage(answered)}))
    frames.append(_DONE)
    return Stream(frames, unfinished)


def error_event(refusal: Refusal, number: int, request_id: str) -> bytes:
    """Encode an error that ends a stream."""
    return _event({"error": refusal.error(), "id": f"chatcmpl-{request_id}", "request_id": request_id})


def models_body() -> bytes:
    """Encode the list of models."""
    models = [{"id": m, "object": "model", "created": CREATED, "owned_by": "system"} for m in MODELS]
    return orjson.dumps({"object": "list", "data": models})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _message(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.content}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        message["tool_calls"] = [
            {
                "function": {"name": call.name, "arguments": call.arguments},
                "index": i,
                "id": call.id,
                "type": "function",
            }
            for i, call in enumerate(choice.calls)
        ]
    return message


def _role(choice: Choice) -> dict[str, Any]:
    if choice.reasoning:
        return {"content": None, "reasoning_content": "", "role": "assistant"}
    return {"content": "", "role": "assistant"}


def _delta(step: Step) -> dict[str, Any]:
    if step.reasoning is not None:
        return {"content": None, "reasoning_content": step.reasoning}
    if step.call is None:
        return {"content": step.content}
    number, call, piece, first = step.call
    function: dict[str, Any] = {"arguments": piece}
    if first:
        function["name"] = call.name
    return {
        "content": None,
        "tool_calls": [
            {"index": number, "id": call.id if first else "", "type": "function", "function": function}
        ],
    }


def _logprobs(drawn: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    return None if drawn is None else {"content": drawn}


def _usage(answered: Answered) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.completion_tokens,
        "total_tokens": answered.prompt_tokens + answered.completion_tokens,
    }
    if answered.reasoning_tokens:
        usage["completion_tokens_details"] = {"reasoning_tokens": answered.reasoning_tokens}
    return usage
