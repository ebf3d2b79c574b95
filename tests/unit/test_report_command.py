"""`promptmill report`: the tables people read, the JSON machines read, and folders named in every way."""

import io
import json
import re
import stat
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline import catalog, pricing
from pipeline.budget import MonthSpend
from pipeline.commands.report import carry_out
from pipeline.errors import JobError, RunFolderError
from pipeline.history import Event
from pipeline.monthly import LEDGER_NAME, MonthlyLedger, Scope
from pipeline.pricing import price, to_nano
from pipeline.records import Usage
from pipeline.report.as_parquet import SCHEMA_VERSION
from pipeline.report.shown import Column, Kind, Table, share, short, written
from pipeline.report.tables import one_run
from pipeline.report.terminal import show
from tests.support.reported import (
    START,
    answer,
    estimated,
    facts_of,
    failure,
    keeping_history,
    moment,
    run_folder,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with every kind of thing to report."""
    rows = [answer(n, gold="yes", label="yes", first_token_ms=50.0) for n in range(6)]
    rows += [
        answer(6, status="invalid", gold="no"),
        failure(7, "timeout", error_message="too late", attempts=6),
    ]
    job = {
        "response": {"labels": ["yes", "no"], "gold": "gold"},
        "budget": {"max_cost": 5},
        "limits": {"requests_per_minute": 60},
    }
    return run_folder(tmp_path / "run", rows, job=job, wanted=10, summary={"maybe_paid": 2})


def printed(*runs: Path | str, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    assert carry_out(tuple(map(str, runs)), **options) == 0
    return capsys.readouterr().out


def in_json(*runs: Path | str, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(printed(*runs, capsys=capsys, as_json=True, **options))
    return content


def rows_of(text: str, title: str) -> list[list[str]]:
    """The rows of a printed table, each as its cells."""
    body = re.split(rf"^{re.escape(title)}.*\n", text, maxsplit=1, flags=re.MULTILINE)[1]
    body = re.split(r"─+\s*\n", body, maxsplit=1)[1]
    lines = body.split("\n")
    end = next(number for number, line in enumerate(lines) if not line.strip())
    return [re.split(r"\s{2,}", line.strip()) for line in lines[:end]]


def test_the_terminal_tells_all_that_a_run_came_to(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(run, capsys=capsys)
    assert rows_of(said, "Outcomes") == [
        ["ok", "6", "75.0%"],
        ["failed", "1", "12.5%"],
        ["invalid", "1", "12.5%"],
    ]
    assert rows_of(said, "Finish reasons") == [["stop", "7", "87.5%"], ["(none)", "1", "12.5%"]]
    assert ["prompt tokens", "700", "100.0", "0"] in rows_of(said, "Tokens")
    assert ["cached tokens", "–", "–", "7"] in rows_of(said, "Tokens")
    assert rows_of(said, "Cost by model and route")[0][:7] == [
        "qwen-plus", "realtime", "7", "700", "70", "0.007000", "1.0000",
    ]  # fmt: skip
    assert rows_of(said, "Times")[1][:3] == ["first token", "6", "50 ms"]
    assert rows_of(said, "Attempts") == [["1", "7", "87.5%"], ["6", "1", "12.5%"]]
    assert rows_of(said, "Failures") == [["timeout", "bad", "1", "r7", "400", "too late"]]
    assert rows_of(said, "Labels")[0] == ["yes", "6", "6", "100.0%", "100.0%", "100.0%"]
    assert "accuracy 85.7%: 6 of 7 rows" in said
    assert rows_of(said, "Confusion") == [["yes", "6", "0", "0"], ["no", "0", "0", "1"]]
    assert rows_of(said, "Limits used")[0] == ["requests_per_minute, by rows", "60", "8", "13.3%"]
    assert rows_of(said, "Slowest rows")[0][0] == "r7"
    assert rows_of(said, "Dearest rows")[0][-1] == "answer 0"
    for fact in (
        "stopped: every row",
        "8 of 10",
        "2 requests that got no answer",
        "0.007000 CNY",
        "5.0000 CNY",
    ):
        assert fact in said


def test_several_runs_are_told_by_run_day_job_and_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(3):
        start = START + timedelta(days=day)
        rows = [answer(n, started_at=start, cost=Decimal(day + 1)) for n in range(4)]
        if day == 2:
            rows.append(failure(4, started_at=start))
        run_folder(tmp_path / f"d{day}", rows, started=start, job={"name": f"job-{day % 2}"})
    said = printed(tmp_path / "d*", capsys=capsys)
    assert [row[:1] + row[2:6] for row in rows_of(said, f"3 runs in {tmp_path}")] == [
        ["d0", "finished", "4", "100.0%", "0"],
        ["d1", "finished", "4", "100.0%", "0"],
        ["d2", "finished", "5", "80.0%", "1"],
    ]
    by_day = rows_of(said, "By day")
    assert [row[0] for row in by_day] == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert [row[5] for row in by_day] == ["4.0000", "8.0000", "12.0000"]
    assert [row[8] for row in by_day] == ["–", "+100%", "+50%"]
    job = rows_of(said, "By job")[0]
    assert job[:3] == ["job-0", "2", "9"]
    assert job[-2:] == ["▃█", "+200%"]
    assert [row[0] for row in rows_of(said, "By model")] == ["(no answer)", "qwen-plus"]


def test_amounts_in_several_currencies_are_never_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = run_folder(tmp_path / "a", [answer(0, cost=Decimal(1))])
    b = run_folder(tmp_path / "b", [answer(0, cost=Decimal(2), currency="USD")])
    said = printed(a, b, capsys=capsys)
    day = rows_of(said, "By day")[0]
    assert day[5:7] == ["–", "CNY + USD"]
    assert {(row[5], row[7]) for row in rows_of(said, "Cost by model and route")} == {
        ("1.0000", "CNY"),
        ("2.0000", "USD"),
    }


def test_the_json_holds_what_its_documentation_says_and_no_more(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "estimate.json").write_text(json.dumps(estimated()), encoding="utf-8")
    with keeping_history(run) as history:
        history.tell(Event(1, "a", "slower"))
        history.keep(moment(0))
    content = in_json(run, capsys=capsys, elsewhere="model=qwen-flash")
    one = content["runs"][0]
    sums = _documented("sums")
    figures = sums | _documented("figures")
    assert content.keys() == _documented("document")
    assert one.keys() == figures | _documented("run")
    assert content["together"].keys() == figures
    assert one["by_model"][0].keys() == sums | {"model", "route", "currency"}
    assert one["by_day"][0].keys() == sums | {"day", "currency"}
    assert one["spreads"].keys() <= set(re.findall(r"`(\w+)`", DOCUMENT))
    assert one["spreads"]["latency_ms"].keys() == _documented("spread")
    assert one["failures"][0].keys() == _documented("failure")
    assert one["slowest"][0].keys() == _documented("row")
    assert one["labels"].keys() == _documented("labels")
    assert one["labels"]["scores"][0].keys() == _documented("score")
    assert one["elsewhere"].keys() == _documented("elsewhere")
    assert one["estimate"].keys() == _documented("estimate") - {
        "figure",
        "value",
        "low",
        "high",
        "actual",
        "within",
    }
    assert one["estimate"]["figures"][0].keys() == {"figure", "value", "low", "high", "actual", "within"}
    assert one["moments"][0].keys() == _documented("moment")
    assert one["events"][0].keys() == {"at_us", "run_id", "reason"}
    assert one["over_time"].keys() == _documented("over_time")
    assert one["over_time"]["spans"][0].keys() == {"start_s", "rows", "failed", "tokens", "cost"}


def _documented(thing: str) -> set[str]:
    """The keys that docs/reports.md gives to an object of the JSON."""
    body = re.split(rf"^### {thing}\n", DOCUMENT, flags=re.MULTILINE)[1]
    table = re.split(r"^##", body, maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", table, flags=re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


def test_the_json_is_exact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = in_json(run, capsys=capsys)["runs"][0]
    assert (one["rows"], one["rows_wanted"], one["state"], one["max_cost"]) == (8, 10, "stopped", "5")
    assert (one["cost"], one["tokens"]["total_tokens"], one["tokens"]["cached_tokens"]) == (
        "0.007000000",
        770,
        None,
    )
    assert one["status"] == {"ok": 6, "invalid": 1, "failed": 1}
    assert one["by_day"][0]["day"] == "2026-11-20"
    assert one["labels"]["confusion"] == [
        {"known": "yes", "given": "yes", "rows": 6},
        {"known": "no", "given": None, "rows": 1},
    ]
    assert sum(span["rows"] for span in one["over_time"]["spans"]) == 8


def test_folders_are_taken_once_and_a_pattern_passes_over_what_is_none(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parent / "runs.txt").touch()
    (run.parent / "rubbish").mkdir()
    content = in_json(run, run.parent / "ru*", capsys=capsys)
    assert [one["folder"] for one in content["runs"]] == [str(run)]


@pytest.mark.parametrize(
    ("named", "said"), [("nowhere", "is not a run folder"), ("x*", "no run folder matches")]
)
def test_what_is_not_there_is_said(tmp_path: Path, named: str, said: str) -> None:
    with pytest.raises(RunFolderError, match=said):
        carry_out((str(tmp_path / named),))


def test_a_run_that_asked_nothing_yet_has_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run", [], wanted=3)
    assert "0 of 3" in printed(folder, capsys=capsys)
    one = in_json(folder, capsys=capsys)["runs"][0]
    assert (one["rows"], one["spreads"]["latency_ms"]["p50"]) == (0, None)


def test_a_models_text_is_shown_and_not_obeyed() -> None:
    stream = io.StringIO()
    hostile = "[red]\x1b[2J[link=http://x]\u202e{}" + "y" * 1000
    show([Table("[bold]t", (Column("a"), Column("n", Kind.COUNT)), [(hostile, 1)])], stream)
    said = stream.getvalue()
    assert "[red]" in said and "[bold]t" in said
    assert "\\u001b[2J" in said and "\x1b" not in said and "\u202e" not in said
    assert said.count("y") < 300
    assert not any(line.endswith(" ") for line in said.splitlines())


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (None, Kind.COUNT, "–"),
        (1234567, Kind.COUNT, "1,234,567"),
        (0.5, Kind.SHARE, "50.0%"),
        (-0.25, Kind.CHANGE, "-25%"),
        (Decimal("0.000086"), Kind.AMOUNT, "0.000086"),
        (Decimal("12.5"), Kind.AMOUNT, "12.5000"),
        (Decimal(0), Kind.AMOUNT, "0"),
        (1234.5, Kind.AMOUNT, "1,234.50"),
        (0.25, Kind.MS, "0.25 ms"),
        (412.6, Kind.MS, "413 ms"),
        (1500.0, Kind.MS, "1.50 s"),
        (3.14, Kind.MEAN, "3.1"),
        (START, Kind.TEXT, "2026-11-20 09:00"),
        (START.date(), Kind.TEXT, "2026-11-20"),
    ],
)
def test_a_figure_is_written_by_its_kind(value: Any, kind: Kind, said: str) -> None:
    assert written(value, kind) == said


def test_a_share_says_all_and_none_only_of_these() -> None:
    assert [share(value) for value in (0.0, 0.0001, 0.9999, 1.0)] == ["0.0%", "<0.1%", ">99.9%", "100.0%"]


def test_long_text_is_cut_and_says_so() -> None:
    assert short("a  b\nc", 10) == "a b c"
    assert short("x" * 11, 10) == "x" * 9 + "…"
    assert short(" " * 100 + "x", 10).endswith("…")


def test_what_a_run_would_have_cost_elsewhere_is_told_beside_what_it_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = run_folder(tmp_path / "a", [answer(n, cost=Decimal("0.0001")) for n in range(5)])
    there = price(catalog.load("dashscope"), "qwen-max", "realtime")
    assert there is not None
    cost = 5 * pricing.cost(there, Usage(100, 10), has_reasoning=False)  # type: ignore[operator]  # a price is known
    one = in_json(a, capsys=capsys, elsewhere="model=qwen-max")["runs"][0]["elsewhere"]
    assert (Decimal(one["cost"]), one["answers"], one["unpriced"]) == (cost, 5, {})
    assert (one["provider"], one["model"], one["route"]) == ("dashscope", "qwen-max", "realtime")
    line = rows_of(printed(a, capsys=capsys, elsewhere="model=qwen-max"), "The same elsewhere")[0]
    assert line[1:5] == ["qwen-max", "dashscope", "realtime", "0.000500"]
    assert line[-2:] == [f"{cost / Decimal('0.0005') - 1:+.0%}", "0"]
    b = run_folder(tmp_path / "b", [answer(0, prompt_tokens=None), failure(1)])
    said = printed(a, b, capsys=capsys, elsewhere="region=us-east-1,route=batch-file")
    assert [row[5:] for row in rows_of(said, "The same elsewhere")] == [
        ["CNY", "–", "–", "5"],
        ["CNY", "–", "–", "1"],
    ]
    assert "no price is known for qwen-plus on the route batch-file" in said
    said = printed(b, capsys=capsys, elsewhere="model=qwen-max")
    assert "1 answers: its tokens are not known" in said


def test_what_the_catalogue_has_not_is_refused(run: Path) -> None:
    with pytest.raises(JobError, match="has no model 'qwen-plush'"):
        carry_out((str(run),), elsewhere="model=qwen-plush")
    (run / "run.json").unlink()
    with pytest.raises(RunFolderError, match="what the run was asked of is not known"):
        carry_out((str(run),), elsewhere="model=qwen-max")


def test_own_prices_count_elsewhere(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        "checked = 2026-11-01\n[dashscope.models.mine]\ntiers = [{ input = 1000.0, output = 500.0 }]\n",
        encoding="utf-8",
    )
    one = in_json(run, capsys=capsys, elsewhere="model=mine", prices=own)["runs"][0]["elsewhere"]
    assert Decimal(one["cost"]) == Decimal("0.735"), "700 and 70 tokens at 1,000 and 500 a million"


def test_the_parquet_file_is_what_its_documentation_says(run: Path, tmp_path: Path) -> None:
    other = run_folder(tmp_path / "other", [answer(0, prompt_tokens=None, cost=None, currency=None)])
    file = tmp_path / "sums.parquet"
    assert carry_out((str(run), str(other)), parquet=str(file)) == 0
    table = pq.read_table(file)
    section = DOCUMENT.split("## Parquet")[1].split("## Many rows")[0]
    documented = {
        key: kind
        for cell, kind in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", section, flags=re.MULTILINE)
        for key in re.findall(r"`(\w+)`", cell)
    }
    kinds = {
        "int64": "int64",
        "string": "string",
        "date32[day]": "date",
        "decimal128(38, 9)": "decimal(38, 9)",
    }
    kinds["timestamp[us, tz=UTC]"] = "timestamp(us, UTC)"
    assert [(field.name, kinds[str(field.type)]) for field in table.schema] == list(documented.items())
    assert json.loads(table.schema.metadata[b"promptmill"]) == {"report_schema_version": SCHEMA_VERSION}
    sums = pl.read_parquet(file)
    by_folder = sums.group_by("folder", maintain_order=True).agg(
        pl.col("rows", "prompt_tokens", "unpriced", "cost").sum()
    )
    assert by_folder.rows() == [
        (str(run), 8, 700, 0, Decimal("0.007000000")),
        (str(other), 1, 0, 1, Decimal(0)),
    ]
    (alone,) = sums.filter(folder=str(other)).rows(named=True)
    assert (alone["prompt_tokens"], alone["prompt_tokens_unknown"], alone["cost"]) == (None, 1, None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_ledger_is_shown_by_month_and_by_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert carry_out((), ledger=True) == 0
    assert "has no rows" in capsys.readouterr().err
    for job, paid in (("a", 2), ("b", 3)):
        scope = Scope(
            name="team",
            cap=to_nano(Decimal(10)),
            currency="CNY",
            folder=job,
            path=Path("/runs") / job,
            job=job,
        )
        ledger = MonthlyLedger(tmp_path / "promptmill" / LEDGER_NAME, scope, lambda: START)
        ledger.close([MonthSpend(202611, to_nano(Decimal(paid)), to_nano(Decimal(1)))])
    assert carry_out((), ledger=True) == 0
    said = capsys.readouterr().out
    (month,) = rows_of(said, "Spent by month")
    assert month[:5] == ["team", "2026-11", "2", "5.0000", "2.0000"]
    assert [row[2:4] for row in rows_of(said, "By run folder")] == [
        ["a", "/runs/a"],
        ["b", "/runs/b"],
    ]
    assert carry_out((), ledger=True, as_json=True) == 0
    rows = json.loads(capsys.readouterr().out)["ledger"]
    assert rows[0].keys() == _documented("ledger") - {"schema_version", "ledger"}
    assert [Decimal(row["paid"]) for row in rows] == [2, 3]


def test_the_ledger_stands_alone_and_a_run_must_be_named_else(run: Path) -> None:
    with pytest.raises(JobError, match="give it alone"):
        carry_out((str(run),), ledger=True)
    with pytest.raises(JobError, match="name a run folder"):
        carry_out(())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_loses_no_figure(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    facts = facts_of(run)
    terminal = Terminal()
    show(one_run(facts), terminal)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= 60
    said = " ".join(" ".join(lines).replace("\u00a0", " ").split())
    assert (
        "qwen-plus route realtime · rows 7 · prompt tokens 700 · completion tokens 70 · cost 0.007000" in said
    )
    assert "latency rows 8 · mean 104 ms" in said
