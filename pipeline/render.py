"""Rows to prompts: templates over columns, a messages column, or OpenAI-batch lines.

Templates come from the job file alone; a row's text is only ever a value in them, so template syntax in data is inert. A row
that cannot be rendered becomes a failure that says which column and where.
"""

from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox
import orjson

from pipeline.errors import JobError
from pipeline.jobspec import PromptSection
from pipeline.records import Failure, FailureKind, Prompt, Row

_BATCH_URL = "/v1/chat/completions"
_ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function"})
# A batch line's body may carry these; the job decides them for the whole run.
_JOB_DECIDES = ("model", "messages", "stream", "stream_options")


class _RowProblem(Exception):
    """Why one row cannot become a prompt; never leaves this module."""


def _no_null(value: Any) -> Any:
    if value is None:
        raise _RowProblem(
            "a column it uses is null; write {{ column or '' }} in the template where that is meant"
        )
    return value


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
            environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
                undefined=jinja2.StrictUndefined,
                finalize=_no_null,
                autoescape=False,
                keep_trailing_newline=True,
            )
            self._templates = [
                (role, _compile(environment, role, text))
                for role, text in (("system", section.system), ("user", section.user))
                if text is not None
            ]
            self.columns = frozenset().union(
                *(
                    jinja2.meta.find_undeclared_variables(environment.parse(text))
                    for text in (section.system, section.user)
                    if text is not None
                )
            ) - {"row"}
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
        return Prompt(row.index, row_id, messages, params)

    def not_encodable(self, row: Row, error: ValueError) -> Failure:
        """The failure of a row whose prompt holds what JSON cannot."""
        return _failure(row, "not_encodable", str(error))

    def _templated(self, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        messages = []
        for role, template in self._templates:
            try:
                content = template.render(columns, row=columns)
            except jinja2.UndefinedError as error:
                raise _RowProblem(
                    f"the {role} template needs a column that is not there: {error.message}"
                ) from None
            except (
                jinja2.TemplateError,
                ArithmeticError,
                LookupError,
                TypeError,
                ValueError,
                AttributeError,
            ) as error:
                raise _RowProblem(f"the {role} template failed on it: {error}") from None
            messages.append({"role": role, "content": content})
        return messages, self._params

    def _messages_column(self, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if self._column not in columns:
            raise _RowProblem(f"it has no column {self._column!r}")
        value = columns[self._column]
        if isinstance(value, str | bytes):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError as error:
                raise _RowProblem(f"column {self._column!r} is not JSON: {error}") from None
        return _checked(value, f"column {self._column!r}"), self._params

    def _batch_line(self, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        method, url, body = columns.get("method", "POST"), columns.get("url", _BATCH_URL), columns.get("body")
        if method != "POST" or not str(url).endswith("/chat/completions"):
            raise _RowProblem(f"it asks for {method} {url}; this program sends POST {_BATCH_URL} only")
        if isinstance(body, str):
            try:
                body = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise _RowProblem(f"its body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise _RowProblem("it has no body object")
        params = {name: value for name, value in body.items() if name not in _JOB_DECIDES}
        return _checked(body.get("messages"), "body.messages"), {**self._params, **params}


def _compile(environment: jinja2.Environment, role: str, text: str) -> jinja2.Template:
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise JobError(
            f"[prompt] {role}: the template is not valid, line {error.lineno}: {error.message}"
        ) from None


def _checked(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise _RowProblem(f"{what} is not a list of messages")
    messages = []
    for place, message in enumerate(value):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _RowProblem(f"{what}[{place}] is not a message with a role ({', '.join(sorted(_ROLES))})")
        # A Parquet struct brings every field of every row, null where a message lacks it.
        messages.append(
            {name: part for name, part in message.items() if part is not None or name == "content"}
        )
    return messages


def _failure(row: Row, code: str, reason: str) -> Failure:
    return Failure(FailureKind.INVALID_INPUT, code, f"{row.where}: {reason}")
