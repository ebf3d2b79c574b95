"""What answers that were paid for would have cost elsewhere: another model, region or route, from the usage in the results.

The rules are those of `pricing.py`, said once more as expressions over columns, so that ten million rows take seconds; that both
agree, row by row, is tested. No files here: the caller hands in the rows.

It says what the same tokens would have cost. Another model counts the same text in other tokens where its tokenizer is
another, answers at another length, and need not find in its cache what this one found.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

import polars as pl

from pipeline.catalog import Model, Provider, provider_names
from pipeline.errors import JobError
from pipeline.pricing import ROUTES, Price, WholePrice, WholeRate, from_nano, price
from pipeline.records import ANSWERED, FinishReason

# The result columns that decide a cost.
_COLUMNS = (
    "status",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "attempts",
    "usage",
)
_KEYS = ("model", "provider", "region", "route")


class Unpriced(StrEnum):
    """Why an answered row has no cost elsewhere; the words are for a report."""

    NO_PRICE = "no price is known there"
    NO_USAGE = "its tokens are not known"
    CONTRADICTORY = "its token counts contradict each other"
    TOO_LONG = "its prompt is longer than the model takes"
    SEVERAL = "several answers were paid for, and which tier each fell into is not known"
    CACHE = "it used a cache, for which no price is known there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A model on a route of a provider. `price` is None where none is known, and `why` then says so in a sentence."""

    provider: Provider
    model_name: str
    model: Model
    route: str
    price: Price | None

    @property
    def why(self) -> str | None:
        if self.price is not None:
            return None
        return f"no price is known for {self.model_name} on the route {self.route} at {self.provider.title}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The result columns that decide the cost there; a scan needs no others."""
        weighs = self.price is not None and _weighs_reasoning(self.price)
        return (*_COLUMNS, "reasoning_content") if weighs else _COLUMNS


class Repriced(NamedTuple):
    """A run at other prices. `answered` rows were billed; `unpriced` counts those without a cost there, by the reason.

    `known_cost` sums the others, to 9 places, in `currency` (None where no price is known).
    """

    answered: int
    unpriced: Mapping[Unpriced, int]
    known_cost: Decimal
    currency: str | None

    @property
    def cost(self) -> Decimal | None:
        """The whole cost, or None where that of any row is unknown."""
        return self.known_cost if not self.unpriced else None


def elsewhere(text: str, here: tuple[str, str, str], load: Callable[[str], Provider]) -> Elsewhere:
    """What `model=qwen-flash,route=batch-chat` names; what it leaves out stays as it is `here`: (provider, model, route).

    Keys: model, provider, region (as in the catalogue, such as ap-southeast-1), route. `load` gives a provider by its name and
    raises JobError for an unknown one. Raises JobError for another key, for a region or route that there is not, and for a model
    that the provider's catalogue does not have.
    """
    asked = _asked(text)
    provider_name, model_name, route = here
    if "provider" in asked:
        provider_name = asked["provider"]
    provider = load(provider_name)
    if (region := asked.get("region")) is not None:
        provider = _of_region(region, provider, load, fixed="provider" in asked)
    model_name, route = asked.get("model", model_name), asked.get("route", route)
    if route not in ROUTES:
        raise JobError(f"--as route={route}: expected one of {', '.join(ROUTES)}")
    model = provider.model(model_name)
    if model is None:
        near = get_close_matches(model_name, provider.models, n=3)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "`promptmill prices` lists the models; name another region or provider (region=cn-beijing), or add the model to "
            "your catalogue"
        )
        raise JobError(f"--as: the catalogue has no model {model_name!r} at {provider.title}; {hint}")
    return Elsewhere(
        provider=provider,
        model_name=model_name,
        model=model,
        route=route,
        price=price(provider, model_name, route),
    )


def _asked(text: str) -> dict[str, str]:
    asked: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in _KEYS or not equals or not value or key in asked:
            raise JobError(
                f"--as {text!r}: expected KEY=VALUE, separated by commas, each of {', '.join(_KEYS)} at most once, such as "
                f"model=qwen-flash,route=batch-chat; found {part.strip()!r}"
            )
        asked[key] = value
    return asked


def _of_region(region: str, provider: Provider, load: Callable[[str], Provider], *, fixed: bool) -> Provider:
    """The provider that serves a region; with `fixed` it must be the one that was named."""
    known = {one.region: one for one in map(load, provider_names()) if one.region is not None}
    if region not in known:
        raise JobError(f"--as region={region}: the catalogue's regions are {', '.join(known)}")
    if fixed and provider.region != region:
        raise JobError(f"--as: {provider.title} is not in region {region}; leave one of the two out")
    return known[region]


def reprice(rows: pl.LazyFrame, where: Elsewhere) -> Repriced:
    """Sum up what rows of results would have cost elsewhere, streaming: memory does not grow with their number.

    `rows` have at least `where.columns`.
    """
    reasons = [(pl.col("why") == reason.value).sum().alias(reason.name) for reason in Unpriced]
    sums = [answered().sum().alias("answered"), pl.col("nano_cost").sum(), *reasons]
    found = priced(rows.select(where.columns), where).select(sums).collect(engine="streaming")
    row = found.row(0, named=True)
    return Repriced(
        answered=row["answered"],
        unpriced={reason: row[reason.name] for reason in Unpriced if row[reason.name]},
        known_cost=from_nano(int(row["nano_cost"] or 0)),
        currency=None if where.price is None else where.price.currency,
    )


def priced(rows: pl.LazyFrame, where: Elsewhere) -> pl.LazyFrame:
    """Rows of results with two more columns: `nano_cost`, in billionths of the currency unit (Int128), and `why` it is null.

    Both are null where a row was not answered, so not billed; `why` has the words of `Unpriced`. A row's counts are of all
    answers that were paid for it, those asked again because they were not valid included; their amounts are rounded together.
    """
    if where.price is None:
        why = pl.when(answered()).then(pl.lit(Unpriced.NO_PRICE.value))
        return rows.with_columns(nano_cost=pl.lit(None, pl.Int128), why=why)
    counts = {
        "prompt": "prompt_tokens",
        "completion": "completion_tokens",
        "hit": "cached_tokens",
        "written": "cache_write_tokens",
    }
    whole = [pl.col(column).cast(pl.Int128).alias(f"_{name}") for name, column in counts.items()]
    with_counts = rows.with_columns(whole).with_columns(pl.col("_hit", "_written").fill_null(0))
    amount = _amount(where.price).alias("nano_cost")
    return (
        with_counts.with_columns(amount)
        .with_columns(why=_why(where, where.price))
        .with_columns(nano_cost=pl.when(pl.col("why").is_null() & answered()).then(pl.col("nano_cost")))
        .drop([f"_{name}" for name in counts])
    )


def answered() -> pl.Expr:
    """Whether a row of results has an answer that was billed."""
    filtered = pl.col("finish_reason").cast(pl.String).eq_missing(pl.lit(FinishReason.CONTENT_FILTER.value))
    return pl.col("status").cast(pl.String).is_in([status.value for status in ANSWERED]) | filtered


def _amount(price: Price) -> pl.Expr:
    """`pricing.WholePrice.nano_cost` over columns; null where a price it needs is unknown."""
    whole = WholePrice(price)
    prompt, completion, hit, written = (
        pl.col(f"_{name}") for name in ("prompt", "completion", "hit", "written")
    )

    def rate(of: Callable[[WholeRate], int | None]) -> pl.Expr:
        return _by_tier(prompt, [(one.up_to_prompt_tokens, of(one)) for one in whole.rates])

    output, thinking = rate(lambda r: r.output), rate(lambda r: r.thinking_output)
    if _weighs_reasoning(price):
        output = pl.when(_has_reasoning()).then(thinking).otherwise(output)
    explicit = pl.col("cache_write_tokens").is_not_null()
    implicit_hit, explicit_hit = rate(lambda r: r.implicit_hit), rate(lambda r: r.explicit_hit)
    hit_rate = pl.when(explicit).then(explicit_hit).otherwise(implicit_hit)
    amount = (
        (prompt - hit - written) * rate(lambda r: r.input)
        + completion * output
        + pl.when(hit > 0).then(hit * hit_rate).otherwise(0)
        + pl.when(written > 0).then(written * rate(lambda r: r.explicit_create)).otherwise(0)
    )
    return _rounded(amount, whole.unit)


def _weighs_reasoning(price: Price) -> bool:
    """Whether an answer with reasoning costs more: only then is its text needed, which is much to read."""
    return any(rate.output != rate.thinking_output for rate in price.rates)


def _by_tier(prompt: pl.Expr, figures: Sequence[tuple[int | None, int | None]]) -> pl.Expr:
    """The figure of the tier that a prompt falls into; an edge belongs to the tier below it."""
    (_, last), *lower = reversed(figures)
    chosen = pl.lit(last, pl.Int128)
    for edge, figure in lower:
        chosen = pl.when(prompt <= edge).then(pl.lit(figure, pl.Int128)).otherwise(chosen)
    return chosen


def _rounded(amount: pl.Expr, unit: int) -> pl.Expr:
    """Divided by `unit`, half to even."""
    if unit == 1:
        return amount
    quotient, rest = amount // unit, amount % unit
    up = (2 * rest > unit) | ((2 * rest == unit) & (quotient % 2 == 1))
    return quotient + up.cast(pl.Int128)


def _has_reasoning() -> pl.Expr:
    return (pl.col("reasoning_tokens").fill_null(0) != 0) | (
        pl.col("reasoning_content").fill_null("").str.len_bytes() > 0
    )


def _why(where: Elsewhere, price: Price) -> pl.Expr:
    prompt, completion, hit, written = (
        pl.col(f"_{name}") for name in ("prompt", "completion", "hit", "written")
    )
    rules: list[tuple[Unpriced, pl.Expr]] = [
        (Unpriced.NO_USAGE, prompt.is_null() | completion.is_null()),
        (
            Unpriced.CONTRADICTORY,
            pl.min_horizontal(prompt - hit - written, hit, written, completion) < 0,
        ),
    ]
    edges = [rate.up_to_prompt_tokens for rate in price.rates]
    bounds = [bound for bound in (edges[-1], where.model.context_tokens) if bound is not None]
    # Counts of several answers are their sum. Below the first edge so is each of them, and the sum is priced right.
    several = (pl.col("attempts") > 1) & (_own_prompt_tokens() != prompt)
    if edges[0] is not None and len(edges) > 1:
        rules.append((Unpriced.SEVERAL, several & (prompt > edges[0])))
    if bounds:
        rules.append((Unpriced.TOO_LONG, ~several & (prompt > min(bounds))))
    rules.append((Unpriced.CACHE, pl.col("nano_cost").is_null()))
    why = pl.lit(None, pl.String)
    for reason, holds in reversed(rules):
        why = pl.when(holds).then(pl.lit(reason.value)).otherwise(why)
    return pl.when(answered()).then(why)


def _own_prompt_tokens() -> pl.Expr:
    """The prompt tokens of the answer that counts, as its usage object says: compatible or native. -1 where it does not."""
    asked_again = pl.when(pl.col("attempts") > 1).then(
        pl.col("usage")
    )  # few rows, and to read JSON takes long
    said = [asked_again.str.json_path_match(f"$.{name}") for name in ("prompt_tokens", "input_tokens")]
    return pl.coalesce(said).cast(pl.Int128, strict=False).fill_null(-1)
