"""Where one check works: its folder on the disk under test, the program as a process of its own, a simulator as its server.

What is asked of them, and what follows from it, is the checks' business. All that is said and logged stays in the folder, so
that a breach can be looked into.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

from pipeline.catalog import load, provider_names
from pipeline.children import ChildSpec, python_module, start_child
from pipeline.masking import without_secrets
from pipeline.selftest.verdict import Unproven

T = TypeVar("T")

KEY_VARIABLE = "PROMPTMILL_SELFTEST_KEY"
JOB = "job.toml"
ROWS = "rows.jsonl"
_BASE_PATH = "/compatible-mode/v1"
_LOOK_EVERY_S = 0.001

# The answer names its row, so that an answer in another row's place shows. Nothing but a check's own limits is in the way,
# and a run that outlives a killed selftest ends by itself.
_JOB = """
name = "selftest"
[input]
path = "rows.jsonl"
id = "id"
[prompt]
user = "Reply with one of: {{{{ id }}}}-yes, {{{{ id }}}}-no. {{{{ text }}}}"
[model]
provider = "dashscope"
name = "qwen-plus"
base_url = "{url}"
api_key_env = "{key_variable}"
[params]
max_tokens = 32
[output]
path = "run"
[limits]
requests_per_minute = 6_000_000
tokens_per_minute = 1_000_000_000
max_concurrency = 32
[budget]
deadline = "2m"
grace = "2s"
error_threshold = 1.0
"""


def child_environment(env: Mapping[str, str], *, key: str, home: Path) -> dict[str, str]:
    """The environment of what a selftest starts: the user's, but for keys and for what earlier runs left on the machine."""
    keys = {provider.api_key_env for provider in map(load, provider_names())}
    kept = without_secrets(env, *keys)
    ours = {f"XDG_{what}_HOME": str(home) for what in ("CONFIG", "STATE", "CACHE", "DATA")}
    return {**kept, **ours, KEY_VARIABLE: key}


def answers(row_id: str) -> tuple[str, str]:
    """What the simulator may answer to the row of this id."""
    return f"{row_id}-yes", f"{row_id}-no"


def rows(texts: Iterable[tuple[str, str]]) -> bytes:
    """Lines of JSON, one for each id and text."""
    return b"".join(json.dumps({"id": row_id, "text": text}).encode() + b"\n" for row_id, text in texts)


def sets(*changes: str) -> list[str]:
    """The options that make these changes to the job."""
    return [word for change in changes for word in ("--set", change)]


class Ended(NamedTuple):
    """A command that has come to its end."""

    code: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """The line of JSON that `run` ends with. Raises Unproven where there is none."""
        try:
            summary = json.loads(self.stdout)
        except ValueError:
            summary = None
        if not isinstance(summary, dict):
            raise Unproven(f"a run ended with exit code {self.code} and no summary: {self._reason()}")
        return summary

    def expect(self, *codes: int) -> "Ended":
        """Itself. Raises Unproven where it ended otherwise."""
        if self.code not in codes:
            raise Unproven(f"a command ended with exit code {self.code}: {self._reason()}")
        return self

    def _reason(self) -> str:
        """What it said of its end, shortened."""
        said = self.stderr
        if not said:
            try:
                said = str(json.loads(self.stdout)["exit_reason"])
            except (ValueError, KeyError, TypeError):
                said = self.stdout
        return " ".join(said.split())[-300:] or "it said nothing"


class Running:
    """A command under way; its words go to the files `said`."""

    def __init__(self, process: asyncio.subprocess.Process, said: Path) -> None:
        self._process = process
        self._said = said

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def end(self) -> Ended:
        code = await self._process.wait()
        out, err = (
            self._said.with_suffix(suffix).read_text("utf-8", "replace") for suffix in (".out", ".err")
        )
        return Ended(code, out, err)

    async def kill(self) -> None:
        """Kill it, and what it started in its own session, as nothing can withstand."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def a_moment(self) -> None:
        await asyncio.sleep(_LOOK_EVERY_S)


class Server(NamedTuple):
    """A simulator that answers at `url`."""

    url: str

    async def ledger(self, *, entries: bool = False) -> dict[str, Any]:
        """What it received and answered: `totals`, and with `entries` each request in the order in which they ended."""
        root = self.url.removesuffix(_BASE_PATH)
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            try:
                answer = await client.get(
                    f"{root}/_ledger", params={"keys": "0", "full": "1" if entries else "0"}
                )
                ledger: dict[str, Any] = answer.raise_for_status().json()
            except httpx.HTTPError as error:
                raise Unproven(f"the simulator does not hand out its ledger: {error!r}") from error
        return ledger


@dataclass(frozen=True, slots=True)
class Place:
    """One check's folder, and the environment of all that it starts; `key` is the made-up key in it."""

    folder: Path
    env: Mapping[str, str]
    key: str

    @property
    def run_folder(self) -> Path:
        """Where the job's results go, unless the check says otherwise."""
        return self.folder / "run"

    def write_job(self, server: Server, lines: bytes) -> None:
        """Write a job that asks this server, and its rows."""
        job = _JOB.format(url=server.url, key_variable=KEY_VARIABLE)
        (self.folder / JOB).write_text(job, encoding="utf-8")
        (self.folder / ROWS).write_bytes(lines)

    @contextlib.asynccontextmanager
    async def simulator(self, **settings: Any) -> AsyncIterator[Server]:
        """A simulator, until the end of the block."""
        argv = python_module("pipeline.simulator", "--json-settings", json.dumps(settings))
        log = self.folder / "simulator.log"
        async with start_child(
            ChildSpec(argv=argv, name="the simulator", ready_timeout_s=60, log_path=log)
        ) as child:
            yield Server(child.url)

    async def promptmill(self, *arguments: str, name: str, peak: Path | None = None) -> Ended:
        """Run a command to its end; its words go to files of this name, its peak memory to the file `peak`."""
        async with self.started(*arguments, name=name, peak=peak) as running:
            return await running.end()

    @contextlib.asynccontextmanager
    async def started(self, *arguments: str, name: str, peak: Path | None = None) -> AsyncIterator[Running]:
        """Start a command; what is left of it at the end of the block is killed."""
        argv = python_module("pipeline.cli", *arguments)
        if peak is not None:
            argv = python_module("pipeline.selftest.measured", str(peak), *argv)
        said = self.folder / name
        with (
            said.with_suffix(".out").open("wb") as out,
            said.with_suffix(".err").open("wb") as err,
        ):
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=self.folder,
                env=self.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C is for the selftest, which then ends them
            )
        running = Running(process, said)
        try:
            yield running
        finally:
            await running.kill()


async def together(*works: Coroutine[Any, Any, T]) -> list[T]:
    """Do some things at once. Whether they end well, one fails or all are cancelled: none is left under way behind it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in tasks]
