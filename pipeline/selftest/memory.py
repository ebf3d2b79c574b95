"""Promise 5: memory does not grow with the number of rows.

The same job over a few rows and over ten times as many, parts of the same size; the most memory that each process held.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.selftest.place import JOB, Place, Server, rows, sets
from pipeline.selftest.verdict import Unproven, Verdict, breaches

_FEW, _MANY = 800, 8_000
_ROWS_PER_PART = 250
_TEXT_CHARS = 6_000
# Two runs of one size differ by some MiB. Rows that are kept show as their text at least, many times this share of it.
_GROWTH_SHARE = 0.3
_MIB = 1024 * 1024


class Size(NamedTuple):
    """One run: how many rows, of how many bytes together, and the most memory it held."""

    rows: int
    input_bytes: int
    peak_bytes: int


async def check(place: Place) -> Verdict:
    return judge(*await gather(place))


async def gather(place: Place) -> tuple[Size, Size]:
    async with place.simulator() as server:
        return await _size(place, server, _FEW), await _size(place, server, _MANY)


def judge(few: Size, many: Size) -> Verdict:
    growth = many.peak_bytes - few.peak_bytes
    more = many.input_bytes - few.input_bytes
    return Verdict(
        f"peak {few.peak_bytes / _MIB:.0f} MiB for {few.rows:,} rows, {many.peak_bytes / _MIB:.0f} MiB for {many.rows:,} "
        f"({more / _MIB:.0f} MiB more input)",
        breaches(
            (
                growth > more * _GROWTH_SHARE,
                f"{growth / _MIB:.0f} MiB more memory for {more / _MIB:.0f} MiB more input",
            ),
        ),
    )


async def _size(place: Place, server: Server, count: int) -> Size:
    name = f"{count}-rows"
    lines = rows(_texts(count))
    place.write_job(server, lines)
    peak: Path = place.folder / f"{name}.peak"
    settings = sets(
        f"output.rows_per_part={_ROWS_PER_PART}",
        "limits.max_concurrency=64",
        "prompt.user={{ text }}",  # nothing to choose from: the answers are long
        "params.max_tokens=null",
    )
    ended = await place.promptmill("run", JOB, "--quiet", "--output", name, *settings, name=name, peak=peak)
    if ended.expect(0).summary["status"]["ok"] != count:
        raise Unproven(f"{count:,} rows were asked, and not all were answered: {ended.stdout}")
    return Size(count, len(lines), _noted(peak))


def _noted(peak: Path) -> int:
    return int(peak.read_text())


def _texts(count: int) -> Iterator[tuple[str, str]]:
    for n in range(count):
        words = f"row {n} "
        yield f"r{n}", words * (_TEXT_CHARS // len(words))
