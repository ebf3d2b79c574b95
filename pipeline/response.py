"""What the job asks of an answer beyond its text: labels or a JSON Schema, checked here and turned into typed columns.

Pure: a completion in, columns or a failure out. `AnswerCheck` is built once a job; where an answer is not valid it also
writes the repair turn, the messages that ask for it again.
"""

from collections.abc import Iterator
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
_EXACT_FLOAT = 2**53  # beyond, a float is not the integer that stood in the text
_REFERENCES_DEEP = 8


class AnswerCheck:
    """Checks answers against exactly one of: labels, a JSON Schema, or nothing at all."""

    def __init__(self, *, labels: list[str] | None = None, schema: dict[str, Any] | None = None) -> None:
        self.labels = labels
        self.schema = schema
        self._label_of = {label.strip().casefold(): label for label in labels or ()}
        for label in labels or ():
            if bare := _bare(label).casefold():  # "U.S." loses its last stop where the answer did
                self._label_of.setdefault(bare, label)
        self._validator = None
        if schema is not None:
            try:
                self._validator = jsonschema_rs.validator_for(schema, retriever=_refuse_to_fetch)
            except jsonschema_rs.ValidationError as error:
                raise JobError(f"[response] schema is not a valid JSON Schema: {error.message}") from None
            except ValueError as error:
                raise JobError(f"[response] schema cannot be used: {error}") from None
        self._fields = _fields(labels, schema)

    @property
    def asked(self) -> bool:
        return self.labels is not None or self.schema is not None

    def fields(self) -> list[AnswerField]:
        """The typed columns of a valid answer: `label`, or the schema's properties in their order.

        Schema types string, integer, number and boolean keep their type, also where null is allowed beside them; anything
        else is a string column of JSON text.
        """
        return list(self._fields)

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
            for reading in _readings(text):
                if label := self._label_of.get(reading.casefold()):
                    return {"label": label}
            return self._not_a_label(text)
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
        for field in self._fields:
            try:
                columns[field.name] = _typed(field.type, value.get(field.name))
            except (TypeError, ValueError) as error:
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


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"it refers to {uri}, and a schema must be whole in itself")


def _fields(labels: list[str] | None, schema: dict[str, Any] | None) -> list[AnswerField]:
    if labels is not None:
        return [pa.field("label", pa.string())]
    if schema is None:
        return []
    return [pa.field(name, _arrow_type(rule, schema)) for name, rule in schema["properties"].items()]


def _arrow_type(rule: object, schema: dict[str, Any]) -> pa.DataType:
    kinds = _kinds(rule, schema, _REFERENCES_DEEP) - {"null"}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    return _ARROW.get(kinds.pop(), pa.string()) if len(kinds) == 1 else pa.string()


def _kinds(rule: object, schema: dict[str, Any], deep: int) -> set[str]:
    """The types that a rule allows, as JSON Schema names them; {"any"} where it does not say."""
    if not isinstance(rule, dict) or not deep:
        return {"any"}
    kind, choices = rule.get("type"), rule.get("enum", [rule["const"]] if "const" in rule else None)
    if kind is not None:
        return {kind} if isinstance(kind, str) else set(kind)
    if choices is not None:
        return {_kind_of(choice) for choice in choices}
    for word in ("anyOf", "oneOf"):  # how pydantic writes "or null"
        if word in rule:
            return set().union(*(_kinds(option, schema, deep - 1) for option in rule[word]))
    if "allOf" in rule and len(rule["allOf"]) == 1:
        return _kinds(rule["allOf"][0], schema, deep - 1)
    if "$ref" in rule:
        return _kinds(_referred(rule["$ref"], schema), schema, deep - 1)
    return {"any"}


def _kind_of(value: object) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return names.get(type(value), "any")


def _referred(reference: str, schema: dict[str, Any]) -> object:
    """What `#/$defs/Name` names in the schema itself, or None."""
    at: object = schema
    for step in reference.removeprefix("#/").split("/"):
        at = at.get(step) if isinstance(at, dict) else None
    return at


def _typed(kind: pa.DataType, value: Any) -> Any:
    """A value as its column holds it. Raises ValueError or TypeError where it cannot: a validator may let such a one pass."""
    if value is None:
        return None
    if kind == pa.int64():
        if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_FLOAT:
            value = int(value)  # JSON Schema counts 1.0 as an integer
        if not isinstance(value, int) or isinstance(value, bool) or value not in _INT64:
            raise ValueError(f"{_short(str(value))} is no integer of 64 bits")
        return value
    if kind == pa.float64():
        return float(value)
    if kind == pa.bool_():
        if not isinstance(value, bool):
            raise ValueError(f"{_short(str(value))} is neither true nor false")
        return value
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _readings(text: str) -> Iterator[str]:
    """An answer as labels may match it: as it is, without what stands around it, and as the JSON string it may be."""
    yield text
    yield _bare(text)
    if text.startswith('"'):
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return
        if isinstance(value, str):
            yield value.strip()
            yield _bare(value)


def _bare(text: str) -> str:
    """An answer without what models like to put around one word: quotes, a full stop, Markdown emphasis."""
    return text.strip("\"'`*“”‘’「」『』.。!！ \n\t")


def _unfenced(text: str) -> str:
    """JSON without the Markdown fence that models like to put around it."""
    if not text.startswith("```"):
        return text
    inside = text.strip("`")
    return inside[4:] if inside[:4].lower() == "json" else inside


def _short(text: str, limit: int = 80) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= limit else flat[: limit - 1] + "…")


def _invalid(code: str, message: str) -> Failure:
    return Failure(FailureKind.INVALID_ANSWER, code, message)
