"""Rows to prompts: templates over columns, a messages column, or OpenAI-batch lines.

Templates come from the job file alone; a row's text is only ever a value in them, so template syntax in data is inert. A row
that cannot be rendered becomes a failure that says which column and where. The same row always gives the same prompt.
"""

from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.meta
import jinja2.runtime
import jinja2.sandbox
import orjson

from pipeline.errors import JobError
from pipeline.failures import one_line
from pipeline.jobspec import PromptSection
from pipeline.records import Failure, FailureKind, Prompt, Row

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
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
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
        self, section: PromptSection, params: dict[str, Any], row_id: Callable[[Row], str | None]
    ) -> None:
        self._params = params
        self._row_id = row_id
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
            self._names_row = "row" in used
            self.columns = frozenset(used - {"row"})
            self._messages = self._templated

    def render(self, row: Row) -> Prompt | Failure:
        """The row's prompt, or the failure `invalid_input` with its place and reason."""
        if row.problem is not None:
            return _failure(row, "unreadable", row.problem)
        row_id = self._row_id(row)
        if row_id is None:
            return _failure(row, "no_id", "its id is missing or null")
        try:
            messages, params = self._messages(row.columns)
        except _RowProblem as problem:
            return _failure(row, "not_renderable", str(problem))
        except RecursionError:
            return _failure(row, "not_renderable", "its messages are nested too deeply")
        return Prompt(row.index, row_id, messages, params)

    def not_encodable(self, row: Row, error: ValueError) -> Failure:
        """The failure of a row whose prompt holds what JSON cannot."""
        return _failure(row, "not_encodable", str(error))

    def _templated(self, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        messages = []
        values = {**self._environment.globals, **columns}
        if self._names_row:
            values["row"] = _WholeRow(columns)
        for role, template in self._templates:
            # As Template.render does it, but for its new_context, which costs four times as much as all the rest.
            context = jinja2.runtime.Context(self._environment, values, template.name, template.blocks)
            try:
                content = "".join(template.root_render_func(context))
            except jinja2.UndefinedError as error:
                said = str(error).replace(_WholeRow.SAID, "the row")
                raise _RowProblem(f"the {role} template needs a column that is not there: {said}") from None
            except _TEMPLATE_ERRORS as error:
                reason = str(error) or type(error).__name__
                raise _RowProblem(f"the {role} template failed on it: {reason}") from None
            messages.append({"role": role, "content": content})
        return messages, self._params

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
