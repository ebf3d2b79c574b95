"""A user's own catalogue: an entry's keys win over the built-in ones, and a bad file says where and what to do."""

import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline import catalog, pricing
from pipeline.catalog.overlay import Catalogue, user_files
from pipeline.errors import JobError
from pipeline.records import Usage

OWN = """
checked = 2026-11-28

[dashscope.models.qwen-plus]
tiers = [{ up_to_prompt_tokens = 1_000, input = 0.1, output = "0.2" }, { input = 3, output = 4 }]

[dashscope.models."qwen-plus-2025-07-28"]
checked = 2026-10-01
source = ["contract"]
tiers = [{ input = 1, output = 1 }]
limits = { requests_per_minute = 60 }

[dashscope.sources.contract]
page = "our own"
as_of = "2026-10"

[compatible]
currency = "EUR"
[compatible.models.mine]
tiers = [{ input = 0.30000000000000004, output = 1 }]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    return file


def cost(found: catalog.Provider, model: str, prompt: int, completion: int) -> Decimal | None:
    price = pricing.price(found, model, "realtime")
    assert price is not None
    return pricing.cost(price, Usage(prompt, completion), has_reasoning=False)


def test_an_entry_wins_key_by_key_and_the_rest_stays(own: Path) -> None:
    builtin, found = catalog.load("dashscope"), Catalogue([own]).load("dashscope")
    assert cost(found, "qwen-plus", 1_000, 100) == Decimal("0.00012")  # 100 + 20 millionths
    assert cost(found, "qwen-plus", 1_001, 100) == Decimal("0.003403")  # 3,003 + 400
    model, before = found.models["qwen-plus"], builtin.models["qwen-plus"]
    assert (model.limits, model.cache, model.tokenizer) == (before.limits, before.cache, before.tokenizer)
    assert (model.checked, model.source) == (date(2026, 11, 28), (*before.source, str(own)))
    assert found.models["qwen-flash"] == builtin.models["qwen-flash"]
    assert (found.base_url, found.currency) == (builtin.base_url, "CNY")


def test_entries_are_added_with_their_own_day_and_source(own: Path) -> None:
    found = Catalogue([own]).load("dashscope")
    model = found.models["qwen-plus-2025-07-28"]
    assert (model.checked, model.source, model.limits.requests_per_minute) == (
        date(2026, 10, 1),
        ("contract",),
        60,
    )
    assert found.sources["contract"].page == "our own"
    assert model.thinking is None and model.cache.implicit_hit is None  # nothing is taken from its family


def test_an_amount_is_what_is_written_and_not_the_nearest_binary_fraction(own: Path) -> None:
    found = Catalogue([own]).load("compatible")
    assert found.models["mine"].tiers[0].input == Decimal("0.30000000000000004")
    assert found.currency == "EUR" and found.keyless


def test_where_an_entry_is_from_and_which_state_of_prices_it_is(own: Path, tmp_path: Path) -> None:
    found = Catalogue([own])
    assert found.origin("dashscope", "qwen-plus") == own
    assert found.origin("dashscope", "qwen-flash") is None
    assert found.origin("dashscope-intl", "qwen-plus") is None
    version = found.load("dashscope").price_version
    assert version.startswith("2026-11-28-") and version != catalog.load("dashscope").price_version
    assert Catalogue([own]).load("dashscope").price_version == version
    other = tmp_path / "other.toml"
    other.write_text(OWN.replace("output = 4", "output = 5"))
    assert Catalogue([other]).load("dashscope").price_version != version
    assert found.load("openai") is catalog.load("openai")


def test_a_later_file_lies_over_an_earlier_one(own: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.toml"
    later.write_text('checked = 2026-11-29\n[dashscope.models.qwen-plus]\nthinking = "on"\n')
    found = Catalogue([own, later])
    model = found.load("dashscope").models["qwen-plus"]
    assert (model.thinking, model.tiers[0].input, model.checked) == ("on", Decimal("0.1"), date(2026, 11, 29))
    assert found.origin("dashscope", "qwen-plus") == later
    assert "qwen-plus-2025-07-28" in found.load("dashscope").models


def test_another_currency_leaves_no_built_in_price_standing(tmp_path: Path) -> None:
    file = tmp_path / "usd.toml"
    file.write_text(
        'checked = 2026-11-28\n[dashscope-intl]\ncurrency = "USD"\n'
        "[dashscope-intl.models.qwen-plus]\ntiers = [{ input = 0.4, output = 1.2, thinking_output = 4 }]\n"
        "[dashscope-intl.models.qwen-max]\nlimits = { requests_per_minute = 5 }\n"
    )
    found = Catalogue([file]).load("dashscope-intl")
    assert cost(found, "qwen-plus", 1_000, 1_000) == Decimal("0.0016")
    assert found.currency == "USD"
    assert not found.models["qwen-flash"].tiers and not found.models["qwen-max"].tiers
    assert pricing.price(found, "qwen-flash", "realtime") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = b", "is no TOML file: .*line 1"),
        ("[dashscop.models.m]", r"'dashscop' is no provider; did you mean \[dashscope\]\?"),
        ("[zzz]", "the providers are compatible, dashscope"),
        ("openai = 5", "takes the keys currency, models, sources; found a value"),
        ('[openai]\nbase_url = "x"', "found 'base_url'"),
        ("[openai]\nmodels = 5", "models is a table; found 5"),
        ('[openai]\nmodels = { a = "b" }', r'write \[openai.models."NAME"\]'),
        ('[openai]\nsources = { a = "b" }', r'write \[openai.sources."NAME"\]'),
        ("[openai.models.m]\n", r'\[openai.models."m"\] needs checked = YYYY-MM-DD'),
        ('[openai.models.m]\nchecked = "today"', "needs checked"),
        (
            "[openai.models.m]\nchecked = 2026-11-28\ninputs = 1",
            r'models."m"\] Object contains unknown field `inputs`',
        ),
        (
            "[openai.models.gpt-4o]\nchecked = 2026-11-28\ntiers = [{ input = 1, output = 2 }, { input = 0, output = 1 }]",
            r'"gpt-4o"\] input = 0: a price is above 0; leave out what is not known \(at tiers\[1\]\)',
        ),
        (
            "[openai.models.m]\nchecked = 2026-11-28\ntiers = [{ input = 1 }]",
            r"missing.*`output` \(at tiers\[0\]\)",
        ),
        ("[openai.models.m]\nchecked = 2026-11-28\ntiers = [{ input = nan, output = 1 }]", "above 0"),
        (
            "[openai.models.m]\nchecked = 2026-11-28\nlimits = { requests_per_minute = 0 }",
            "at limits.requests_per_minute",
        ),
        (
            '[openai.models.m]\nchecked = 2026-11-28\nsource = ["x"]',
            r"\[openai\] models.m: source \['x'\] is not in \[sources\]: add it there",
        ),
        ('[openai]\ncurrency = "usd"', r"\[openai\] .*currency"),
        ('[openai.sources.x]\npage = "p"', r'\[openai.sources."x"\] .*as_of'),
        (
            "[compatible.models.m]\nchecked = 2026-11-28\ntiers = [{ input = 1, output = 1 }]",
            r'\[compatible\] models.m: prices without a currency: name theirs, such as currency = "USD"',
        ),
    ],
)
def test_a_bad_file_says_where_and_what_to_do(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(JobError, match=says) as caught:
        Catalogue([file])
    assert str(file) in str(caught.value) and caught.value.exit_code == 2


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read: No such file"):
        Catalogue([tmp_path / "missing.toml"])
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(JobError, match="is no TOML file"):
        Catalogue([tmp_path / "latin.toml"])


def test_the_users_file_is_looked_for_where_the_environment_says(tmp_path: Path) -> None:
    place = tmp_path / "promptmill"
    place.mkdir()
    env = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nowhere"}
    assert user_files(env) == []
    (place / "catalogue.toml").write_text("")
    assert user_files(env) == [place / "catalogue.toml"]
    assert user_files(env, Path("more.toml")) == [place / "catalogue.toml", Path("more.toml")]
    home = tmp_path / "home/.config/promptmill"
    home.mkdir(parents=True)
    (home / "catalogue.toml").write_text("")
    assert user_files({"HOME": str(tmp_path / "home")}) == [home / "catalogue.toml"]
    assert user_files({"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": "relative"}) == [
        home / "catalogue.toml"
    ]
    assert user_files({}) == []


def test_the_example_in_the_documentation_is_a_catalogue(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/costs.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "example.toml"
    file.write_text(example)
    found = Catalogue([file])
    assert cost(found.load("dashscope"), "qwen-plus", 1_000, 100) == Decimal("0.00088")  # 700 + 180
    assert cost(found.load("compatible"), "my-model", 1_000, 100) == Decimal("0.00013")  # 100 + 30
    assert found.load("dashscope").models["qwen-plus-2025-07-28"].limits.tokens_per_minute == 150_000
