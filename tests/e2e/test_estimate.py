"""`promptmill estimate` as a user meets it: a pilot that is paid once, wrong inputs, and the words on the screen."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Typed, Workplace
from tests.e2e.test_report_page import CHROMIUM, OVERFLOWS, WIDTHS
from tests.support.chromium import browsing
from tests.support.cli import Ended
from tests.support.provider import Provider


def estimate(place: Workplace, *arguments: str, **env: str) -> Ended:
    return place.promptmill("estimate", "job.toml", *arguments, **env)


def test_a_pilot_is_asked_once_and_the_run_asks_the_others(
    place: Workplace, provider: Provider, typed: Typed
) -> None:
    place.point_at(provider)
    before = typed("estimate", "job.toml", "--json")
    assert (before.code, json.loads(before.stdout)["source"]["kind"]) == (0, "none")
    assert not place.out.exists()
    assert not provider.ledger.totals()["received"]
    piloted = estimate(place, "--pilot", "12", "--json")
    assert piloted.code == 0, piloted
    found = json.loads(piloted.stdout)
    assert json.loads((place.out / "estimate.json").read_text(encoding="utf-8")) == found
    assert (found["source"], found["settled"], found["rows"]) == (
        {"kind": "pilot", "rows": 12, "folder": None},
        12,
        40,
    )
    assert provider.ledger.totals()["received"] == 12
    again = estimate(place, "--pilot", "12", "--json")
    assert json.loads(again.stdout)["costs"] == found["costs"]
    assert provider.ledger.totals()["received"] == 12
    ran = place.run().summary
    assert (ran["sent"], ran["done"], provider.ledger.totals()["received"]) == (28, 40, 40)
    low, high = (float(found["costs"][0]["cost"][name]) for name in ("low", "high"))
    assert low <= float(ran["cost"]) <= high
    after = typed("estimate", "job.toml")
    assert "40 rows have their outcome" in after.stdout
    assert after.stderr == ""


def test_a_killed_pilot_goes_on_with_the_same_command(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    provider.hold_after(5)
    with place.promptmill.started("estimate", "job.toml", "--pilot", "20", "--json") as running:
        provider.wait(lambda: provider.held > 0)
        running.kill()
    provider.release()
    ended = estimate(place, "--pilot", "20", "--json")
    assert json.loads(ended.stdout)["source"]["rows"] == 20
    # Those in flight at the kill are sent again, and no other.
    assert 20 <= provider.ledger.totals()["received"] <= 20 + 4


def test_a_budget_below_the_pilot_stops_it_and_what_there_is_is_judged(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    ended = estimate(
        place, "--pilot", "30", "--set", "budget.max_cost=0.0005", "--set", "params.max_tokens=10"
    )
    assert ended.code == 5, ended
    assert "promptmill: the pilot:" in ended.stderr
    assert "max_cost" in ended.stderr
    assert provider.ledger.totals()["received"] < 30
    assert "answers" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pilot", "41"], "41 rows cannot be drawn: 40 of the dataset's 40 rows become requests"),
        (["--pilot", "3"], "is not in the range x>=10"),
        (["--from", "nowhere"], "nowhere is not a run folder"),
        (["--from", "out", "--pilot", "10"], "leave one out"),
        (["--from", "out", "--sample", "10"], "leave one out"),
        (["--compare", "qwen-pluss"], "did you mean 'qwen-plus'?"),
        (["--input", "none.jsonl"], "none.jsonl"),
        (["--set", "model.nam=x"], "did you mean"),
    ],
)
def test_wrong_input_is_a_sentence_and_nothing_is_sent(
    place: Workplace, typed: Typed, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    place.point_at("http://127.0.0.1:9/v1")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-right")
    ended = typed("estimate", "job.toml", *arguments)
    assert ended.code == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert not place.out.exists()


def test_an_input_without_rows_has_nothing_to_estimate(place: Workplace, typed: Typed) -> None:
    (place.folder / "rows.jsonl").write_text("")
    ended = typed("estimate", "job.toml")
    assert (ended.code, ended.stdout) == (2, "")
    assert "has no rows: there is nothing to estimate" in ended.stderr


def test_a_key_is_needed_for_a_pilot_alone(place: Workplace, typed: Typed) -> None:
    place.point_at("http://127.0.0.1:9/v1")
    assert typed("estimate", "job.toml").code == 0
    refused = typed("estimate", "job.toml", "--pilot", "10")
    assert refused.code == 2
    assert "DASHSCOPE_API_KEY" in refused.stderr


def test_the_simulator_has_no_price_and_says_where_there_is_one(typed: Typed) -> None:
    ended = typed("estimate", "job.toml", "--compare", "dashscope/qwen-plus")
    assert ended.code == 0
    assert "no price is known for qwen-plus at simulator" in ended.stdout
    assert "dashscope/qwen-plus" in ended.stdout


def test_a_page_is_written_where_it_is_asked_for(place: Workplace, typed: Typed) -> None:
    ended = typed("estimate", "job.toml", "--html", "estimate.html")
    assert ended == (0, "", "")
    page = (place.folder / "estimate.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "Estimate mood" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_fits_a_phone_and_a_desk(place: Workplace, typed: Typed, tmp_path: Path) -> None:
    place.point_at("http://127.0.0.1:9/v1")
    compared = ("--compare", "qwen-flash,qwen3-max,openai/gpt-5", "--html", "estimate.html")
    assert typed("estimate", "job.toml", *compared).code == 0
    assert CHROMIUM is not None
    with browsing(CHROMIUM, tmp_path / "profile") as browser:
        for width in WIDTHS.values():
            browser.open(place.folder / "estimate.html", width=width)
            assert browser.evaluate(OVERFLOWS) == []
            assert browser.complaints == []
            (tmp_path / f"{width}.png").write_bytes(browser.screenshot())


def test_the_ledger_counts_as_the_estimate_does(place: Workplace, provider: Provider, typed: Typed) -> None:
    place.point_at(provider)
    counted = json.loads(typed("estimate", "job.toml", "--json").stdout)["tokens"]["input"]
    assert place.run().summary["tokens"]["prompt_tokens"] == counted["value"]
    assert counted["low"] == counted["high"]
