"""Promise 3: the limits hold: requests and tokens per minute, evenly within each second.

Two runs side by side, one bound by requests and one by tokens, each against a simulator that keeps the same limit second by
second, as the provider may. What it refused, and what came in its busiest second, stand in its ledger. One process is looked
at here: runs that share an account are another matter.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.selftest.place import JOB, Place, rows, sets, together
from pipeline.selftest.verdict import Verdict, breaches

_REQUESTS_PER_MINUTE = 6_000
_REQUEST_ROWS = 500
_TOKENS_PER_MINUTE = 600_000
_TOKEN_ROWS = 180
_WORDS = (20, 60)  # a prompt of the run bound by tokens: about 150 to 400 tokens
_DEADLINE = "30s"  # at the limits it takes six
_LATENCY = "uniform:50ms-150ms"
# A busy machine holds up a request for longer than another: one at the end of a second may come in the next, which is full.
# A run that does not keep its limits is refused again and again and pauses each time: it is far above this, or never done.
_REFUSED_SHARE = 0.03
_OVER_SHARE = 0.1
# Below this the limit was not put to the test: the machine was too slow to reach it.
_LEAST_SHARE = 0.7
_ALONE = "; one process (runs that share an account: not in this version)"


class Bound(NamedTuple):
    """A run bound by one limit: what came to the server in each of its seconds, of the limit's unit.

    `largest` is the largest request in that unit: a second may end with one that fits in part. `finished`: each row had its
    answer in time.
    """

    unit: str
    share: float
    seconds: list[int]
    largest: int
    requests: int
    refused: int
    finished: bool


async def check(place: Place) -> Verdict:
    return judge(await gather(place))


async def gather(place: Place) -> list[Bound]:
    return await together(_by_requests(place), _by_tokens(place))


def judge(bounds: list[Bound]) -> Verdict:
    said: list[str] = []
    found: list[str] = []
    for bound in bounds:
        busiest = max(bound.seconds, default=0)
        over = bound.share * (1 + _OVER_SHARE) + (bound.largest if bound.unit == "tokens" else 1)
        said.append(
            f"{bound.refused} of {bound.requests} refused, busiest second {busiest / bound.share:.0%} of its {bound.unit}"
        )
        found += breaches(
            (
                bound.refused > bound.requests * _REFUSED_SHARE,
                f"{bound.refused} of {bound.requests} requests of the run bound by {bound.unit} were refused",
            ),
            (
                not bound.finished,
                f"the run bound by {bound.unit} was not done after {_DEADLINE}: it was refused, or the machine was too busy",
            ),
            (
                busiest > over,
                f"{busiest:,} {bound.unit} came in one second, whose share is {bound.share:,.0f}",
            ),
            (
                busiest < bound.share * _LEAST_SHARE,
                f"the limit was not put to the test: {busiest:,} {bound.unit} in the busiest second, of {bound.share:,.0f}; "
                "the machine was too busy",
            ),
        )
    return Verdict("; ".join(said) + _ALONE, tuple(found))


async def _by_requests(place: Place) -> Bound:
    texts = ((f"r{n}", f"text {n}") for n in range(_REQUEST_ROWS))
    return await _bound(_inner(place, "requests"), "requests", _REQUESTS_PER_MINUTE, rows(texts))


async def _by_tokens(place: Place) -> Bound:
    drawn = random.Random(3)  # noqa: S311  (lengths of texts)
    texts = ((f"r{n}", "a word or two of it, " * drawn.randint(*_WORDS)) for n in range(_TOKEN_ROWS))
    return await _bound(_inner(place, "tokens"), "tokens", _TOKENS_PER_MINUTE, rows(texts))


async def _bound(place: Place, unit: str, per_minute: int, lines: bytes) -> Bound:
    limit = f"{unit}_per_minute"
    async with place.simulator(latency=_LATENCY, **{limit: per_minute}) as server:
        place.write_job(server, lines)
        settings = sets(f"limits.{limit}={per_minute}", "limits.max_concurrency=64")
        # A run that is refused again and again need not come to its end: what it sent is what counts.
        run = ("run", JOB, "--quiet", "--deadline", _DEADLINE, *settings)
        ended = (await place.promptmill(*run, name="run")).expect(0, 6)
        entries = (await server.ledger(entries=True))["entries"]
    amounts = [_amount(entry, unit) for entry in entries]
    seconds: Counter[int] = Counter()
    for entry, amount in zip(entries, amounts, strict=True):
        seconds[int(entry["arrived_s"])] += amount
    return Bound(
        unit=unit,
        share=per_minute / 60,
        seconds=[seconds[second] for second in sorted(seconds)],
        largest=max(amounts, default=0),
        requests=len(entries),
        refused=sum(entry["status"] == 429 for entry in entries),
        finished=ended.code == 0,
    )


def _amount(entry: dict[str, Any], unit: str) -> int:
    return 1 if unit == "requests" else int(entry["prompt_tokens"] + entry["completion_tokens"])


def _inner(place: Place, name: str) -> Place:
    folder: Path = place.folder / name
    folder.mkdir()
    return Place(folder, place.env, place.key)
