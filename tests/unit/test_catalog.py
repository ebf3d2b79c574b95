"""The catalogue: every file keeps the schema, says where it is from, and leaves out what is not known."""

import tomllib
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from pipeline import catalog
from pipeline.catalog import Dialect, Provider
from pipeline.errors import JobError

FOLDER = Path(catalog.__file__).parent
NAMES = catalog.provider_names()


@pytest.fixture(params=NAMES)
def provider(request: pytest.FixtureRequest) -> Provider:
    return catalog.load(request.param)


def test_the_providers_of_the_job_file_are_there() -> None:
    assert set(NAMES) == {
        "compatible",
        "dashscope",
        "dashscope-intl",
        "dashscope-us",
        "local",
        "openai",
        "simulator",
    }


def test_every_file_is_of_the_schema(provider: Provider) -> None:
    assert provider.title
    assert provider.dialect in get_args(Dialect)
    for url in (provider.base_url, provider.native_base_url, provider.batch_chat_base_url):
        assert url is None or (url.startswith("https://") and not url.endswith("/"))


def test_every_entry_is_dated_and_sourced(provider: Provider) -> None:
    for name, model in provider.models.items():
        assert date(2026, 1, 1) <= model.checked <= date.today(), name
        assert model.source and set(model.source) <= set(provider.sources), name


def test_prices_are_positive_decimals_that_do_not_fall_from_tier_to_tier(provider: Provider) -> None:
    for name, model in provider.models.items():
        for tier in model.tiers:
            assert tier.input > 0 and tier.output > 0, name
            assert tier.thinking_output is None or tier.thinking_output >= tier.output, name
        for lower, upper in pairwise(model.tiers):
            assert lower.input <= upper.input and lower.output <= upper.output, name


@pytest.mark.parametrize("name", NAMES)
def test_money_is_written_as_text_so_that_no_float_comes_between(name: str) -> None:
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    for key, model in raw.get("models", {}).items():
        figures = [
            v for tier in model.get("tiers", []) for k, v in tier.items() if k != "up_to_prompt_tokens"
        ]
        figures += [*model.get("cache", {}).values()]
        figures += [model[k] for k in ("batch_share",) if k in model]
        assert all(isinstance(figure, str) for figure in figures), key


def test_limits_over_a_window_do_not_exceed_those_over_a_minute_twice(provider: Provider) -> None:
    """A typing error of a factor of ten shows: the real windows restate the minute's limits, more or less."""
    for name, model in provider.models.items():
        for window in model.limits.windows:
            of_minute = model.limits.tokens_per_minute if window.tokens else model.limits.requests_per_minute
            assert of_minute is not None, name
            a_minute = (window.tokens or window.requests or 0) * 60 / window.seconds
            assert of_minute / 3 <= a_minute <= of_minute * 3, name


def test_what_a_new_user_starts_with() -> None:
    provider = catalog.load("dashscope")
    assert provider.base_url == "https://dashscope.aliyuncs.com/compatible-mode/v1"
    assert provider.native_base_url == "https://dashscope.aliyuncs.com/api/v1"
    assert provider.batch_chat_base_url == "https://batch.dashscope.aliyuncs.com/compatible-mode/v1"
    assert (provider.api_key_env, provider.currency, provider.dialect) == (
        "DASHSCOPE_API_KEY",
        "CNY",
        "dashscope",
    )
    model = provider.model("qwen-plus")
    assert model is not None
    assert (model.limits.requests_per_minute, model.limits.tokens_per_minute) == (30_000, 5_000_000)
    assert (model.thinking, model.stream_only, model.tokenizer) == ("off", False, "qwen3")


@pytest.mark.parametrize(
    ("name", "thinking", "non_stream_thinking", "stream_only", "json_object", "json_schema"),
    [
        ("qwen-plus", "off", True, False, "thinking_off", False),
        ("qwen3.5-plus", "on", True, False, "thinking_off", False),
        ("qwen3.7-plus", "on", True, False, "yes", True),
        ("qwen3-32b", "on", False, False, "thinking_off", False),
        ("qwq-plus", "always", None, True, None, False),
        ("qvq-max", "always", None, True, None, False),
        ("qwen-max", "none", None, False, None, False),
    ],
)
def test_modes_follow_the_thinking_and_json_tables(
    name: str,
    thinking: str,
    non_stream_thinking: bool | None,
    stream_only: bool,
    json_object: str | None,
    json_schema: bool,
) -> None:
    model = catalog.load("dashscope").models[name]
    assert model.thinking == thinking
    assert model.non_stream_thinking is non_stream_thinking
    assert model.stream_only is stream_only
    assert model.json_object == json_object
    assert model.json_schema is json_schema


def test_image_bounds_are_those_of_the_vision_page() -> None:
    models = catalog.load("dashscope").models
    new, old = models["qwen3-vl-plus"].image, models["qvq-max"].image
    assert new is not None and old is not None
    assert (new.factor, new.min_pixels, new.max_pixels) == (32, 65_536, 16_777_216)
    assert (old.factor, old.min_pixels, old.default_max_pixels) == (28, 3_136, 1_003_520)


@pytest.mark.parametrize(
    "name", ["qwen-plus-2025-07-28", "qwen3-max-2025-09-23", "no-such-model", "Qwen-Plus"]
)
def test_a_model_that_is_not_listed_is_unknown_and_not_taken_for_its_family(name: str) -> None:
    assert catalog.load("dashscope").model(name) is None


def test_the_simulator_has_the_models_of_beijing_without_their_prices() -> None:
    beijing, simulator = catalog.load("dashscope"), catalog.load("simulator")
    assert simulator.models.keys() == beijing.models.keys()
    assert simulator.models["qwen-plus"].limits == beijing.models["qwen-plus"].limits
    assert not any(model.tiers or model.batch_share for model in simulator.models.values())
    assert simulator.keyless and simulator.currency is None


def test_only_the_local_server_keeps_labels_by_grammar() -> None:
    assert [name for name in NAMES if catalog.load(name).labels_by_grammar] == ["local"]


def test_an_unknown_provider_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(JobError, match="did you mean 'dashscope-intl'") as caught:
        catalog.load("dashscope_intl")
    assert caught.value.exit_code == 2
    with pytest.raises(JobError, match="compatible"):
        catalog.load("zzz")
    with pytest.raises(JobError):
        catalog.load("../catalog/openai")


def test_the_price_version_names_the_newest_check_and_changes_with_the_file() -> None:
    content = (FOLDER / "dashscope.toml").read_bytes()
    version = catalog.parse("dashscope", content).price_version
    newest = max(model.checked for model in catalog.load("dashscope").models.values())
    assert version == catalog.load("dashscope").price_version
    assert version.startswith(f"{newest.isoformat()}-")
    assert catalog.parse("dashscope", content + b"# a note\n").price_version != version


GOOD = """
title = "T"
dialect = "generic"
keyless = true
currency = "CNY"
[sources]
page = { page = "https://example.org/prices", as_of = "2026-09" }
[defaults]
checked = 2026-09-01
source = ["page"]
[families.f]
thinking = "on"
[models.m]
family = "f"
tiers = [{ up_to_prompt_tokens = 10, input = "1", output = "2" }, { input = "2", output = "4" }]
"""


def test_a_models_own_fields_win_over_its_family_and_the_defaults() -> None:
    own = GOOD + 'thinking = "off"\nchecked = 2026-10-01\n'
    assert catalog.parse("t", GOOD.encode()).models["m"].thinking == "on"
    model = catalog.parse("t", own.encode()).models["m"]
    assert (model.thinking, model.checked) == ("off", date(2026, 10, 1))


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ('input = "1"', 'input = "0"', "above 0"),
        ('input = "1"', 'input = "-1"', "above 0"),
        ('input = "1"', 'input = "NaN"', "above 0"),
        ('input = "1"', 'inputs = "1"', "unknown field"),
        ("up_to_prompt_tokens = 10, ", "", "only the last tier"),
        (
            '{ input = "2", output = "4" }',
            '{ up_to_prompt_tokens = 5, input = "2", output = "4" }',
            "ascend",
        ),
        ("checked = 2026-09-01", "", "checked"),
        ('source = ["page"]', "", "source"),
        ('source = ["page"]', 'source = ["other"]', r"not in \[sources\]"),
        ('family = "f"', 'family = "g"', r"not in \[families\]"),
        ('currency = "CNY"', "", "without a currency"),
        ("keyless = true", "", "api_key_env"),
        ('as_of = "2026-09"', 'as_of = "2026-19"', "as_of"),
        ('dialect = "generic"', 'dialect = "french"', "dialect"),
        ('thinking = "on"', 'cache = { explicit_hit = "10" }', "between 0 and 2"),
        ('thinking = "on"', 'batch_share = "50"', "up to 1"),
        ('thinking = "on"', "limits = { windows = [{ seconds = 1 }] }", "either requests or tokens"),
        ('thinking = "on"', "limits = { requests_per_minute = 0 }", ">= 1"),
    ],
)
def test_a_file_that_breaks_the_schema_is_refused_with_the_place(good: str, bad: str, says: str) -> None:
    assert good in GOOD
    with pytest.raises(ValueError, match=says):
        catalog.parse("t", GOOD.replace(good, bad).encode())
