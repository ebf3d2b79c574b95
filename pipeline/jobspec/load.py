"""Reads a job file into a `JobSpec`: TOML, overrides, path placeholders, and sentences for what is wrong.

This module and `target.py` see the environment, the clock and the job's folder, all handed in by the caller; nothing below
reads them again.
"""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from pipeline.errors import JobError
from pipeline.jobspec.sections import JobFile, OutputSection
from pipeline.s3 import S3Settings, is_s3, s3_path

_MOST_FILE_BYTES = 16 * 1024 * 1024
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
# What pydantic says in words of Python, said in words of TOML.
_SAID = {
    "model_type": "this is a section: it holds keys of its own",
    "string_type": "write text in quotes",
    "list_type": "write a list: [...]",
    "dict_type": "write a table: {...} or a section of its own",
    "finite_number": "write a finite number",
    "missing": "this key is missing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job ready to run: the file's sections, with paths made absolute, the answer's schema and the tools loaded.

    `file` is the checked job file; `input_path` may be a glob, and on S3. `output_path` is the run folder; `output` is the place
    in which the results lie: the same, another folder, or on S3. `answer_schema` is the JSON Schema of the answers or None.
    `shared_state` is the folder of what the user's runs on this machine share; None where the environment names none.
    """

    file: JobFile
    source: Path
    input_path: str
    output_path: Path
    output: str
    s3: S3Settings
    input_root: Path | None
    params: dict[str, Any]
    answer_schema: dict[str, Any] | None
    ca_file: Path | None
    shared_state: Path | None

    @property
    def folder(self) -> Path:
        return self.source.parent

    def identity(self) -> dict[str, str]:
        """A hash for each part of the job that decides what is asked or how results look; limits and retries are not in it."""
        file = self.file
        content: dict[str, Any] = {
            "input.id": file.input.id,
            "prompt": file.prompt.model_dump(),
            "model": file.model.model_dump(exclude={"api_key_env"}),
            "params": self.params,
            "headers": file.headers,
            "response": [file.response.labels, file.response.gold, self.answer_schema],
            "output.columns": file.output.columns,
            "output.raw": file.output.raw,
        }
        return {
            name: hashlib.blake2b(_canonical(value), digest_size=8).hexdigest()
            for name, value in content.items()
        }


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def load_job(path: Path, *, overrides: Sequence[str], env: Mapping[str, str], now: datetime) -> JobSpec:
    """Read and check a job file.

    Overrides are `section.key=value`, the value read as TOML where it can be, else as text; `null` takes the key out.
    Raises JobError with a sentence that names the file, the key, what was found and what is known.
    """
    try:
        # Editors on Windows put a byte order mark before the text.
        data = tomllib.loads(_whole(path).decode("utf-8-sig"))
    except FileNotFoundError:
        there = {found.stem: found for found in path.parent.glob("*.toml")}  # all end alike
        near = difflib.get_close_matches(path.stem, there, n=1)
        hint = f"; did you mean {there[near[0]]}?" if near else ""
        raise JobError(f"there is no job file {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"the job file {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        # tomllib's own error is a ValueError, but not all it raises is its own: a number too long, lists nested too deeply.
        raise JobError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(data, override)
    try:
        file = JobFile.model_validate(data)
    except ValidationError as error:
        raise JobError(_sentences(path, error)) from None
    folder = path.parent.absolute()

    def placed(text: str) -> Path:
        return _absolute(folder, expand(text, env=env, now=now))

    def anywhere(text: str) -> str:
        """A place of this machine or on S3."""
        expanded = expand(text, env=env, now=now)
        return str(s3_path(expanded)) if is_s3(expanded) else str(_absolute(folder, expanded))

    return JobSpec(
        file=file,
        source=folder / path.name,
        input_path=anywhere(file.input.path),
        output_path=_run_folder(file.output, placed),
        output=anywhere(file.output.path),
        s3=S3Settings.from_env(env),
        input_root=placed(file.input.root) if file.input.root is not None else None,
        params=_params(file.params, placed),
        answer_schema=_answer_schema(file.response.json_schema, placed),
        ca_file=placed(file.transport.ca_file) if file.transport.ca_file else None,
        shared_state=shared_state(env),
    )


def expand(text: str, *, env: Mapping[str, str], now: datetime) -> str:
    """Fill `{today}`, `{yesterday}`, `{now:FORMAT}` (strftime) and `{env:NAME}` in a path.

    Raises JobError for any other word in braces, for a variable that is not set, and for no path at all.
    """

    def value(match: re.Match[str]) -> str:
        word = match.group(1)
        if word == "today":
            return now.date().isoformat()
        if word == "yesterday":
            return (now.date() - timedelta(days=1)).isoformat()
        kind, _, detail = word.partition(":")
        if kind == "now" and detail:
            return now.strftime(detail)
        if kind == "env" and detail:
            if not env.get(detail):
                raise JobError(
                    f"the path {text!r} needs the environment variable {detail}, which is not set or empty"
                )
            return env[detail]
        raise JobError(
            f"the path {text!r} holds {match.group(0)!r}, which is not known; "
            "known are {today}, {yesterday}, {now:FORMAT} and {env:NAME}"
        )

    if not text.strip() or "\0" in text:
        raise JobError(f"a path is needed; found {text!r}")
    return _PLACEHOLDER.sub(value, text)


def _absolute(folder: Path, path: str) -> Path:
    if "://" in path:
        raise JobError(
            f"{path}: give a path of this machine; only input.path and output.path may lie elsewhere, on s3://"
        )
    try:
        found = folder / Path(path).expanduser()
        if ".." not in found.parts:
            return found
        # Up to the last ".." links are followed, as the system would; behind it a link keeps the name it is known by.
        head = len(found.parts) - found.parts[::-1].index("..")
        return Path(*found.parts[:head]).resolve().joinpath(*found.parts[head:])
    except (OSError, RuntimeError) as error:  # no such user after "~", links in a circle
        raise JobError(f"the path {path!r} cannot be followed: {error}") from None


def shared_state(env: Mapping[str, str]) -> Path | None:
    """The folder of what a user's runs on this machine share; None where the environment names none.

    By the XDG Base Directory Specification, by which a relative path in a variable is ignored.
    """
    for variable, below in (("XDG_STATE_HOME", "promptmill"), ("HOME", ".local/state/promptmill")):
        folder = Path(env.get(variable, ""))
        if folder.is_absolute():
            return folder / below
    return None


def _run_folder(output: OutputSection, placed: Callable[[str], Path]) -> Path:
    if output.state is None and is_s3(output.path):
        raise JobError(
            f'[output] path = "{output.path}" lies on S3, and the journal cannot: say where on this machine it is kept between '
            'runs, with state = "folder"'
        )
    return placed(output.path if output.state is None else output.state)


def _whole(path: Path) -> bytes:
    """A file of the operator's, which is never long. Raises JobError for one that has no end, such as a device."""
    with path.open("rb") as file:
        content = file.read(_MOST_FILE_BYTES + 1)
    if len(content) > _MOST_FILE_BYTES:
        raise JobError(
            f"{path} is longer than {_MOST_FILE_BYTES // 1024**2} MiB, which no job file, schema or list of tools is"
        )
    return content


def _params(params: dict[str, Any], placed: Callable[[str], Path]) -> dict[str, Any]:
    """The params with `tools`, where it names a file, replaced by what the file holds."""
    if not isinstance(params.get("tools"), str):
        return params
    tools = _json_file("[params] tools", placed(params["tools"]))
    if not isinstance(tools, list):
        raise JobError(f"[params] tools: {params['tools']} must hold a JSON list of tools")
    return {**params, "tools": tools}


def _json_file(key: str, where: Path) -> Any:
    try:
        return orjson.loads(_whole(where))
    except FileNotFoundError:
        raise JobError(f"{key}: there is no file {where}") from None
    except OSError as error:
        raise JobError(f"{key}: {where} cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise JobError(f"{key}: {where} is not valid JSON: {error}") from None


def _answer_schema(
    schema: str | dict[str, Any] | None, placed: Callable[[str], Path]
) -> dict[str, Any] | None:
    if isinstance(schema, str):
        schema = _json_file("[response] schema", placed(schema))
    if schema is None:
        return None
    if (
        not isinstance(schema, dict)
        or not isinstance(schema.get("properties"), dict)
        or not schema["properties"]
    ):
        raise JobError('[response] schema must be a JSON Schema of type "object" with properties')
    return schema


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise JobError(f"--set takes section.key=value; found {override!r}")
    at = data
    for name in names[:-1]:
        at = at.setdefault(name, {})
        if not isinstance(at, dict):
            raise JobError(f"--set {key}: {name} is not a section")
    if text.strip() == "null":  # TOML has no word for "not set"
        at.pop(names[-1], None)
    else:
        at[names[-1]] = _override_value(text)


def _override_value(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text  # several lines of text may look like several keys


def _sentences(path: Path, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        at = [str(part) for part in problem["loc"]]
        where = ".".join(at) or "the job"
        if problem["type"] == "extra_forbidden":
            known = _known_keys(at[:-1])
            near = difflib.get_close_matches(at[-1], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            lines.append(f"unknown key {where!r}; {hint}")
        else:
            message = _SAID.get(problem["type"], problem["msg"].removeprefix("Value error, "))
            lines.append(f"{where}: {message}")
    return f"{path}: " + "; ".join(lines)


def _known_keys(at: list[str]) -> list[str]:
    model: type[BaseModel] = JobFile
    for name in at:
        inner = model.model_fields[name].annotation if name in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]
