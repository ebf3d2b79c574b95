"""Where a job's requests go: provider, address, key and limits."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.errors import JobError, SetupError
from pipeline.jobspec import Target, resolve_target
from tests.support.jobs import job

KEY = {"DASHSCOPE_API_KEY": "sk-test"}


def target(folder: Path, *overrides: str, env: Mapping[str, str] | None = None) -> Target:
    return resolve_target(job(folder, *overrides), env=env or {})


def dashscope(folder: Path, *overrides: str, env: Mapping[str, str]) -> Target:
    plain = ("model.provider=dashscope", "model.base_url=null", "model.name=qwen-plus")
    return target(folder, *plain, *overrides, env=env)


def test_a_key_that_is_not_set_is_said_with_its_variable_and_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        dashscope(tmp_path, env={})
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert "the environment variable DASHSCOPE_API_KEY is not set" in said
    assert "export DASHSCOPE_API_KEY=" in said
    assert "--set model.provider=simulator" in said


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_blank_key_is_no_key(tmp_path: Path, blank: str) -> None:
    with pytest.raises(SetupError, match="is not set"):
        dashscope(tmp_path, env={"DASHSCOPE_API_KEY": blank})


@pytest.mark.parametrize("key", ["sk-a\nb", "你的密钥", "sk-a\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(tmp_path: Path, key: str) -> None:
    with pytest.raises(SetupError, match="DASHSCOPE_API_KEY holds what no API key does") as caught:
        dashscope(tmp_path, env={"DASHSCOPE_API_KEY": key})
    assert key not in str(caught.value)


def test_the_key_goes_into_the_header_alone(tmp_path: Path) -> None:
    found = dashscope(tmp_path, "headers.X-Trace=abc", env={"DASHSCOPE_API_KEY": " sk-s3cret\n"})
    assert found.headers == {"X-Trace": "abc", "Authorization": "Bearer sk-s3cret"}
    assert "s3cret" not in repr(found)


def test_another_variable_may_hold_the_key(tmp_path: Path) -> None:
    found = dashscope(tmp_path, "model.api_key_env=OTHER", env={"OTHER": "sk-o", **KEY})
    assert found.headers["Authorization"] == "Bearer sk-o"


def test_a_server_without_keys_gets_one_only_where_the_job_names_it(tmp_path: Path) -> None:
    assert target(tmp_path, env=KEY).headers == {}
    assert target(tmp_path, "model.api_key_env=K", env={"K": "k"}).headers == {"Authorization": "Bearer k"}
    with pytest.raises(SetupError, match="variable K is not set"):
        target(tmp_path, "model.api_key_env=K")


def test_limits_come_from_the_catalogue_unless_the_job_sets_them(tmp_path: Path) -> None:
    known = dashscope(tmp_path, env=KEY)
    assert known.model is not None
    assert known.requests_per_minute == known.model.limits.requests_per_minute
    assert known.tokens_per_minute == known.model.limits.tokens_per_minute
    assert known.max_concurrency == 256
    own = dashscope(
        tmp_path,
        "limits.requests_per_minute=7",
        "limits.tokens_per_minute=8.5",
        "limits.max_concurrency=3",
        env=KEY,
    )
    assert (own.requests_per_minute, own.tokens_per_minute, own.max_concurrency) == (7, 8.5, 3)


def test_nothing_is_known_of_a_model_outside_the_catalogue(tmp_path: Path) -> None:
    found = dashscope(tmp_path, "model.name=qwen-of-tomorrow", env=KEY)
    assert (found.model, found.requests_per_minute, found.tokens_per_minute) == (None, None, None)


@pytest.mark.parametrize("provider", ["local", "simulator"])
def test_a_server_of_our_own_is_started_unless_the_job_names_an_address(
    tmp_path: Path, provider: str
) -> None:
    own = target(tmp_path, f"model.provider={provider}", "model.base_url=null")
    assert (own.starts, own.base_url, own.identity) == (provider, None, provider)
    running = target(tmp_path, f"model.provider={provider}")
    assert (running.starts, running.identity) == (None, "http://127.0.0.1:9/v1")


def test_the_local_model_gets_few_requests_at_once(tmp_path: Path) -> None:
    assert target(tmp_path, "model.provider=local", "model.base_url=null").max_concurrency == 4


def test_an_address_is_the_same_with_and_without_a_last_slash(tmp_path: Path) -> None:
    found = target(tmp_path, "model.base_url=http://h:1/v1/")
    assert found.identity == "http://h:1/v1"
    assert found.api_url(found.identity, "compatible") == "http://h:1/v1"


def test_a_compatible_server_needs_its_address(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="needs base_url, the address up to /v1"):
        target(tmp_path, "model.base_url=null")


def test_an_unknown_provider_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="did you mean 'dashscope'"):
        target(tmp_path, "model.provider=dashcope")


PROXY = {"https_proxy": "http://proxy:3128", **KEY}


@pytest.mark.parametrize(
    ("env", "base_url", "proxy"),
    [
        (PROXY, None, "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128", **KEY}, None, "http://proxy:3128"),
        ({"ALL_PROXY": "http://all:1", **KEY}, None, "http://all:1"),
        ({"http_proxy": "http://plain:1", **KEY}, None, None),
        ({"http_proxy": "http://plain:1", **KEY}, "http://server.example/v1", "http://plain:1"),
        ({"HTTP_PROXY": "http://sent:1", "REQUEST_METHOD": "GET", **KEY}, "http://server.example/v1", None),
        ({**PROXY, "NO_PROXY": "other.example, .aliyuncs.com"}, None, None),
        ({**PROXY, "NO_PROXY": "*"}, None, None),
        ({**PROXY, "NO_PROXY": "yuncs.com"}, None, "http://proxy:3128"),
        ({"http_proxy": "http://plain:1", **KEY}, "http://127.0.0.1:9/v1", None),
        ({"http_proxy": "http://plain:1", **KEY}, "http://localhost:9/v1", None),
        ({"http_proxy": "http://plain:1", **KEY}, "http://127.0.0.1.example/v1", "http://plain:1"),
    ],
)
def test_the_environments_proxy_is_used_as_other_tools_use_it(
    tmp_path: Path, env: dict[str, str], base_url: str | None, proxy: str | None
) -> None:
    overrides = () if base_url is None else (f"model.base_url={base_url}",)
    assert dashscope(tmp_path, *overrides, env=env).proxy == proxy


def test_the_jobs_own_proxy_comes_first(tmp_path: Path) -> None:
    assert dashscope(tmp_path, "transport.proxy='http://own:1'", env=PROXY).proxy == "http://own:1"


@pytest.mark.parametrize(
    ("base_url", "warned"),
    [
        (None, False),
        ("https://server.example/v1", False),
        ("http://127.0.0.1:9/v1", False),
        ("http://127.8.8.8:9/v1", False),
        ("http://[::1]:9/v1", False),
        ("http://localhost:9/v1", False),
        ("http://model.localhost:9/v1", False),
        ("http://server.example/v1", True),
        ("http://10.0.0.5:8000/v1", True),
        ("http://127.0.0.1.example/v1", True),
        ("http://localhost.example/v1", True),
        ("http://0.0.0.0/v1", True),
    ],
)
def test_a_key_that_would_leave_this_machine_unencrypted_is_a_warning(
    tmp_path: Path, base_url: str | None, warned: bool
) -> None:
    overrides = () if base_url is None else (f"model.base_url={base_url}",)
    warnings = dashscope(tmp_path, *overrides, env=KEY).warnings
    assert ["the key in DASHSCOPE_API_KEY and every prompt go to" in one for one in warnings] == [
        True
    ] * warned


def test_without_a_key_plain_http_is_the_operators_business(tmp_path: Path) -> None:
    assert target(tmp_path, "model.base_url=http://server.example/v1", env=KEY).warnings == ()


def test_a_server_that_the_run_starts_gets_no_key(tmp_path: Path) -> None:
    env = {"PATH": "/bin", "OTHER": "sk-other", "HTTPS_PROXY": "http://me:s3cret@proxy:1", **KEY}
    assert target(tmp_path, "model.api_key_env=OTHER", env=env).server_env == {"PATH": "/bin"}


def test_the_key_and_the_proxys_password_are_known_as_secrets(tmp_path: Path) -> None:
    env = {"DASHSCOPE_API_KEY": "sk-canary-1", "https_proxy": "http://me:canary-2@proxy:1"}
    found = dashscope(tmp_path, env=env)
    assert found.secrets.masked("Bearer sk-canary-1, canary-2") == "Bearer ***, ***"
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("base_url", "native"),
    [
        ("https://h/compatible-mode/v1", "https://h/api/v1"),
        ("https://h/api/v1/", "https://h/api/v1"),
    ],
)
def test_the_native_api_stands_beside_the_compatible_one(tmp_path: Path, base_url: str, native: str) -> None:
    assert dashscope(tmp_path, env=KEY).api_url(base_url, "native") == native


def test_a_server_without_a_native_api_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="Leave protocol out"):
        target(tmp_path).api_url("http://127.0.0.1:9/v1", "native")
