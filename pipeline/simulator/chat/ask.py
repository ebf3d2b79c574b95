"""From a call to an ask: the checks that the provider makes, in its order, and what shapes the answer.

Sources of the rules: the provider's pages on deep thinking, structured output and function calling, and its
page of error codes.
"""

import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from pipeline.simulator.chat.call import Call, Dialect
from pipeline.simulator.chat.media import Media
from pipeline.simulator.chat.models import Traits, traits_of
from pipeline.simulator.chat.parameters import (
    MOST_OUTPUT_TOKENS,
    MOST_THOUGHT_TOKENS,
    wrong_format,
    wrong_number,
    wrong_stop,
    wrong_tools,
)
from pipeline.simulator.chat.prompt import SEARCH_TOKENS, THOUGHT_TAIL_TOKENS, Documents, Prompt, Reader
from pipeline.simulator.refusals import (
    EMPTY_MODEL,
    JSON_WHILE_THINKING,
    NO_SEARCH,
    NO_USER_MESSAGE,
    NOT_INCREMENTAL,
    STRAY_TOOL_MESSAGE,
    STREAM_ONLY,
    THINKING_AS_TEXT,
    THINKING_NOT_INCREMENTAL,
    THINKING_NOT_STREAMED,
    THINKING_ONLY,
    WORD_JSON_MISSING,
    WRONG_URL,
    Refusal,
    invalid_parameter,
    model_not_found,
    refused_parameter,
    thinking_not_supported,
)

MISSING_MODEL = "missing-model"  # any other name is known here
ROLES = frozenset({"system", "user", "assistant", "tool"})
_LONG_ADDRESS = 256


@dataclass(slots=True)
class Ask:
    """A valid call. `key` names what is asked: equal for equal questions, streamed or not, in either dialect.

    `max_tokens` bounds the answer, `max_all_tokens` the answer and its reasoning together.
    """

    call: Call
    key: str
    prompt: Prompt
    traits: Traits
    thinking: bool
    searches: bool
    tools: list[dict[str, Any]]

    @property
    def model(self) -> str:
        return self.call.model

    @property
    def n(self) -> int:
        return self.call.params.get("n") or 1

    @property
    def max_tokens(self) -> int:
        return self.call.params.get("max_tokens") or MOST_OUTPUT_TOKENS

    @property
    def max_all_tokens(self) -> int | None:
        return self.call.params.get("max_completion_tokens")

    @property
    def thinking_budget(self) -> int:
        return self.call.params.get("thinking_budget") or MOST_THOUGHT_TOKENS

    @property
    def response_format(self) -> dict[str, Any] | None:
        return self.call.params.get("response_format")

    @property
    def stops(self) -> tuple[str, ...]:
        stop = self.call.params.get("stop")
        listed = [stop] if isinstance(stop, str) else stop or ()
        return tuple(one for one in listed if isinstance(one, str) and one)

    def modes(self) -> list[str]:
        """What kind of call it is, for the ledger."""
        params, prompt = self.call.params, self.prompt
        kind = (self.response_format or {}).get("type")
        found = {
            "stream": self.call.stream,
            "multimodal_path": self.call.multimodal_path,
            "tools": bool(self.tools),
            "search": self.searches,
            "thinking": self.thinking,
            "json": kind in ("json_object", "json_schema"),
            "images": prompt.pictures > 0,
            "video": prompt.videos > 0,
            "documents": prompt.documents > 0,
            "oss": any(url.startswith("oss://") for url in prompt.media),
            "several_choices": self.n > 1,
            "logprobs": bool(params.get("logprobs")),
        }
        return [self.call.dialect.value, *(mode for mode, so in found.items() if so)]


def parse_ask(call: Call, media: Media, documents: Documents) -> Ask | Refusal:
    """Check and count a call, or say which documented refusal it gets."""
    traits = traits_of(call.model)
    refusal = _wrong_model(call, traits) or _wrong_messages(call.messages) or _wrong_path(call, traits)
    refusal = refusal or wrong_number(call.params, call.dialect) or wrong_stop(call.params.get("stop"))
    if refusal is not None:
        return refusal
    thinking = _thinks(call, traits)
    refusal = _wrong_thinking(call, traits, thinking) or wrong_tools(call.params, thinking)
    if refusal is not None:
        return refusal
    searches = bool(call.params.get("enable_search"))
    if searches and not traits.searches:
        return NO_SEARCH
    tools = call.params.get("tools") or []
    reader = Reader(traits, media, documents, bool(call.params.get("vl_high_resolution_images")))
    refusal = reader.count(call.messages, tools)
    prompt = reader.prompt
    refusal = refusal or _wrong_response_format(call, traits, thinking, prompt)
    if refusal is not None:
        return refusal
    key = _key(call, prompt)
    if thinking:
        prompt.tokens += THOUGHT_TAIL_TOKENS
    if searches:
        prompt.tokens += SEARCH_TOKENS[zlib.crc32(key.encode()) % len(SEARCH_TOKENS)]
    return Ask(call, key, prompt, traits, thinking, searches, tools)


def _wrong_model(call: Call, traits: Traits) -> Refusal | None:
    if not call.model:
        return EMPTY_MODEL
    if call.model == MISSING_MODEL:
        return model_not_found(call.model)
    if traits.stream_only and not call.stream:
        return STREAM_ONLY
    return None


def _wrong_path(call: Call, traits: Traits) -> Refusal | None:
    """The native protocol serves a model on one of its two paths only."""
    if call.dialect is Dialect.COMPATIBLE or traits.multimodal in (None, call.multimodal_path):
        return None
    return WRONG_URL


def _wrong_messages(messages: Any) -> Refusal | None:
    if messages == []:
        return refused_parameter("[] is too short - 'messages'")
    if not isinstance(messages, list):
        return invalid_parameter("'messages' must be a list of at least one message.")
    asked_user = asked_tool = False
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            return invalid_parameter(f"messages[{i}] must be an object.")
        role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
        if role not in ROLES:
            return invalid_parameter(f"messages[{i}].role must be in [system, assistant, user, tool].")
        if calls is not None and not (isinstance(calls, list) and all(isinstance(c, dict) for c in calls)):
            return invalid_parameter(f"messages[{i}].tool_calls must be a list of objects.")
        if content is None and role != "assistant":
            return invalid_parameter("The content field is a required field.")
        if not (content is None or isinstance(content, str | list)):
            return invalid_parameter(f"messages[{i}].content must be a string or a list of parts.")
        if role == "tool" and not asked_tool:
            return STRAY_TOOL_MESSAGE
        asked_tool = bool(calls) or (role == "tool" and asked_tool)
        asked_user = asked_user or role == "user"
    return None if asked_user else NO_USER_MESSAGE


def _thinks(call: Call, traits: Traits) -> bool:
    wanted = call.params.get("enable_thinking")
    if traits.thinking in ("always", "none"):
        return traits.thinking == "always"
    return traits.thinking == "on" if wanted is None else bool(wanted)


def _wrong_thinking(call: Call, traits: Traits, thinking: bool) -> Refusal | None:
    wanted = call.params.get("enable_thinking")
    if wanted and traits.thinking == "none":
        return thinking_not_supported(call.model)
    if wanted is False and traits.thinking == "always":
        return THINKING_ONLY
    if not thinking:
        return None
    if not call.stream and not traits.thinks_without_stream:
        return THINKING_NOT_STREAMED
    if call.params.get("thinking_budget") is not None and call.params.get("reasoning_effort") is not None:
        return refused_parameter("thinking_budget and reasoning_effort cannot both be set.")
    if call.dialect is Dialect.COMPATIBLE:
        return None
    if call.result_format != "message":
        return THINKING_AS_TEXT
    # Models that think by themselves are incremental where nothing is said; the others must be told to be.
    incremental = traits.thinking != "off" if call.incremental is None else call.incremental
    if call.stream and not incremental:
        return NOT_INCREMENTAL if traits.thinking == "always" else THINKING_NOT_INCREMENTAL
    return None


def _wrong_response_format(call: Call, traits: Traits, thinking: bool, prompt: Prompt) -> Refusal | None:
    wanted = call.params.get("response_format")
    refusal = wrong_format(wanted)
    kind = wanted.get("type") if wanted and refusal is None else None
    if kind is None or kind == "text":
        return refusal
    if kind == "json_schema":
        if traits.json_schema:
            return None
        return invalid_parameter(
            "The parameter `response_format.type` specified in the request are not valid: invalid value: "
            "`json_schema`, supported values are: `json_object` and `text`"
        )
    if traits.json_object == "no":
        return invalid_parameter("This model does not support response_format of type 'json_object'.")
    if thinking and traits.json_object == "thinking_off":
        return JSON_WHILE_THINKING
    return None if any("json" in text.lower() for text in prompt.texts) else WORD_JSON_MISSING


def _key(call: Call, prompt: Prompt) -> str:
    """Name the question by its texts, its media and what shapes the answer's form, whatever the dialect."""
    media = [url if len(url) < _LONG_ADDRESS else zlib.crc32(url.encode()) for url in prompt.media]
    params = call.params
    shape = [params.get(name) for name in ("response_format", "tools", "tool_choice")]
    told = [call.model, params.get("seed"), shape, prompt.texts, media]
    return blake2b(orjson.dumps(told, option=orjson.OPT_PASSTHROUGH_SUBCLASS), digest_size=16).hexdigest()
