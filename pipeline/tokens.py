"""Token counts by the Qwen vocabulary: text, messages, and a cheap estimate for the hot path.

Only counting lives here: no prices, no limits, no model names. The formula and the figures it was checked
against: docs of the provider's own examples, where a system text of 6 and a user text of 3 tokens are billed
as 22.

The vocabulary (151,643 ranks) is that of the models up to Qwen3; newer ones and other families have their
own, so for them every count is an estimate. What is billed is always the usage that comes back.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import quicktok  # type: ignore[import-untyped]  # it ships no types

# `<|im_start|>{role}\n` before a message and `<|im_end|>\n` after it: 3 + 2 tokens.
TOKENS_PER_MESSAGE = 5
# `<|im_start|>assistant\n`, with which the prompt ends.
TOKENS_PER_PROMPT = 3
# Request bodies of English prose hold 4.0 to 5.1 bytes of text a token, Chinese ones 4.2, and the JSON
# around it only adds bytes: the estimate is therefore seldom too low, which is the safe side for a limit.
BYTES_PER_TOKEN = 4


@cache
def _vocabulary() -> Any:
    # Loaded at the first count, not at import: it takes 0.3 s.
    return quicktok.get_encoding("qwen3")


def _normalized(text: str) -> str:
    # Half a surrogate pair is legal in a JSON string but has no UTF-8 form; it is
    # counted as a replacement character.
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    return text


def count_text(text: str) -> int:
    """Count the tokens of a text; the name of a special token, such as `<|im_end|>`, counts as plain text."""
    return int(_vocabulary().count(_normalized(text)))


def cut_text(text: str, max_tokens: int) -> str:
    """Keep the first `max_tokens` tokens of a text; a character that the cut splits is left out."""
    tokens = _vocabulary().encode_ordinary(_normalized(text))
    if len(tokens) <= max_tokens:
        return text
    kept: bytes = _vocabulary().decode_bytes(tokens[:max_tokens])
    return kept.decode("utf-8", "ignore")


def content_texts(content: Any) -> list[str]:
    """List the texts of a message's content: a string, or a list of parts of which the text ones count."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        return [p["text"] for p in content if isinstance(p, Mapping) and isinstance(p.get("text"), str)]
    return []


def count_messages(messages: Sequence[Mapping[str, Any]], tail_tokens: int = 0) -> int:
    """Count the prompt tokens of OpenAI-style messages as the provider bills them.

    The sum of 5 + text over the messages, plus 3, plus `tail_tokens`: what a model's template appends (0, or
    2 to 4 around an empty thought). Texts only: tools, images and frames are not counted.
    """
    texts = sum(count_text(text) for message in messages for text in content_texts(message.get("content")))
    return texts + TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_PROMPT + tail_tokens


def estimate_from_bytes(body_bytes: int) -> int:
    """Estimate the prompt tokens of an encoded request from its size, a thousand times cheaper than counting.

    It leans high for prose; code and rare scripts may hold fewer bytes a token. Settle it with the answer's
    usage.
    """
    return -(-body_bytes // BYTES_PER_TOKEN)
