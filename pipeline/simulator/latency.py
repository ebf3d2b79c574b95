"""How long an answer takes: a distribution as a short text, such as `lognormal:median=800ms,sigma=0.5`.

Nothing here waits; the server does.
"""

import math
import re
from dataclasses import dataclass
from random import Random

from pipeline.errors import JobError

FORMS = "200ms, uniform:100ms-400ms or lognormal:median=800ms,sigma=0.5"
LONGEST_S = 3600.0  # no provider keeps a call longer; it also bounds the tail of a lognormal

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0}


def parse_duration(text: str) -> float:
    """Read a duration such as `250ms`, `1.5s` or `2m` (or a bare `0`) as seconds; `JobError` otherwise."""
    text = text.strip()
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise JobError(f"expected a duration such as 250ms, 1.5s or 2m, found {text!r}")
    return float(match[1]) * _UNIT_S[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds an answer takes: between `low_s` and `high_s`, or lognormal around `low_s` with a `sigma`."""

    low_s: float = 0.0
    high_s: float = 0.0
    sigma: float | None = None

    def sample_s(self, random: Random) -> float:
        if self.sigma is not None:
            return min(self.low_s * math.exp(random.gauss(0.0, self.sigma)), LONGEST_S)
        if self.low_s == self.high_s:
            return self.low_s
        return random.uniform(self.low_s, self.high_s)


def parse_latency(text: str) -> Latency:
    """Read one of the three forms; `JobError` says what was expected."""
    name, _, rest = text.strip().partition(":")
    try:
        if not rest:
            fixed_s = parse_duration(name)
            return Latency(low_s=fixed_s, high_s=fixed_s)
        if name == "uniform":
            low, _, high = rest.partition("-")
            low_s, high_s = parse_duration(low), parse_duration(high)
            if low_s > high_s:
                raise JobError(f"{low.strip()} is longer than {high.strip()}")
            return Latency(low_s=low_s, high_s=high_s)
        if name == "lognormal":
            return _lognormal(rest)
    except JobError as error:
        raise JobError(f"latency {text!r}: {error}; write it as {FORMS}") from None
    raise JobError(f"latency {text!r}: unknown distribution {name!r}; write it as {FORMS}")


def _lognormal(rest: str) -> Latency:
    values = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    if set(values) != {"median", "sigma"}:
        raise JobError(f"lognormal takes median and sigma, found {', '.join(sorted(values))}")
    try:
        sigma = float(values["sigma"])
    except ValueError:
        raise JobError(f"sigma is a number, found {values['sigma']!r}") from None
    if not 0 <= sigma <= 5:
        raise JobError(f"sigma lies in 0 to 5, found {values['sigma']}")
    median_s = parse_duration(values["median"])
    return Latency(low_s=median_s, high_s=median_s, sigma=sigma)
