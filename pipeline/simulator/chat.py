"""Chat completions without HTTP: request bytes to an ask or a refusal, an ask to the documented response.

Source of the shapes: the provider's API examples for the compatible mode. Nothing here waits, counts or
writes.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import orjson

from pipeline.simulator.answers import answer
from pipeline.simulator.refusals import (
    EMPTY_INPUT,
    EMPTY_MODEL,
    NOT_JSON,
    NOT_STREAMED,
    WORD_JSON_MISSING,
    Refusal,
    invalid_parameter,
    model_not_found,
)
from pipeline.tokens import TOKENS_PER_MESSAGE, TOKENS_PER_PROMPT, content_texts, count_text, cut_text

MISSING_MODEL = "missing-model"  # any other name is known here
MODELS = ("qwen-plus", "qwen-flash", "qwen-turbo", "qwen-max", "qwen3-max")
ROLES = frozenset({"system", "user", "assistant", "tool"})
MOST_CHOICES = 4
MOST_OUTPUT_TOKENS = 32_768
# Fixed, not the time of day: the same request gets the same bytes.
CREATED = 1_767_225_600
_CACHED_CHARS = 1_000  # instructions and labels come again and again; long texts do not


@dataclass(slots=True)
class Ask:
    """A valid request, as far as it shapes the answer."""

    model: str
    messages: list[dict[str, Any]]
    prompt_tokens: int
    max_tokens: int = MOST_OUTPUT_TOKENS
    n: int = 1
    response_format: dict[str, Any] | None = None


@dataclass(slots=True)
class Choice:
    """One answer; the finish reason is null where the provider ran out of time."""

    content: str
    finish_reason: str | None
    tokens: int


@dataclass(slots=True)
class Answered:
    """What an ask is answered with."""

    ask: Ask
    choices: list[Choice] = field(default_factory=list)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)


class _Number(NamedTuple):
    low: float
    high: float
    whole: bool
    message: str


# Parameters that are checked, with the documented ranges; every other key is taken as it is.
_NUMBERS = {
    "temperature": _Number(0, 1.999999, False, "'temperature' must be in [0.0, 2.0)"),
    "top_p": _Number(1e-9, 1, False, "Range of top_p should be (0.0, 1.0]"),
    "presence_penalty": _Number(-2, 2, False, "Range of presence_penalty should be [-2.0, 2.0]"),
    "seed": _Number(0, 2**31 - 1, True, "Range of seed should be [0, 2147483647]"),
    "n": _Number(1, MOST_CHOICES, True, f"Range of n should be [1, {MOST_CHOICES}]"),
    "max_tokens": _Number(
        1, MOST_OUTPUT_TOKENS, True, f"Range of max_tokens should be [1, {MOST_OUTPUT_TOKENS}]"
    ),
    "max_completion_tokens": _Number(
        1, MOST_OUTPUT_TOKENS, True, f"Range of max_completion_tokens should be [1, {MOST_OUTPUT_TOKENS}]"
    ),
}


def parse_ask(body: bytes) -> Ask | Refusal:
    """Read a request body, or say which documented refusal it gets."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return NOT_JSON
    if not isinstance(request, dict):
        return NOT_JSON
    model = request.get("model")
    if not isinstance(model, str) or not model:
        return EMPTY_MODEL
    if model == MISSING_MODEL:
        return model_not_found(model)
    messages = request.get("messages")
    if messages is None:
        return EMPTY_INPUT
    refusal = _wrong_messages(messages) or _wrong_numbers(request)
    if refusal is not None:
        return refusal
    if request.get("stream"):
        return NOT_STREAMED
    wanted = request.get("response_format")
    response_format = wanted if isinstance(wanted, dict) else None
    if response_format and response_format.get("type") == "json_object" and not _names_json(messages):
        return WORD_JSON_MISSING
    limits = [v for k in ("max_tokens", "max_completion_tokens") if (v := request.get(k)) is not None]
    return Ask(
        model=model,
        messages=messages,
        prompt_tokens=_prompt_tokens(messages),
        max_tokens=min(limits, default=MOST_OUTPUT_TOKENS),
        n=request.get("n") or 1,
        response_format=response_format,
    )


def respond(ask: Ask, random: Random) -> Answered:
    """Answer an ask: `n` choices, each cut at `max_tokens` with the finish reason length."""
    answered = Answered(ask)
    for _ in range(ask.n):
        content = answer(ask.messages, ask.response_format, ask.prompt_tokens, random)
        tokens = _count(content)
        choice = Choice(content, "stop", tokens)
        answered.choices.append(
            choice if tokens <= ask.max_tokens else _shortened(choice, ask.max_tokens, "length")
        )
    return answered


def shorten(answered: Answered, finish_reason: str | None) -> None:
    """Cut each choice to about half, as one that the provider did not finish."""
    answered.choices = [_shortened(c, max(1, c.tokens // 2), finish_reason) for c in answered.choices]


def response_body(answered: Answered, request_id: str) -> bytes:
    """Encode the documented response, with its usage."""
    completion_tokens = answered.completion_tokens
    return orjson.dumps(
        {
            "choices": [
                {
                    "message": {"role": "assistant", "content": choice.content},
                    "finish_reason": choice.finish_reason,
                    "index": index,
                    "logprobs": None,
                }
                for index, choice in enumerate(answered.choices)
            ],
            "object": "chat.completion",
            "usage": {
                "prompt_tokens": answered.ask.prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": answered.ask.prompt_tokens + completion_tokens,
            },
            "created": CREATED,
            "system_fingerprint": None,
            "service_tier": None,
            "model": answered.ask.model,
            "id": f"chatcmpl-{request_id}",
        }
    )


def models_body() -> bytes:
    """Encode the list of models."""
    models = [{"id": m, "object": "model", "created": CREATED, "owned_by": "system"} for m in MODELS]
    return orjson.dumps({"object": "list", "data": models})


def _shortened(choice: Choice, tokens: int, finish_reason: str | None) -> Choice:
    tokens = min(tokens, choice.tokens)
    return Choice(cut_text(choice.content, tokens), finish_reason, tokens)


def _wrong_messages(messages: Any) -> Refusal | None:
    if not isinstance(messages, list) or not messages:
        return invalid_parameter("'messages' must be a list of at least one message.")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            return invalid_parameter(f"messages[{i}] must be an object.")
        if message.get("role") not in ROLES:
            return invalid_parameter(f"messages[{i}].role must be in [system, assistant, user, tool].")
        content = message.get("content")
        if not (isinstance(content, str | list) or (content is None and message["role"] == "assistant")):
            return invalid_parameter(f"messages[{i}].content must be a string or a list of parts.")
    return None


def _wrong_numbers(request: dict[str, Any]) -> Refusal | None:
    for name, number in _NUMBERS.items():
        value = request.get(name)
        if value is None:
            continue
        typed = isinstance(value, int if number.whole else int | float) and not isinstance(value, bool)
        if not typed or not number.low <= value <= number.high:
            return invalid_parameter(number.message)
    return None


def _names_json(messages: list[dict[str, Any]]) -> bool:
    return any("json" in text.lower() for m in messages for text in content_texts(m.get("content")))


def _prompt_tokens(messages: list[dict[str, Any]]) -> int:
    texts = sum(_count(text) for m in messages for text in content_texts(m.get("content")))
    return texts + TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_PROMPT


def _count(text: str) -> int:
    return _count_cached(text) if len(text) <= _CACHED_CHARS else count_text(text)


@lru_cache(maxsize=4096)
def _count_cached(text: str) -> int:
    return count_text(text)
