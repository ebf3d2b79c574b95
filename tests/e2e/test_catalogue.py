"""The catalogue from the command line: a user's own prices in a run."""

from decimal import Decimal
from pathlib import Path

from tests.e2e.conftest import Workplace
from tests.support.provider import Provider

# Ten times Beijing's.
OWN = "checked = 2026-11-28\n[dashscope.models.qwen-plus]\ntiers = [{ input = 8, output = 20 }]\n"


def test_a_run_is_priced_by_the_users_own_file(place: Workplace, provider: Provider, tmp_path: Path) -> None:
    place.point_at(provider)
    (tmp_path / "own.toml").write_text(OWN)
    summary = place.run("--prices", "own.toml").summary
    tokens = summary["tokens"]
    own = (tokens["prompt_tokens"] * 8 + tokens["completion_tokens"] * 20) / Decimal(1_000_000)
    assert Decimal(summary["cost"]) == own > 0


def test_a_bad_file_ends_a_run_before_anything_is_sent(
    place: Workplace, provider: Provider, tmp_path: Path
) -> None:
    place.point_at(provider)
    (tmp_path / "own.toml").write_text(OWN.replace("input = 8", "input = 0"))
    for command in (("run", "job.toml"), ("check", "job.toml")):
        ended = place.promptmill(*command, "--prices", "own.toml")
        assert (ended.code, ended.stdout) == (2, "")
        assert 'own.toml: [dashscope.models."qwen-plus"] input = 0: a price is above 0' in ended.stderr
    missing = place.run("--prices", "nowhere.toml")
    assert missing.code == 2 and "nowhere.toml cannot be read: No such file" in missing.stderr
    assert provider.ledger.received == 0
