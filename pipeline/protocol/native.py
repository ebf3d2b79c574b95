"""DashScope's native chat format: requests to bytes, whole answers to records.

The envelope differs from the compatible one (`input`, `parameters`; `output`, other names in `usage`), and so do the
parts of a message; what an answer means is read by `compatible.py` all the same. Facts: Model Studio, "DashScope API
reference" (help.aliyun.com/zh/model-studio/qwen-api-via-dashscope, read September 2026) and the vendor's Python
package dashscope 2.0.2 (`v2/protocols/native.py`, `utils/message_utils.py`). Streams are read by `assemble.py`.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pipeline.catalog import Model
from pipeline.failures import Dialect
from pipeline.protocol import compatible
from pipeline.protocol.compatible import EncodeError
from pipeline.records import Completion, Failure, Response, Usage

TEXT_PATH = "/services/aigc/text-generation/generation"
MULTIMODAL_PATH = "/services/aigc/multimodal-generation/generation"
STREAM_HEADERS = {"X-DashScope-SSE": "enable"}

# For models the catalogue does not list, such as dated snapshots: all that see or hear, and all Qwen from 3.5 on.
_MULTIMODAL_NAME = re.compile(r"(^|[-/])(vl|qvq|omni|ocr|audio)|^qwen(3\.[5-9]|[4-9])", re.IGNORECASE)
_STREAM_PARAMS = ("stream", "stream_options")


def is_multimodal(name: str, model: Model | None, *, has_media: bool) -> bool:
    """Whether calls go to the multimodal path: natively multimodal models, and whatever carries media.

    `model` is the catalogue's entry for `name`, if there is one. On the wrong path the provider answers 400
    `url error, please check url`.
    """
    return has_media or (bool(_MULTIMODAL_NAME.search(name)) if model is None else model.native_multimodal)


def path(name: str, model: Model | None, *, has_media: bool) -> str:
    """Where a model is asked, under the provider's `native_base_url`."""
    return MULTIMODAL_PATH if is_multimodal(name, model, has_media=has_media) else TEXT_PATH


def has_media(messages: list[dict[str, Any]]) -> bool:
    """Whether any message holds something else than text."""
    contents = (message.get("content") for message in messages)
    parts = (part for content in contents if type(content) is list for part in content)
    return any(type(part) is dict and part.get("type", "text") != "text" for part in parts)


def encode(
    model: str,
    messages: list[dict[str, Any]],
    params: dict[str, Any],
    stream: bool = False,
    *,
    multimodal: bool = False,
) -> bytes:
    """The request body, as UTF-8 JSON; `multimodal` says that it goes to the multimodal path.

    Parameters stand as written under `parameters`, beside `result_format` message and, in a stream,
    `incremental_output` true, which they may override. Raises `EncodeError` as `compatible.encode` does, and for a
    part that has no native form.
    """
    if misplaced := [name for name in ("model", "messages", "input", *_STREAM_PARAMS) if name in params]:
        raise EncodeError(f"params holds `{misplaced[0]}`, which has its own place in the job")
    parameters = {"result_format": "message", **params}
    if stream:
        parameters.setdefault("incremental_output", True)
    translated = [_message(n, message, multimodal) for n, message in enumerate(messages)]
    body = {"model": model, "input": {"messages": translated}, "parameters": parameters}
    return compatible.to_json(body, messages, params)


def decode(response: Response, dialect: Dialect, now: datetime) -> Completion | Failure:
    """What a response means, as `compatible.decode`. The native format does not name the model."""
    body = compatible.loads(response.body)
    if 200 <= response.status < 300 and type(body) is dict:
        found = choices(body)
        if found and type(found[0]) is dict:
            return compatible.answer(response, body, found, usage_of(body.get("usage")))
    return compatible.refusal(response, body, dialect, now)


def choices(body: dict[str, Any]) -> list[Any] | None:
    """The choices in a body or event; a text of `result_format` text counts as one."""
    output = body.get("output")
    if type(output) is not dict:
        return None
    found = output.get("choices")
    if type(found) is list and found:
        return found
    if type(output.get("text")) is str:
        return [{"message": {"content": output["text"]}, "finish_reason": output.get("finish_reason")}]
    return found if type(found) is list else None


def usage_of(usage: Any) -> Usage:
    """The token counts in a native usage object, under their compatible names."""
    if type(usage) is not dict:
        return Usage()
    made = usage.get("output_tokens_details")
    mapped = compatible.usage_of(
        {
            "prompt_tokens": usage.get("input_tokens"),
            "completion_tokens": usage.get("output_tokens"),
            "total_tokens": usage.get("total_tokens"),
            "prompt_tokens_details": usage.get("prompt_tokens_details"),
            "completion_tokens_details": made,
        }
    )
    if mapped.total_tokens is None and None not in (mapped.prompt_tokens, mapped.completion_tokens):
        # left out beside media
        mapped.total_tokens = (mapped.prompt_tokens or 0) + (mapped.completion_tokens or 0)
    mapped.raw = compatible.json_text(usage)
    return mapped


def whole_usage(of_choices: list[dict[str, Any]]) -> dict[str, Any]:
    """One usage object from those of several choices: in a stream each frame counts the output of its own choice."""
    counts = [compatible.count(usage.get("output_tokens")) for usage in of_choices]
    if None in counts:
        return of_choices[-1]
    made = sum(count or 0 for count in counts)
    whole = {**of_choices[-1], "output_tokens": made}
    given = compatible.count(whole.get("input_tokens"))
    if "total_tokens" in whole and given is not None:
        whole["total_tokens"] = given + made
    return whole


def _message(n: int, message: dict[str, Any], multimodal: bool) -> dict[str, Any]:
    content = message.get("content")
    if type(content) is list:
        return {
            **message,
            "content": [_part(f"messages[{n}].content[{m}]", part) for m, part in enumerate(content)],
        }
    # The multimodal path takes parts from everybody but tools, whose content is text on either.
    if multimodal and type(content) is str and message.get("role") != "tool":
        return {**message, "content": [{"text": content}]}
    return message


def _part(where: str, part: Any) -> dict[str, Any]:
    """A part in native form: the medium under its own name, no type; what stands beside it (fps, pixels, cache marks) stays."""
    kind = part.get("type") if type(part) is dict else None
    if type(part) is dict and kind is None:
        return part  # native already
    if type(kind) is not str or kind not in _NATIVE_PARTS:
        raise EncodeError(f"{where} is a part of type {kind!r}, which the native format has no form for")
    name, value_of = _NATIVE_PARTS[kind]
    beside = {key: value for key, value in part.items() if key not in ("type", kind)}
    value = value_of(part.get(kind))
    if value is None:
        raise EncodeError(f"{where} is of type {kind!r}, but there is nothing under {kind!r}")
    return {name: value, **beside}


def _itself(value: Any) -> Any:
    return value


def _url(value: Any) -> Any:
    return value.get("url") if type(value) is dict else value


def _audio(value: Any) -> Any:
    """A URL or data URL as it is; bare base64, as OpenAI has it, with its format."""
    if type(value) is not dict or type(value.get("data")) is not str:
        return value
    data: str = value["data"]
    return data if ":" in data[:16] else f"data:audio/{value.get('format', 'wav')};base64,{data}"


# The type of a part, and the key of its value there -> its native name, and how its value reads.
_NATIVE_PARTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "text": ("text", _itself),
    "image_url": ("image", _url),
    "video": ("video", _itself),
    "video_url": ("video", _url),
    "input_audio": ("audio", _audio),
}
