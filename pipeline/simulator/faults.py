"""What goes wrong on purpose: the fault kinds, and which one a request meets.

Decisions only. What a kind puts on the wire is in `chat_endpoint`, `delivery` and `refusals`.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from random import Random

from pipeline.errors import JobError


class FaultKind(StrEnum):
    """One way to go wrong; the values are what `--fault` and the header `X-Simulate` take."""

    LIMIT_REQUESTS = "429"
    LIMIT_TOKENS = "429_tokens"
    LIMIT_BURST = "429_burst"
    INTERNAL_ERROR = "500"
    UNAVAILABLE = "503"
    HTML_502 = "html_502"
    BLOCKED = "blocked"  # content inspection refuses the prompt
    RESET = "reset"  # connection reset (RST) before the answer
    STALL = "stall"  # accepted, never answered
    CUT = "cut"  # the body ends half-way, then the connection does
    SLOW = "slow"  # the body drips
    EMPTY = "empty"  # 200 without a body
    GARBAGE = "garbage"  # 200, not JSON
    ERROR_200 = "error_200"  # 200 with an error inside
    PARTIAL = "partial"  # 200 with the provider's time-out header, text cut, no finish reason
    TRUNCATED = "truncated"  # finish reason length
    PREFIXED_400 = "400_prefixed"  # a refusal whose JSON stands behind `data: `, as for a streamed call
    CUT_STREAM = "cut_stream"  # the stream ends in good order, but before any finish reason
    STALL_STREAM = "stall_stream"  # the stream begins, then nothing more comes
    ERROR_EVENT = "error_event"  # the stream begins, then an error event ends it


# These are said at once, before any limit is spent: the provider never began to work.
AT_ONCE = frozenset(
    {
        FaultKind.LIMIT_REQUESTS,
        FaultKind.LIMIT_TOKENS,
        FaultKind.LIMIT_BURST,
        FaultKind.INTERNAL_ERROR,
        FaultKind.UNAVAILABLE,
        FaultKind.HTML_502,
        FaultKind.BLOCKED,
        FaultKind.PREFIXED_400,
    }
)
# These befall streams only; a call that does not stream is spared them.
OF_STREAMS = frozenset({FaultKind.CUT_STREAM, FaultKind.STALL_STREAM, FaultKind.ERROR_EVENT})
NO_FAULT = "none"


def parse_kind(text: str) -> FaultKind:
    """Read a fault kind; `JobError` names the nearest known one."""
    try:
        return FaultKind(text)
    except ValueError:
        known = [kind.value for kind in FaultKind]
        near = get_close_matches(text.lower(), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise JobError(f"unknown fault {text!r}; {hint}") from None


def check_rates(rates: Mapping[FaultKind, float]) -> None:
    """Refuse rates outside 0 to 1, or that add up to more than every request."""
    for kind, rate in rates.items():
        if not 0 <= rate <= 1:
            raise JobError(f"fault {kind.value}: a rate lies between 0 and 1, found {rate:g}")
    if (total := sum(rates.values())) > 1 + 1e-9:
        raise JobError(
            f"the fault rates add up to {total:g}, more than every request; lower them to 1 in all"
        )


def choose_fault(rates: Mapping[FaultKind, float], random: Random) -> FaultKind | None:
    """Draw at most one fault; always one draw, so that what follows does not depend on the rates."""
    at = random.random()
    for kind, rate in rates.items():
        if at < rate:
            return kind
        at -= rate
    return None
