"""The job file: what may stand in it, how it is read, and the sentence for what is wrong."""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.jobspec import JobSpec, expand, load_job, seconds
from tests.support.jobs import NOW, SMALLEST, job, write_job


def refusal(folder: Path, *overrides: str, text: str = SMALLEST) -> str:
    with pytest.raises(JobError) as caught:
        job(folder, *overrides, text=text)
    return str(caught.value)


# What a job file may hold


def test_the_smallest_job_has_the_defaults_of_the_contract(tmp_path: Path) -> None:
    file = job(tmp_path).file
    assert (file.model.protocol, file.model.route) == ("compatible", "realtime")
    assert (file.retry.max_attempts, file.retry.row_deadline) == (6, 600.0)
    assert (file.budget.deadline, file.budget.error_threshold) == (None, 0.01)
    assert (file.response.on_invalid, file.output.columns, file.output.raw) == ("retry", None, False)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("model.nmae=x", "'model.nmae'; did you mean 'name'?"),
        ("modle.name=x", "'modle'; did you mean 'model'?"),
        ("response.shema=x", "'response.shema'; did you mean 'schema'?"),
        ("limits.xyzzy=1", "'limits.xyzzy'; known here: requests_per_minute"),
        ("response.json_schema=x", "'response.json_schema'; did you mean 'schema'?"),
    ],
)
def test_an_unknown_key_is_refused_by_file_and_nearest_known_key(
    tmp_path: Path, override: str, hint: str
) -> None:
    said = refusal(tmp_path, override)
    assert said.startswith(f"{tmp_path / 'job.toml'}: unknown key")
    assert hint in said


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    said = refusal(tmp_path, "model.nmae=x", "output.path=null", "retry.max_attempts=0")
    assert "model.nmae" in said
    assert "output.path: this key is missing" in said
    assert "retry.max_attempts: " in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("input=3", "input: this is a section"),
        ("input.path=3", "input.path: write text in quotes"),
        ("output.columns='text'", "output.columns: write a list"),
        ("params=3", "params: write a table"),
        ("name='../x'", "name: "),
        ("model.name=''", "model.name: "),
        ("model.route='batch-file'", "model.route: Input should be 'realtime'"),
        ("prompt.messages='m'", "exactly one way"),
        ("prompt.user=null", "exactly one way"),
        ("retry.row_deadline='soon'", "write seconds, or text such as"),
        ("budget.error_threshold=1.5", "budget.error_threshold: "),
        ("limits.requests_per_minute=0", "limits.requests_per_minute: "),
        ("limits.requests_per_minute=inf", "write a finite number"),
        ("limits.tokens_per_minute=nan", "limits.tokens_per_minute: "),
        ("budget.deadline=inf", "not a duration"),
        ("response.gold='label'", "it goes with labels"),
        ("response.labels=[]", "response.labels: "),
        ("response.labels=['a', ' ']", "one of the labels is empty"),
        ("response.labels=['Yes', 'yes ']", "differ only in case or spaces"),
        ("response.schema=3", "response.schema"),
        ("params.model='x'", "params may not hold model"),
        ("params.stream=true", "streaming from [response] stream"),
        ("params.max_tokens='64'", "params.max_tokens is a whole number; found '64'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(tmp_path: Path, override: str, said: str) -> None:
    assert said in refusal(tmp_path, override)


def test_labels_and_schema_exclude_each_other(tmp_path: Path) -> None:
    schema = 'response.schema={type="object", properties={a={}}}'
    assert "either labels or schema" in refusal(tmp_path, "response.labels=['a']", schema)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nan", "x = nan is no number in JSON"),
        ("[1, {y = inf}]", "x[1].y = inf is no number in JSON"),
        ("2024-05-01", "x is a date or time of TOML"),
        ("[07:32:00]", "x[0] is a date or time of TOML"),
        ("18446744073709551616", "x does not fit 64 bits"),
    ],
)
def test_a_param_that_json_would_change_is_refused(tmp_path: Path, value: str, said: str) -> None:
    assert f"params: {said}" in refusal(tmp_path, f"params.x={value}")


def test_params_are_kept_as_written(tmp_path: Path) -> None:
    spec = job(tmp_path, "params.stop=['\\n', 'END']", "params.extra={a = 1.5, b = [true]}", "params.n=-1")
    assert spec.file.params == {"stop": ["\\n", "END"], "extra": {"a": 1.5, "b": [True]}, "n": -1}


def test_a_file_without_end_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"/dev/zero is longer than 16 MiB"):
        load_job(Path("/dev/zero"), overrides=[], env={}, now=NOW)
    for override in ("response.schema='/dev/zero'", "params.tools='/dev/zero'"):
        assert "/dev/zero is longer than 16 MiB" in refusal(tmp_path, override)


# Secrets


@pytest.mark.parametrize("key", ["sk-0123456789abcdef", "Bearer x", "", "1KEY", "Schlüssel"])
def test_api_key_env_takes_a_name_and_never_shows_a_key(tmp_path: Path, key: str) -> None:
    said = refusal(tmp_path, f"model.api_key_env='{key}'")
    assert "never the key itself" in said
    assert not key or key not in said


@pytest.mark.parametrize(
    "name", ["Authorization", "x-api-key", "Cookie", "api-key", "proxy-authorization", "X-Auth-Token"]
)
def test_a_header_that_carries_a_key_is_refused_without_showing_it(tmp_path: Path, name: str) -> None:
    said = refusal(tmp_path, f"headers.{name}='s3cret'")
    assert "model.api_key_env" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "param",
    ["api_key='s3cret'", "extra_body={headers = {Authorization = 's3cret'}}", "tools=[{token = 's3cret'}]"],
)
def test_a_parameter_that_carries_a_key_is_refused_however_deep_it_stands(tmp_path: Path, param: str) -> None:
    said = refusal(tmp_path, f"params.{param}")
    assert "model.api_key_env" in said
    assert "s3cret" not in said


def test_a_schema_may_describe_a_property_that_is_called_like_a_key(tmp_path: Path) -> None:
    schema = "{type = 'object', properties = {password = {type = 'string'}}, required = ['password']}"
    assert job(tmp_path, f"params.response_format={schema}").file.params["response_format"]["required"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000/v1", "write the address up to /v1"),
        ("ftp://host/v1", "write the address up to /v1"),
        ("http://[::1/v1", "write the address up to /v1"),
        ("http://host:99999/v1", "write the address up to /v1"),
        ("https://me:s3cret@host/v1", "the key goes by api_key_env"),
        ("https://host/v1?key=s3cret", "the key goes by api_key_env"),
        ("https://host/v1/chat/completions/", "leave /chat/completions out"),
    ],
)
def test_a_base_url_is_an_address_without_keys(tmp_path: Path, url: str, said: str) -> None:
    refused = refusal(tmp_path, f"model.base_url='{url}'")
    assert f"model.base_url: {said}" in refused or said in refused
    assert "s3cret" not in refused


# Overrides


def test_an_override_is_read_as_toml_else_as_text(tmp_path: Path) -> None:
    spec = job(
        tmp_path,
        "model.name=qwen-plus",
        "retry.max_attempts=3",
        "response.labels=['a', 'b']",
        "prompt.user=two = 2\nthree = 3",
        "prompt.system=1\ntwo = 2",
        "output.raw=true",
        "input.id= id",
    )
    assert spec.file.model.name == "qwen-plus"
    assert spec.file.retry.max_attempts == 3
    assert spec.file.response.labels == ["a", "b"]
    assert (spec.file.prompt.user, spec.file.prompt.system) == ("two = 2\nthree = 3", "1\ntwo = 2")
    assert spec.file.output.raw is True
    assert spec.file.input.id == " id"


def test_an_override_of_null_takes_the_key_out(tmp_path: Path) -> None:
    text = SMALLEST.replace("[prompt]", 'id = "review_id"\n[prompt]')
    assert job(tmp_path, text=text).file.input.id == "review_id"
    assert job(tmp_path, "input.id=null", text=text).file.input.id is None
    assert job(tmp_path, "input.id='null'").file.input.id == "null"
    assert job(tmp_path, "retry.max_attempts=null").file.retry.max_attempts == 6


@pytest.mark.parametrize("override", ["model.name", "=x", "model.=x", ".name=x", ""])
def test_an_override_without_key_or_value_is_refused(tmp_path: Path, override: str) -> None:
    assert "--set takes section.key=value" in refusal(tmp_path, override)


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    assert "name is not a section" in refusal(tmp_path, "name.x=1")


def test_a_later_override_wins(tmp_path: Path) -> None:
    assert job(tmp_path, "model.name=a", "model.name=b").file.model.name == "b"


# Paths


def test_paths_start_at_the_job_file_and_come_out_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    text = SMALLEST.replace('"rows.jsonl"', '"../data/rows-*.jsonl"').replace('"runs/small"', '"../runs/x"')
    path = write_job(tmp_path / "jobs", text)
    monkeypatch.chdir(tmp_path)
    spec = load_job(path.relative_to(tmp_path), overrides=["transport.ca_file=ca.pem"], env={}, now=NOW)
    root = tmp_path.resolve()
    assert spec.input_path == str(root / "data/rows-*.jsonl")
    assert spec.output_path == root / "runs/x"
    assert spec.ca_file == tmp_path / "jobs/ca.pem"
    assert spec.source == tmp_path / "jobs/job.toml"


def test_up_from_a_linked_folder_is_where_the_system_finds_it(tmp_path: Path) -> None:
    (tmp_path / "real" / "jobs").mkdir(parents=True)
    (tmp_path / "jobs").symlink_to(tmp_path / "real" / "jobs")
    spec = job(tmp_path / "jobs", "input.path=../rows.jsonl")
    assert spec.input_path == str(tmp_path.resolve() / "real/rows.jsonl")


def test_a_linked_file_keeps_the_name_it_is_known_by(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "blob").touch()
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "blob")
    assert job(tmp_path / "jobs", "input.path=../rows.jsonl").input_path.endswith("/rows.jsonl")


def test_absolute_paths_and_home_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    spec = job(tmp_path, "input.path=/data/rows.jsonl", "output.path=~/runs")
    assert (spec.input_path, spec.output_path) == ("/data/rows.jsonl", Path("/home/somebody/runs"))


@pytest.mark.parametrize(
    ("path", "filled"),
    [
        ("{today}.jsonl", "2026-03-01.jsonl"),
        ("{yesterday}/x", "2026-02-28/x"),
        ("{now:%Y/%m/%d-%H%M%S}", "2026/03/01-003005"),
        ("{env:DATA}/{today}", "/data{x}/2026-03-01"),
        ("no braces", "no braces"),
    ],
)
def test_placeholders_are_filled_by_local_time_and_environment(path: str, filled: str) -> None:
    assert expand(path, env={"DATA": "/data{x}"}, now=NOW) == filled


@pytest.mark.parametrize("word", ["{tomorrow}", "{Today}", "{now:}", "{env:}", "{}", "{date:%Y}"])
def test_an_unknown_placeholder_is_refused_with_the_known_ones(word: str) -> None:
    with pytest.raises(JobError, match=r"known are \{today\}, \{yesterday\}"):
        expand(f"a/{word}", env={}, now=NOW)


@pytest.mark.parametrize("env", [{}, {"DATA": ""}])
def test_a_path_never_loses_a_variable_that_is_not_set(env: dict[str, str]) -> None:
    with pytest.raises(JobError, match="needs the environment variable DATA"):
        expand("{env:DATA}/x", env=env, now=NOW)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("input.root=s3://bucket/x", "only input.path and output.path may lie elsewhere, on s3://"),
        ("input.path=s3:///x.jsonl", "is no place on S3: write s3://bucket/folder/name"),
        ("input.path=s3://bucket/a//x.jsonl", "is no place on S3"),
        ("output.path=s3://bucket/x", "lies on S3, and the journal cannot: say where on this machine"),
        ("output.path=gs://bucket/x", "give a path of this machine"),
        ("output.state=s3://bucket/x", "only input.path and output.path may lie elsewhere, on s3://"),
        ("output.path=''", "a path is needed"),
        ('output.path="a\\u0000b"', "a path is needed"),
        ("input.path=~nobody-of-this-name/x", "cannot be followed"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, override: str, said: str) -> None:
    assert said in refusal(tmp_path, override)


# The file itself


def test_a_missing_job_file_names_the_nearest(tmp_path: Path) -> None:
    write_job(tmp_path)
    with pytest.raises(JobError, match=r"there is no job file .*jbo\.toml; did you mean .*job\.toml\?"):
        load_job(tmp_path / "jbo.toml", overrides=[], env={}, now=NOW)
    with pytest.raises(JobError, match=r"there is no job file .*nope\.toml$"):
        load_job(tmp_path / "nope.toml", overrides=[], env={}, now=NOW)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"x = " + b"9" * 5000, b"x = " + b"[" * 5000])
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(JobError, match=r"job\.toml"):
        load_job(path, overrides=[], env={}, now=NOW)


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read"):
        load_job(tmp_path, overrides=[], env={}, now=NOW)


def test_a_byte_order_mark_and_crlf_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.replace("\n", "\r\n").encode())
    assert load_job(path, overrides=[], env={}, now=NOW).file.name == "small"


# The answer's schema


def test_a_schema_is_read_from_a_file_beside_the_job(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"properties": {"b": {"type": "string"}, "a": {}}}')
    schema = job(tmp_path, "response.schema=s.json").answer_schema
    assert schema is not None
    assert list(schema["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        ("{", "is not valid JSON"),
        ("[]", "with properties"),
        ('{"type": "object"}', "with properties"),
        ('{"properties": {}}', "with properties"),
    ],
)
def test_a_schema_that_gives_no_columns_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "s.json").write_text(content)
    assert said in refusal(tmp_path, "response.schema=s.json")


def test_an_inline_schema_may_not_hold_what_json_cannot(tmp_path: Path) -> None:
    said = refusal(tmp_path, "response.schema={properties = {a = {const = 2024-05-01}}}")
    assert "properties.a.const is a date or time of TOML" in said


# What a run folder remembers of a job


def _identity(folder: Path, *overrides: str) -> dict[str, str]:
    return job(folder, *overrides).identity()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("input.id=x", "input.id"),
        ("prompt.user=x", "prompt"),
        ("model.name=x", "model"),
        ("params.seed=1", "params"),
        ("headers.X-A=b", "headers"),
        ("response.labels=['a']", "response"),
        ("output.columns=['a']", "output.columns"),
        ("output.raw=true", "output.raw"),
    ],
)
def test_identity_tells_which_part_of_the_question_changed(tmp_path: Path, override: str, part: str) -> None:
    before, after = _identity(tmp_path), _identity(tmp_path, override)
    assert {name for name in before if before[name] != after[name]} == {part}


@pytest.mark.parametrize(
    "override",
    [
        "limits.requests_per_minute=1",
        "limits.max_concurrency=1",
        "retry.max_attempts=1",
        "budget.deadline=1h",
        "transport.core=httpx",
        "transport.proxy=http://u:p@h:1",
        "model.api_key_env=OTHER",
        "response.on_invalid=keep",
        "simulator.seed=1",
        "name=other",
    ],
)
def test_identity_leaves_out_how_fast_and_how_often_is_asked(tmp_path: Path, override: str) -> None:
    assert _identity(tmp_path) == _identity(tmp_path, override)


def test_identity_does_not_hang_on_the_order_of_params(tmp_path: Path) -> None:
    assert _identity(tmp_path, "params.a=1", "params.b=2") == _identity(tmp_path, "params.b=2", "params.a=1")


# Durations


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (90, 90.0),
        (0.5, 0.5),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("2d", 172800.0),
        ("250ms", 0.25),
    ],
)
def test_durations(written: object, meant: float) -> None:
    assert seconds(written) == meant


@pytest.mark.parametrize(
    "written",
    [0, -1, True, math.inf, math.nan, "", "5", "h", "1x", "-5s", "0s", "1h30", "9" * 400 + "s", None, []],
)
def test_what_is_no_duration_is_refused_with_an_example(written: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(written)


# Anything at all

_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just(datetime(2024, 1, 1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_KEYS = st.sampled_from(
    ["name", "input", "input.path", "prompt", "prompt.user", "prompt.messages", "prompt.format", "model",
     "model.base_url", "params.x", "params.max_tokens", "response", "response.schema", "response.labels", "output.path",
     "limits.max_concurrency", "retry.row_deadline", "budget.error_threshold", "headers.X", "simulator.faults", "x.y"]
)  # fmt: skip


def _loaded(path: Path, *overrides: str) -> JobSpec | None:
    try:
        return load_job(path, overrides=overrides, env={}, now=NOW)
    except JobError:
        return None


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: (SMALLEST + text).encode()))
def test_any_file_is_a_job_or_an_operators_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    _loaded(path)


@given(key=_KEYS, value=_VALUES, as_text=st.booleans())
def test_any_value_at_any_key_is_a_job_or_an_operators_error(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any, as_text: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "some.toml"
    path.write_text(SMALLEST, encoding="utf-8")
    _loaded(path, f"{key}={value}" if as_text else f"{key}={_toml(value)}")


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            escaped = "".join(f"\\U{ord(c):08x}" for c in value)
            return f'"{escaped}"'
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{_toml(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
        case datetime():
            return value.isoformat()
        case None:
            return '""'
        case _:
            return str(value)
