"""Streams put together: events in, the whole answer out, for both wire formats.

An `Assembler` gathers what each choice was sent piece by piece and then puts it into the shape of a whole compatible
answer, which `compatible.answer` reads as if it had never been cut up. The answer stands only if every choice has
its finish reason: a stream without one was cut, wherever it broke. What a format's events look like is said by its
`Form`; framing is `sse.py`'s. Pure: no I/O, no clock, nothing is ever raised for foreign bytes.
"""

import re
from collections.abc import Callable
from datetime import datetime
from itertools import takewhile
from typing import Any, NamedTuple

import orjson

from pipeline.failures import Dialect
from pipeline.protocol import compatible
from pipeline.protocol.sse import Event, EventParser
from pipeline.records import Completion, Failure, FailureKind, Response, Usage

# As the transports bound a whole answer.
MAX_STREAM_BYTES = 32 * 1024 * 1024
_DONE = b"[DONE]"
_TOO_LARGE = "the stream, or one event of it, is too large: ask for less in one answer"
# The inside of a JSON string, whole: no quotes, no control characters, no half of a surrogate pair.
_STRING_INSIDE = re.compile(rb'[^"\\\x00-\x1f]*(?:\\[nrt\\/bf][^"\\\x00-\x1f]*)*').fullmatch
# An object of counts, as far as it matters: nothing in it ends a string or names anything but counts.
_COUNTS = re.compile(rb'\{[\w":,{}]*\}').fullmatch
_PROBE = b'{"probe":0}'
# Patterns that were of no use before the assembler stops to look for them (usage in every event, random padding).
_USELESS_PATTERNS = 3
_NEVER = b"\x00"  # begins no JSON


class Form(NamedTuple):
    """What the assembler has to know of a wire format.

    `choices` finds an event's or a body's choices (None if it has none to speak of); `usage` maps a usage object;
    `whole_usage` makes one of the last usage of each choice, where the format counts choices apart; `decode` reads an
    answer that came whole after all.
    """

    choices: Callable[[dict[str, Any]], list[Any] | None]
    usage: Callable[[Any], Usage]
    decode: Callable[[Response, Dialect, datetime], Completion | Failure]
    whole_usage: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None


class _Call:
    """One tool call as far as it has come."""

    __slots__ = ("arguments", "id", "name", "whole_arguments")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.whole_arguments: Any = None  # not sent as text, so not in pieces

    def message(self) -> dict[str, Any]:
        arguments = "".join(self.arguments) if self.arguments else self.whole_arguments
        function = {"name": self.name or None, "arguments": arguments}
        return {"id": self.id or None, "type": "function", "function": function}


class _Choice:
    """One choice as far as it has come; texts as lists of pieces."""

    __slots__ = ("calls", "content", "current", "finish_reason", "logprobs", "reasoning", "refusal")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.calls: list[_Call] = []
        self.current: dict[Any, _Call] = {}  # by the index the server gives them
        self.logprobs: dict[str, list[Any]] = {}
        self.finish_reason: str | None = None

    def whole(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant"}
        for name, pieces in (
            ("content", self.content),
            ("reasoning_content", self.reasoning),
            ("refusal", self.refusal),
        ):
            if pieces:
                message[name] = "".join(pieces)
        if self.calls:
            message["tool_calls"] = [call.message() for call in self.calls]
        choice = {"index": index, "message": message, "finish_reason": self.finish_reason}
        return {**choice, "logprobs": self.logprobs} if self.logprobs else choice


class Assembler:
    """One stream's answer in the making: `feed` it every piece, then ask for it with `finish`.

    `started`: the first token of content, reasoning or a tool call has come. `complete`: so has the finish reason
    of every choice; what can still come is the usage. With `cumulative`, each event repeats the whole text so far
    (native, `incremental_output` false).
    """

    def __init__(
        self, form: Form, *, cumulative: bool = False, max_stream_bytes: int = MAX_STREAM_BYTES
    ) -> None:
        self.started = False
        self._form = form
        self._cumulative = cumulative
        self._left_bytes = max_stream_bytes
        self._parser = EventParser()
        self._choices: dict[int, _Choice] = {}
        self._head: dict[str, Any] = {}  # what names the model and the request
        self._usage: dict[str, Any] | None = None
        self._usages: dict[int, dict[str, Any]] = {}
        self._error: Event | None = None
        self._garbled = False
        self._done = False
        # Most events differ from the one before in one text alone, and in the usage so far where that comes with each.
        # The bytes around the two, once understood, need not be parsed again: `before` text `middle` counts `after`.
        self._before = self._middle = self._framed_before = _NEVER
        self._after = self._framed_after = self._framed_ending = b""
        self._has_counts = False
        self._grows = 0, list[str]()  # the choice, and its text
        self._texts: list[bytes] = []  # what has come since, JSON-escaped as it came, and the last counts
        self._counts = b""
        self._lessons = 0 if cumulative else _USELESS_PATTERNS

    @property
    def complete(self) -> bool:
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body, cut anywhere."""
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            return
        at, size = 0, len(chunk)
        while at < size:
            if self._parser.between and (end := self._run(chunk, at)) > at:
                at = end
                continue
            found = chunk.find(b"\n\n", at)
            end = size if found < 0 else found + 2
            for event in self._parser.feed(chunk[at:end]):
                if not self._fits(event.data, self._before, self._after):
                    self._take(event)
            at = end

    def _run(self, chunk: bytes, at: int) -> int:
        """Keep the texts of events that fit the pattern, as many as stand one behind the other from here; where they end."""
        before, ending = self._framed_before, self._framed_ending
        if not chunk.startswith(before, at):
            return at
        if self._has_counts:
            found = chunk.find(b"\n\n", at)
            fits = found > 0 and self._fits(chunk[at : found + 2], before, self._framed_after)
            return found + 2 if fits else at
        texts, start, next_one = [], at + len(before), ending + before
        while chunk.startswith(next_one, end := chunk.find(b'"', start)):
            texts.append(chunk[start:end])
            start = end + len(next_one)
        if chunk.startswith(ending, end):
            texts.append(chunk[start:end])
        if not _STRING_INSIDE(b" ".join(texts)):
            texts = list(takewhile(_STRING_INSIDE, texts))
        if texts:
            self._texts += texts
            self._counts = b""
        return at + sum(map(len, texts)) + len(texts) * len(next_one)

    def _fits(self, raw: bytes, before: bytes, after: bytes) -> bool:
        """Whether these bytes are the event that was learnt but for its text and counts; then those are kept."""
        if not raw.startswith(before):
            return False
        end = raw.find(b'"', len(before))
        if not (raw.startswith(self._middle, end) and raw.endswith(after)):
            return False
        text, counts = raw[len(before) : end], raw[end + len(self._middle) : len(raw) - len(after)]
        if not (_STRING_INSIDE(text) and (_COUNTS(counts) if self._has_counts else not counts)):
            return False
        self._texts.append(text)
        self._counts = counts
        return True

    def finish(self, response: Response, dialect: Dialect, now: datetime) -> Completion | Failure:
        """What the stream came to; `response` has its status and headers, and the body if that came whole.

        Never raises. `now` as in `compatible.decode`.
        """
        if response.body:
            if response.status >= 300 or not compatible.is_event_stream(response.body):
                return self._form.decode(response, dialect, now)
            self.feed(response.body)
        for event in self._parser.close():
            self._take(event)
        self._settle()
        if self._error is not None:
            return self._refused(response, self._error, dialect, now)
        if self._left_bytes < 0 or self._parser.too_large:
            failure = compatible.unfinished(response, self._head, "response_too_large", _TOO_LARGE)
            failure.kind = FailureKind.TOO_LARGE
            return failure
        if self._garbled:
            return compatible.unfinished(
                response, self._head, "not_json", "a part of the stream is not JSON, or was cut"
            )
        if not self._choices:  # perhaps an answer or an error that only the content type calls a stream
            whole = Response(response.status, response.headers, self._parser.stray, response.latency_ms)
            return self._form.decode(whole, dialect, now)
        if not self.complete:
            return compatible.unfinished(
                response, self._head, "no_finish_reason", "the stream ended before its finish reason"
            )
        choices = [choice.whole(index) for index, choice in sorted(self._choices.items())]
        usage = self._usage
        if len(self._usages) > 1 and self._form.whole_usage is not None:
            usage = self._form.whole_usage(list(self._usages.values()))
        return compatible.answer(response, self._head, choices, self._form.usage(usage))

    def _refused(self, response: Response, event: Event, dialect: Dialect, now: datetime) -> Failure:
        """The failure that an error event tells of; tokens that came before it may be billed."""
        told = Response(event.status or response.status, response.headers, event.data, response.latency_ms)
        failure = compatible.refusal(told, compatible.loads(event.data), dialect, now)
        failure.http_status = response.status
        failure.request_id = failure.request_id or compatible.request_id(response, self._head)
        failure.maybe_paid = failure.maybe_paid or self.started
        return failure

    def _take(self, event: Event) -> None:
        """Take one event, whatever it holds."""
        data = event.data
        if data == _DONE:
            self._done = True
            self._before = self._framed_before = _NEVER
        if self._done or self._error is not None:
            return
        body = _loads(data)
        if type(body) is not dict:
            if event.name == b"error":
                self._error = event
            elif b"\n" in data:  # a server that leaves out the blank lines between its events
                for line in data.split(b"\n"):
                    self._take(Event(line, event.name, event.status))
            elif data[:1] == b"{" and not self.complete:
                self._garbled = True
            return
        choices = self._form.choices(body)
        if event.name == b"error" or body.get("error") or (choices is None and compatible.error_of(body)):
            self._error = event
            return
        self._settle()
        if not self._head:
            self._head = {name: body[name] for name in ("model", "request_id", "id") if body.get(name)}
        usage = body.get("usage")
        if type(usage) is not dict:
            usage = None
        self._usage = usage or self._usage
        for place, part in enumerate(choices or ()):
            if type(part) is not dict:
                continue
            index = part.get("index")
            if type(index) is not int:
                index = place
            choice = self._choices.get(index)
            if choice is None:
                choice = self._choices[index] = _Choice()
            grown = self._gather(choice, part)
            if len(choices or ()) == 1:
                if usage is not None:
                    self._usages[index] = usage
                if grown is not None and self._lessons:
                    self._learn(data, usage, (index, grown), is_content=grown is choice.content)

    def _gather(self, choice: _Choice, part: dict[str, Any]) -> list[str] | None:
        """Add what an event says of a choice; the text it added to, if it brought one text and nothing else."""
        delta = part.get("delta")
        if type(delta) is not dict:
            delta = part.get("message")
            if type(delta) is not dict:
                delta = {}
        finish = part.get("finish_reason")
        if finish and type(finish) is str and finish != "null":
            choice.finish_reason = finish
        content = delta.get("content")
        if type(content) is list:
            content = compatible.joined(content)
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        grown = None
        if type(content) is str:
            self._add(choice.content, content)
            grown = choice.content if content else None
        if reasoning and type(reasoning) is str:
            self._add(choice.reasoning, reasoning)
            grown = None if grown else choice.reasoning
        calls, legacy = delta.get("tool_calls"), delta.get("function_call")
        if not (calls or legacy or part.get("logprobs") or delta.get("refusal")):
            return grown
        if type(delta.get("refusal")) is str:
            self._add(choice.refusal, delta["refusal"])
        if type(legacy) is dict:
            self._call(choice, {"function": legacy, "index": "legacy"})
        for call in calls if type(calls) is list else ():
            if type(call) is dict:
                self._call(choice, call)
        logprobs = part.get("logprobs")
        if type(logprobs) is dict:
            for name, entries in logprobs.items():
                if type(entries) is list:
                    held = choice.logprobs.setdefault(name, [])
                    held.extend(entries[len(held) :] if self._cumulative else entries)
        return None

    def _add(self, pieces: list[str], text: str) -> None:
        if self._cumulative and text:
            pieces.clear()
        pieces.append(text)
        if text:
            self.started = True

    def _call(self, choice: _Choice, part: dict[str, Any]) -> None:
        """Add a piece of a tool call. Servers repeat the id and name, send them empty, or leave the index out."""
        id_, function, index = part.get("id"), part.get("function"), part.get("index")
        function = function if type(function) is dict else {}
        name, arguments = function.get("name"), function.get("arguments")
        key = index if type(index) in (int, str) else None
        call = choice.current.get(key)
        other = call is not None and type(id_) is str and id_ not in ("", call.id) and bool(name)
        if call is None or other:
            call = _Call()
            choice.calls.append(call)
            choice.current[key] = choice.current[None] = call
        self.started = True
        if type(id_) is str and id_:
            call.id = id_
        if type(name) is str and name != call.name:
            call.name = name if self._cumulative else call.name + name
        if type(arguments) is str:
            self._add(call.arguments, arguments)
        elif arguments is not None:
            call.whole_arguments = arguments

    def _learn(
        self, data: bytes, usage: dict[str, Any] | None, grows: tuple[int, list[str]], *, is_content: bool
    ) -> None:
        """Take the bytes around an event's only text as the pattern of the events to come.

        They are one if with another text in that place the event brings just that text: what stands inside a JSON
        string cannot change what stands outside. Likewise with the usage, whose last state is all that counts.
        """
        self._lessons -= 1
        if b"\n" in data:
            return
        text = orjson.dumps(grows[1][-1])
        before, met, middle = data.partition(text)
        before, middle, after = before + b'"', b'"' + middle, b""
        start, key, rest = middle.partition(b'"usage":')
        counts = orjson.dumps(usage) if usage else b"?"
        has_counts = rest.startswith(counts)
        if has_counts:
            middle, after = start + key, rest[len(counts) :]
        body = _loads(before + b"?" + text[1:-1] + middle + (_PROBE if has_counts else b"") + after)
        choices = self._form.choices(body) if met and type(body) is dict else None
        if has_counts and choices and orjson.dumps(body.get("usage")) != _PROBE:
            return
        if choices and type(choices[0]) is dict:
            scratch = _Choice()
            found = self._gather(scratch, choices[0])
            if found == ["?" + grows[1][-1]] == (scratch.content if is_content else scratch.reasoning):
                self._before, self._middle, self._after = before, middle, after
                self._framed_before, self._framed_after = b"data: " + before, after + b"\n\n"
                self._framed_ending = middle + self._framed_after
                self._has_counts, self._grows = has_counts, grows

    def _settle(self) -> None:
        """Understand what has come in the pattern's places."""
        if self._texts:
            index, pieces = self._grows
            pieces.append(_loads(b'"' + b"".join(self._texts) + b'"'))
            if self._counts:
                usage = _loads(self._counts)
                if type(usage) is dict:
                    self._usage = self._usages[index] = usage
                else:
                    self._garbled = True
            self._texts = []
            self._lessons = _USELESS_PATTERNS


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return compatible.loads(data)
