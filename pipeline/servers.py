"""The server of a run: one that is there, or one that the run starts as its child and stops whatever happens."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from pipeline.children import ChildSpec, python_module, start_child
from pipeline.jobspec import JobSpec, Target
from pipeline.llama_server import local_server


@contextlib.asynccontextmanager
async def serving(job: JobSpec, target: Target, logs: Path) -> AsyncIterator[str]:
    """The base URL of the job's server. Logs of a started one lie in the folder `logs`.

    Raises SetupError where its package or model is missing, ServerStartError where it does not come up.
    """
    if target.starts is None:
        assert target.base_url is not None  # noqa: S101  (resolve_target saw to it)
        yield target.base_url
        return
    spec = _simulator(job, logs) if target.starts == "simulator" else _local(job, target, logs)
    async with start_child(replace(spec, env=target.server_env)) as child:
        yield child.url


def _local(job: JobSpec, target: Target, logs: Path) -> ChildSpec:
    return local_server(target.model_name, job.folder, log_path=logs / "local-model.log")


def _simulator(job: JobSpec, logs: Path) -> ChildSpec:
    argv = python_module("pipeline.simulator", "--json-settings", json.dumps(job.file.simulator.model_dump()))
    return ChildSpec(argv=argv, name="the simulator", ready_timeout_s=30, log_path=logs / "simulator.log")
