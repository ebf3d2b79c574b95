"""How much of a quota is used, and how many requests are refused: the gate against the simulator's windows, on a virtual clock.

Minutes of traffic take seconds, and no socket is opened. Run it as `python -m benchmarks.limits`.
"""

import random
from typing import NamedTuple

from benchmarks.support import table
from pipeline.gate import Limits
from pipeline.limits import LocalGate
from pipeline.simulator.settings import Settings
from tests.support.clock import run_virtual
from tests.support.granted import Load, Provider, played

SEEDS = range(1, 9)
MINUTES = 4


class Case(NamedTuple):
    """A quota and what the gate is told of it; measured from `settled_s` on."""

    name: str
    quota: Settings
    told: bool
    load: Load
    settled_s: float


def mixed(chance: random.Random) -> int:
    return round(30 * 1_000 ** chance.random())


def cases() -> list[Case]:
    plain, many, lengths = Load(), Load(workers=1_000), Load(prompt=mixed)
    quotas = [
        ("300 requests a minute", Settings(requests_per_minute=300), plain),
        ("3,000", Settings(requests_per_minute=3_000), plain),
        ("30,000", Settings(requests_per_minute=30_000), many),
        ("3,000, windows of 6 s", Settings(requests_per_minute=3_000, window_s=6), plain),
        ("3,000, growth of half at most", Settings(requests_per_minute=3_000, burst_growth=1.5), plain),
        ("1M tokens a minute", Settings(tokens_per_minute=1_000_000), plain),
        ("1M tokens, prompts of 30 to 30,000", Settings(tokens_per_minute=1_000_000), lengths),
        ("5M tokens, prompts of 30 to 30,000", Settings(tokens_per_minute=5_000_000), lengths),
        *(
            (name, Settings(requests_per_minute=requests, tokens_per_minute=tokens), lengths)
            for name, requests, tokens in (
                ("600 requests and 1.5M tokens, prompts of 30 to 30,000", 600, 1_500_000),
                ("1,200 requests and 5M tokens, prompts of 30 to 30,000", 1_200, 5_000_000),
                ("500 requests and 2M tokens, prompts of 30 to 30,000", 500, 2_000_000),
                ("1,200 requests and 5.3M tokens, both just enough", 1_200, 5_300_000),
            )
        ),
    ]
    known = [Case(name, quota, told=True, load=load, settled_s=10) for name, quota, load in quotas]
    return known + [case._replace(told=False, settled_s=60) for case in known]


def measure(case: Case, seed: int) -> tuple[float, float]:
    """The share used of the binding quota, and the share of requests refused."""

    async def main() -> tuple[float, float]:
        quota = case.quota
        gate = LocalGate(
            Limits(
                requests_per_minute=quota.requests_per_minute if case.told else None,
                tokens_per_minute=quota.tokens_per_minute if case.told else None,
                max_concurrency=2_000,
            ),
            note=lambda _: None,
        )
        provider = Provider(quota)
        await played(gate, provider, case.load, 60 * MINUTES, seed)
        of = case.settled_s, 60.0 * MINUTES
        used = [provider.requests_used(*of)] if quota.requests_per_minute else []
        used += [provider.tokens_used(*of)] if quota.tokens_per_minute else []
        return max(used), provider.refused_share(*of)

    return run_virtual(main())


def main() -> None:
    rows = []
    for case in cases():
        seeds = SEEDS[:2] if case.quota.requests_per_minute == 30_000 else SEEDS
        used, refused = zip(*(measure(case, seed) for seed in seeds), strict=True)
        rows.append(
            (
                case.name,
                "known" if case.told else "unknown",
                f"{min(used):.1%} - {max(used):.1%}",
                f"{min(refused):.2%} - {max(refused):.2%}",
            )
        )
        print(*rows[-1], sep="  ", flush=True)
    print(table(("quota", "told", "used", "refused"), rows))


if __name__ == "__main__":
    main()
