"""The catalogue as `prices` shows it: which entries are asked for, what they cost on a route, and which are old.

No terminal here, and no arithmetic on prices (`pricing.py`).
"""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import msgspec

from pipeline.catalog import Model, Provider, provider_names
from pipeline.catalog.overlay import Catalogue
from pipeline.errors import JobError
from pipeline.pricing import Price, Rate, plain, price

STALE_AFTER = timedelta(days=90)
REALTIME = "realtime"


class Wanted(NamedTuple):
    """Which entries: names by shell pattern, a region or provider, those with a price on a route; None is any."""

    models: Sequence[str] = ()
    region: str | None = None
    route: str | None = None


class Entry(NamedTuple):
    """One model of one provider. `price` is that on `route`; `origin` is the user's file, if any."""

    provider: Provider
    name: str
    model: Model
    route: str
    price: Price | None
    origin: str | None

    def is_stale(self, today: date) -> bool:
        """Whether its figures were checked so long ago that they may no longer hold."""
        return today - self.model.checked > STALE_AFTER


def entries(catalogue: Catalogue, wanted: Wanted) -> list[Entry]:
    """The entries asked for, by provider. Raises JobError where there is none, naming what is near.

    Providers without any price are left out, unless they are asked for: their models are those of another one.
    """
    route = wanted.route or REALTIME
    found = [
        Entry(
            provider,
            name,
            model,
            route,
            price(provider, name, route),
            _said(catalogue.origin(provider.name, name)),
        )
        for provider in _providers(catalogue, wanted.region)
        for name, model in provider.models.items()
        if not wanted.models or any(fnmatchcase(name, pattern) for pattern in wanted.models)
    ]
    if wanted.route is not None:
        found = [entry for entry in found if entry.price is not None]
    if not found:
        raise JobError(_nothing(catalogue, wanted))
    return found


def _said(origin: Any) -> str | None:
    return None if origin is None else str(origin)


def _providers(catalogue: Catalogue, region: str | None) -> list[Provider]:
    everyone = [catalogue.load(name) for name in provider_names()]
    if region is None:
        return [one for one in everyone if any(model.tiers for model in one.models.values())]
    chosen = [one for one in everyone if region in (one.region, one.name)]
    if not chosen:
        known = sorted({one.region for one in everyone if one.region} | set(provider_names()))
        near = get_close_matches(region, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        raise JobError(f"--region {region!r} is neither a region nor a provider of the catalogue; {hint}")
    return chosen


def _nothing(catalogue: Catalogue, wanted: Wanted) -> str:
    names = {name for one in _providers(catalogue, wanted.region) for name in one.models}
    near = [match for pattern in wanted.models for match in get_close_matches(pattern, names, n=3)]
    route = f" with a price on the route {wanted.route}" if wanted.route else ""
    asked = f" like {' or '.join(wanted.models)}" if wanted.models else ""
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "a pattern is such as 'qwen*-flash'; without any, all are listed"
    )
    return f"the catalogue has no model{asked}{route}; {hint}"


def stale_warning(shown: Sequence[Entry], today: date) -> str | None:
    """A sentence where entries are older than 90 days; None where none is."""
    old = [entry for entry in shown if entry.is_stale(today)]
    if not old:
        return None
    oldest = min(entry.model.checked for entry in old)
    return (
        f"{len(old)} of {len(shown)} entries were last checked more than {STALE_AFTER.days} days ago, the oldest on {oldest}: "
        "prices and limits may have changed. Compare them with the provider's pages and write what is new into a catalogue file "
        "(docs/costs.md)"
    )


def as_json(entry: Entry, today: date) -> dict[str, Any]:
    """An entry with all that is known of it; amounts are text, exact, per 1,000,000 tokens; what is not known is null."""
    model = msgspec.to_builtins(entry.model)
    for told in ("tiers", "cache", "source"):
        del model[told]  # by the rates and sources below
    sources = {name: msgspec.to_builtins(entry.provider.sources[name]) for name in entry.model.source}
    return {
        "provider": entry.provider.name,
        "region": entry.provider.region,
        "model": entry.name,
        "route": entry.route,
        "currency": entry.provider.currency,
        "price_version": entry.provider.price_version,
        "rates": None if entry.price is None else entry.price.to_json()["rates"],
        **model,
        "stale": entry.is_stale(today),
        "sources": sources,
        "file": entry.origin,
    }


HEADINGS = (
    "model",
    "prompt tokens",
    "input",
    "output",
    "thinking",
    "cached",
    "marked",
    "written",
    "batch",
    "requests",
    "tokens",
    "checked",
)


def cells(entry: Entry, today: date) -> Iterator[tuple[str, ...]]:
    """The lines of the table under `HEADINGS`: one a tier, the model's own figures on the first."""
    model, limits = entry.model, entry.model.limits
    own = (
        "-" if model.batch_share is None else f"{plain(model.batch_share * 100)} %",
        _count(limits.requests_per_minute),
        _count(limits.tokens_per_minute),
        f"{model.checked}{' (old)' if entry.is_stale(today) else ''}{' *' if entry.origin else ''}",
    )
    rates: Sequence[Rate | None] = entry.price.rates if entry.price else [None]
    for place, rate in enumerate(rates):
        first = place == 0
        edge = "" if rate is None or len(rates) == 1 else _edge(rate, rates[place - 1] if place else None)
        amounts = rate[1:] if rate is not None else (None,) * 6
        yield (entry.name if first else "", edge, *map(_amount, amounts), *(own if first else ("",) * 4))


def _edge(rate: Rate, below: Rate | None) -> str:
    if rate.up_to_prompt_tokens is not None:
        return f"<= {rate.up_to_prompt_tokens:,}"
    assert below is not None  # noqa: S101  (only the last tier has no edge)
    return f"> {below.up_to_prompt_tokens:,}"


def _amount(amount: Any) -> str:
    return "-" if amount is None else plain(amount)


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
