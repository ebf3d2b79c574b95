"""The job file's sections as types: what may stand in it, with defaults. How it is read is `load.py`'s business."""

import math
import re
from collections.abc import Iterator
from datetime import time
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.masking import is_key_name
from pipeline.schedule import Window

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_HOUR = r"((?:[01][0-9]|2[0-3]):[0-5][0-9])"
_WINDOW = re.compile(rf"\s*{_HOUR}\s*-\s*{_HOUR}\s*")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_OWN_PARAMS = frozenset({"model", "messages", "stream", "stream_options"})
_OWN_HEADERS = frozenset({"host", "content-length"})


def seconds(value: object) -> float:
    """Read a duration: a number of seconds, or text such as "90s", "10m", "1h30m"."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        parts = _DURATION.findall(text)
        if parts and _DURATION.sub("", text).strip() == "":
            total = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
            if 0 < total < math.inf:
                return total
    raise ValueError(f'not a duration: {value!r}; write seconds, or text such as "90s", "10m", "1h30m"')


def _env_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("name an environment variable (letters, digits, underscore); never the key itself")
    return value


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range, a bracket left open
        usable = False
    if not usable:
        raise ValueError('write the address up to /v1, such as "http://host:port/v1"')
    if "@" in value or parts.query or parts.fragment:  # a slash in a password ends the host before its "@"
        raise ValueError("a user name, query or fragment has no place in it; the key goes by api_key_env")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError("leave /chat/completions out: it is added to each request")
    return value.rstrip("/")


def _window(value: str) -> str:
    found = _WINDOW.fullmatch(value)
    if not found:
        raise ValueError(f'not hours of a day: {value!r}; write "22:00-07:00"')
    return f"{found[1]}-{found[2]}"


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f'no known time zone: {value!r}; write one such as "Asia/Shanghai" or "UTC"'
        ) from None
    return value


def _not_json(value: Any, where: str) -> Iterator[str]:
    """What in a TOML value has no JSON form that means the same, as sentences."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _not_json(inner, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _not_json(inner, f"{where}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} = {value} is no number in JSON"
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        yield f"{where} does not fit 64 bits"
    elif not isinstance(value, str | int | float):
        yield f"{where} is a date or time of TOML, which JSON has not: put it in quotes"


def _key_names(value: Any) -> Iterator[str]:
    """The names, however deep, that hold a key as text; a schema may well describe a property called password."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and is_key_name(name):
                yield name
            yield from _key_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _key_names(inner)


def _json_only(value: dict[str, Any]) -> dict[str, Any]:
    if problem := next(_not_json(value, ""), None):
        raise ValueError(problem)
    return value


# Billionths of it still fit 64 bits.
Money = Annotated[Decimal, Field(gt=0, le=1_000_000_000)]
Seconds = Annotated[float, BeforeValidator(seconds)]
WindowText = Annotated[str, AfterValidator(_window)]
ZoneName = Annotated[str, AfterValidator(_zone)]
EnvName = Annotated[str, AfterValidator(_env_name)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_only)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSection(Section):
    path: str
    id: str | None = None
    root: str | None = None
    max_line_bytes: int = Field(16 * 1024 * 1024, ge=1024, le=1024**3)


class PromptSection(Section):
    system: str | None = None
    user: str | None = None
    messages: str | None = None
    format: Literal["openai-batch"] | None = None
    images: str | list[str] | None = None
    video: str | list[str] | None = None
    fps: float | None = Field(None, gt=0)
    documents: str | list[str] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "PromptSection":
        ways = [self.user is not None, self.messages is not None, self.format is not None]
        if sum(ways) != 1:
            raise ValueError(
                'say how a row becomes a prompt in exactly one way: user = "..." (with system = "..." if wanted), '
                'messages = "column", or format = "openai-batch"'
            )
        if self.system is not None and self.user is None:
            raise ValueError("system goes with user; a messages column or openai-batch line brings its own")
        if self.user is None and self.brings_media:
            raise ValueError(
                "images, video and documents go with user; messages bring media as content parts"
            )
        if self.fps is not None and self.video is None:
            raise ValueError("fps goes with video")
        return self

    @property
    def brings_media(self) -> bool:
        return any(media is not None for media in (self.images, self.video, self.documents))


class ModelSection(Section):
    provider: str
    name: str = Field(min_length=1)
    protocol: Literal["compatible", "native"] = "compatible"
    route: Literal["realtime"] = "realtime"
    base_url: HttpUrl | None = None
    api_key_env: EnvName | None = None


class ResponseSection(Section):
    json_schema: str | JsonObject | None = Field(None, alias="schema")
    labels: list[str] | None = Field(None, min_length=1)
    gold: str | None = None
    stream: bool = False
    on_invalid: Literal["retry", "keep"] = "retry"
    dedupe: bool = False

    @model_validator(mode="after")
    def _one_shape(self) -> "ResponseSection":
        if self.labels is not None and self.json_schema is not None:
            raise ValueError("give either labels or schema, not both")
        if self.gold is not None and self.labels is None:
            raise ValueError("gold names the column of known labels: it goes with labels")
        labels = [label.strip().casefold() for label in self.labels or ()]
        if "" in labels:
            raise ValueError("one of the labels is empty")
        if len(set(labels)) < len(labels):
            raise ValueError(
                "two of the labels differ only in case or spaces; answers could not be told apart"
            )
        return self


class MediaSection(Section):
    """How local files reach the provider: within the request, or uploaded first."""

    upload: Literal["inline", "oss"] = "inline"
    upload_over_bytes: int = Field(7 * 1024 * 1024, ge=0)
    files: Literal["keep", "delete"] = "keep"


class OutputSection(Section):
    path: str
    state: str | None = None
    columns: list[str] | None = None
    raw: bool = False
    rows_per_part: int | None = Field(None, ge=1, le=1_000_000)
    durability: Literal["process", "power"] = "process"


class LimitsSection(Section):
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    max_concurrency: int | None = Field(None, ge=1, le=100_000)
    account: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    priority: float = Field(1.0, ge=0.01, le=100)


class RetrySection(Section):
    max_attempts: int = Field(6, ge=1, le=100)
    row_deadline: Seconds = 600.0


class BudgetSection(Section):
    max_cost: Money | None = None
    max_cost_per_month: Money | None = None
    scope: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    deadline: Seconds | None = None
    window: WindowText | None = None
    time_zone: ZoneName | None = None
    grace: Seconds = 30.0
    error_threshold: float = Field(0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _zone_of_window(self) -> "BudgetSection":
        if self.time_zone is not None and self.window is None:
            raise ValueError("time_zone says by which clock the window is meant: it goes with window")
        if "scope" in self.model_fields_set and self.max_cost_per_month is None:
            raise ValueError("scope says which runs share max_cost_per_month: it goes with that")
        return self

    @property
    def is_capped(self) -> bool:
        return self.max_cost is not None or self.max_cost_per_month is not None

    @property
    def hours(self) -> Window | None:
        """The window as hours of the day; None where the job may run at any."""
        if self.window is None:
            return None
        start, end = (time.fromisoformat(text) for text in self.window.split("-"))
        return Window(start=start, end=end, zone=ZoneInfo(self.time_zone) if self.time_zone else None)


class TransportSection(Section):
    core: Literal["fast", "httpx"] = "fast"
    connect_timeout: Seconds = 10.0
    idle_timeout: Seconds = 330.0
    total_timeout: Seconds = 660.0
    max_response_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    proxy: str | None = None
    ca_file: str | None = None


class SimulatorSection(Section):
    """Options of the simulator that `provider = "simulator"` starts; the same words as `promptmill simulate`."""

    latency: str = "0ms"
    faults: dict[str, float] = Field(default_factory=dict)
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    seed: int = 0


class JobFile(Section):
    """A whole job file as written; nothing resolved yet."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    input: InputSection
    prompt: PromptSection
    model: ModelSection
    params: JsonObject = Field(default_factory=dict)
    response: ResponseSection = ResponseSection()
    media: MediaSection = MediaSection()
    output: OutputSection
    limits: LimitsSection = LimitsSection()
    retry: RetrySection = RetrySection()
    budget: BudgetSection = BudgetSection()
    transport: TransportSection = TransportSection()
    simulator: SimulatorSection = SimulatorSection()
    headers: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ours_alone(self) -> "JobFile":
        if ours := _OWN_PARAMS & set(self.params):
            raise ValueError(
                f"params may not hold {', '.join(sorted(ours))}: the model stands in [model], the messages come from "
                "[prompt], and streaming from [response] stream"
            )
        if name := next(_key_names(self.params), None):
            raise ValueError(
                f"params may not hold {name}: a key never stands in a job file, it goes by model.api_key_env"
            )
        limit = self.params.get("max_tokens", 1)
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise ValueError(f"params.max_tokens is a whole number; found {limit!r}")
        for name in self.headers:
            if name.lower() in _OWN_HEADERS or is_key_name(name):
                raise ValueError(
                    f"headers may not set {name}: a key never stands in a job file, it goes by model.api_key_env, "
                    "and Host and Content-Length follow from the request"
                )
        return self
