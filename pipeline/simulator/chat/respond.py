"""What an ask is answered with: reasoning, content or tool calls, cut where the ask or a fault says so.

The same key and seed give the same answer, so a question streamed, asked plainly or in the other dialect is
answered alike.
"""

import re
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pipeline.simulator.answers import answer, thought
from pipeline.simulator.chat.ask import Ask
from pipeline.simulator.chat.pieces import word_logprobs
from pipeline.simulator.chat.prompt import count
from pipeline.simulator.chat.tool_calls import ToolCall, calls_for
from pipeline.tokens import content_texts, cut_text


@dataclass(slots=True)
class Choice:
    """One answer; the finish reason is null where the provider ran out of time. Tokens are without reasoning."""

    content: str
    finish_reason: str | None
    tokens: int
    reasoning: str = ""
    reasoning_tokens: int = 0
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None


@dataclass(slots=True)
class Answered:
    """What an ask is answered with, and what that is billed."""

    ask: Ask
    choices: list[Choice] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        return self.ask.prompt.tokens

    @property
    def reasoning_tokens(self) -> int:
        return sum(choice.reasoning_tokens for choice in self.choices)

    @property
    def completion_tokens(self) -> int:
        return self.reasoning_tokens + sum(choice.tokens for choice in self.choices)


def respond(ask: Ask, seed: int) -> Answered:
    """Answer an ask: `n` choices, each cut at its limits with the finish reason length."""
    random = Random(f"{seed}/{ask.key}")  # noqa: S311 - chance only
    answered = Answered(ask)
    for _ in range(ask.n):
        choice = _choice(ask, random)
        if ask.thinking:
            _think(choice, ask, random)
        _stop(choice, ask.stops)
        _limit(choice, ask)
        if ask.call.params.get("logprobs") and not choice.calls:
            top = ask.call.params.get("top_logprobs") or 0
            # Its own source of chance: with or without them, the further choices are the same.
            choice.logprobs = word_logprobs(choice.content, top, Random(choice.content))  # noqa: S311
        answered.choices.append(choice)
    return answered


def shorten(answered: Answered, finish_reason: str | None) -> None:
    """Cut each choice to about half, as one that the provider did not finish."""
    for choice in answered.choices:
        if choice.calls:
            choice.calls[-1].arguments = choice.calls[-1].arguments[: len(choice.calls[-1].arguments) // 2]
        _cut(choice, max(1, choice.tokens // 2))
        choice.finish_reason = finish_reason


def _choice(ask: Ask, random: Random) -> Choice:
    messages = ask.call.messages
    last = messages[-1]
    chosen = ask.call.params.get("tool_choice")
    if ask.tools and chosen != "none" and last.get("role") != "tool":
        question = " ".join(content_texts(last.get("content")))
        calls = calls_for(question, ask.tools, ask.call.params, random)
        return Choice("", "tool_calls", sum(call.tokens for call in calls), calls=calls)
    content = answer(ask.prompt.texts, ask.response_format, ask.prompt.tokens, random)
    return Choice(content, "stop", count(content))


def _think(choice: Choice, ask: Ask, random: Random) -> None:
    choice.reasoning = thought(ask.prompt.texts, ask.prompt.tokens, random)
    choice.reasoning_tokens = count(choice.reasoning)
    if choice.reasoning_tokens > ask.thinking_budget:
        choice.reasoning = cut_text(choice.reasoning, ask.thinking_budget)
        choice.reasoning_tokens = ask.thinking_budget


def _stop(choice: Choice, stops: tuple[str, ...]) -> None:
    if not stops or choice.calls:
        return
    found = re.search("|".join(re.escape(stop) for stop in stops), choice.content)
    if found is not None:
        choice.content = choice.content[: found.start()]
        choice.tokens = count(choice.content)


def _limit(choice: Choice, ask: Ask) -> None:
    most = ask.max_tokens
    if ask.max_all_tokens is not None:
        if choice.reasoning_tokens > ask.max_all_tokens:
            choice.reasoning = cut_text(choice.reasoning, ask.max_all_tokens)
            choice.reasoning_tokens = ask.max_all_tokens
        most = min(most, ask.max_all_tokens - choice.reasoning_tokens)
    if choice.tokens > most:
        _cut(choice, most)
        choice.finish_reason = "length"


def _cut(choice: Choice, tokens: int) -> None:
    choice.tokens = min(tokens, choice.tokens)
    choice.content = cut_text(choice.content, choice.tokens)
    if choice.logprobs is not None:
        choice.logprobs = choice.logprobs[: choice.tokens]
