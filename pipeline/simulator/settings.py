"""What is asked of the simulator: one checked, immutable value, and how option strings become it.

The only place that knows how options are written; the rest of the simulator sees `Settings`.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

import orjson

from pipeline.errors import JobError
from pipeline.simulator.faults import FaultKind, check_rates, parse_kind
from pipeline.simulator.latency import Latency, parse_duration, parse_latency
from pipeline.vision_tokens import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the simulator behaves; `JobError` where a value cannot be meant.

    Limits are per model, `None` is unlimited; each is enforced over windows of `window_s`, so 1 s allows a
    sixtieth of it per second. With `burst_growth`, a window may carry at most that many times the requests
    of the one before, and always a tenth of the limit. `slow_s` is how long a dripping body takes.

    A stream takes the latency until its first event and `stream_s` from there to its end; `stream_pieces` is
    into how many pieces each text is divided (None: as the provider does). An uploaded file is `processing`
    for `file_processing_s` and until its state was asked `file_polls` times. `sizes` gives the width and
    height in pixels of what web addresses lead to. The body of a chat call takes at most `max_body_bytes`, and the bodies
    of all requests under way `max_held_bytes`. The ledger remembers `ledger_keys` bodies and the last
    `ledger_entries` requests.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allow_non_loopback: bool = False
    seed: int = 0
    latency: Latency = field(default_factory=Latency)
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    window_s: float = 1.0
    burst_growth: float | None = None
    faults: Mapping[FaultKind, float] = field(default_factory=dict)
    slow_s: float = 5.0
    stream_s: float = 0.0
    stream_pieces: int | None = None
    file_processing_s: float = 0.0
    file_polls: int = 0
    file_uploads_per_second: float | None = 3.0
    file_queries_per_second: float | None = 10.0
    most_files: int = 10_000
    most_file_bytes: int = 100 * 1024**3
    sizes: Mapping[str, Size] = field(default_factory=dict)
    max_body_bytes: int = 32 * 1024 * 1024
    max_held_bytes: int = 1024 * 1024 * 1024
    api_key: str | None = None
    ledger_keys: int = 250_000
    ledger_entries: int = 20_000

    def __post_init__(self) -> None:
        if not self.allow_non_loopback and not is_loopback(self.host):
            raise JobError(
                f"the simulator answers anyone, so it binds loopback only; found host {self.host!r}; "
                "use 127.0.0.1, or allow it with --allow-non-loopback"
            )
        if not 0 <= self.port <= 65535:
            raise JobError(f"port: expected 0 (any free one) to 65535, found {self.port}")
        for name in (
            "requests_per_minute",
            "tokens_per_minute",
            "window_s",
            "burst_growth",
            "max_body_bytes",
            "max_held_bytes",
            "stream_pieces",
            "file_uploads_per_second",
            "file_queries_per_second",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise JobError(f"{name}: expected more than 0, found {value}; leave it out for no limit")
        if self.window_s > 60:
            raise JobError(f"window_s: expected at most 60, found {self.window_s:g}")
        if self.burst_growth is not None and self.requests_per_minute is None:
            raise JobError("burst_growth is measured against requests_per_minute: give that too")
        check_rates(self.faults)


def is_loopback(host: str) -> bool:
    """Say whether a host name or address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def settings_from_options(options: Mapping[str, Any]) -> Settings:
    """Make Settings from options by name, as a command line or a JSON object gives them.

    `latency` is written as in `parse_latency`, `window` and `slow` are durations, `fault` (or `faults`) is a
    list of `kind=rate` or a mapping; an option that is None keeps its default. `JobError` names a wrong one
    and the nearest known.
    """
    known = {f.name for f in fields(Settings)} | set(_READ)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise JobError(f"unknown simulator setting {name!r}; {hint}")
        if value is None:
            continue
        target, read = _READ.get(name, (name, None))
        values[target] = read(value) if read else value
    try:
        return Settings(**values)
    except TypeError as error:
        raise JobError(f"simulator settings of a wrong type: {error}") from None


def settings_from_json(text: str) -> Settings:
    """Make Settings from a JSON object of options."""
    try:
        options = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise JobError(f"simulator settings: expected a JSON object, {error}") from None
    if not isinstance(options, dict):
        raise JobError("simulator settings: expected a JSON object")
    return settings_from_options(options)


def _faults(written: Mapping[str, float] | Iterable[str]) -> dict[FaultKind, float]:
    if isinstance(written, Mapping):
        return {parse_kind(str(kind)): float(rate) for kind, rate in written.items()}
    rates: dict[FaultKind, float] = {}
    for text in written:
        kind, _, rate = text.partition("=")
        try:
            rates[parse_kind(kind.strip())] = float(rate)
        except ValueError:
            raise JobError(f"fault {text!r}: expected kind=rate, such as 429=0.05") from None
    return rates


def _sizes(written: Mapping[str, Any]) -> dict[str, Size]:
    """Read `{address: "1372x2044"}`, or with a pair of numbers instead of the text."""
    sizes = {}
    for url, size in written.items():
        sides = size.split("x") if isinstance(size, str) else list(size)
        try:
            width, height = map(int, sides)
        except (TypeError, ValueError):
            raise JobError(
                f"sizes: expected {url!r} to have a size such as 1372x2044, found {size!r}"
            ) from None
        sizes[url] = Size(width, height)
    return sizes


def _latency(written: str | Latency) -> Latency:
    return written if isinstance(written, Latency) else parse_latency(written)


# Options written otherwise than their setting: (name of the setting, how to read it).
_READ: dict[str, tuple[str, Any]] = {
    "latency": ("latency", _latency),
    "window": ("window_s", parse_duration),
    "slow": ("slow_s", parse_duration),
    "fault": ("faults", _faults),
    "faults": ("faults", _faults),
    "stream": ("stream_s", parse_duration),
    "file_processing": ("file_processing_s", parse_duration),
    "sizes": ("sizes", _sizes),
}
