"""The catalogue from the command line: `prices`, and a user's own prices in a run."""

import json
from decimal import Decimal
from pathlib import Path

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
