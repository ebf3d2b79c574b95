"""How fast prompts are counted: tokens a second and core, the tokenizer alone and with all that `estimate` does around it.

    python -m benchmarks.counting

Texts are the sample reviews' own words, a third of them Chinese, joined anew so that no text stands twice. "Rows" is all of it:
reading JSONL, rendering the template, encoding the request, counting; here and in worker processes on all cores. CPU is
that of all processes together, so a figure a core does not depend on how busy the machine is. Exits 1 below 2 M tokens.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from benchmarks.estimates import SAMPLES, write_rows
from benchmarks.support import table
from pipeline.commands.job import read_plan
from pipeline.counting import count_rows
from pipeline.tokens import count_text

LEAST_TOKENS_A_CORE = 2_000_000
ROWS = 200_000
_JOB = """
name = "counting"
[input]
path = "rows.jsonl"
[prompt]
system = "You are a helpful assistant."
user = "{{ text }}"
[model]
provider = "simulator"
name = "qwen-plus"
[output]
path = "run"
"""


class Counted(NamedTuple):
    """What one way of counting came to."""

    way: str
    rows: int
    tokens: int
    wall_s: float
    cpu_s: float

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.way,
            f"{self.rows:,}",
            f"{self.tokens / self.rows:,.0f}",
            f"{self.tokens / self.cpu_s / 1e6:.1f}",
            f"{self.tokens / self.wall_s / 1e6:.1f}",
        )


def measure(rows: int = ROWS) -> list[Counted]:
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name:
        dataset = Path(name) / "rows.jsonl"
        write_rows(dataset, SAMPLES[1], rows, seed=1)
        job = Path(name) / "job.toml"
        job.write_text(_JOB)
        plan = read_plan(job, ())
        texts = [str(row.columns["text"]) for row in islice(plan.dataset.rows(), 20_000)]
        count_text("")  # the vocabulary is loaded once, in 0.3 s

        def in_processes(workers: int) -> int:
            return sum(count_rows(plan, plan.dataset.rows(), workers=workers).tokens)

        cores = os.cpu_count() or 1
        return [
            _timed("the tokenizer alone", len(texts), lambda: sum(map(count_text, texts))),
            _timed("rows, in one process", rows, lambda: in_processes(1)),
            _timed(f"rows, in workers on {cores} cores", rows, lambda: in_processes(cores)),
        ]


def as_table(found: list[Counted]) -> str:
    head = ("what", "rows", "tokens a row", "M tokens a CPU-second", "M tokens a second")
    return table(head, [one.cells for one in found])


def _timed(way: str, rows: int, count: Callable[[], int]) -> Counted:
    before, began_s = os.times(), time.perf_counter()
    tokens = count()
    wall_s, after = time.perf_counter() - began_s, os.times()
    cpu_s = sum(after[:4]) - sum(before[:4])
    return Counted(way, rows, tokens, wall_s, cpu_s)


def main() -> int:
    found = measure()
    print(as_table(found))
    return 0 if all(one.tokens / one.cpu_s >= LEAST_TOKENS_A_CORE for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
