"""Promise 7: whatever is done with a key, it is shown nowhere: not on screen, in no file, in no process but the run's own.

Each secret here is a canary that no pattern of ours knows by its looks. After every command all that it said and left behind
is searched for it, parts decoded.
"""

import io
import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipeline.engine import RunOptions, run_job
from pipeline.jobspec import load_job, resolve_target
from pipeline.plan import make_plan
from pipeline.records import Failure, Request, Response
from pipeline.run_log import LogFormat, Notes
from pipeline.simulator.settings import Settings
from pipeline.transport import Core, Endpoint, Sink
from tests.e2e.conftest import Workplace
from tests.e2e.test_cli_run import in_flight, stopping
from tests.support.cli import Ended
from tests.support.echo import Manner, echoing
from tests.support.provider import Provider, serving

KEY = "canary-of-the-key/0123456789+abc"
PASSWORD = "canary-of-the-proxy-0123456789"
HEADER = "canary-of-a-header-0123456789"
OTHERS = {
    "HF_TOKEN": "canary-of-another-tool-0123456789",
    "DATABASE_URL": "postgres://me:canary-of-a-database@db.example/x",
}
SIGNED = "https://bucket.example/a.png?Expires=17&OSSAccessKeyId=canary-of-a-signature&Signature=canary-of-a-signature"


def assert_hidden(place: Workplace, *ended: Ended) -> None:
    """No canary on the screen, nor in any file but what the user wrote."""
    texts = {"screen": "".join(one.stdout + one.stderr for one in ended).encode()}
    for file in place.folder.rglob("*"):
        if file.is_file() and file.name not in ("job.toml", "rows.jsonl"):
            texts[file.name] = file.read_bytes()
            if file.suffix == ".parquet":
                texts[file.name] += pl.read_parquet(file).write_ndjson().encode()
    found = {
        name: re.findall(rb".{,80}canary.{,80}", text) for name, text in texts.items() if b"canary" in text
    }
    assert not found


@pytest.fixture
def guarded(place: Workplace) -> Iterator[Workplace]:
    """A workplace whose environment and job hold canaries; the test ends with the search for them."""
    place.write_rows(12)
    place.promptmill.env.update(DASHSCOPE_API_KEY=KEY, **OTHERS)
    with (place.folder / "job.toml").open("a", encoding="utf-8") as job:
        job.write(f'[headers]\nX-Trace = "{HEADER}"\n')
    yield place


def at(place: Workplace, base_url: str, *more: str) -> list[str]:
    """Options that send the job elsewhere, as if it were DashScope."""
    sets = ["model.provider=dashscope", f"model.base_url={base_url}", "retry.max_attempts=2", *more]
    return [word for one in sets for word in ("--set", one)]


def test_a_run_and_all_that_is_done_with_its_folder(guarded: Workplace, provider: Provider) -> None:
    there = at(guarded, provider.base_url)
    run, again = guarded.run(*there), guarded.run(*there, "--log-format", "json", "--metrics", "metrics.prom")
    assert (run.code, again.code) == (0, 0)
    done = [run, again, guarded.promptmill("status", "out"), guarded.promptmill("check", "job.toml", *there)]
    for ending in ("parquet", "jsonl", "csv"):
        done.append(guarded.promptmill("export", "out", "-o", f"answers.{ending}"))
    assert [one.code for one in done] == [0] * 7
    assert_hidden(guarded, *done)


def test_a_key_that_the_provider_refuses(guarded: Workplace) -> None:
    with serving(Settings(api_key="sk-right")) as provider:
        run = guarded.run(*at(guarded, provider.base_url))
    status = guarded.promptmill("status", "out")
    assert (run.code, status.code) == (4, 0)
    assert "Incorrect API key provided" in run.stderr
    assert_hidden(guarded, run, status)


@pytest.mark.parametrize(
    ("status", "manner", "more"),
    [
        (401, "json", []),
        (401, "text", []),
        (400, "json", []),
        (400, "text", ["output.raw=true"]),
        (500, "json", ["output.raw=true"]),
        (200, "stream", ["response.stream=true"]),
        (200, "json", ["output.raw=true"]),
        (200, "answer", ["output.raw=true"]),
        (302, "text", []),
        (401, "json", ["transport.core=httpx"]),
        (400, "json", ["model.protocol=native"]),
    ],
)
def test_a_server_that_repeats_what_it_was_told(
    guarded: Workplace, status: int, manner: Manner, more: list[str]
) -> None:
    with echoing(status, manner) as server:
        there = at(guarded, f"http://{server.place}/compatible-mode/v1", *more)
        run = guarded.run(*there, "--limit", "3")
        assert run.code in (0, 3, 4), run
        assert server.asked
    assert_hidden(guarded, run, guarded.promptmill("status", "out"))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("core", ["fast", "httpx"])
@pytest.mark.parametrize("source", ["job", "environment"])
def test_a_proxy_that_repeats_its_password(guarded: Workplace, scheme: str, core: str, source: str) -> None:
    with echoing(502) as proxy:
        address = f"http://me:{PASSWORD}@{proxy.place}"
        more = [f"transport.core={core}"]
        if source == "job":
            more.append(f"transport.proxy={address}")
        else:
            guarded.promptmill.env[f"{scheme}_proxy"] = address
        there = at(guarded, f"{scheme}://model.example/v1", *more)
        done = [guarded.run(*there, "--limit", "2"), guarded.promptmill("check", "job.toml", *there)]
        assert done[0].code != 0
        assert proxy.asked
    assert ("unencrypted" in done[0].stderr) is (scheme == "http")
    assert ("unencrypted" in done[1].stdout) is (scheme == "http")
    assert ("unencrypted" in (guarded.out / "run.log").read_text("utf-8")) is (scheme == "http")
    assert_hidden(guarded, *done)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "job.toml", KEY],
        ["run", "job.toml", "--api-key", KEY],
        ["run", "job.toml", f"--key={KEY}"],
        ["run", "job.toml", "--limit", KEY],
        ["run", "job.toml", "--deadline", KEY],
        ["run", "job.toml", "--retry-failed", KEY],
        ["run", "job.toml", f"--retry-failed={KEY}"],
        ["run", "job.toml", "--log-format", KEY],
        ["run", "job.toml", "--set", KEY],
        ["run", "job.toml", "--set", f"model.api_key={KEY}"],
        ["run", "job.toml", "--set", f"model.api_key_env={KEY}"],
        ["run", "job.toml", "--set", f"params.api_key={KEY}"],
        ["run", "job.toml", "--set", f"params.extra_body={{headers = {{Authorization = '{KEY}'}}}}"],
        ["run", "job.toml", "--set", f"headers.Authorization=Bearer {KEY}"],
        ["run", "job.toml", "--set", f"headers.X-Api-Key={KEY}"],
        ["run", "job.toml", "--set", f'headers.X-Broken="{KEY}\\n"', "--set", "model.provider=dashscope"],
        ["check", "job.toml", "--set", f"model.base_url=https://me:{KEY}@host.example/v1"],
        ["check", "job.toml", "--set", f"model.base_url=https://{KEY}@host.example/v1"],
        ["check", "job.toml", "--set", f"model.base_url=https://host.example/v1?api_key={KEY}"],
        ["check", "job.toml", "--set", f"transport.proxy=socks5://me:{KEY}@host.example"],
        ["status", KEY],
        ["export", KEY, "-o", "x.csv"],
        [KEY],
    ],
    ids=lambda arguments: " ".join(arguments).replace(KEY, "KEY"),
)
def test_a_key_in_the_wrong_place_is_not_repeated(guarded: Workplace, arguments: list[str]) -> None:
    ended = guarded.promptmill(*arguments)
    assert ended.code in (0, 2), ended
    assert_hidden(guarded, ended)


def test_a_signed_address_in_a_row_is_shown_without_what_signs_it(guarded: Workplace) -> None:
    (guarded.folder / "rows.jsonl").write_text(f'{{"id": "a", "image": "{SIGNED}"}}\n', encoding="utf-8")
    pictures = ["--set", "prompt.images=['{{ image }}']", "--set", "prompt.user=What is it?"]
    there = [*at(guarded, "https://host.example/v1"), *pictures, "--set", "response.labels=null"]
    check = guarded.promptmill("check", "job.toml", *there, "--set", "model.name=qwen-vl-max")
    assert check.code == 0, check
    assert "https://bucket.example/a.png?Expires=17&OSSAccessKeyId=***&Signature=***" in check.stdout
    assert_hidden(guarded, check)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def command_line_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_no_other_process_gets_the_key_and_no_command_line_shows_it(guarded: Workplace) -> None:
    proxy = {"HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9"}
    latency = ["--set", "simulator.latency=60s", "--set", "model.api_key_env=MINE"]
    with guarded.promptmill.started("run", "job.toml", *latency, MINE=KEY, **proxy) as run:
        run.until(lambda: in_flight(guarded), "requests are on the wire")
        processes = guarded.promptmill.alive()
        children = [pid for pid in processes if pid != run.process.pid]
        assert children
        assert not [pid for pid in processes if b"canary" in command_line_of(pid)]
        assert not [pid for pid in children if b"canary" in environment_of(pid)]
        assert b"canary" in environment_of(run.process.pid)  # the search works
        run.send(signal.SIGINT)
        run.until(lambda: stopping(guarded), "it is stopping")  # or the two would be one
        run.send(signal.SIGINT)
        ended = run.end()
    assert ended.code == 130
    assert_hidden(guarded, ended)


def test_simulate_holds_no_key_of_the_environment(guarded: Workplace) -> None:
    with guarded.promptmill.started("simulate") as simulator:
        simulator.until_said("simulator at")
        assert b"canary" not in command_line_of(simulator.process.pid)
        simulator.send(signal.SIGINT)
        ended = simulator.end()
    assert ended.code == 0
    assert_hidden(guarded, ended)


class _Broken:
    """A transport with a bug whose words hold all that it was given."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def send(self, request: Request, sink: Sink | None = None) -> Response | Failure:
        raise KeyError(f"{dict(self._endpoint.headers)} {self._endpoint.proxy}")

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_bug_whose_words_hold_the_key_is_logged_without_it(
    guarded: Workplace, log_format: LogFormat
) -> None:
    env = {"DASHSCOPE_API_KEY": KEY, "https_proxy": f"http://me:{PASSWORD}@127.0.0.1:9"}
    overrides = ["model.provider=dashscope", "headers.X-Trace=null"]
    spec = load_job(guarded.folder / "job.toml", overrides=overrides, env=env, now=datetime.now(UTC))
    plan = make_plan(spec, resolve_target(spec, env=env))
    connect: Callable[[Core, Endpoint], _Broken] = lambda _, endpoint: _Broken(endpoint)  # noqa: E731
    stderr = io.StringIO()
    notes = Notes(stream=stderr, quiet=False, format=log_format, now=lambda: datetime.now(UTC))
    options = RunOptions(limit=2, deadline_s=None, notes=notes)
    summary = run_job(plan, options, now=lambda: datetime.now(UTC), connect=connect)
    assert summary.status["failed"] == 2
    log = (guarded.out / "run.log").read_text("utf-8")
    assert "KeyError" in log
    assert "Bearer ***" in log
    assert_hidden(guarded, Ended(0, summary.to_json(), stderr.getvalue()))
