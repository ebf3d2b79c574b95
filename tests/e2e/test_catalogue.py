"""The catalogue from the command line: `prices`, and a user's own prices in a run."""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.conftest import Workplace
from tests.support.provider import Provider

# Ten times Beijing's.
OWN = "checked = 2026-11-28\n[dashscope.models.qwen-plus]\ntiers = [{ input = 8, output = 20 }]\n"


def test_prices_prints_a_table_and_json(place: Workplace) -> None:
    table = place.promptmill("prices", "qwen-plus", "--region", "cn-beijing")
    assert table.code == 0
    assert "dashscope: Alibaba Cloud Model Studio (DashScope), Beijing (cn-beijing)" in table.stdout
    assert "  price: https://help.aliyun.com/zh/model-studio/model-pricing, 2026-09" in table.stdout
    heading, first = [
        line for line in table.stdout.splitlines() if "qwen-plus" in line or "prompt tokens" in line
    ][:2]
    assert first.split()[:6] == ["qwen-plus", "<=", "128,000", "0.8", "2", "8"]
    assert heading.index("batch") + len("batch") == first.index("50 %") + len("50 %")
    found = json.loads(place.promptmill("prices", "qwen-plus", "--region", "cn-beijing", "--json").stdout)
    assert [entry["model"] for entry in found] == ["qwen-plus"]
    wrong = place.promptmill("prices", "qwen-plsu")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "did you mean qwen-plus" in wrong.stderr


def test_a_run_is_priced_by_the_users_own_file(place: Workplace, provider: Provider, tmp_path: Path) -> None:
    place.point_at(provider)
    (tmp_path / "own.toml").write_text(OWN)
    summary = place.run("--prices", "own.toml").summary
    tokens = summary["tokens"]
    own = (tokens["prompt_tokens"] * 8 + tokens["completion_tokens"] * 20) / Decimal(1_000_000)
    assert Decimal(summary["cost"]) == own > 0


def test_the_file_in_the_configuration_folder_counts_too_and_one_on_the_command_line_wins(
    place: Workplace, tmp_path: Path
) -> None:
    folder = tmp_path / "config/promptmill"
    folder.mkdir(parents=True)
    (folder / "catalogue.toml").write_text(OWN)
    (tmp_path / "own.toml").write_text(OWN.replace("input = 8", "input = 9"))
    config = str(tmp_path / "config")
    shown = place.promptmill("prices", "qwen-plus", "--region", "cn-beijing", XDG_CONFIG_HOME=config)
    assert "  8      20 " in shown.stdout and f"* as {folder / 'catalogue.toml'} has it" in shown.stdout
    both = place.promptmill(
        "prices", "qwen-plus", "--region", "cn-beijing", "--prices", "own.toml", XDG_CONFIG_HOME=config
    )
    assert "  9      20 " in both.stdout and "* as own.toml has it" in both.stdout


def test_check_says_what_tokens_cost(place: Workplace, provider: Provider, tmp_path: Path) -> None:
    assert "price     not known: rows will have no cost" in place.promptmill("check", "job.toml").stdout
    place.point_at(provider)
    said = place.promptmill("check", "job.toml").stdout
    assert (
        "price     CNY per 1,000,000 tokens: 0.8 in, 2 out (8 with reasoning) up to 128,000 prompt tokens; "
        in said
    )
    assert "; 4.8 in, 48 out (64 with reasoning) above (checked 2026-" in said
    (tmp_path / "own.toml").write_text(OWN)
    own = place.promptmill("check", "job.toml", "--prices", "own.toml").stdout
    assert "price     CNY per 1,000,000 tokens: 8 in, 20 out (checked 2026-11-28)" in own


def test_a_bad_file_ends_a_run_before_anything_is_sent(
    place: Workplace, provider: Provider, tmp_path: Path
) -> None:
    place.point_at(provider)
    (tmp_path / "own.toml").write_text(OWN.replace("input = 8", "input = 0"))
    for command in (("run", "job.toml"), ("check", "job.toml"), ("prices",)):
        ended = place.promptmill(*command, "--prices", "own.toml")
        assert (ended.code, ended.stdout) == (2, "")
        assert 'own.toml: [dashscope.models."qwen-plus"] input = 0: a price is above 0' in ended.stderr
    missing = place.run("--prices", "nowhere.toml")
    assert missing.code == 2 and "nowhere.toml cannot be read: No such file" in missing.stderr
    assert provider.ledger.received == 0


@pytest.mark.parametrize("first", [("--max-cost", "0.009"), ("--limit", "15")])
def test_what_was_paid_keeps_its_price_when_prices_change(
    place: Workplace, provider: Provider, tmp_path: Path, first: tuple[str, str]
) -> None:
    """Rows settled before are in the journal alone, or in a short part as well that is written anew."""
    place.point_at(provider)
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "later.toml").write_text(OWN.replace("input = 8, output = 20", "input = 80, output = 200"))
    bounded = ("--set", "params.max_tokens=16")
    before = place.run("--prices", "own.toml", *bounded, *first).summary
    assert 0 < before["done"] < 40 if first[0] == "--max-cost" else before["rows"] == 15
    after = place.run("--prices", "later.toml", *bounded).summary
    assert (after["done"], after["unpriced"], after["sent"]) == (40, 0, 40 - before["done"])
    used = json.loads((place.out / "run.json").read_text())["prices"]
    assert [one["price"]["rates"][0]["input"] for one in used] == ["8", "80"]
    paid = {one["price"]["version"]: Decimal(one["price"]["rates"][0]["input"]) for one in used}
    rows = pl.read_parquet(place.out / "results/*.parquet").to_dicts()
    assert Counter(row["price_version"] for row in rows) == dict(
        zip(paid, (before["done"], after["sent"]), strict=True)
    )
    for row in rows:
        price = paid[row["price_version"]]
        exact = row["prompt_tokens"] * price + row["completion_tokens"] * price * Decimal("2.5")
        assert row["cost"] == exact / 1_000_000
    assert Decimal(after["cost"]) == sum(row["cost"] for row in rows)


def test_a_report_prices_open_rows_as_their_run_does(
    place: Workplace, provider: Provider, tmp_path: Path
) -> None:
    place.point_at(provider)
    (tmp_path / "own.toml").write_text(OWN)
    stopped = place.run(
        "--prices", "own.toml", "--max-cost", "0.009", "--set", "params.max_tokens=16"
    ).summary
    assert 0 < stopped["done"] < 40 and not list((place.out / "results").glob("*.parquet"))
    (tmp_path / "own.toml").unlink()
    (run,) = json.loads(place.promptmill("report", "out", "--json").stdout)["runs"]
    assert Decimal(run["cost"]) == Decimal(stopped["spent"]) > 0
