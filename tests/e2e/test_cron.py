"""docs/cron.md, done: its crontab line in cron's own poor environment, its units as systemd reads them."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.conftest import JOB, Workplace
from tests.support.cli import PROMPTMILL

PAGE = (Path(__file__).parents[2] / "docs" / "cron.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


def cron_command() -> str:
    """The crontab line without its five fields of time."""
    line = block("crontab").strip()
    assert "\n" not in line
    assert "%" not in line  # which cron takes for a line's end
    return line.split(maxsplit=5)[5]


@pytest.fixture
def site(place: Workplace) -> Path:
    """The page's /srv/reviews, as it would be found there."""
    site = place.folder / "srv"
    (site / "jobs").mkdir(parents=True)
    (site / ".venv" / "bin").mkdir(parents=True)
    (site / ".venv" / "bin" / "promptmill").symlink_to(PROMPTMILL)
    job = JOB.replace('"rows.jsonl"', '"../../rows.jsonl"').replace('"out"', '"../runs/{today}"')
    (site / "jobs" / "nightly.toml").write_text(job, encoding="utf-8")
    return site


def as_cron(place: Workplace, site: Path, command: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line as cron does: by /bin/sh, from the home folder, with four variables and no terminal."""
    command = (command or cron_command()).replace("/srv/reviews", shlex.quote(str(site)))
    mark = {"PROMPTMILL_TEST_MARK": place.promptmill.mark}
    env = {"HOME": str(place.folder), "LOGNAME": "x", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", **mark}
    cron = {"env": env, "cwd": place.folder, "stdin": subprocess.DEVNULL}
    return subprocess.run(["/bin/sh", "-c", command], **cron, capture_output=True, text=True, check=False)


def test_the_crontab_line_runs_the_job_and_adds_a_summary_line_each_night(
    place: Workplace, site: Path
) -> None:
    for night in (1, 2):
        ended = as_cron(place, site)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        lines = (site / "summaries.jsonl").read_text().splitlines()
        assert len(lines) == night
        assert json.loads(lines[-1])["done"] == 40
    assert json.loads(lines[1])["sent"] == 0
    assert (site / "errors.log").read_text() == ""
    today = datetime.now().date()
    folders = [folder.name for folder in (site / "runs").iterdir()]
    assert set(folders) <= {(today - timedelta(days=days)).isoformat() for days in (0, 1)}
    resolved = json.loads((site / "runs" / folders[0] / "run.json").read_text())
    assert resolved["output"] == str(site / "runs" / folders[0])


def test_what_is_wrong_at_night_is_a_sentence_in_the_error_file(place: Workplace, site: Path) -> None:
    (place.folder / "rows.jsonl").unlink()
    ended = as_cron(place, site)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "")
    assert (site / "summaries.jsonl").read_text() == ""
    assert "There is no dataset at" in (site / "errors.log").read_text()


def test_the_lines_of_the_daily_report_store_a_page_and_print_what_cron_mails(
    place: Workplace, site: Path
) -> None:
    assert as_cron(place, site).returncode == 0
    (folder,) = (site / "runs").iterdir()
    setting, *lines = block("crontab", 1).strip().splitlines()
    assert setting.startswith("MAILTO=")
    stores, mails = (line.split(maxsplit=5)[5].replace("{yesterday}", folder.name) for line in lines)
    ended = as_cron(place, site, stores)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert "<svg" in (site / "reports" / f"{folder.name}.html").read_text(encoding="utf-8")
    ended = as_cron(place, site, mails)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "40 of 40" in ended.stdout
    assert (site / "errors.log").read_text() == ""


def test_the_units_are_what_systemd_takes_them_for() -> None:
    service, timer = configparser.ConfigParser(), configparser.ConfigParser()
    for unit in (service, timer):
        unit.optionxform = str  # type: ignore[assignment, method-assign]
    service.read_string(block("ini", 0))
    timer.read_string(block("ini", 1))
    section = service["Service"]
    argv = shlex.split(section["ExecStart"])
    assert argv[0].startswith("/")
    assert argv[1] == "run"
    assert section["Type"] == "oneshot"
    assert set(section["SuccessExitStatus"].split()) == {"6", "75"}
    assert int(section["TimeoutStopSec"]) > 30
    assert timer["Timer"].getboolean("Persistent")
    assert timer["Install"]["WantedBy"] == "timers.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd's own look needs systemd")
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    program = tmp_path / "promptmill"
    program.symlink_to("/bin/true")
    service = block("ini", 0).replace("/srv/reviews/.venv/bin/promptmill", str(program))
    (tmp_path / "promptmill-nightly.service").write_text(service)
    (tmp_path / "promptmill-nightly.timer").write_text(block("ini", 1))
    looked = subprocess.run(
        ["systemd-analyze", "verify", "promptmill-nightly.service", "promptmill-nightly.timer"],
        cwd=tmp_path,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (looked.returncode, looked.stderr) == (0, "")


def test_the_options_and_metrics_that_the_page_names_are_there(place: Workplace) -> None:
    said = place.promptmill("run", "--help").stdout
    for option in set(re.findall(r"promptmill run [^\n`]*", PAGE)):
        for name in re.findall(r"(--[a-z-]+)", option):
            assert name in said, name
    file = place.folder / "m.prom"
    assert place.run("--metrics", str(file)).code == 0
    written = set(re.findall(r"# TYPE (\w+)", file.read_text()))
    named = set(re.findall(r"promptmill_[a-z_]+", PAGE))
    while_it_goes_on = {
        "promptmill_in_flight",
        "promptmill_concurrency_limit",
        "promptmill_limit_per_minute",
        "promptmill_pace_per_minute",
        "promptmill_cooling_down",
    }
    unknown_here = {"promptmill_cost"}  # the simulator has no price
    assert named <= written | while_it_goes_on | unknown_here
    assert written <= named


def test_notes_and_progress_are_objects_a_line_where_json_is_asked_for(place: Workplace) -> None:
    ended = place.run("--log-format", "json")
    said = [json.loads(line) for line in ended.stderr.splitlines()]
    assert said[-1]["message"].startswith("results: ")
    assert all({"time", "level", "message"} <= line.keys() for line in said)
    logged = [json.loads(line) for line in (place.out / "run.log").read_text().splitlines()]
    assert logged[-1]["message"] == "ended: every row has its outcome"


def test_outside_its_hours_a_run_sends_nothing_and_says_when_it_may(place: Workplace) -> None:
    hour = (datetime.now() + timedelta(hours=6)).strftime("%H:%M")
    end = (datetime.now() + timedelta(hours=7)).strftime("%H:%M")
    window = f"budget.window={hour}-{end}"
    ended = place.run("--set", window)
    assert (ended.code, ended.summary["sent"], ended.summary["done"]) == (6, 0, 0)
    assert f"outside the window {hour}-{end}, which opens at " in ended.stderr
    begun = (datetime.now() - timedelta(hours=1)).strftime("%H:%M")
    assert place.run("--set", f"budget.window={begun}-{end}").code == 0
