"""What must never be shown is taken out of any text, and nothing else is."""

import io
import logging
import re
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.masking import (
    Secrets,
    environment_secrets,
    is_key_name,
    logged_without,
    printable,
    proxy_secrets,
    without_secrets,
    without_url_secrets,
)

KEY = "sk-canary/0123456789+abcdef=="


@pytest.mark.parametrize(
    "form",
    [KEY, KEY.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D"), KEY[:12], KEY[:20] + "*****"],
)
def test_a_secret_is_masked_whole_cut_short_and_as_it_stands_in_an_address(form: str) -> None:
    said = Secrets([KEY]).masked(f"Incorrect key: {form} and {form}!")
    assert "canary" not in said
    assert said.startswith("Incorrect key: ***")
    assert said.endswith("!")


@given(before=st.text(), after=st.text(), cut=st.integers(12, len(KEY)))
def test_no_text_hides_a_secret(before: str, after: str, cut: int) -> None:
    shown = Secrets([KEY]).masked(f"{before}|{KEY[:cut]}|{after}")
    assert KEY[:12] not in shown
    assert f"{before}|***|" in shown


@given(text=st.text())
def test_other_text_stays_as_it_is(text: str) -> None:
    assert Secrets([KEY, "", "EMPTY"]).masked(text) == text
    assert Secrets().masked(text) == text


def test_secrets_show_nothing_of_themselves() -> None:
    assert "canary" not in repr(Secrets([KEY]))


@pytest.mark.parametrize(
    ("proxy", "secrets"),
    [
        ("http://me:p%40ssw0rd@proxy:3128", ["p%40ssw0rd", "p@ssw0rd", b64encode(b"me:p@ssw0rd").decode()]),
        ("http://proxy:3128", []),
        ("http://[::1", []),
        (None, []),
    ],
)
def test_a_proxys_password_is_known_in_every_form_it_takes(proxy: str | None, secrets: list[str]) -> None:
    assert proxy_secrets(proxy) == secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://h.example/a/b.png for more", None),
        ("https://h.example/a?width=10&height=20#top", None),
        ("https://h.example/help?spm=a2c4g.11186623", None),
        ("http://me:s3cret@h.example:80/a", "http://***@h.example:80/a"),
        ("redis://:s3cret@h", "redis://***@h"),
        ("a https://me@h/x?y=1, b", "a https://***@h/x?y=1, b"),
        ("http://me:pa@ss@h/a", "http://***@h/a"),
        (
            "https://b.oss-cn-beijing.aliyuncs.com/a.png?Expires=17&OSSAccessKeyId=LTAI5&Signature=abc%2F",
            "https://b.oss-cn-beijing.aliyuncs.com/a.png?Expires=17&OSSAccessKeyId=***&Signature=***",
        ),
        (
            "https://s3.example/a?X-Amz-Credential=AK&X-Amz-Date=2&X-Amz-Signature=ff&x=1",
            "https://s3.example/a?X-Amz-Credential=***&X-Amz-Date=2&X-Amz-Signature=***&x=1",
        ),
        ("https://a.example/?se=2026&sig=ab", "https://a.example/?se=2026&sig=***"),
        (f"https://a.example/?x={'0f' * 16}", "https://a.example/?x=***"),
        ("'https://a.example/?token=abc'", "'https://a.example/?token=***'"),
        ("oss://bucket/key?security-token=abc", "oss://bucket/key?security-token=***"),
        ("HTTPS://ME:S3CRET@H/?KEY=V", "HTTPS://***@H/?KEY=***"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(text: str, shown: str | None) -> None:
    assert without_url_secrets(text) == (text if shown is None else shown)


@given(st.text(st.sampled_from("a:/@?&=# .k-"), max_size=60))
def test_addresses_of_any_shape_are_cleared_and_clearing_twice_changes_nothing(text: str) -> None:
    once = without_url_secrets(text)
    assert without_url_secrets(once) == once


@pytest.mark.parametrize(
    "name",
    ["Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "api-key", "X-API-Key", "apiKey", "Subscription-Key",
     "X-Auth-Token", "PRIVATE-TOKEN", "X-Token", "access_token", "accessToken", "client_secret", "password",
     "aws_access_key_id", "credentials"],
)  # fmt: skip
def test_names_of_keys_are_known(name: str) -> None:
    assert is_key_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "eos_token", "stop_token_ids", "Idempotency-Key", "prompt_cache_key", "X-DashScope-DataInspection",
     "X-DashScope-WorkSpace", "tokenizer", "keyword", "secretary", "temperature", "author"],
)  # fmt: skip
def test_names_that_only_sound_like_keys_are_left_alone(name: str) -> None:
    assert not is_key_name(name)


ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/home/me",
    "PWD": "/work",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "2",
    "MINE": "named-by-the-job",
    "DASHSCOPE_API_KEY": "sk-dashscope-1",
    "HF_TOKEN": "hf_0123456789",
    "AWS_SECRET_ACCESS_KEY": "aws-0123456789",
    "DATABASE_URL": "postgres://me:p%40ssw0rd@db/x",
    "https_proxy": "http://me:proxypass@proxy:3128",
    "ALL_PROXY": "http://proxy:3128",
}


def test_a_process_that_needs_no_key_gets_an_environment_without_any() -> None:
    kept = without_secrets(ENVIRONMENT, "MINE", None)
    assert kept.keys() == {"PATH", "HOME", "PWD", "LANG", "OMP_NUM_THREADS"}


def test_what_an_environment_holds_that_is_secret_is_masked() -> None:
    secrets = environment_secrets(ENVIRONMENT)
    text = " ".join([*ENVIRONMENT.values(), "p@ssw0rd"])
    shown = secrets.masked(text)
    assert not re.search("dashscope-1|hf_0|aws-0|ssw0rd|proxypass", shown)
    assert "/usr/bin /home/me /work C.UTF-8 2 named-by-the-job" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("好 \u3000wide, tab\t and\nline é \N{GRINNING FACE}", None),
        ("\x1b[2J\x07", "\\u001b[2J\\u0007"),
        ("a\rb\x7f\x9b31m", "a\\rb\\u007f\\u009b31m"),
        ("\u202egnp.exe\u200b", "\\u202egnp.exe\\u200b"),
        ("\ud83d", "\\ud83d"),
        ("\U000e0041", "\\udb40\\udc41"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_its_escape(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)


def test_the_log_holds_no_secret_in_messages_arguments_and_tracebacks() -> None:
    log, written = logging.getLogger("promptmill.test-masking"), io.StringIO()
    handler = logging.StreamHandler(written)
    log.addHandler(handler)
    log.propagate = False
    try:
        with logged_without(Secrets([KEY]), log):
            log.warning("key %s at %s, 100 %%", KEY, "http://me:pw@h/?sig=1")
            try:
                raise ValueError(f"header {KEY}")
            except ValueError:
                log.exception("a bug with %(key)s", {"key": KEY})
    finally:
        log.removeHandler(handler)
    said = written.getvalue()
    assert "key *** at http://***@h/?sig=***, 100 %" in said
    assert "ValueError: header ***" in said
    assert "a bug with ***" in said
    assert "canary" not in said.replace("test_masking", "")
