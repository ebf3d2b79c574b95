"""A whole run over a job file, through the engine, with a transport of the test's."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pipeline.engine import RunOptions, run_job
from pipeline.jobspec import load_job, resolve_target
from pipeline.plan import make_plan
from pipeline.run_log import LogFormat, Notes
from pipeline.storage import Disk
from pipeline.summary import RunSummary
from pipeline.transport import Endpoint
from tests.support.rig import FakeTransport

ENV = {"DASHSCOPE_API_KEY": "sk-test"}
JOB = """
name = "j"
[input]
path = "rows.jsonl"
[prompt]
user = "Say: {{ text }}"
[model]
provider = "compatible"
name = "m"
base_url = "http://127.0.0.1:9/v1"
[output]
path = "out"
rows_per_part = 4
"""


def write_rows(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"t{n}"} for n in range(count)]


def run(
    folder: Path, transport: FakeTransport, *overrides: str, disk: Disk | None = None, **options: Any
) -> RunSummary:
    """Run the job in the folder, with overrides as `--set` takes them; `options` are fields of `RunOptions`."""
    path = folder / "job.toml"
    path.write_text(JOB)
    job = load_job(path, overrides=overrides, env=ENV, now=datetime.now(UTC))
    asked: dict[str, Any] = {"limit": None, "deadline_s": None, "notes": notes(io.StringIO(), quiet=True)}

    def connect(core: object, endpoint: Endpoint) -> FakeTransport:
        assert endpoint.url == "http://127.0.0.1:9/v1/chat/completions", endpoint.url
        return transport

    return run_job(
        make_plan(job, resolve_target(job, env=ENV)),
        RunOptions(**(asked | options)),
        now=now,
        connect=connect,
        disk=disk,
    )


def notes(stream: TextIO, *, quiet: bool = False, log_format: LogFormat = "text") -> Notes:
    return Notes(stream=stream, quiet=quiet, format=log_format, now=now)


def now() -> datetime:
    return datetime.now(UTC)
