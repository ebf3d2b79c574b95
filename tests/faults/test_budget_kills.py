"""kill -9 of runs with caps, again and again: the invoice never passes a cap, and what was in flight stays counted.

The judge is the simulator's ledger: every request that it has read is billed, whoever still waits for the answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from pipeline.monthly import LedgerRow, read_ledger
from pipeline.simulator.faults import FaultKind
from tests.support.cli import CommandLine, Ended
from tests.support.lives import How, begun
from tests.support.moments import lives_until
from tests.support.witness import Event, Witness, witnessing
from tests.support.works import TEXT

# qwen-plus in Beijing, prompts of up to 128K tokens, CNY a token.
INPUT, OUTPUT = Decimal("0.0000008"), Decimal("0.000002")
ROWS, AT_ONCE = 1_200, 8
# No row of these costs more, all tokens of its body and template and the longest answer counted.
ONE_ROW = Decimal("0.0006")
WORK = replace(
    TEXT, rows=ROWS, at_once=AT_ONCE, latency="uniform:2ms-20ms", more="[params]\nmax_tokens = 16\n"
)
FAULTS = {FaultKind.CUT: 0.02, FaultKind.INTERNAL_ERROR: 0.02, FaultKind.LIMIT_REQUESTS: 0.01}


class Runs:
    """Lives of runs in one folder, at one witness."""

    def __init__(self, folder: Path, witness: Witness, seed: int) -> None:
        self.folder = folder
        self.witness = witness
        self.random = Random(seed)
        self.promptmill = CommandLine(folder, {"DASHSCOPE_API_KEY": "sk-any"})
        WORK.write(folder, witness.base_url)

    def live(self, out: str, cap: Sequence[str], *, to_be_killed: bool = False) -> Ended:
        """A life of this run, to its end or until it is killed as one of its next requests is received."""
        arguments = ["run", "job.toml", "--quiet", "--output", out, *cap]
        with (
            self.witness.watched(Event.RECEIVED, self.random.randint(1, 60)) as moment,
            begun(How.FORKED, self.promptmill, arguments, out) as life,
        ):
            if not to_be_killed or not lives_until(moment, life):
                return life.end()
            return life.kill()

    def killed(self, out: str, cap: Sequence[str]) -> bool:
        """Whether a life of this run was killed while it went on."""
        ended = self.live(out, cap, to_be_killed=True)
        self.promptmill.wait_all_gone()
        return ended.code < 0

    def billed(self) -> Decimal:
        self.witness.wait_quiet()
        ledger = self.witness.ledger
        return ledger.prompt_tokens * INPUT + ledger.completion_tokens * OUTPUT


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    with witnessing(replace(WORK.settings(), faults=FAULTS), at_once=AT_ONCE) as witness:
        yield Runs(tmp_path, witness, seed=4)


def test_a_run_killed_ten_times_is_never_billed_more_than_its_cap(runs: Runs) -> None:
    cap = Decimal("0.05")  # less than the kills and the rows come to
    kills = 0
    for _ in range(10):
        kills += runs.killed("out", ["--max-cost", str(cap)])
        assert runs.billed() <= cap
    ended = runs.live("out", ["--max-cost", str(cap)])
    summary = ended.summary
    assert kills == 10
    assert runs.billed() <= Decimal(summary["spent"]) <= cap
    assert Decimal(summary["maybe_cost"]) > 0
    assert ended.code == 5
    assert cap - Decimal(summary["spent"]) < ONE_ROW
    raised = runs.live("out", ["--max-cost", "1"])
    assert (raised.code, raised.summary["done"]) == (0, ROWS)
    assert runs.billed() <= Decimal(raised.summary["spent"])


def test_twenty_kills_and_restarts_of_two_jobs_do_not_overspend_their_month(runs: Runs) -> None:
    cap = Decimal("0.12")  # less than the kills and the rows of both jobs come to
    month = ["--set", f"budget.max_cost_per_month={cap}", "--set", "budget.scope=nightly"]
    kills = lives = 0
    while kills < 20:
        lives += 1
        assert lives <= 40, "its lives end before they are killed"
        kills += runs.killed(runs.random.choice(["one", "other"]), month)
        assert runs.billed() <= cap
        assert sum(row.paid + row.maybe + row.reserved for row in ledger(runs)) <= cap
    ended = [runs.live(out, month) for out in ("one", "other")]
    spent = [Decimal(end.summary["spent"]) for end in ended]
    assert 5 in [end.code for end in ended]
    assert runs.billed() <= sum(spent) <= cap
    assert cap - sum(spent) < ONE_ROW
    # Each folder stands there once, with all that its lives came to, and nothing stays reserved.
    assert [(row.folder.name, row.paid + row.maybe, row.reserved) for row in ledger(runs)] == [
        ("one", spent[0], 0),
        ("other", spent[1], 0),
    ]


def ledger(runs: Runs) -> list[LedgerRow]:
    return read_ledger(runs.folder / ".local" / "state" / "promptmill" / "ledger.sqlite")
