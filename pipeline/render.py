"""Rows to prompts: templates over columns, a messages column, or OpenAI-batch lines.

Templates come from the job file alone; a row's text is only ever a value in them, so template syntax in data is inert. A row
that cannot be rendered becomes a failure that says which column and where. The same row always gives the same prompt.
"""

import re
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.meta
import jinja2.runtime
import orjson

from pipeline.errors import JobError
from pipeline.failures import one_line
from pipeline.jobspec import PromptSection
from pipeline.media import MediaProblem, MediaReader
from pipeline.records import Failure, FailureKind, Prompt, Row
from pipeline.sandbox import BoundedSandbox, bounded_concat

_BATCH_URL = "/v1/chat/completions"
_ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function"})
# A batch line's body may carry these; the job decides them for the whole run.
_JOB_DECIDES = ("model", "messages", "stream", "stream_options")
# All that a template may raise on some row: none of it is a bug of ours.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # recursion without end is one
    TypeError,
    ValueError,
)


_COLUMN_ALONE = re.compile(r"\s*\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}\s*")
_Values = Callable[[dict[str, Any]], Any]


class _RowProblem(Exception):
    """Why one row cannot become a prompt; never leaves this module."""


class _WholeRow(dict[str, Any]):
    """What `row` is in a template: all columns by name, for names that are no identifiers."""

    SAID = f"'{__module__}._WholeRow object'"  # by jinja2, of a column it has not


def _printable(value: Any) -> Any:
    """What `{{ }}` may print: neither null, nor what stands for itself only by mistake."""
    if type(value) is str or isinstance(value, jinja2.Undefined):  # the latter refuses by itself
        return value
    if value is None:
        raise _RowProblem(
            "a column it uses is null; write {{ column or '' }} in the template where that is meant"
        )
    if isinstance(value, _WholeRow):
        raise _RowProblem("`row` is the whole row; write {{ row['column'] }} or {{ row | tojson }}")
    if callable(value) or type(value).__module__.startswith("jinja2"):
        # order.items is a method of every object and self the template, unless written as keys.
        raise _RowProblem(
            "it would print a method or a part of the template; write {{ column['key'] }} or {{ row['column'] }}"
        )
    return value


def _environment() -> jinja2.Environment:
    environment = BoundedSandbox(
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        autoescape=False,
        keep_trailing_newline=True,
    )
    # What is drawn by chance would be another prompt after a restart, paid for again.
    del environment.globals["lipsum"], environment.filters["random"]
    return environment


class Renderer:
    """Renders rows of one job. `columns` are the column names that prompts need, for `check` to look up."""

    def __init__(
        self,
        section: PromptSection,
        params: dict[str, Any],
        row_id: Callable[[Row], str | None],
        media: MediaReader | None = None,
    ) -> None:
        self._params = params
        self._row_id = row_id
        self._media = media
        self._fps = section.fps
        self._brings_media = section.brings_media
        self._images: _Values | None = None
        self._video: _Values | None = None
        self._documents: _Values | None = None
        self.columns: frozenset[str] = frozenset()
        if section.format is not None:
            self._messages = self._batch_line
            self.columns = frozenset({"body"})
        elif section.messages is not None:
            self._column = section.messages
            self._messages = self._messages_column
            self.columns = frozenset({section.messages})
        else:
            self._environment = environment = _environment()
            roles = (("system", section.system), ("user", section.user))
            texts = [(role, text) for role, text in roles if text is not None]
            self._templates = [(role, _compile(environment, role, text)) for role, text in texts]
            used = {
                name
                for _, text in texts
                for name in jinja2.meta.find_undeclared_variables(environment.parse(text))
            }
            for name in ("images", "video", "documents"):
                if (asked := getattr(section, name)) is not None:
                    values, names = self._media_values(name, asked)
                    setattr(self, f"_{name}", values)
                    used |= names
            self._names_row = "row" in used
            self.columns = frozenset(used - {"row"})
            self._fixed = {role: said for role, text in texts if (said := self._without_columns(role, text))}
            self._messages = self._templated

    def render(self, row: Row) -> Prompt | Failure:
        """The row's prompt, or the failure `invalid_input` with its place and reason."""
        if row.problem is not None:
            return _failure(row, "unreadable", row.problem)
        row_id = self._row_id(row)
        if row_id is None:
            return _failure(row, "no_id", "its id is missing, null, or neither text nor an integer")
        try:
            messages, params = self._messages(row.columns)
            prompt = Prompt(row.index, row_id, messages, params)
            if self._media is not None:
                self._add_media(prompt, row.columns, self._media)
            return prompt
        except (_RowProblem, MediaProblem) as problem:
            return _failure(row, "not_renderable", str(problem))
        except RecursionError:
            return _failure(row, "not_renderable", "its messages are nested too deeply")

    def not_encodable(self, row: Row, error: ValueError) -> Failure:
        """The failure of a row whose prompt holds what JSON cannot."""
        return _failure(row, "not_encodable", str(error))

    def _add_media(self, prompt: Prompt, columns: dict[str, Any], reader: MediaReader) -> None:
        """Put the row's pictures, frames and documents where the provider's own examples have them.

        Frames stand before the text, pictures behind it; documents are a system message of their own before the user's.
        """
        if not self._brings_media:
            read = reader.messages(prompt.messages)
            prompt.messages, prompt.files, prompt.media_tokens = read.parts, read.files, read.tokens
            return
        user = prompt.messages[-1]
        before = reader.video_parts(self._video(columns), self._fps) if self._video else None
        after = reader.image_parts(self._images(columns)) if self._images else None
        if before or after:
            text = {"type": "text", "text": user["content"]}
            parts = [*(before.parts if before else ()), text, *(after.parts if after else ())]
            prompt.messages = [*prompt.messages[:-1], {**user, "content": parts}]
        read_documents = reader.documents(self._documents(columns)) if self._documents else None
        if read_documents:
            prompt.messages = [*prompt.messages[:-1], *read_documents.messages, prompt.messages[-1]]
        found = [part for part in (before, after, read_documents) if part is not None]
        prompt.files = [file for part in found for file in part.files]
        prompt.media_tokens = sum(part.tokens for part in found)

    def _media_values(self, role: str, asked: str | list[str]) -> tuple[_Values, set[str]]:
        """How the values of a media key come from a row, and the columns it needs.

        A text names a column. Of a list each entry is a template; one that is nothing but a column (`{{ image }}`) stands
        for the column's value as it is: text, bytes or a list.
        """
        if isinstance(asked, str):
            column = asked
            return lambda columns: _value(columns, column), {column}
        getters: list[_Values] = []
        used: set[str] = set()
        for text in asked:
            if alone := _COLUMN_ALONE.fullmatch(text):
                getters.append(_getter(alone[1]))
                used.add(alone[1])
                continue
            template = _compile(self._environment, role, text)
            used |= jinja2.meta.find_undeclared_variables(self._environment.parse(text))
            getters.append(self._template_getter(role, template))
        if len(getters) == 1:  # one template names one value: a picture, a video file, or a list column
            return getters[0], used
        return lambda columns: [getter(columns) for getter in getters], used

    def _template_getter(self, role: str, template: jinja2.Template) -> _Values:
        return lambda columns: self._filled(role, template, self._values(columns))

    def _templated(self, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        values = self._values(columns)
        messages = [
            {"role": role, "content": self._fixed.get(role) or self._filled(role, template, values)}
            for role, template in self._templates
        ]
        return messages, self._params

    def _without_columns(self, role: str, text: str) -> str | None:
        """What a template that names no column says in every row; None where it does, or fails."""
        if jinja2.meta.find_undeclared_variables(self._environment.parse(text)):
            return None
        try:
            return self._filled(role, dict(self._templates)[role], self._values({}))
        except _RowProblem:
            return None

    def _values(self, columns: dict[str, Any]) -> dict[str, Any]:
        values = {**self._environment.globals, **columns}
        if self._names_row:
            values["row"] = _WholeRow(columns)
        return values

    def _filled(self, role: str, template: jinja2.Template, values: dict[str, Any]) -> str:
        # As Template.render does it, but for its new_context, which costs four times as much as all the rest.
        context = jinja2.runtime.Context(self._environment, values, template.name, template.blocks)
        try:
            return bounded_concat(template.root_render_func(context))
        except jinja2.UndefinedError as error:
            said = str(error).replace(_WholeRow.SAID, "the row")
            raise _RowProblem(f"the {role} template needs a column that is not there: {said}") from None
        except _TEMPLATE_ERRORS as error:
            reason = str(error) or type(error).__name__
            raise _RowProblem(f"the {role} template failed on it: {reason}") from None

    def _messages_column(self, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if self._column not in columns:
            raise _RowProblem(f"it has no column {self._column!r}")
        what = f"column {self._column!r}"
        return _checked(_from_json(columns[self._column], what), what), self._params

    def _batch_line(self, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        method, url = columns.get("method") or "POST", columns.get("url") or _BATCH_URL
        if method != "POST" or not str(url).endswith("/chat/completions"):
            raise _RowProblem(f"it asks for {method} {url}; this program sends POST {_BATCH_URL} only")
        body = _from_json(columns.get("body"), "its body")
        if not isinstance(body, dict):
            raise _RowProblem("it has no body object")
        params = {
            name: value
            for name, value in body.items()
            if value is not None and name not in _JOB_DECIDES  # null is "not given", as in a Parquet struct
        }
        return _checked(body.get("messages"), "body.messages"), {**self._params, **params}


def _getter(column: str) -> _Values:
    return lambda columns: _value(columns, column)


def _value(columns: dict[str, Any], column: str) -> Any:
    if column not in columns:
        raise _RowProblem(f"it has no column {column!r}")
    return columns[column]


def _compile(environment: jinja2.Environment, role: str, text: str) -> jinja2.Template:
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise JobError(
            f"[prompt] {role}: the template is not valid, line {error.lineno}: {error.message}"
        ) from None


def _from_json(value: Any, what: str) -> Any:
    if not isinstance(value, str | bytes):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _RowProblem(f"{what} is not JSON: {error}") from None


def _checked(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise _RowProblem(f"{what} is not a list of messages")
    messages = []
    for place, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise _RowProblem(f"{what}[{place}] is not a message with a role ({', '.join(sorted(_ROLES))})")
        messages.append(
            {
                name: _given(part)
                for name, part in message.items()
                if part is not None or name == "content"  # null beside tool calls, where some servers want it
            }
        )
    return messages


def _given(value: Any) -> Any:
    """A value without nulls in its objects: a Parquet struct brings every field of every row, null where one lacks it."""
    if isinstance(value, dict):
        return {name: _given(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_given(part) for part in value]
    return value


def _failure(row: Row, code: str, reason: str) -> Failure:
    return Failure(FailureKind.INVALID_INPUT, code, one_line(f"{row.where}: {reason}"))
