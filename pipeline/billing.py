"""What outcomes cost by one price, all their paid answers together."""

from collections.abc import Sequence
from decimal import Decimal

from pipeline.pricing import Columns, Price, cost, costs
from pipeline.records import Outcome, Priced, Usage


def outcome_costs(price: Price | None, outcomes: Sequence[Outcome]) -> list[Decimal | None]:
    """What each outcome cost; None where that is unknown, as without a price. What has its price already keeps it."""
    nothing = Usage()
    usages = [o.completion.usage if o.completion else nothing for o in outcomes]
    found = _costs(price, outcomes, usages)
    for place, (outcome, usage) in enumerate(zip(outcomes, usages, strict=True)):
        if usage.priced is not None:
            found[place] = usage.priced.cost
        for earlier in outcome.earlier:
            more = earlier.priced.cost if earlier.priced is not None else _cost(price, earlier)
            so_far = found[place]
            found[place] = None if so_far is None or more is None else so_far + more
    return found


def keep_price(price: Price | None, outcome: Outcome) -> None:
    """Settle what a row's paid answers cost at the price of their day (None: unknown): they keep it when prices change."""
    if outcome.completion is None:
        return
    for usage in (outcome.completion.usage, *outcome.earlier):
        if usage.priced is None:
            last = usage is outcome.completion.usage
            found = _costs(price, [outcome], [usage])[0] if last else _cost(price, usage)
            terms = (None, None) if price is None else (price.currency, price.version)
            usage.priced = Priced(found, *terms)


def _costs(price: Price | None, outcomes: Sequence[Outcome], usages: Sequence[Usage]) -> list[Decimal | None]:
    if price is None:
        return [None] * len(outcomes)
    reasoned = [o.completion is not None and bool(o.completion.reasoning_content) for o in outcomes]
    columns = Columns(
        [u.prompt_tokens for u in usages],
        [u.completion_tokens for u in usages],
        [u.cached_tokens for u in usages],
        [u.cache_write_tokens for u in usages],
        [bool(u.reasoning_tokens) or r for u, r in zip(usages, reasoned, strict=True)],
    )
    return costs(price, columns)


def _cost(price: Price | None, usage: Usage) -> Decimal | None:
    return None if price is None else cost(price, usage, has_reasoning=bool(usage.reasoning_tokens))
