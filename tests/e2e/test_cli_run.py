"""`promptmill run` end to end: what it prints, how it ends, and that going on never asks an answered row again."""

import fcntl
import json
import os
import platform
import re
import signal
import sqlite3
import struct
import subprocess
import termios
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import RunFolderError
from pipeline.journal_view import view
from pipeline.simulator.faults import FaultKind
from pipeline.simulator.settings import Settings
from tests.e2e.conftest import Workplace
from tests.support.cli import PROMPTMILL, Ended
from tests.support.provider import Provider, serving

REPOSITORY = Path(__file__).parents[2]
SAMPLES = REPOSITORY / "data" / "samples"
SAMPLE_JOB = REPOSITORY / "jobs" / "review-sentiment.toml"
ON_SIMULATOR = ("--set", "model.provider=simulator", "--set", "model.name=qwen-plus")


def results(folder: Path) -> pl.DataFrame:
    return pl.scan_parquet(folder / "results" / "*.parquet").collect()


def stopping(place: Workplace) -> bool:
    return "stopping:" in (place.out / "run.log").read_text(encoding="utf-8")


def in_flight(place: Workplace) -> int:
    """The requests that the journal knows to be on the wire."""
    try:
        return view(place.out).in_flight
    except (RunFolderError, sqlite3.OperationalError):  # it is being made
        return 0


def assert_each_row_answered_once(place: Workplace, provider: Provider, rows: int) -> None:
    frame = results(place.out)
    assert frame["row_id"].to_list() == [f"r{n}" for n in range(rows)]
    assert set(frame["status"]) == {"ok"}
    assert (provider.ledger.completed, provider.ledger.repeated) == (rows, 0)


def test_the_sample_job_labels_every_review_and_says_where_the_results_are(place: Workplace) -> None:
    ended = place.promptmill("run", SAMPLE_JOB, *ON_SIMULATOR, "--output", "reviews")
    summary = ended.summary
    assert (ended.code, summary["rows"], summary["done"], summary["sent"]) == (0, 48, 48, 48)
    assert summary["status"]["ok"] == 48
    folder = place.folder / "reviews"
    frame = results(folder)
    assert frame.columns[:4] == ["lang", "text", "label_input", "row_id"]
    assert frame["row_id"].to_list() == [f"r{n:02}" for n in range(1, 49)]
    counts = frame["label"].value_counts()
    found = dict(zip(counts["label"], counts["count"], strict=True))
    agreed = (frame["label"] == frame["label_input"]).sum()
    assert ended.stderr.splitlines()[-3:] == [
        f"labels: positive {found['positive']}, negative {found['negative']}",
        f"agreement with the known labels in 'label': {agreed} of 48 ({agreed / 48:.0%})",
        f"results: {folder / 'results'}/*.parquet (48 of 48 rows)",
    ]

    again = place.promptmill("run", SAMPLE_JOB, *ON_SIMULATOR, "--output", "reviews", "--quiet")
    assert (again.code, again.summary["sent"], again.stderr) == (0, 0, "")
    assert results(folder).equals(frame)


def test_a_finished_run_sends_nothing_when_started_again(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    assert place.run().code == 0
    again = place.run()
    assert (again.code, again.summary["sent"], again.summary["done"]) == (0, 0, 40)
    assert provider.ledger.received == 40
    assert_each_row_answered_once(place, provider, 40)


def test_away_from_a_terminal_a_line_every_few_seconds_says_how_far_it_is(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    provider.hold_after(10)
    with place.promptmill.started("run", "job.toml") as run:
        run.until_said("\n")
        assert re.match(
            r"mood: 10/40 rows, ok 10, failed 0, .*in flight 4/4, req/min 14 of .*cost .* CNY", run.said
        )
        provider.release()
        assert run.end().code == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_lets_what_is_on_the_wire_finish_and_the_same_command_goes_on(
    place: Workplace, provider: Provider, number: signal.Signals, code: int
) -> None:
    place.point_at(provider)
    provider.hold_after(10)
    with place.promptmill.started("run", "job.toml") as run:
        provider.wait_held(4)
        run.send(number)
        run.until(lambda: stopping(place), "it is stopping")
        provider.release()
        stopped = run.end()
    assert stopped.code == code
    assert stopped.summary["done"] == stopped.summary["sent"] == 14
    assert f"mood: stopped by {number.name}: 4 requests in flight may still finish; another" in stopped.stderr
    assert f"promptmill: stopped by {number.name}; run the same command again" in stopped.stderr
    ended = place.run()
    assert (ended.code, ended.summary["sent"], ended.summary["maybe_paid"]) == (0, 26, 0)
    assert_each_row_answered_once(place, provider, 40)


def test_a_second_signal_waits_for_nothing(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    provider.hold_after(10)
    with place.promptmill.started("run", "job.toml") as run:
        provider.wait_held(4)
        run.send(signal.SIGINT)
        run.until(lambda: stopping(place), "it is stopping")
        run.send(signal.SIGINT)
        stopped = run.end()
    assert (stopped.code, stopped.summary["done"]) == (130, 10)
    provider.release()
    ended = place.run()
    assert (ended.code, ended.summary["sent"], ended.summary["maybe_paid"]) == (0, 30, 4)
    assert_each_row_answered_once(place, provider, 40)


def test_a_run_under_nohup_outlives_its_terminal(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    provider.hold_after(10)
    with subprocess.Popen(
        ["nohup", PROMPTMILL, "run", "job.toml", "--quiet"],
        cwd=place.folder,
        env=place.promptmill.environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        provider.wait_held(4)
        process.send_signal(signal.SIGHUP)
        # Behind it in the kernel's and the program's queue of signals: once this one is heeded, that one was not.
        assert not stopping(place)
        provider.release()
        stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(stdout)["done"]) == (0, 40)


def test_a_killed_run_loses_nothing_and_counts_what_may_be_paid_twice(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    provider.hold_after(10)
    with place.promptmill.started("run", "job.toml") as run:
        provider.wait_held(4)
        run.kill()
    provider.release()
    ended = place.run()
    assert (ended.code, ended.summary["sent"], ended.summary["maybe_paid"]) == (0, 30, 4)
    assert_each_row_answered_once(place, provider, 40)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_run_that_is_stopped_while_its_server_starts_takes_it_along_and_sums_up(
    place: Workplace, number: signal.Signals, code: int
) -> None:
    with place.promptmill.started("run", "job.toml") as run:
        run.until(lambda: len(place.promptmill.alive()) == 2, "its simulator lives")
        run.send(number)
        ended = run.end()
    assert ended.code == code
    assert f"stopped by {number.name}" in ended.summary["exit_reason"]
    assert "Traceback" not in ended.stderr
    place.promptmill.wait_all_gone()
    assert place.run().code == 0


def test_a_run_killed_under_way_takes_its_server_along_and_goes_on_later(place: Workplace) -> None:
    with place.promptmill.started("run", "job.toml", "--set", "simulator.latency=10m") as run:
        run.until(lambda: in_flight(place) == 4, "the first are asked")
        run.kill()
    place.promptmill.wait_all_gone()
    ended = place.run()
    assert (ended.code, ended.summary["done"], ended.summary["maybe_paid"]) == (0, 40, 4)


def test_the_deadline_lets_what_is_on_the_wire_finish_and_the_same_command_goes_on(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    provider.hold_after(0)
    with place.promptmill.started("run", "job.toml", "--deadline", "4s") as run:
        run.until(lambda: (place.out / "run.log").exists() and stopping(place), "it is stopping")
        provider.release()
        stopped = run.end()
    assert (stopped.code, stopped.summary["done"]) == (6, stopped.summary["sent"])
    assert stopped.summary["done"] <= 4
    assert "the deadline of 4 s is reached; run the same command again" in stopped.stderr
    assert place.run().code == 0
    assert_each_row_answered_once(place, provider, 40)


def test_a_folder_that_a_run_holds_is_refused_with_the_holders_name(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    provider.hold_after(0)
    with place.promptmill.started("run", "job.toml") as run:
        provider.wait_held(4)
        refused = place.run()
        assert (refused.code, refused.stdout) == (75, "")
        assert f"another run holds {place.out}: pid {run.process.pid} on " in refused.stderr
        assert refused.stderr.count("\n") == 1
        provider.release()
        assert run.end().code == 0
    assert_each_row_answered_once(place, provider, 40)


def test_a_folder_that_a_run_holds_is_refused_before_anything_of_the_dataset_is_read(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    (place.folder / "damaged.parquet").write_bytes(b"no footer is to be found in this")
    damaged = ("--input", "damaged.parquet")
    provider.hold_after(0)
    with place.promptmill.started("run", "job.toml") as run:
        provider.wait_held(4)
        assert place.run(*damaged).code == 75
        run.kill()
    unheld = place.run(*damaged, "--output", "elsewhere")
    assert (unheld.code, "cannot be read as Parquet" in unheld.stderr) == (2, True)


def test_the_lock_of_a_run_that_died_is_taken_over_though_it_names_it(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    provider.hold_after(0)
    with place.promptmill.started("run", "job.toml") as run:
        provider.wait_held(4)
        run.kill()
    lock = (place.out / "run.lock").read_text()
    now = rf"{datetime.now():%Y-%m-%d} \d\d:\d\d:\d\d \S+"
    assert re.fullmatch(rf"pid {run.process.pid} on {re.escape(platform.node())}, started {now}\n", lock)
    provider.release()
    assert place.run().code == 0
    assert (place.out / "run.lock").read_text() == ""


def test_why_a_quiet_run_did_not_end_well_is_said_all_the_same(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    ended = place.run("--quiet", "--set", "model.name=missing-model")
    assert ended.code == 4
    assert ended.stderr.startswith("promptmill: the provider refuses: model_not_found")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--input", "nowhere.jsonl"), 2, "There is no dataset at"),
        (("--output", "job.toml"), 2, "is a file"),
        (("--set", "input.id=idd"), 2, 'names "idd", which no row has'),
        (("--set", "model.name=missing-model"), 4, "model_not_found"),
    ],
)
def test_whatever_is_wrong_is_a_json_line_where_json_is_asked_for(
    place: Workplace, provider: Provider, options: tuple[str, ...], code: int, said: str
) -> None:
    place.point_at(provider)
    ended = place.run("--log-format", "json", "--quiet", *options)
    assert ended.code == code
    (line,) = map(json.loads, ended.stderr.splitlines())
    assert (line["level"], said in line["message"]) == ("error", True)
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None


def test_a_wrong_key_costs_a_few_calls_and_is_never_shown(place: Workplace) -> None:
    with serving(Settings(api_key="sk-right")) as provider:
        place.point_at(provider)
        refused = place.run(DASHSCOPE_API_KEY="sk-entirely-wrong")
        assert (refused.code, refused.summary["done"]) == (4, 0)
        assert "invalid_api_key: Incorrect API key provided." in refused.stderr
        assert 1 <= provider.ledger.received <= 8
        written = [file.read_bytes() for file in place.out.rglob("*") if file.is_file()]
        shown = refused.stdout + refused.stderr
        assert not [data for data in (*written, shown.encode()) if b"sk-entirely-wrong" in data]
        assert place.run().code == 0
        assert_each_row_answered_once(place, provider, 40)


def test_an_unknown_model_stops_the_run_after_a_few_calls(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    stopped = place.run("--set", "model.name=missing-model")
    assert (stopped.code, stopped.summary["done"]) == (4, 0)
    assert "model_not_found: The model `missing-model` does not exist" in stopped.stderr
    assert 1 <= provider.ledger.received <= 8


def test_a_setting_that_no_row_survives_stops_the_run_and_settles_none(
    place: Workplace, provider: Provider
) -> None:
    place.write_rows(100)
    place.point_at(provider)
    stopped = place.run("--set", "params.temperature=5")
    assert (stopped.code, stopped.summary["done"]) == (4, 0)
    assert "the first 20 rows all failed alike: invalid_parameter_error" in stopped.stderr
    assert "in [0.0, 2.0)" in stopped.stderr
    assert 20 <= provider.ledger.received <= 28
    assert not list(place.out.glob("results/*"))


def test_more_failed_rows_than_the_threshold_allows_end_with_3(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    with (place.folder / "rows.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"id": "cut off')
    ended = place.run()
    assert (ended.code, ended.summary["status"]["failed"]) == (3, 1)
    assert "1 of 41 rows failed, more than error_threshold = 0.01 allows" in ended.stderr
    assert place.run("--set", "budget.error_threshold=0.05").code == 0


def test_each_bad_row_of_the_dirty_sample_ends_failed_with_its_line_and_reason(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    job = place.folder / "job.toml"
    text = job.read_text(encoding="utf-8").replace('id = "id"', 'id = "review_id"')
    job.write_text(text, encoding="utf-8")
    ended = place.run("--input", SAMPLES / "dirty.jsonl")
    assert (ended.code, ended.summary["rows"], ended.summary["done"]) == (3, 25, 25)
    failed = results(place.out).filter(pl.col("status") == "failed")
    assert set(failed["error_kind"]) == {"invalid_input"}
    assert failed["attempts"].to_list() == [0] * failed.height
    reasons = {}
    for message in failed["error_message"]:
        said = re.fullmatch(r"dirty\.jsonl:(\d+): (.+)", message)
        assert said, message
        reasons[int(said[1])] = said[2]
    expected = {
        2: "not valid JSON",
        3: "not a JSON object but an array",
        4: "not a JSON object but a string",
        5: "the user template needs a column that is not there: 'text'",
        6: "a column it uses is null",
        10: "not UTF-8",
        11: "not valid JSON",
        13: "not valid JSON",
        20: "its id is missing, null, or neither text nor an integer",
        21: "its id is missing, null, or neither text nor an integer",
        24: "not valid JSON",
    }
    assert reasons.keys() == expected.keys()
    for line, reason in expected.items():
        assert reason in reasons[line], (line, reasons[line])


def test_repeated_ids_are_refused_before_anything_is_sent(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    refused = place.run("--input", SAMPLES / "duplicates.jsonl", "--set", "input.id=review_id")
    assert (refused.code, refused.stdout) == (2, "")
    assert "'r02' at duplicates.jsonl:2 and duplicates.jsonl:7" in refused.stderr
    assert "'r05' at duplicates.jsonl:5 and duplicates.jsonl:8" in refused.stderr
    assert provider.ledger.received == 0


def test_limit_takes_the_first_rows_and_a_larger_one_goes_on_from_there(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    trial = place.run("--limit", "10", "--output", "trial")
    assert (trial.code, trial.summary["rows"], trial.summary["sent"]) == (0, 10, 10)
    assert results(place.folder / "trial")["row_id"].to_list() == [f"r{n}" for n in range(10)]
    more = place.run("--output", "trial")
    assert (more.code, more.summary["rows"], more.summary["sent"]) == (0, 40, 30)
    assert provider.ledger.repeated == 0


def test_input_and_output_are_looked_for_where_the_command_is_typed(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    elsewhere = place.folder / "jobs"
    elsewhere.mkdir()
    (place.folder / "job.toml").rename(elsewhere / "job.toml")
    (place.folder / "few.jsonl").write_text('{"id": "a", "text": "good"}\n', encoding="utf-8")
    ended = place.promptmill("run", "jobs/job.toml", "--input", "few.jsonl", "--output", "here/out")
    assert (ended.code, ended.summary["rows"]) == (0, 1)
    assert ended.summary["results"] == str(place.folder / "here" / "out" / "results")
    assert results(place.folder / "here" / "out")["row_id"].to_list() == ["a"]


def test_a_changed_job_says_what_changed_never_mixes_and_costs_nothing_once_it_is_taken_back(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    first = place.run()
    changed = place.run("--set", "params.max_tokens=5")
    assert "changed: params. What is asked as before keeps its answer, all else is asked" in changed.stderr
    assert (changed.code, changed.summary["changed"], changed.summary["sent"]) == (0, ["params"], 40)
    assert set(results(place.out)["run_id"]) == {changed.summary["run_id"]}
    back = place.run()
    assert (back.code, back.summary["sent"], back.summary["reused"]) == (0, 0, 40)
    assert set(results(place.out)["run_id"]) == {first.summary["run_id"]}
    assert provider.ledger.received == 80


def test_failed_rows_are_asked_again_by_name_alone(place: Workplace) -> None:
    with serving(Settings(faults={FaultKind("blocked"): 0.2}, seed=1)) as provider:
        place.point_at(provider)
        first = place.run()
        blocked = first.summary["status"]["blocked"]
        assert 0 < blocked < 40
        assert place.run("--retry-failed").summary["sent"] == 0
        again = place.run("--retry-failed=blocked")
    assert again.summary["sent"] == blocked
    wrong = place.run("--retry-failed=ok")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert (
        "--retry-failed takes truncated, blocked, invalid, failed, separated by commas; found 'ok'"
        in wrong.stderr
    )


def test_under_faults_of_every_kind_each_row_ends_with_one_outcome_and_the_ledger_agrees(
    place: Workplace,
) -> None:
    # Few 429: each is a pause for everyone.
    faults = {FaultKind(kind): 0.03 for kind in ("reset", "500", "cut", "garbage", "empty", "error_200")}
    faults[FaultKind.LIMIT_REQUESTS] = 0.02
    with serving(Settings(faults=faults, seed=3)) as provider:
        place.write_rows(300)
        place.point_at(provider, at_once=64)
        ended = place.run()
    ledger, summary = provider.ledger, ended.summary
    assert ledger.faults.keys() == faults.keys()
    assert (ended.code, summary["rows"], summary["done"], summary["status"]["ok"]) == (0, 300, 300, 300)
    frame = results(place.out)
    assert frame["row_id"].to_list() == [f"r{n}" for n in range(300)]
    assert (ledger.completed, ledger.repeated) == (300, 0)
    assert summary["sent"] == ledger.received
    assert frame.filter(pl.col("attempts") > 1).height > 0


def test_on_a_terminal_a_bar_shows_rows_done_of_all_and_stdout_stays_clean(place: Workplace) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with place.promptmill.popen(("run", "job.toml"), {}, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while data := _read_terminal(ours):
            shown += data
        stdout = process.stdout.read() if process.stdout else b""
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    ended = Ended(process.returncode, stdout.decode(), plain)
    assert (ended.code, ended.summary["done"]) == (0, 40)
    assert re.search(r"mood .*━.* 40/40 rows +100%", ended.stderr)
    assert "ok 40 · failed 0" in ended.stderr
    assert "labels: positive" in ended.stderr


def test_a_run_whose_stderr_is_closed_ends_as_any_other(place: Workplace, provider: Provider) -> None:
    place.point_at(provider)
    ended = subprocess.run(
        ["sh", "-c", 'exec "$0" run job.toml 2>&-', PROMPTMILL],
        cwd=place.folder,
        env=place.promptmill.environment({}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert Ended(ended.returncode, ended.stdout, "").summary["done"] == 40
    assert_each_row_answered_once(place, provider, 40)


def _read_terminal(handle: int) -> bytes:
    try:
        return os.read(handle, 65_536)
    except OSError:  # Linux's word for: the other side is closed
        return b""


def test_a_standstill_and_its_end_are_told_once_on_stderr_and_in_the_log(
    place: Workplace, provider: Provider
) -> None:
    place.point_at(provider)
    provider.hold_after(10)
    with place.promptmill.started("run", "job.toml", "--set", "transport.idle_timeout=4s") as run:
        run.until_said("mood: nothing has come back for ")
        assert re.search(
            r"back for \d s: 4 in flight, the oldest sent \d s ago\. Look at the network", run.said
        )
        provider.release()
        ended = run.end()
    assert (ended.code, ended.summary["done"]) == (0, 40)
    assert ended.stderr.count("nothing has come back") == 1
    assert re.search(r"\nmood: moving again, after \d s in which nothing came back\n", ended.stderr)
    log = (place.out / "run.log").read_text(encoding="utf-8")
    assert log.count("WARNING nothing has come back for ") == log.count("INFO moving again, after ") == 1
