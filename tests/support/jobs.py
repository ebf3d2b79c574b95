"""Job files for tests: the smallest that is whole, changed by overrides as `--set` would."""

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson

from pipeline.jobspec import JobSpec, load_job, resolve_target
from pipeline.plan import Plan, make_plan

NOW = datetime(2026, 3, 1, 0, 30, 5, tzinfo=timezone(timedelta(hours=8)))
SMALLEST = """
name = "small"
[input]
path = "rows.jsonl"
[prompt]
user = "Say {{ text }}"
[model]
provider = "compatible"
name = "m"
base_url = "http://127.0.0.1:9/v1"
[output]
path = "runs/small"
"""


def write_job(folder: Path, text: str = SMALLEST) -> Path:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


def job(folder: Path, *overrides: str, text: str = SMALLEST, env: Mapping[str, str] | None = None) -> JobSpec:
    return load_job(write_job(folder, text), overrides=overrides, env=env or {}, now=NOW)


def write_rows(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def plan(folder: Path, *overrides: str, text: str = SMALLEST) -> Plan:
    """The plan of a job; its dataset must be there, and a key is."""
    env = {"DASHSCOPE_API_KEY": "sk-test"}
    spec = job(folder, *overrides, text=text, env=env)
    return make_plan(spec, resolve_target(spec, env=env))
