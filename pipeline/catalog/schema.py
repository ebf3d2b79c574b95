"""The shapes of a catalogue file: a provider, its models, their limits and prices.

Only shapes and their own consistency live here: no files, no arithmetic on money (`pricing.py`), no rules
about failures. What a source does not state is None (or an empty tuple), never 0 and never a guess.
"""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Dialect = Literal["dashscope", "openai", "generic"]
Count = Annotated[int, Meta(ge=1)]


class Window(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A limit as the provider really measures it: so many requests, or so many tokens, in `seconds`."""

    seconds: Count
    requests: Count | None = None
    tokens: Count | None = None

    def __post_init__(self) -> None:
        if (self.requests is None) == (self.tokens is None):
            raise ValueError("a window counts either requests or tokens")


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an account may send to one model a minute, tokens in and out together; None: no limit known."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    windows: tuple[Window, ...] = ()


class Tier(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices per 1,000,000 tokens for requests of up to `up_to_prompt_tokens` (None: any number).

    `thinking_output` prices all output tokens of an answer with reasoning; None is the same as `output`. The
    last three price cached and cache-writing prompt tokens where the provider names a figure instead of a
    share (`Cache`).
    """

    input: Decimal
    output: Decimal
    up_to_prompt_tokens: Count | None = None
    thinking_output: Decimal | None = None
    implicit_hit: Decimal | None = None
    explicit_hit: Decimal | None = None
    explicit_create: Decimal | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            price = getattr(self, name)
            if isinstance(price, Decimal) and not (price.is_finite() and price > 0):
                raise ValueError(f"{name} = {price}: a price is above 0; leave out what is not known")


class Cache(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shares of the input price: tokens the cache held by itself, held or written through a cache mark."""

    implicit_hit: Decimal | None = None
    explicit_hit: Decimal | None = None
    explicit_create: Decimal | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            share = getattr(self, name)
            if share is not None and not (share.is_finite() and 0 < share <= 2):
                raise ValueError(f"{name} = {share}: a share of the input price lies between 0 and 2")


class Image(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How images become tokens: one for `factor` x `factor` pixels of the picture scaled into the bounds."""

    factor: Literal[28, 32]
    min_pixels: Count
    default_max_pixels: Count
    max_pixels: Count


class Source(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where figures were read, and the month the text is from."""

    page: str
    as_of: Annotated[str, Meta(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")]


class Model(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model at one provider.

    `checked` is the day the entry was compared with its sources (names in `Provider.sources`). `thinking`:
    off and on are defaults that `enable_thinking` changes, always and none cannot be changed.
    `non_stream_thinking`: it may think in a plain call. `json_object`: response_format json_object works
    (`thinking_off`: only without thinking). `batch_share` is the share of the real-time price on the batch
    routes; None where the model is not known to have them. `batch_cache_discount`: cache shares apply there
    too. `native_multimodal`: natively served on the multimodal path. `max_output_tokens` and
    `max_thinking_tokens` are the most an answer and the reasoning before it can be, each by itself.
    """

    checked: date
    source: Annotated[tuple[str, ...], Meta(min_length=1)]
    limits: Limits = Limits()
    tiers: tuple[Tier, ...] = ()
    cache: Cache = Cache()
    batch_share: Decimal | None = None
    batch_cache_discount: bool = False
    thinking: Literal["off", "on", "always", "none"] | None = None
    non_stream_thinking: bool | None = None
    stream_only: bool = False
    json_object: Literal["yes", "thinking_off", "no"] | None = None
    json_schema: bool | None = None
    native_multimodal: bool = False
    tokenizer: str | None = None
    image: Image | None = None
    context_tokens: Count | None = None
    max_output_tokens: Count | None = None
    max_thinking_tokens: Count | None = None

    def __post_init__(self) -> None:
        edges = [tier.up_to_prompt_tokens for tier in self.tiers]
        bounded = [edge for edge in edges[:-1] if edge is not None]
        if len(bounded) < len(edges) - 1:
            raise ValueError("only the last tier may go without up_to_prompt_tokens")
        if edges and edges[-1] is not None:
            bounded.append(edges[-1])
        if bounded != sorted(set(bounded)):
            raise ValueError(f"tiers must ascend by up_to_prompt_tokens, found {bounded}")
        if self.batch_share is not None and not (self.batch_share.is_finite() and 0 < self.batch_share <= 1):
            raise ValueError(f"batch_share = {self.batch_share}: expected above 0, up to 1")


class Provider(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One provider of chat completions, in one region.

    `base_url` is None where the job names it or the run starts the server. `keyless`: no API key is needed.
    `labels_by_grammar`: a JSON Schema in response_format is followed by grammar, so a label is always one of
    the offered. `currency` is that of every price; `price_version` names the state of the file the prices
    came from.
    """

    name: str
    title: str
    dialect: Dialect
    price_version: str
    base_url: str | None = None
    native_base_url: str | None = None
    batch_chat_base_url: str | None = None
    api_key_env: str | None = None
    keyless: bool = False
    labels_by_grammar: bool = False
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] | None = None
    region: str | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.api_key_env is None and not self.keyless:
            raise ValueError("needs api_key_env, or keyless = true")
        for name, model in self.models.items():
            if unknown := set(model.source) - set(self.sources):
                raise ValueError(f"models.{name}: source {sorted(unknown)} is not in [sources]: add it there")
            if model.tiers and self.currency is None:
                raise ValueError(
                    f'models.{name}: prices without a currency: name theirs, such as currency = "USD"'
                )

    def model(self, name: str) -> Model | None:
        """The entry of exactly this name, or None.

        A dated snapshot is not taken for its family: its limits are mostly 60 to 600 requests a minute
        (rate-limit page) and its price may differ (qwen3-max-2025-09-23 costs 2.4 times qwen3-max), so
        nothing is known of one that is not listed.
        """
        return self.models.get(name)
