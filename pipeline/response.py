"""What the job asks of an answer beyond its text: labels or a JSON Schema, checked here and turned into typed columns.

Pure: a completion in, columns or a failure out. `AnswerCheck` is built once a job; where an answer is not valid it also
writes the repair turn, the messages that ask for it again.
"""

from typing import Any, TypeAlias

import jsonschema_rs
import orjson
import pyarrow as pa

from pipeline.errors import JobError
from pipeline.records import Completion, Failure, FailureKind

AnswerField: TypeAlias = "pa.Field[Any]"
_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
_INT64 = range(-(2**63), 2**63)


class AnswerCheck:
    """Checks answers against exactly one of: labels, a JSON Schema, or nothing at all."""

    def __init__(self, *, labels: list[str] | None = None, schema: dict[str, Any] | None = None) -> None:
        self.labels = labels
        self.schema = schema
        self._label_of = {label.strip().casefold(): label for label in labels or ()}
        self._validator = None
        if schema is not None:
            try:
                self._validator = jsonschema_rs.validator_for(schema)
            except jsonschema_rs.ValidationError as error:
                raise JobError(f"[response] schema is not a valid JSON Schema: {error.message}") from None
            except ValueError as error:
                raise JobError(f"[response] schema cannot be used: {error}") from None

    @property
    def asked(self) -> bool:
        return self.labels is not None or self.schema is not None

    def fields(self) -> list[AnswerField]:
        """The typed columns of a valid answer: `label`, or the schema's properties in their order.

        Schema types string, integer, number and boolean keep their type; anything else is a string column of JSON text.
        """
        if self.labels is not None:
            return [pa.field("label", pa.string())]
        if self.schema is None:
            return []
        return [pa.field(name, _arrow_type(rule)) for name, rule in self.schema["properties"].items()]

    def response_format(self) -> dict[str, Any] | None:
        """The request's `response_format` for servers that follow a JSON Schema by grammar."""
        if self.labels is not None:
            return _json_schema("label", {"type": "string", "enum": self.labels})
        if self.schema is not None:
            return _json_schema("answer", self.schema)
        return None

    def check(self, completion: Completion) -> dict[str, Any] | Failure:
        """The typed columns of an answer, or the failure `invalid_answer` that says what is wrong with it."""
        if not self.asked or completion.tool_calls:
            return {}
        text = (completion.content or "").strip()
        if self.labels is not None:
            label = self._label_of.get(_bare(text).casefold())
            return {"label": label} if label is not None else self._not_a_label(text)
        return self._check_schema(text)

    def _not_a_label(self, text: str) -> Failure:
        found = f"found {_short(text)}" if text else "the answer is empty"
        return _invalid("not_a_label", f"the answer is not one of {', '.join(self.labels or ())}; {found}")

    def _check_schema(self, text: str) -> dict[str, Any] | Failure:
        try:
            value = orjson.loads(_unfenced(text))
        except orjson.JSONDecodeError as error:
            return _invalid("not_json", f"the answer is not JSON ({error}); found {_short(text)}")
        assert self._validator is not None and self.schema is not None  # noqa: S101  (check() came here for a schema)
        wrong = next(self._validator.iter_errors(value), None)
        if wrong is not None:
            where = "/".join(str(step) for step in wrong.instance_path) or "the answer"
            return _invalid("not_the_schema", f"{where}: {_short(wrong.message, 300)}")
        if not isinstance(value, dict):
            return _invalid("not_the_schema", f"the answer is not an object; found {_short(text)}")
        columns = {}
        for field in self.fields():
            try:
                columns[field.name] = _typed(field, value.get(field.name))
            except ValueError as error:
                return _invalid("not_the_schema", f"{field.name}: {error}")
        return columns

    def repair(self, messages: list[dict[str, Any]], answer: str, failure: Failure) -> list[dict[str, Any]]:
        """The messages of the next attempt: the conversation so far, the invalid answer, and what is wanted instead."""
        if self.labels is not None:
            wanted = f"Answer with exactly one of these, and nothing else: {', '.join(self.labels)}"
        else:
            wanted = (
                f"That answer is not valid: {failure.message}. Answer again with JSON alone that follows this JSON Schema: "
                f"{orjson.dumps(self.schema).decode()}"
            )
        said = [{"role": "assistant", "content": answer}] if answer else []
        return [*messages, *said, {"role": "user", "content": wanted}]


def _json_schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


def _arrow_type(rule: object) -> pa.DataType:
    kind = rule.get("type") if isinstance(rule, dict) else None
    if isinstance(kind, list):  # ["integer", "null"] is an integer that may be null
        kinds = [name for name in kind if name != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
    if kind is None and isinstance(rule, dict) and "enum" in rule:
        kind = "string" if all(isinstance(choice, str) for choice in rule["enum"]) else None
    return _ARROW.get(kind, pa.string()) if isinstance(kind, str) else pa.string()


def _typed(field: AnswerField, value: Any) -> Any:
    if value is None:
        return None
    if field.type == pa.int64():
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON Schema counts 1.0 as an integer
        if value not in _INT64:
            raise ValueError(f"{value} does not fit 64 bits")
        return value
    if field.type == pa.float64():
        return float(value)
    if field.type == pa.string() and not isinstance(value, str):
        return orjson.dumps(value).decode()
    return value


def _bare(text: str) -> str:
    """An answer without what models like to put around one word: quotes, a full stop, Markdown emphasis."""
    return text.strip().strip("\"'`*“”‘’「」.。!！ \n\t")


def _unfenced(text: str) -> str:
    if text.startswith("```"):
        text = text.removeprefix("```json").removeprefix("```").removesuffix("```")
    return text


def _short(text: str, limit: int = 80) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= limit else flat[: limit - 1] + "…")


def _invalid(code: str, message: str) -> Failure:
    return Failure(FailureKind.INVALID_ANSWER, code, message)
