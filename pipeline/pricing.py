"""What an answer cost: usage times the catalogue's prices, exact.

Pure: no files, no clock, no sums over a run (`budget.py`, `totals.py`). The rules (Model Studio's price and
context-cache pages; OpenAI's differ only in the figures of the catalogue):

- the prompt tokens of this request choose the tier, and the tier prices all tokens of the request;
- an answer with reasoning pays the thinking price for all its output tokens, not only for the reasoning;
- cached tokens pay a share of the input price. Usage that says how many tokens were written to the cache, if
  only 0, comes from a request with cache marks and pays the explicit shares; otherwise the hit was implicit;
- the batch routes take a share of input and output, and nothing of the cache counts there unless the
  catalogue says so.

A cost is null where any figure it needs is unknown, and where the counts contradict each other. Amounts are
exact, then rounded once a row, half to even, to the 9 places of the `cost` column: few prices reach a tenth
place, and the sum of a million rows is off by at most 0.0005 of the currency unit.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any, NamedTuple

from pipeline.catalog import Cache, Provider, Tier
from pipeline.records import Usage

COST_PLACES = 9
_PER_TOKENS = 1_000_000
# Wide enough that nothing but the last step rounds; our own, because the caller's context may be anything.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_ONE_NANO = Decimal(1).scaleb(-COST_PLACES)
_REALTIME = "realtime"
_BATCH_CHAT = "batch-chat"
_BATCH_FILE = "batch-file"
ROUTES = (_REALTIME, _BATCH_CHAT, _BATCH_FILE)


class Rate(NamedTuple):
    """Prices per 1,000,000 tokens within one tier, on one route; None is unknown."""

    up_to_prompt_tokens: int | None
    input: Decimal
    output: Decimal
    thinking_output: Decimal
    implicit_hit: Decimal | None
    explicit_hit: Decimal | None
    explicit_create: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one model costs on one route; `rates` ascend by prompt tokens. `version` is the catalogue's."""

    currency: str
    version: str
    rates: tuple[Rate, ...]

    def rate(self, prompt_tokens: int) -> Rate | None:
        """The tier a request of so many prompt tokens falls into; an edge belongs to the tier below it."""
        for rate in self.rates:
            if rate.up_to_prompt_tokens is None or prompt_tokens <= rate.up_to_prompt_tokens:
                return rate
        return None

    def to_json(self) -> dict[str, Any]:
        """As JSON has it: amounts as text, exact."""
        rates = [
            {
                name: plain(value) if isinstance(value, Decimal) else value
                for name, value in rate._asdict().items()
            }
            for rate in self.rates
        ]
        return {"currency": self.currency, "version": self.version, "rates": rates}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Price":
        rates = [
            Rate._make(
                Decimal(value) if isinstance(value, str) else value for value in map(rate.get, Rate._fields)
            )
            for rate in data["rates"]
        ]
        return cls(currency=data["currency"], version=data["version"], rates=tuple(rates))


def plain(amount: Decimal) -> str:
    """An amount without exponent and trailing zeros."""
    return f"{amount.normalize(_EXACT):f}"


def price(provider: Provider, model_name: str, route: str) -> Price | None:
    """The price of a model on a route (realtime, batch-chat, batch-file), or None where it is not known.

    Raises ValueError for any other route.
    """
    if route not in ROUTES:
        raise ValueError(f"route {route!r}: expected {_REALTIME}, {_BATCH_CHAT} or {_BATCH_FILE}")
    model = provider.model(model_name)
    if model is None or not model.tiers or provider.currency is None:
        return None
    share = Decimal(1)
    cached = True
    if route != _REALTIME:
        if model.batch_share is None or (route == _BATCH_CHAT and provider.batch_chat_base_url is None):
            return None
        share, cached = model.batch_share, model.batch_cache_discount
    rates = tuple(_rate(tier, model.cache, share, cached=cached) for tier in model.tiers)
    return Price(currency=provider.currency, version=provider.price_version, rates=rates)


def _rate(tier: Tier, cache: Cache, share: Decimal, *, cached: bool) -> Rate:
    with localcontext(_EXACT):
        full = tier.input * share

        def part(figure: Decimal | None, of_input: Decimal | None) -> Decimal | None:
            if not cached:
                return full
            if figure is not None:
                return figure * share
            return None if of_input is None else full * of_input

        implicit = part(tier.implicit_hit, cache.implicit_hit)
        explicit = part(tier.explicit_hit, cache.explicit_hit)
        return Rate(
            up_to_prompt_tokens=tier.up_to_prompt_tokens,
            input=full,
            output=tier.output * share,
            thinking_output=(tier.output if tier.thinking_output is None else tier.thinking_output) * share,
            implicit_hit=implicit,
            explicit_hit=implicit if explicit is None else explicit,
            explicit_create=part(tier.explicit_create, cache.explicit_create),
        )


def cost(price: Price, usage: Usage, *, has_reasoning: bool) -> Decimal | None:
    """What one answer cost, to 9 places, in `price.currency`; None where a needed figure is unknown.

    `has_reasoning`: it contains reasoning, by its text or its `reasoning_tokens`. Unknown cached tokens count
    as none: the bill can only be lower.
    """
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    hit, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    plain = usage.prompt_tokens - hit - written
    rate = price.rate(usage.prompt_tokens)
    if rate is None or min(plain, hit, written, usage.completion_tokens) < 0:
        return None
    hit_price = rate.implicit_hit if usage.cache_write_tokens is None else rate.explicit_hit
    if (hit and hit_price is None) or (written and rate.explicit_create is None):
        return None
    with localcontext(_EXACT):
        amount = (
            plain * rate.input
            + hit * (hit_price or 0)
            + written * (rate.explicit_create or 0)
            + usage.completion_tokens * (rate.thinking_output if has_reasoning else rate.output)
        )
        return (amount / _PER_TOKENS).quantize(_ONE_NANO)


class Columns(NamedTuple):
    """The usage of many answers, one list a column, all of one length.

    `reasoning`: reasoning tokens, or any value that is true where the answer contains reasoning.
    """

    prompt: Sequence[int | None]
    completion: Sequence[int | None]
    cached: Sequence[int | None]
    cache_write: Sequence[int | None]
    reasoning: Sequence[object]


def costs(price: Price, columns: Columns) -> list[Decimal | None]:
    """`cost` for every row, in whole numbers: about a microsecond a row.

    Raises ValueError where the columns differ in length.
    """
    nano_cost = WholePrice(price).nano_cost
    return [
        None if (amount := nano_cost(*usage)) is None else from_nano(amount)
        for usage in zip(*columns, strict=True)
    ]


def from_nano(amount: int) -> Decimal:
    """An amount of so many billionths of the currency unit."""
    return _EXACT.scaleb(amount, -COST_PLACES)


def to_nano(amount: Decimal) -> int:
    """An amount in billionths of the currency unit, what is smaller left off."""
    return int(_EXACT.scaleb(amount, COST_PLACES))


class WholePrice:
    """A price worked out in whole numbers, for what is done for every row. Amounts are in billionths of the currency unit.

    `rates` are per single token; `unit` of theirs make a billionth.
    """

    def __init__(self, price: Price) -> None:
        places, self.rates = _whole(price)
        self.unit: int = 10 ** (places - COST_PLACES)
        self._edges = [rate[0] for rate in self.rates if rate[0] is not None]
        self._bounded = len(self._edges) == len(self.rates)

    def nano_cost(
        self,
        prompt: int | None,
        completion: int | None,
        cached: int | None,
        cache_write: int | None,
        reasoning: object,
    ) -> int | None:
        """`cost` of one answer; `reasoning` is true where it contains some."""
        if prompt is None or completion is None:
            return None
        tier = bisect_left(self._edges, prompt)
        hit, written = cached or 0, cache_write or 0
        plain = prompt - hit - written
        beyond = self._bounded and tier == len(self._edges)
        if plain < 0 or hit < 0 or written < 0 or completion < 0 or beyond:
            return None
        _, input_, output, thinking, implicit, explicit, create = self.rates[tier]
        amount = plain * input_ + completion * (thinking if reasoning else output)
        if hit:
            share = implicit if cache_write is None else explicit
            if share is None:
                return None
            amount += hit * share
        if written:
            if create is None:
                return None
            amount += written * create
        if self.unit > 1:
            half, odd = divmod(self.unit, 2)
            amount, rest = divmod(amount, self.unit)
            if rest > half or (rest == half and not odd and amount & 1):
                amount += 1
        return amount

    def nano_most(self, prompt: int, completion: int, *, thinking: bool, marks: bool) -> int:
        """The most that up to so many tokens can cost, over every tier a prompt of that size or less may fall into.

        `thinking`: the answer may contain reasoning. `marks`: prompt tokens may be written to a cache. Above the last tier its
        prices count on: what a larger prompt costs is not known.
        """
        most = 0
        last = self.rates[-1]
        for rate in self.rates:
            edge, input_, output, thought, implicit, explicit, create = rate
            if marks:
                input_ = max(input_, implicit or 0, explicit or 0, create or 0)
            tokens = prompt if edge is None or prompt <= edge or rate is last else edge
            amount = tokens * input_ + completion * (max(output, thought) if thinking else output)
            most = max(most, amount)
            if tokens == prompt:
                break
        return -(-most // self.unit)


class WholeRate(NamedTuple):
    """A `Rate` in whole numbers of the same unit of currency, per single token."""

    up_to_prompt_tokens: int | None
    input: int
    output: int
    thinking_output: int
    implicit_hit: int | None
    explicit_hit: int | None
    explicit_create: int | None


def _whole(price: Price) -> tuple[int, list[WholeRate]]:
    """The places at which every price of a single token is a whole number, and the rates in that unit."""
    figures = [figure for rate in price.rates for figure in rate[1:] if isinstance(figure, Decimal)]
    exponents = [int(figure.as_tuple().exponent) for figure in figures]
    places = max(COST_PLACES, 6 - min(exponents))

    def whole(figure: Decimal) -> int:
        return int(_EXACT.scaleb(figure, places - 6))

    def known(figure: Decimal | None) -> int | None:
        return None if figure is None else whole(figure)

    return places, [
        WholeRate(
            rate.up_to_prompt_tokens,
            whole(rate.input),
            whole(rate.output),
            whole(rate.thinking_output),
            known(rate.implicit_hit),
            known(rate.explicit_hit),
            known(rate.explicit_create),
        )
        for rate in price.rates
    ]
