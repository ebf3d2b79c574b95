"""A text in the pieces in which a stream sends it, and the log probabilities of its words.

Pieces are words and characters, not the model's tokens: nothing depends on where a stream is divided.
"""

import re
from itertools import pairwise
from random import Random
from typing import Any

# A Chinese character, a word with the space before it, or anything else alone.
_WORDS = re.compile(r"[\u3400-\u9fff]|\s?\w+|\s+|[^\w\s]")
# The provider sends a few short pieces first and longer ones when the model is under way.
_FIRST_WORDS, _FIRST_PIECES = 1, 3
_LATER_WORDS = 5
_FALLBACK = ("the", " a", "。")


def words_of(text: str) -> list[str]:
    """Divide a text into its words; joined again they are the text."""
    return _WORDS.findall(text)


def pieces_of(text: str, pieces: int | None = None) -> list[str]:
    """Divide a text into so many pieces of about one length, fewer where it is short; None: as the provider does."""
    words = words_of(text)
    if pieces is not None:
        count = min(pieces, len(words))
        cuts = [len(words) * i // count for i in range(count + 1)] if count else []
        return ["".join(words[start:end]) for start, end in pairwise(cuts)]
    early = words[: _FIRST_PIECES * _FIRST_WORDS]
    later = words[len(early) :]
    return early + ["".join(later[i : i + _LATER_WORDS]) for i in range(0, len(later), _LATER_WORDS)]


def word_logprobs(text: str, top: int, random: Random) -> list[dict[str, Any]]:
    """Draw a log probability for each word, and `top` likelier or less likely words beside it."""
    return [_logprob(word, top, random) for word in words_of(text)]


def _logprob(word: str, top: int, random: Random) -> dict[str, Any]:
    chosen = round(-random.expovariate(8), 6)
    drawn = {**_entry(word, chosen), "top_logprobs": [_entry(word, chosen)] if top else []}
    for other in _FALLBACK[: max(0, top - 1)]:
        drawn["top_logprobs"].append(_entry(other, round(chosen - random.uniform(2, 9), 6)))
    return drawn


def _entry(word: str, logprob: float) -> dict[str, Any]:
    return {"token": word, "bytes": list(word.encode()), "logprob": logprob}
