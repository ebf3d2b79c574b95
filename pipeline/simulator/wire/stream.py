"""What a stream is made of: an answer in steps, the same for both dialects.

Nothing here knows how a step looks on the wire.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pipeline.simulator.chat.pieces import pieces_of, words_of
from pipeline.simulator.chat.respond import Answered, Choice
from pipeline.simulator.chat.tool_calls import ToolCall
from pipeline.simulator.refusals import Refusal


class Stream(NamedTuple):
    """Frames in order; the first `unfinished` of them say of no choice that it is finished."""

    frames: list[bytes]
    unfinished: int


class Wire(Protocol):
    """What a dialect's module encodes."""

    def refusal_body(self, refusal: Refusal, request_id: str) -> bytes: ...
    def body(self, answered: Answered, request_id: str) -> bytes: ...
    def stream(self, answered: Answered, request_id: str, pieces: int | None) -> Stream: ...
    def error_event(self, refusal: Refusal, number: int, request_id: str) -> bytes: ...


@dataclass(slots=True)
class Step:
    """One piece of one choice. `tokens` are those generated for it so far, reasoning among them."""

    index: int
    tokens: int
    reasoning_tokens: int
    reasoning: str | None = None
    content: str | None = None
    call: tuple[int, ToolCall, str, bool] | None = (
        None  # its index, itself, the piece of arguments, the first
    )
    logprobs: list[dict[str, Any]] | None = None


def steps_of(answered: Answered, pieces: int | None) -> Iterator[Step]:
    """Walk through an answer, one choice after the other, its text in at most `pieces` pieces."""
    for index, choice in enumerate(answered.choices):
        yield from _choice_steps(index, choice, pieces)


def _choice_steps(index: int, choice: Choice, pieces: int | None) -> Iterator[Step]:
    for piece, done in _shares(choice.reasoning, choice.reasoning_tokens, pieces):
        yield Step(index, done, done, reasoning=piece)
    thought = choice.reasoning_tokens
    words = 0
    for piece, done in _shares(choice.content, choice.tokens, pieces):
        step = Step(index, thought + done, thought, content=piece)
        if choice.logprobs is not None:
            size = len(words_of(piece))
            step.logprobs = choice.logprobs[words : words + size]
            words += size
        yield step
    done = thought
    for number, call in enumerate(choice.calls):
        parts = ["", *pieces_of(call.arguments, 3)]
        done += call.tokens
        for i, part in enumerate(parts):
            yield Step(index, done, thought, call=(number, call, part, i == 0))


def _shares(text: str, tokens: int, pieces: int | None) -> Iterator[tuple[str, int]]:
    """Each piece, with the tokens generated up to its end: shared out by length, exact at the end."""
    said = 0
    for piece in pieces_of(text, pieces):
        said += len(piece)
        yield piece, max(1, round(tokens * said / len(text)))
