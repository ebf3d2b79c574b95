"""Estimates held against truth: does the interval of a pilot of 100 rows contain what the whole run then costs?

    python -m benchmarks.estimates            # 3 datasets of 2,000 rows, 20 pilots each: several minutes

Each dataset is run whole against the simulator, whose answers grow with the prompt and vary by chance; then `promptmill estimate
--pilot 100` draws with 20 seeds, each in a run folder of its own. Everything goes through the command line. The table stands in
docs/estimates.md, between its two marks. Exits 1 where fewer than 18 of 20 intervals of a dataset hold.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from benchmarks.support import ROOT, table
from benchmarks.workload import KEY

ROWS, PILOTS, PILOT_ROWS, LEAST_HELD = 2_000, 20, 100, 18
PAGE = ROOT / "docs/estimates.md"
BEGIN, END = "<!-- figures: written by benchmarks/estimates.py -->", "<!-- end of figures -->"
_PROGRAM = str(Path(sys.executable).with_name("promptmill"))
_JOB = """
name = "{name}"
[input]
path = "{name}.jsonl"
[prompt]
{prompt}
[model]
provider = "dashscope"
name = "qwen-plus"
base_url = "{url}"
[params]
{params}
[output]
path = "whole"
"""


class Sample(NamedTuple):
    """One dataset with its job: what it is, how its rows are made, its prompt and parameters, the simulator's faults."""

    name: str
    said: str
    words: tuple[float, float]  # of a row: the median, and how far they spread (sigma of a lognormal)
    prompt: str
    params: str
    faults: Mapping[str, float] = MappingProxyType({})


SAMPLES = (
    Sample(
        "labels",
        "labels for reviews: short prompts of like length, answers of a word",
        (30, 0.4),
        'user = "Is this review \\"positive\\", \\"negative\\" or \\"neither good nor bad\\"?\\n\\n{{ text }}"',
        "max_tokens = 32\nenable_thinking = false",
    ),
    Sample(
        "questions",
        "free answers to texts of very different length, a twentieth of all requests refused with 429 at first",
        (60, 1.1),
        'user = "What do you make of this?\\n\\n{{ text }}"',
        "max_tokens = 4000\nenable_thinking = false",
        {"429": 0.05},
    ),
    Sample(
        "thinking",
        "reasoning before the answer, at the thinking price",
        (80, 0.8),
        'user = "{{ text }}"',
        "max_tokens = 4000\nenable_thinking = true",
    ),
)


class Held(NamedTuple):
    """What the pilots of a dataset came to; errors and widths are shares of the actual cost."""

    sample: Sample
    actual: Decimal
    held: int
    errors: list[float]
    widths: list[float]
    pilot_cost: float

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            f"{self.sample.name}: {self.sample.said}",
            f"{self.actual:.4f}",
            f"{self.pilot_cost:.1%}",
            f"{statistics.median(map(abs, self.errors)):.1%}",
            f"{max(map(abs, self.errors)):.1%}",
            f"±{statistics.mean(self.widths) / 2:.1%}",
            f"{self.held} of {len(self.errors)}",
        )


def measure(rows: int = ROWS, pilots: int = PILOTS) -> list[Held]:
    """Run each dataset whole and estimate it by so many pilots."""
    found = []
    for number, sample in enumerate(SAMPLES):
        with (
            tempfile.TemporaryDirectory(prefix="promptmill-bench-") as name,
            _simulator(sample.faults) as url,
        ):
            found.append(_measured(Path(name), sample, url, (rows, pilots, number)))
            print(" | ".join(found[-1].cells), flush=True)
    return found


def as_table(found: list[Held]) -> str:
    head = (
        "dataset",
        "actual cost, CNY",
        "pilot's share",
        "error, median",
        "error, largest",
        "mean interval",
        "intervals that hold",
    )
    return table(head, [one.cells for one in found])


def _measured(folder: Path, sample: Sample, url: str, counts: tuple[int, int, int]) -> Held:
    rows, pilots, number = counts
    write_rows(folder / f"{sample.name}.jsonl", sample, rows, seed=number)
    job = folder / "job.toml"
    job.write_text(_JOB.format(name=sample.name, prompt=sample.prompt, params=sample.params, url=url))
    summary = _called("run", job, "--quiet")
    actual = Decimal(summary["cost"])
    held, errors, widths, paid = 0, [], [], 0.0
    for seed in range(1, pilots + 1):
        said = _called(
            "estimate", job, "--json", "--quiet", "--pilot", str(PILOT_ROWS), "--seed", str(seed),
            "--output", str(folder / f"pilot-{seed}"),
        )  # fmt: skip
        value, low, high = (Decimal(said["costs"][0]["cost"][part]) for part in ("value", "low", "high"))
        held += low <= actual <= high
        errors.append(float((value - actual) / actual))
        widths.append(float((high - low) / actual))
        paid += float(Decimal(said["paid"]) / actual)
    return Held(sample, actual, held, errors, widths, paid / pilots)


def write_rows(path: Path, sample: Sample, rows: int, *, seed: int) -> None:
    """Texts of the sample reviews' own words, a third of them Chinese; real sentences, cut and joined anew."""
    reviews = [orjson.loads(line) for line in (ROOT / "data/samples/reviews.jsonl").read_bytes().splitlines()]
    english = [word for one in reviews if one["lang"] == "en" for word in one["text"].split()]
    chinese = "".join(one["text"] for one in reviews if one["lang"] == "zh")
    draw = random.Random(seed)
    median, spread = sample.words
    with path.open("wb") as file:
        for _ in range(rows):
            length = max(2, round(median * draw.lognormvariate(0, spread)))
            if draw.random() < 1 / 3:
                start = draw.randrange(len(chinese))
                text = (chinese[start:] + chinese * (length * 2 // len(chinese) + 1))[: length * 2]
            else:
                text = " ".join(draw.choices(english, k=length))
            file.write(orjson.dumps({"text": text}) + b"\n")


def _called(command: str, job: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [_PROGRAM, command, str(job), *arguments],
        env={**os.environ, "DASHSCOPE_API_KEY": KEY},
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@contextmanager
def _simulator(faults: Mapping[str, float]) -> Iterator[str]:
    """A simulator in a process of its own; the address of its compatible mode."""
    command = [
        sys.executable,
        "-m",
        "pipeline.simulator",
        "--json-settings",
        json.dumps({"faults": dict(faults)}),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.stdin.close()  # it ends with its standard input
        process.wait(timeout=10)
        process.stdout.close()


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} lacks its two marks, {BEGIN} and {END}: put them back")
    measured = measure()
    text = as_table(measured)
    print(text)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    return 0 if all(one.held >= LEAST_HELD for one in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
