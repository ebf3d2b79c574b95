"""What was chosen by measurement, against what else there was: event loop, garbage collector, JSON library.

    python -m benchmarks.choices

The whole program over HTTP, each choice changed by itself, in processes of their own, the order turned round each time.
"""

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import orjson

from benchmarks import ours
from benchmarks.support import child, stub_server, table, write_reviews
from benchmarks.workload import CLIENT_CORE, pin
from pipeline import engine
from pipeline.protocol import compatible

ROWS, CONNECTIONS = 20_000, 512


def _stock_loop() -> None:
    engine.new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]


def _stock_gc() -> None:
    gc.freeze = lambda: None
    gc.set_threshold = lambda *_: None


def _no_gc() -> None:
    gc.disable()


class _Json:
    """Python's own JSON in orjson's place, on the way out and in."""

    JSONDecodeError = json.JSONDecodeError
    loads = staticmethod(json.loads)
    OPT_SORT_KEYS = orjson.OPT_SORT_KEYS

    @staticmethod
    def dumps(value: object, option: int | None = None) -> bytes:
        sort = option is not None and bool(option & orjson.OPT_SORT_KEYS)
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort).encode()


def _stock_json() -> None:
    compatible.orjson = _Json  # type: ignore[attr-defined]


CHOICES: dict[str, Callable[[], None]] = {
    "as it is: uvloop, rare collections, orjson": lambda: None,
    "asyncio's own loop": _stock_loop,
    "the garbage collector as Python sets it": _stock_gc,
    "no garbage collector": _no_gc,
    "Python's own JSON for requests and answers": _stock_json,
}


def measure(repeats: int = 3) -> dict[str, float]:
    """CPU microseconds a row of each choice, the median of `repeats`."""
    found: dict[str, list[float]] = {name: [] for name in CHOICES}
    with tempfile.TemporaryDirectory(prefix="promptmill-bench-") as folder, stub_server() as server:
        rows = write_reviews(Path(folder) / "rows.jsonl", ROWS)
        for turn in range(repeats):
            for name in list(CHOICES)[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(child("choices", "--choice", name, rows, server.url)["us"])
    return {name: statistics.median(us) for name, us in found.items()}


def as_table(found: dict[str, float]) -> str:
    base = next(iter(found.values()))
    return table(
        ("choice", f"CPU us a row, {CONNECTIONS} connections", "more"),
        [(name, f"{us:.0f}", f"{us / base - 1:+.0%}") for name, us in found.items()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--choice", choices=CHOICES)
    parser.add_argument("rows", nargs="?", type=Path)
    parser.add_argument("url", nargs="?")
    options = parser.parse_args()
    if options.choice is None:
        print(as_table(measure()))
        return
    pin(CLIENT_CORE)
    CHOICES[options.choice]()
    spent = ours.run(options.rows, base_url=options.url, in_flight=CONNECTIONS)
    print(json.dumps({"us": spent.us_a_row}))


if __name__ == "__main__":
    main()
