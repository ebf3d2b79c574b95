"""The gate as the rest of the program sees it: its verbs, its limits, and what it says of itself. `limits.py` is one."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Bucket = Literal["requests", "tokens", "burst", "concurrency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the account may do with one model; None is no limit. Raises ValueError where nothing could ever be sent."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_concurrency: int

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            per_minute = getattr(self, name)
            if per_minute is not None and not 0 < per_minute < math.inf:
                raise ValueError(f"{name} must be a number above 0 or None, not {per_minute!r}")
        if self.max_concurrency < 1:
            raise ValueError(f"max_concurrency must be 1 or more, not {self.max_concurrency!r}")


class Gate(Protocol):
    """Who may send, and when; the same verbs whether the limits are this process's own or shared."""

    @property
    def enough(self) -> int | None:
        """More requests than this, sent and in line together, would only wait for one another to end.

        None while it is the pace that holds them back: the longer the line, the better the gate can choose from it.
        """

    async def acquire(self, tokens: int) -> None:
        """Wait for turn, slot, cool-down and pace; then one request of `tokens` (prompt and expected answer) may go.

        Cancelling it leaves no trace. Bound it with `asyncio.timeout`; `wait_for` can lose a slot just given.
        """

    def release(self, reserved_tokens: int, actual_tokens: int | None) -> None:
        """Give back the slot of one acquire and settle its tokens.

        `actual_tokens` is the usage as billed, 0 where the request was refused or not sent, None where unknown.
        """

    def slow(self, bucket: Bucket, retry_after_s: float | None, admitted_s: float | None = None) -> None:
        """Report a failure that asks to slow down; begins or extends the one cool-down that all share.

        `admitted_s` is the loop's time at which the refused request was admitted: requests admitted before a
        cool-down began belong to its burst. Without it the latest admission counts.
        """


class Turn(NamedTuple):
    """Whether it is the turn of who asks: 0 seconds to wait, and it is taken. Else what keeps it, as an index of `Shares`."""

    wait_s: float
    kept_by: int | None = None


class Common(Protocol):
    """A pace kept together with other processes (`common_pace.py`); times are the loop's."""

    def take(self, now_s: float, tokens: int) -> Turn: ...
    def settle(self, unused_tokens: float) -> None: ...
    def cool(self, now_s: float, until_s: float) -> None: ...


class Admitted(NamedTuple):
    """What went through the gate, as reserved."""

    requests: int
    tokens: int


class Chosen(NamedTuple):
    """How many requests and tokens a minute may go at present; None is any number."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
