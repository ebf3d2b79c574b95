"""Our program as the figures run it: one labelling job through the library, the way the command line does it.

    python -m benchmarks.ours ROWS_FILE --url http://127.0.0.1:PORT/v1 --connections 64

Limits are set but far away, prices are known, answers are checked against labels, results and journal are written.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.support import silence, yardstick_us
from benchmarks.workload import CLIENT_CORE, KEY, MODEL, SYSTEM, USER, Spent, peak_mib, pin
from pipeline.commands.job import now
from pipeline.engine import RunOptions, run_job
from pipeline.jobspec import load_job, resolve_target
from pipeline.plan import Plan, make_plan
from pipeline.transport import Core, Endpoint, Transport, open_transport

_JOB = """
name = "benchmark"
[input]
path = {dataset}
id = "review_id"
[prompt]
system = {system}
user = {user}
[model]
provider = "dashscope"
name = "{model}"
base_url = "{base_url}"
[params]
temperature = 0
max_tokens = 16
[response]
labels = ["positive", "negative"]
[output]
path = {output}
columns = ["text", "label"]
[limits]
requests_per_minute = 1_000_000_000
tokens_per_minute = 1_000_000_000_000
max_concurrency = {in_flight}
"""


def write_job(folder: Path, dataset: Path, *, base_url: str, in_flight: int) -> Path:
    """Write the labelling job over `dataset` into `folder`; its run folder is beside it."""
    path = folder / "job.toml"
    path.write_text(
        _JOB.format(
            dataset=json.dumps(str(dataset.absolute())),
            system=json.dumps(SYSTEM),
            user=json.dumps(USER.format("{{ text }}")),
            model=MODEL,
            base_url=base_url,
            output=json.dumps(str(folder / "run")),
            in_flight=in_flight,
        )
    )
    return path


def read_plan(job: Path) -> Plan:
    """The plan of a job file, as the command line makes it."""
    spec = load_job(job, overrides=(), env={}, now=now())
    return make_plan(spec, resolve_target(spec, env={"DASHSCOPE_API_KEY": KEY}))


def run(
    dataset: Path,
    *,
    base_url: str,
    in_flight: int,
    connect: Callable[[Core, Endpoint], Transport] = open_transport,
) -> Spent:
    """Run the job over a dataset in a new run folder. CPU is that of all threads, from looking the input over to the end."""
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        plan = read_plan(write_job(Path(name), dataset, base_url=base_url, in_flight=in_flight))
        options = RunOptions(limit=None, deadline_s=None, notes=silence())
        pace_us = yardstick_us()
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        summary = run_job(plan, options, now=now, connect=connect)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    assert summary.exit_code == 0 and summary.status["ok"] == summary.rows, summary
    pace_us = (pace_us + yardstick_us()) / 2
    return Spent(summary.rows, cpu_s, wall_s, peak_mib(), pace_us, summary.loop_lag_p99_ms)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, required=True)
    options = parser.parse_args()
    pin(CLIENT_CORE)
    print(json.dumps(run(options.dataset, base_url=options.url, in_flight=options.connections)._asdict()))


if __name__ == "__main__":
    main()
