"""Requests and tokens per minute, counted over short windows for each model, as the provider counts them.

Only the arithmetic lives here; time comes in as a number of seconds. Source: "may be enforced per second
(RPM/60, TPM/60)", tokens are input plus output, in the provider's page on rate limits.
"""

from pipeline.simulator.faults import FaultKind
from pipeline.simulator.settings import Settings

_ROUNDING = 1e-9
_ALWAYS_ALLOWED_SHARE = 0.1  # of a window's requests, whatever the growth: a client must be able to begin


class WindowCount:
    """What was used in the present window, whose allowance may be a fraction or smaller than one amount.

    A window takes amounts while it is not used up, and hands what was too much on to the following ones. So
    one request larger than the allowance still passes, and the sum over a minute still holds exactly.
    """

    __slots__ = ("allowance", "count", "count_before", "index", "used", "window_s")

    def __init__(self, per_minute: float, window_s: float) -> None:
        self.allowance = per_minute * window_s / 60.0
        self.window_s = window_s
        self.index = 0
        self.used = 0.0
        self.count = 0
        self.count_before = 0

    def roll(self, now_s: float) -> None:
        passed = int(now_s // self.window_s) - self.index
        if passed > 0:
            self.index += passed
            self.used = max(0.0, self.used - self.allowance * passed)
            self.count_before = self.count if passed == 1 else 0
            self.count = 0

    @property
    def has_room(self) -> bool:
        return self.used < self.allowance - _ROUNDING

    def spend(self, amount: float) -> None:
        self.used += amount
        self.count += 1


class Quota:
    """The limits of every model: `admit` a request, or say which limit refuses it, at no cost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[str, tuple[WindowCount | None, WindowCount | None]] = {}

    def admit(self, model: str, tokens: int, now_s: float) -> FaultKind | None:
        """Spend one request and `tokens` (in and out), or return the kind of refusal."""
        requests, used_tokens = self._of(model)
        if requests is not None:
            requests.roll(now_s)
            if self._grows_too_fast(requests):
                return FaultKind.LIMIT_BURST
            if not requests.has_room:
                return FaultKind.LIMIT_REQUESTS
        if used_tokens is not None:
            used_tokens.roll(now_s)
            if not used_tokens.has_room:
                return FaultKind.LIMIT_TOKENS
            used_tokens.spend(tokens)
        if requests is not None:
            requests.spend(1)
        return None

    def _grows_too_fast(self, requests: WindowCount) -> bool:
        growth = self._settings.burst_growth
        if growth is None:
            return False
        allowed = max(requests.allowance * _ALWAYS_ALLOWED_SHARE, requests.count_before * growth, 1.0)
        return requests.count + 1 > allowed + _ROUNDING

    def _of(self, model: str) -> tuple[WindowCount | None, WindowCount | None]:
        counts = self._models.get(model)
        if counts is None:
            limits = (self._settings.requests_per_minute, self._settings.tokens_per_minute)
            requests, tokens = (WindowCount(m, self._settings.window_s) if m else None for m in limits)
            counts = self._models[model] = (requests, tokens)
        return counts
