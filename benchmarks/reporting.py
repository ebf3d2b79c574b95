"""A report over many rows: time and memory of `promptmill report` over a run folder of 10,000,000 rows.

    python benchmarks/reporting.py [ROWS] [--keep FOLDER]

The parts are made here, 8,192 rows each, every row with usage, cost, times and 300 characters of answer, one in fifty failed. A
second folder a tenth as large tells how memory grows.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.parts import part_name
from tests.support.reported import answer, failure, run_folder

ROWS_PER_PART = 8192
START = datetime(2026, 11, 1, tzinfo=UTC)
WORDS = "the a of price quality service quick slow returned perfect broken would again buy never staff"
PROMPTMILL = Path(sys.executable).with_name("promptmill")


def row(index: int, draw: random.Random) -> dict[str, Any]:
    """One row as a run leaves it."""
    at = START + timedelta(milliseconds=index)
    if not index % 50:
        return failure(index, draw.choice(["timeout", "invalid_request", "blocked"]), started_at=at)
    completion = draw.randint(5, 400)
    return answer(
        index,
        content=" ".join(draw.choices(WORDS.split(), k=50)),
        started_at=at,
        latency_ms=draw.lognormvariate(6.5, 0.6),
        first_token_ms=draw.lognormvariate(5.5, 0.4),
        prompt_tokens=draw.randint(30, 2000),
        completion_tokens=completion,
        total_tokens=completion,
        cost=Decimal(draw.randint(1, 10**7)).scaleb(-9),
        attempts=draw.choice([1, 1, 1, 2]),
        finish_reason=draw.choice(["stop", "stop", "length"]),
        model=draw.choice(["qwen-plus", "qwen-flash"]),
    )


def make(folder: Path, rows: int) -> None:
    """A run folder of so many rows: one part, and again and again with later indexes and times."""
    draw = random.Random(7)
    parts = -(-rows // ROWS_PER_PART)
    run_folder(folder, [row(n, draw) for n in range(ROWS_PER_PART)], rows_per_part=ROWS_PER_PART, wanted=rows)
    first = pq.read_table(folder / "results" / part_name(0))
    for number in range(1, parts):
        at = number * ROWS_PER_PART
        columns = {
            "input_index": pc.add(first["input_index"], at),
            "started_at": pc.add(first["started_at"], pa.scalar(timedelta(milliseconds=at))),
        }
        table = first
        for name, values in columns.items():
            table = table.set_column(table.schema.get_field_index(name), name, values.cast(first[name].type))
        pq.write_table(
            table.slice(0, min(ROWS_PER_PART, rows - at)),
            folder / "results" / part_name(number),
            compression="zstd",
            use_dictionary=[
                "status",
                "finish_reason",
                "currency",
                "error_kind",
                "error_code",
                "model",
                "route",
                "run_id",
            ],
            write_page_checksum=True,
        )


def measured(*arguments: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MiB of a command that must succeed."""
    began = time.perf_counter()
    process = subprocess.Popen([str(PROMPTMILL), "report", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("rows", type=int, nargs="?", default=10_000_000)
    options.add_argument("--keep", type=Path, help="make the folders here, and leave them")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.keep) as scratch:
        place = asked.keep or Path(scratch)
        print("| rows | report | s | CPU s | peak MiB |\n|---|---|---|---|---|")
        for rows in (asked.rows // 10, asked.rows):
            folder = place / f"rows-{rows}"
            if not folder.exists():
                make(folder, rows)
            for name, more in (
                ("tables", ()),
                ("--as", ("--as", "model=qwen-flash")),
                ("--html", ("--html", str(place / "report.html"))),
            ):
                took, cpu, peak = measured(str(folder), *more)
                print(f"| {rows:,} | {name} | {took:.1f} | {cpu:.1f} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
