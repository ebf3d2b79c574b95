"""The price list: which entries are shown, what their lines say, which are old."""

from datetime import date, timedelta
from pathlib import Path

import orjson
import pytest

from pipeline import catalog
from pipeline.catalog.overlay import Catalogue
from pipeline.errors import JobError
from pipeline.price_list import HEADINGS, Entry, Wanted, as_json, cells, entries, stale_warning

BUILT_IN = Catalogue()
CHECKED = catalog.load("dashscope").models["qwen-plus"].checked


def shown(*models: str, region: str | None = None, route: str | None = None) -> list[tuple[str, str]]:
    return [(e.provider.name, e.name) for e in entries(BUILT_IN, Wanted(models, region, route))]


def one(name: str, region: str = "cn-beijing", route: str | None = None) -> Entry:
    (entry,) = entries(BUILT_IN, Wanted([name], region, route))
    return entry


def test_without_a_filter_every_entry_of_every_provider_with_prices_is_shown() -> None:
    found = shown()
    assert {provider for provider, _ in found} == {"dashscope", "dashscope-intl", "dashscope-us", "openai"}
    assert len(found) == sum(
        len(catalog.load(name).models) for name in ("dashscope", "dashscope-intl", "dashscope-us", "openai")
    )


def test_entries_are_filtered_by_pattern_region_and_route() -> None:
    assert shown("qwen-?lus", region="cn-beijing") == [("dashscope", "qwen-plus")]
    assert shown("qwen-plus", "qwq*", region="dashscope-intl") == [
        ("dashscope-intl", "qwen-plus"),
        ("dashscope-intl", "qwq-plus"),
    ]
    assert shown("qwen-plus", route="batch-file") == [
        ("dashscope", "qwen-plus"),
        ("dashscope-intl", "qwen-plus"),
    ]
    assert shown("qwen-plus", route="batch-chat") == [("dashscope", "qwen-plus")]
    assert shown("qwen-plus", region="simulator") == [("simulator", "qwen-plus")]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted(["qwen-plsu"]), "no model like qwen-plsu; did you mean qwen-plus"),
        (Wanted(["zzz"]), "a pattern is such as"),
        (
            Wanted(["qwen-mt-plus"], None, "batch-chat"),
            "no model like qwen-mt-plus with a price on the route batch-chat",
        ),
        (Wanted([], "cn-bejing"), "did you mean 'cn-beijing'"),
        (Wanted([], "mars"), "expected one of .*ap-southeast-1"),
    ],
)
def test_where_nothing_is_found_the_nearest_is_named(wanted: Wanted, says: str) -> None:
    with pytest.raises(JobError, match=says):
        entries(BUILT_IN, wanted)


def test_a_line_a_tier_with_the_models_own_figures_on_the_first() -> None:
    lines = list(cells(one("qwen-plus"), CHECKED))
    assert all(len(line) == len(HEADINGS) for line in lines)
    assert lines == [
        (
            "qwen-plus",
            "<= 128,000",
            "0.8",
            "2",
            "8",
            "0.16",
            "0.08",
            "1",
            "50 %",
            "30,000",
            "5,000,000",
            str(CHECKED),
        ),
        ("", "<= 256,000", "2.4", "20", "24", "0.48", "0.24", "3", "", "", "", ""),
        ("", "> 256,000", "4.8", "48", "64", "0.96", "0.48", "6", "", "", "", ""),
    ]


def test_what_is_not_known_is_a_dash_and_never_zero() -> None:
    (line,) = cells(one("qwen-omni-turbo"), CHECKED)
    assert line == ("qwen-omni-turbo", "", *["-"] * 7, "60", "100,000", str(CHECKED))


def test_the_batch_price_is_half() -> None:
    (line,) = cells(one("qwen-turbo", route="batch-file"), CHECKED)
    assert line[1:6] == ("", "0.15", "0.3", "1.5", "0.15")


def test_entries_older_than_90_days_are_warned_of() -> None:
    some = entries(BUILT_IN, Wanted(["qwen-plus", "qwen-max"], "cn-beijing", None))
    assert stale_warning(some, CHECKED + timedelta(days=90)) is None
    late = CHECKED + timedelta(days=91)
    said = stale_warning(some, late)
    assert said is not None
    assert said.startswith(f"2 of 2 entries were last checked more than 90 days ago, the oldest on {CHECKED}")
    (line,) = cells(one("qwen-max"), late)
    assert line[-1] == f"{CHECKED} (old)"
    assert as_json(one("qwen-max"), late)["stale"] is True


def test_an_entry_of_the_users_is_marked_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        "checked = 2026-11-28\n[dashscope.models.qwen-plus]\ntiers = [{ input = 1, output = 2 }]\n"
    )
    mine, other = entries(Catalogue([file]), Wanted(["qwen-plus", "qwen-flash"], "dashscope", None))
    (line,) = cells(mine, date(2026, 11, 28))
    assert line[2:4] == ("1", "2") and line[-1] == "2026-11-28 *"
    assert as_json(mine, date(2026, 11, 28))["file"] == str(file)
    assert other.origin is None


def test_json_has_exact_amounts_and_all_else_that_is_known() -> None:
    found = orjson.loads(orjson.dumps(as_json(one("qwen-plus"), CHECKED)))
    assert (found["provider"], found["region"], found["currency"]) == ("dashscope", "cn-beijing", "CNY")
    assert found["rates"][0] == {
        "up_to_prompt_tokens": 128_000,
        "input": "0.8",
        "output": "2",
        "thinking_output": "8",
        "implicit_hit": "0.16",
        "explicit_hit": "0.08",
        "explicit_create": "1",
    }
    assert found["limits"]["windows"][0] == {"seconds": 30, "requests": 15_000, "tokens": None}
    assert found["sources"]["price"]["as_of"] == "2026-09"
    assert (found["thinking"], found["tokenizer"], found["stale"], found["file"]) == (
        "off",
        "qwen3",
        False,
        None,
    )
    assert as_json(one("qwen-omni-turbo"), CHECKED)["rates"] is None
