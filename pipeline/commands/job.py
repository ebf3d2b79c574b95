"""What every command that takes a job has in common: reading it, with its overrides, into a plan."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipeline.catalog.overlay import Catalogue, user_files
from pipeline.jobspec import load_job, resolve_target
from pipeline.plan import Plan, make_plan

# Looked up once: that takes six times as long as to read the clock, which is read twice a request.
_ZONE = datetime.now().astimezone().tzinfo


def now() -> datetime:
    """The time of day, in the machine's zone."""
    return datetime.now(_ZONE)


def read_plan(
    job: Path,
    overrides: Sequence[str],
    *,
    input_path: str | None = None,
    output_path: str | None = None,
    prices: Path | None = None,
    need_key: bool = True,
) -> Plan:
    """Read a job file, with overrides, into a plan. Paths from the command line start at the working folder.

    `prices` is a catalogue file that lies over the one in the user's configuration. `need_key`: refuse a job whose key is not
    set; where nothing is sent, it need not be.
    """
    changes = list(overrides)
    for key, path in (("input.path", input_path), ("output.path", output_path)):
        if path is not None:
            here = path if "://" in path else str(Path.cwd() / path)
            changes.append(f"{key}={_toml_text(here)}")
    spec = load_job(job, overrides=changes, env=os.environ, now=now())
    target = resolve_target(spec, env=os.environ, need_key=need_key, load=catalogue(prices).load)
    return make_plan(spec, target)


def catalogue(prices: Path | None) -> Catalogue:
    """The catalogue, with the user's own files over it."""
    return Catalogue(user_files(os.environ, prices))


def _toml_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
