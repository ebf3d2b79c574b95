"""How the whole of something is divided among those who want of it: by weight, and to nobody more than it wants while others do.

Arithmetic only (weighted max-min fairness; Bertsekas and Gallager, Data Networks, 6.5.2). Who they are is in `leases.py`.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Shares(NamedTuple):
    """Parts of the whole, from 0 to 1: of the requests a minute, the tokens a minute, and the requests in flight."""

    requests: float
    tokens: float
    in_flight: float


WHOLE = Shares(1.0, 1.0, 1.0)
REQUESTS, TOKENS, IN_FLIGHT = range(len(WHOLE))


def fair_shares(wants: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """A share for each name, 1 in all: what it wants, or as much by its weight as all others that want more.

    What nobody wants is spread by weight, so that who begins to want more has some at once. Weights are above 0.
    """
    shares: dict[str, float] = {}
    left, hungry = 1.0, set(wants)
    while hungry:
        weight = sum(weights[name] for name in hungry)
        content = {name for name in hungry if wants[name] <= left * weights[name] / weight}
        if not content:
            return shares | {name: left * weights[name] / weight for name in hungry}
        shares |= {name: max(wants[name], 0.0) for name in content}
        hungry -= content
        left = max(left - sum(shares[name] for name in content), 0.0)
    weight = sum(weights[name] for name in wants)
    return {name: share + left * weights[name] / weight for name, share in shares.items()}
