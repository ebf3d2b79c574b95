"""Caps from the command line: exit code 5 and its sentence, going on with a raised cap, what is refused before anything is sent.

The judge is the simulator's ledger: the tokens it generated, at the catalogue's prices.
"""

from decimal import Decimal

import pytest

from pipeline.monthly import read_ledger
from tests.e2e.conftest import Workplace
from tests.support.provider import Provider

# qwen-plus in Beijing, prompts of up to 128K tokens, CNY a token.
INPUT, OUTPUT = Decimal("0.0000008"), Decimal("0.000002")
BOUNDED = ("--set", "params.max_tokens=16")


def billed(provider: Provider) -> Decimal:
    ledger = provider.ledger
    return ledger.prompt_tokens * INPUT + ledger.completion_tokens * OUTPUT


@pytest.fixture
def priced(place: Workplace, provider: Provider) -> Workplace:
    """A workplace whose job asks a provider that has prices."""
    place.point_at(provider)
    return place


def test_a_run_ends_with_5_at_its_cap_and_a_raised_cap_goes_on(priced: Workplace, provider: Provider) -> None:
    ended = priced.run("--max-cost", "0.0009", *BOUNDED)
    assert ended.code == 5
    summary = ended.summary
    assert 0 < summary["done"] < 40
    assert summary["max_cost"] == "0.0009"
    assert billed(provider) == Decimal(summary["spent"]) <= Decimal("0.0009")
    assert summary["maybe_cost"] == "0.000000000"
    said = f"promptmill: max_cost is reached: {Decimal(summary['spent']).normalize():f} of 0.0009 CNY is spent, and the next row"
    assert said in ended.stderr
    assert "Raise [budget] max_cost (or --max-cost) and run the same command again" in ended.stderr
    asked = provider.ledger.received
    again = priced.run("--max-cost", "0.0009", *BOUNDED)
    assert (again.code, provider.ledger.received) == (5, asked)
    raised = priced.run("--max-cost", "0.05", *BOUNDED)
    assert (raised.code, raised.summary["done"]) == (0, 40)
    assert provider.ledger.received == 40
    assert billed(provider) == Decimal(raised.summary["spent"]) == Decimal(raised.summary["cost"])


def test_a_changed_job_goes_on_counting_what_the_folder_paid(priced: Workplace, provider: Provider) -> None:
    """Answers that no row holds any more were paid for; those that a row takes again are not paid for twice."""
    first = priced.run("--set", "budget.max_cost=1", *BOUNDED).summary
    job = priced.folder / "job.toml"
    job.write_text(job.read_text().replace("Is this", "Is that"))
    second = priced.run("--set", "budget.max_cost=1", *BOUNDED).summary
    assert Decimal(second["spent"]) == billed(provider) > Decimal(second["cost"])
    job.write_text(job.read_text().replace("Is that", "Is this"))
    third = priced.run("--set", "budget.max_cost=1", *BOUNDED).summary
    assert (third["reused"], third["sent"]) == (40, 0)
    assert (third["cost"], third["spent"]) == (first["cost"], second["spent"])
    assert priced.run("--set", f"budget.max_cost={third['spent']}", *BOUNDED).code == 0


def test_rows_asked_again_keep_both_bills(priced: Workplace, provider: Provider) -> None:
    wrong = (
        "--max-cost",
        "1",
        "--set",
        'response.labels=["yes", "no"]',
        "--set",
        "response.on_invalid=keep",
        *BOUNDED,
    )
    priced.run(*wrong)
    again = priced.run(*wrong, "--retry-failed=invalid").summary
    assert provider.ledger.received == 80
    assert Decimal(again["spent"]) == billed(provider) == Decimal(again["cost"])


def test_where_the_journal_is_lost_what_the_results_cost_counts_at_least(priced: Workplace) -> None:
    options = ("--set", "output.rows_per_part=5", *BOUNDED)
    first = priced.run("--max-cost", "0.0009", *options).summary
    (priced.out / "journal.sqlite").write_bytes(b"no database at all" * 1_000)
    again = priced.run("--max-cost", "0.0009", *options)
    assert again.code == 5
    assert Decimal(again.summary["cost"]) > Decimal(first["cost"]) / 2
    assert Decimal("0.0005") < Decimal(again.summary["spent"]) <= Decimal("0.0009")


def test_status_tells_what_a_folder_spent(priced: Workplace) -> None:
    spent = priced.run("--max-cost", "0.0009", *BOUNDED).summary["spent"]
    said = priced.promptmill("status", "out").stdout
    assert f"spent {Decimal(spent).normalize():f}" in said
    assert "max_cost is reached" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-cost", "0.0001", *BOUNDED], "max_cost = 0.0001 CNY is less than one row may cost"),
        (["--max-cost", "0", *BOUNDED], "budget.max_cost"),
        (["--max-cost", "null", *BOUNDED], "--max-cost takes an amount such as 5 or 0.25; found 'null'"),
        (["--max-cost", "inf", *BOUNDED], "budget.max_cost"),
        (["--max-cost", "1", "--set", "model.provider=simulator"], "a cap needs prices, and none is known"),
        (["--max-cost", "1", "--set", "model.name=qwen3.6-27b", *BOUNDED, "--set", "params.enable_thinking=true"],
         "set [params] thinking_budget"),
        (["--max-cost", "1", "--set", "model.name=qwen3-32b", "--set", "params.enable_thinking=false"],
         "set [params] max_tokens"),
        (["--set", "budget.scope=team", *BOUNDED], "it goes with that"),
    ],
)  # fmt: skip
def test_what_cannot_hold_is_refused_before_anything_is_sent(
    priced: Workplace, provider: Provider, options: list[str], says: str
) -> None:
    ended = priced.run(*options)
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert says in ended.stderr
    assert provider.ledger.received == 0


def test_one_row_too_dear_for_the_cap_is_said_at_the_start(priced: Workplace) -> None:
    rows = priced.folder / "rows.jsonl"
    lines = rows.read_text().splitlines()
    lines[9] = '{"id": "r9", "text": "' + "long " * 2_000 + '"}'
    rows.write_text("\n".join(lines))
    ended = priced.run("--max-cost", "0.005", *BOUNDED)
    assert ended.code == 5
    assert "one of the first 20 rows may cost up to" in ended.stderr
    assert ended.stderr.index("the run will stop before it") < ended.stderr.index("max_cost is reached")


# The month


def test_jobs_that_name_one_scope_share_its_month(priced: Workplace, provider: Provider) -> None:
    month = ("--set", "budget.max_cost_per_month=0.0018", "--set", "budget.scope=team", *BOUNDED)
    one = priced.run(*month).summary
    ended = priced.run(*month, "--output", "other")
    assert ended.code == 5
    other = ended.summary
    assert billed(provider) == Decimal(one["spent"]) + Decimal(other["spent"]) <= Decimal("0.0018")
    assert 'for the scope "team"' in ended.stderr
    assert "run the same command again next month" in ended.stderr
    rows = read_ledger(priced.folder / ".local" / "state" / "promptmill" / "ledger.sqlite")
    assert [(row.folder.name, row.paid, row.maybe, row.reserved) for row in rows] == [
        ("other", Decimal(other["spent"]), 0, 0),
        ("out", Decimal(one["spent"]), 0, 0),
    ]
    # A scope of another name has a month of its own, and a run that is resumed counts once.
    elsewhere = [word if word != "budget.scope=team" else "budget.scope=alone" for word in month]
    assert priced.run(*elsewhere, "--output", "third").code == 0
    again = priced.run(*month[:2], "--set", "budget.scope=team", *BOUNDED, XDG_STATE_HOME="/nowhere")
    assert again.code == 0  # all rows are done: nothing is spent, and no ledger is asked


def test_two_runs_at_once_never_spend_more_than_the_month_has(priced: Workplace, provider: Provider) -> None:
    priced.write_rows(400)
    month = ("--set", "budget.max_cost_per_month=0.008", "--set", "limits.max_concurrency=16", *BOUNDED)
    run = priced.promptmill
    with (
        run.started("run", "job.toml", "--quiet", *month, "--output", "a") as one,
        run.started("run", "job.toml", "--quiet", *month, "--output", "b") as other,
    ):
        ended = [one.end(), other.end()]
    assert [end.code for end in ended] == [5, 5]
    spent = sum(Decimal(end.summary["spent"]) for end in ended)
    assert billed(provider) == spent <= Decimal("0.008")
    # What one gives back when it ends, the other need not have waited for.
    last = priced.run(*month, "--output", "a")
    total = Decimal(last.summary["spent"]) + min(Decimal(end.summary["spent"]) for end in ended[1:])
    assert last.code == 5
    assert Decimal("0.008") - Decimal("0.0005") < total <= Decimal("0.008")


def test_without_a_state_folder_a_month_cannot_be_kept(priced: Workplace, provider: Provider) -> None:
    ended = priced.run("--set", "budget.max_cost_per_month=1", *BOUNDED, HOME="")
    assert ended.code == 2
    assert "set XDG_STATE_HOME or HOME to an absolute path. Nothing was sent" in ended.stderr
    assert provider.ledger.received == 0
