"""Sums over sliding windows of time, for what is promised about every second."""

from collections import deque
from collections.abc import Iterable


def heaviest_window(events: Iterable[tuple[float, float]], width_s: float) -> float:
    """The largest sum of amounts within any half-open window of `width_s`; events are (time, amount), in order."""
    inside: deque[tuple[float, float]] = deque()
    total = heaviest = 0.0
    for at_s, amount in events:
        inside.append((at_s, amount))
        total += amount
        while inside[0][0] <= at_s - width_s:
            total -= inside.popleft()[1]
        heaviest = max(heaviest, total)
    return heaviest
