"""Every command but `run`, and what all of them have in common: help, and sentences for what is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import orjson
import polars as pl
import pytest

from pipeline.cli import cli
from pipeline.simulator.ledger import body_key
from pipeline.simulator.settings import Settings
from tests.e2e.conftest import Typed, Workplace
from tests.support.provider import Provider, serving

REPOSITORY = Path(__file__).parents[2]
SAMPLES = REPOSITORY / "data" / "samples"


# Help


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", "--input --output --limit --set --deadline --quiet"),
        ("check", "--input --output --limit --set --show"),
        ("status", ""),
        ("export", "-o --output --formulas"),
        (
            "simulate",
            "--host --port --seed --latency --requests-per-minute --tokens-per-minute --fault --api-key",
        ),
    ],
)
def test_the_help_of_a_command_names_its_options_and_has_examples_that_parse(
    command: str, options: str, typed: Typed
) -> None:
    helped = typed(command, "--help")
    assert (helped.code, helped.stderr) == (0, "")
    described = {
        option for line in helped.stdout.splitlines() for option in re.findall(r"^  (-[-\w, ]+)", line)
    }
    names = {name for option in described for name in re.findall(r"--?[a-z][-a-z]*", option)}
    assert set(options.split()) <= names
    examples = helped.stdout.split("Examples:")[1].replace("\\\n", " ")
    lines = [line for line in examples.splitlines() if line.strip().startswith(f"promptmill {command} ")]
    assert lines
    for line in lines:
        words = line.split(" > ")[0].split()[2:]
        cli.commands[command].make_context(command, words)


def test_the_help_lists_every_command_in_a_sentence(typed: Typed) -> None:
    helped = typed("--help")
    assert helped.code == 0
    listed = helped.stdout.split("\nCommands:\n")[1]
    for name in cli.commands:
        assert re.search(rf"^  {name} +[A-Z]", listed, re.MULTILINE), name
    assert "..." not in listed


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "--help"], ["--version"]])
def test_help_loads_none_of_the_heavy_packages(arguments: list[str]) -> None:
    script = f"""
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from pipeline.cli import main
main({arguments!r})
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ended.stderr.split())
    assert "click" in loaded
    assert not loaded & {"polars", "pyarrow", "pydantic", "aiohttp", "httpx", "asyncio", "numpy", "rich"}


def test_a_command_that_starts_from_nothing_says_what_a_forked_one_says(place: Workplace) -> None:
    """Most commands of these tests are forked, from `main` on: nothing that was imported before may be what makes them work."""
    assert place.run().code == 0
    for words in (
        ("check", "job.toml"),
        ("estimate", "job.toml"),
        ("status", "out"),
        ("report", "out"),
        ("export", "out", "-o", "all.csv"),
        ("prices", "qwen-plus"),
        ("run", "job.toml", "--limt", "3"),
    ):
        with place.promptmill.started(*words) as command:
            ended = command.end()
        assert ended.code == (0 if words[0] != "run" else 2), ended
        assert ended == place.promptmill(*words)


# What is wrong, in sentences


def test_a_mistyped_command_is_told_with_the_known_ones(typed: Typed) -> None:
    ended = typed("runn", "job.toml")
    assert (ended.code, ended.stdout) == (2, "")
    assert (
        "there is no command 'runn'; the commands are run, check, estimate, status, report, export, simulate"
        in ended.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "job.toml", "--limt", "3"], "No such option"),
        (["run"], "Missing argument 'JOB'"),
        (["run", "job.toml", "--limit", "0"], "0 is not in the range x>=1"),
        (["export", "out"], "Missing option '-o' / '--output'"),
        (["simulate", "--port", "http"], "'http' is not a valid integer"),
    ],
)
def test_a_mistyped_option_is_told(arguments: list[str], sentence: str, typed: Typed) -> None:
    ended = typed(*arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert sentence in ended.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "modle.name=qwen-max"], "unknown key 'modle'; did you mean 'model'?"),
        (
            ["--set", "limits.max_concurency=8"],
            "unknown key 'limits.max_concurency'; did you mean 'max_concurrency'?",
        ),
        (["--set", "retry.max_attempts=0"], "retry.max_attempts: Input should be greater than or equal to 1"),
        (["--set", "retry.row_deadline=soon"], "retry.row_deadline: not a duration: 'soon'"),
        (["--set", "model.name"], "--set takes section.key=value; found 'model.name'"),
        (["--set", "prompt.user={{ text"], "[prompt] user: the template is not valid, line 1"),
        (["--set", "prompt.user={{ txt }}"], "'txt' is undefined. Nothing was sent."),
        (["--set", "model.provider=dashscop"], "dashscop"),
        (["--set", "model.provider=compatible"], '[model] provider = "compatible" needs base_url'),
        (
            ["--set", "model.provider=dashscope"],
            "environment variable DASHSCOPE_API_KEY is not set. Set it (export",
        ),
        (["--set", "input.id=idd"], 'input.id names "idd", which no row has; the columns are: id, text'),
        (["--set", 'output.columns=["txt"]'], "'txt', which the dataset has not; did you mean 'text'?"),
        (["--input", "rosw.jsonl"], "rosw.jsonl"),
        (["--deadline", "soon"], "--deadline: not a duration: 'soon'"),
    ],
)
def test_a_job_that_cannot_be_run_is_told_in_a_sentence_before_anything_is_sent(
    options: list[str], sentence: str, typed: Typed
) -> None:
    ended = typed("run", "job.toml", *options)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("promptmill: ") and ended.stderr.count("\n") == 1
    assert sentence in ended.stderr


def test_a_job_file_that_is_not_there_is_told_with_the_nearest(place: Workplace, typed: Typed) -> None:
    ended = typed("run", "jbo.toml")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == "promptmill: there is no job file jbo.toml; did you mean job.toml?\n"


def test_a_job_file_that_is_not_toml_is_told_with_the_line(place: Workplace, typed: Typed) -> None:
    (place.folder / "job.toml").write_text('name = "x"\n[input\n', encoding="utf-8")
    ended = typed("run", "job.toml")
    assert (ended.code, ended.stdout) == (2, "")
    assert re.fullmatch(r"promptmill: job\.toml is not valid TOML: .*line 2.*\n", ended.stderr)


# check


def shown_requests(stdout: str) -> dict[str, dict[str, object]]:
    """The requests in check's output by their content key, but for those that are too long to be shown whole."""
    found = re.findall(
        r"^request \d+ \([^\n]* key (\w+)\):\n(.*?)(?:\n\n|\Z)", stdout, re.MULTILINE | re.DOTALL
    )
    return {key: orjson.loads(body) for key, body in found if not body.endswith(" characters in all)")}


def test_check_shows_the_requests_that_run_sends_to_the_byte(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    checked = place.promptmill("check", "job.toml", "--show", "100")
    assert (checked.code, checked.stderr, provider.ledger.received) == (0, "", 0)
    assert not place.out.exists()
    assert "rows      40, 40 of them become requests" in checked.stdout
    shown = shown_requests(checked.stdout)
    assert len(shown) == 40
    assert place.run().code == 0
    assert {body_key(orjson.dumps(body)) for body in shown.values()} == provider.ledger.keys.keys()
    sent = pl.read_parquet(place.out / "results")["key"]
    assert list(shown) == sent.to_list()


def test_check_of_a_dirty_input_foretells_which_rows_fail_and_what_is_sent(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    dirty = ("job.toml", "--input", SAMPLES / "dirty.jsonl", "--set", "input.id=review_id")
    checked = place.promptmill("check", *dirty, "--show", "100")
    assert (checked.code, provider.ledger.received) == (3, 0)
    assert "rows      25, 14 of them become requests" in checked.stdout
    assert "11 rows cannot become requests; in a run they end as failed, unsent:" in checked.stdout
    assert re.findall(r"^  dirty\.jsonl:(\d+): ", checked.stdout, re.MULTILINE) == ["2", "3", "4", "5", "6"]
    assert "note: 2 empty lines are skipped" in checked.stdout
    shown = shown_requests(checked.stdout)
    assert len(shown) == 13, "all but the one that is too long to be shown whole"
    ran = place.promptmill("run", *dirty)
    assert (ran.summary["status"]["failed"], ran.summary["sent"]) == (11, 14)
    assert {body_key(orjson.dumps(body)) for body in shown.values()} <= provider.ledger.keys.keys()
    frame = pl.read_parquet(place.out / "results")
    assert set(shown) <= set(frame["key"].drop_nulls())


def test_check_refuses_what_run_would_refuse(place: Workplace, typed: Typed) -> None:
    duplicates = typed(
        "check", "job.toml", "--input", str(SAMPLES / "duplicates.jsonl"), "--set", "input.id=review_id"
    )
    assert (duplicates.code, duplicates.stdout) == (2, "")
    assert "'r02' at duplicates.jsonl:2 and duplicates.jsonl:7" in duplicates.stderr
    missing = typed("check", "job.toml", "--set", "prompt.user={{ txt }}", "--set", 'output.columns=["note"]')
    assert missing.code == 2
    assert "problem: the prompt needs the column 'txt', which no row has" in missing.stdout
    assert "names the column 'note', which the dataset has not" in missing.stdout
    assert missing.stdout.endswith("\nnothing was sent\n")


# status


def test_status_tells_how_far_a_run_is_while_it_goes_on_and_after(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    provider.hold_after(10)
    with place.promptmill.started("run", "job.toml") as run:
        provider.wait_held(4)
        during = place.promptmill("status", "out")
        assert (during.code, during.stderr) == (0, "")
        assert re.match(r"mood: running, 10 of 40 rows \(25\.0%\), 0 parts\n  ok +10\n", during.stdout)
        assert re.search(r"^  now: ok \d+, failed 0, .* ETA ", during.stdout, re.MULTILINE)
        run.kill()
    killed = place.promptmill("status", "out").stdout
    assert killed.startswith("mood: stopped, 10 of 40 rows")
    assert "4 requests were in flight when it died; they will be asked again" in killed
    assert killed.endswith("run the same command again to go on\n")
    provider.release()
    assert place.run().code == 0
    after = place.promptmill("status", "out").stdout
    assert re.match(r"mood: finished, 40 of 40 rows \(100\.0%\), 1 part\n  ok +40\n", after)
    assert "now:" not in after


def test_status_of_a_run_that_was_refused_points_to_its_log(place: Workplace, typed: Typed) -> None:
    assert typed("run", "job.toml", "--set", "input.id=no_such_column").code == 2
    assert typed("status", "out").stdout == "out: nothing was asked; run.log says why\n"
    assert "no_such_column" in (place.out / "run.log").read_text(encoding="utf-8")


def test_status_and_export_of_another_folder_say_what_to_give(place: Workplace, typed: Typed) -> None:
    for arguments in (["status", "."], ["export", ".", "-o", "x.csv"]):
        ended = typed(*arguments)
        assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        assert "promptmill: . " in ended.stderr


# export


def test_export_writes_all_parts_in_input_order_in_three_formats(place: Workplace, typed: Typed) -> None:
    assert place.run("--set", "output.rows_per_part=16").code == 0
    assert len(list((place.out / "results").iterdir())) == 3
    for name in ("all.parquet", "all.jsonl", "deep/all.csv"):
        ended = typed("export", "out", "-o", name)
        assert (ended.code, ended.stdout, ended.stderr) == (0, "", f"40 rows written to {name}\n")
    parquet = pl.read_parquet(place.folder / "all.parquet")
    assert parquet["row_id"].to_list() == [f"r{n}" for n in range(40)]
    assert parquet.equals(pl.read_parquet(place.out / "results"))
    lines = [json.loads(line) for line in (place.folder / "all.jsonl").read_text("utf-8").splitlines()]
    assert [line["label"] for line in lines] == parquet["label"].to_list()
    assert list(lines[0]) == parquet.columns
    table = pl.read_csv(place.folder / "deep" / "all.csv")
    assert table.columns == parquet.columns
    for name in ("row_id", "text", "label", "prompt_tokens"):
        assert table[name].to_list() == parquet[name].to_list()
    refused = typed("export", "out", "-o", "all.xlsx")
    assert (refused.code, refused.stdout) == (2, "")
    assert "export writes .parquet, .jsonl, .csv" in refused.stderr


def test_export_of_a_stopped_run_says_that_rows_are_left_out(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    provider.hold_after(20)
    with place.promptmill.started("run", "job.toml", "--set", "output.rows_per_part=16") as run:
        provider.wait_held(4)
        run.until(lambda: list((place.out / "results").glob("*.parquet")), "a part is written")
        run.kill()
    ended = place.promptmill("export", "out", "-o", "some.csv")
    assert (ended.code, ended.stdout) == (0, "")
    assert pl.read_csv(place.folder / "some.csv").height == 16
    assert "the run is not finished" in ended.stderr


# simulate


def test_simulate_serves_until_ctrl_c_and_its_ledger_tells_what_was_asked(place: Workplace) -> None:
    with place.promptmill.started(
        "simulate", "--port", "0", "--fault", "error_200=1", "--api-key", "sk-1"
    ) as server:
        server.until_said("Ctrl-C ends it\n")
        said = re.search(r"simulator at (http://127\.0\.0\.1:\d+/\S+) \(ledger: (\S+)\)", server.said)
        assert said
        ended = place.run(
            *("--set", "model.provider=compatible", "--set", f"model.base_url={said[1]}"),
            *("--set", "model.api_key_env=KEY", "--limit", "3"),
            KEY="sk-1",
        )
        assert (ended.code, ended.summary["errors"]) == (3, {"row_suspect": 3})
        with urlopen(said[2]) as answer:
            ledger = json.load(answer)
        assert ledger["totals"]["received"] == ended.summary["sent"] == 6
        server.send(signal.SIGINT)
        stopped = server.end()
    assert (stopped.code, stopped.stdout, stopped.stderr.count("\n")) == (0, "", 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--host", "0.0.0.0"], "it binds loopback only; found host '0.0.0.0'; use 127.0.0.1, or allow it"),
        (["--fault", "garbled=0.1"], "unknown fault 'garbled'; did you mean 'garbage'?"),
        (["--fault", "429"], "fault '429': expected kind=rate, such as 429=0.05"),
        (["--fault", "429=0.9", "--fault", "500=0.9"], "the fault rates add up to 1.8"),
    ],
)
def test_simulate_refuses_what_cannot_be_meant(options: list[str], sentence: str, typed: Typed) -> None:
    ended = typed("simulate", *options)
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert sentence in ended.stderr


# Streams that fail, empty inputs, odd folders


def test_a_stderr_that_nobody_reads_changes_neither_the_summary_nor_the_exit_code(place: Workplace) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with place.promptmill.popen(["run", "job.toml"], {}, stderr=writer) as process:
            stdout, _ = process.communicate(timeout=60)
    finally:
        os.close(writer)
    assert process.returncode == 0
    assert json.loads(stdout)["done"] == 40


def test_an_empty_input_ends_well_with_results_that_can_be_read(place: Workplace) -> None:
    (place.folder / "rows.jsonl").write_text("")
    ended = place.run()
    assert (ended.code, ended.summary["rows"]) == (0, 0)
    rows = pl.read_parquet(place.out / "results")
    assert len(rows) == 0
    assert "label" in rows.columns
    assert "finished, 0 of 0 rows" in place.promptmill("status", "out").stdout
    assert place.run().code == 0


def test_paths_of_other_storages_are_refused_wherever_they_are_given(place: Workplace) -> None:
    for option in ("--input", "--output"):
        ended = place.run(option, "gs://bucket/x")
        assert ended.code == 2
        assert "gs://bucket/x: give a path of this machine" in ended.stderr
    assert not (place.folder / "gs:").exists()


def test_status_of_a_file_and_a_run_folder_that_is_a_file_are_told_as_such(place: Workplace) -> None:
    told = place.promptmill("status", "job.toml")
    assert (told.code, "is not a run folder" in told.stderr) == (2, True)
    told = place.run("--output", "job.toml")
    assert (told.code, "is a file" in told.stderr) == (2, True)


def test_check_needs_no_key_and_says_that_a_run_will(place: Workplace) -> None:
    told = place.promptmill("check", "job.toml", "--set", "model.provider=dashscope")
    assert told.code == 0
    assert "DASHSCOPE_API_KEY is not set; a run needs it" in told.stdout


def test_checks_total_is_what_the_prompts_count(place: Workplace) -> None:
    told = place.promptmill("check", "job.toml", "--show", "40")
    each = [int(found) for found in re.findall(r", (\d+) prompt tokens, key", told.stdout)]
    assert len(each) == 40
    assert f"about {sum(each):,} prompt tokens in all" in told.stdout


def test_a_refused_key_is_told_with_its_variable_and_status_repeats_it(place: Workplace) -> None:
    with serving(Settings(api_key="sk-other")) as provider:
        place.point_at(provider)
        ended = place.run()
    assert ended.code == 4
    assert "check the key in the environment variable DASHSCOPE_API_KEY" in ended.stderr
    assert "DASHSCOPE_API_KEY" in place.promptmill("status", "out").stdout
