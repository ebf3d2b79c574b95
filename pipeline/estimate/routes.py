"""What a route means beside its price: how long the limits make a job take, and when a batch is cheaper than real time.

Pure arithmetic on what was judged.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.catalog import Limits
from pipeline.estimate.figures import BreakEven, Cost
from pipeline.estimate.options import Option
from pipeline.plan import Plan

REALTIME = "realtime"


class Volume(NamedTuple):
    """What a job asks in all, and what of it was answered already; `with_answers`: their tokens are known."""

    requests: float
    tokens: float
    with_answers: bool
    done_requests: int
    done_tokens: int
    latency_ms: float | None


def time_at_limits(plan: Plan, option: Option, volume: Volume) -> tuple[float | None, str | None]:
    """How long the limits make it take, in seconds, and which of them does; of the job's own option what is left of it."""
    if option.route != REALTIME:
        return None, None
    target = plan.target
    limits = option.model.limits if option.model else Limits()
    a_minute = (
        (target.requests_per_minute, target.tokens_per_minute)
        if option.of_job
        else (limits.requests_per_minute, limits.tokens_per_minute)
    )
    requests = max(volume.requests - volume.done_requests * option.own, 0)
    tokens = max(volume.tokens - volume.done_tokens * option.own, 0)
    takes: list[tuple[float, str]] = []
    if a_minute[0] is not None:
        takes.append((requests / a_minute[0] * 60, f"{a_minute[0]:,.0f} requests a minute"))
    if a_minute[1] is not None:
        without = "" if volume.with_answers else ", answers left out"
        takes.append((tokens / a_minute[1] * 60, f"{a_minute[1]:,.0f} tokens a minute{without}"))
    if option.of_job and volume.latency_ms:
        takes.append(
            (
                requests * volume.latency_ms / 1_000 / target.max_concurrency,
                f"{target.max_concurrency:,} in flight",
            )
        )
    return max(takes) if takes else (None, None)


def saved_by_cache(options: Sequence[Option], prompts: Sequence[int]) -> int | None:
    """What prompts of so many tokens would save in real time were all their tokens cached; None where that is not known."""
    whole = next((option.whole for option in options if option.of_job and option.route == REALTIME), None)
    if whole is None:
        return None
    saved = 0
    for prompt in prompts:
        plain, cached = (whole.nano_cost(prompt, 0, hit, None, 0) for hit in (0, prompt))
        if plain is None or cached is None:
            return None
        saved += plain - cached
    return saved or None


def break_evens(
    options: Sequence[Option], costs: Sequence[Cost], saved: float, seen_share: float | None
) -> Iterator[BreakEven]:
    """From which cached share on real time is cheaper than each batch route of the job's model.

    A batch pays a share of the prices and gets nothing off for cached tokens (Model Studio, "Batch inference" and "Context
    cache"); real time pays in full, less what the cache saves: `saved`, were all of it cached.
    """
    for option, cost in zip(options, costs, strict=True):
        model = option.model
        if not option.of_job or option.route == REALTIME or cost.expected is None:
            continue
        if model is None or model.batch_share is None or model.batch_cache_discount:
            continue
        batch = cost.expected.value
        share = (batch / float(model.batch_share) - batch) / saved
        yield BreakEven(route=option.route, cached_share=share if share < 1 else None, seen_share=seen_share)
