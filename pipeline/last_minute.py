"""What went in the last minute, second by second; a fixed ring, however much goes. Arithmetic only: time comes in as seconds."""


class LastMinute:
    """Requests and tokens of the last sixty seconds."""

    __slots__ = ("_requests", "_seconds", "_tokens")

    def __init__(self) -> None:
        self._seconds = [-1] * 60
        self._requests = [0] * 60
        self._tokens = [0] * 60

    def add(self, now_s: float, tokens: int) -> None:
        """One request of so many tokens goes."""
        second = int(now_s)
        place = second % 60
        if self._seconds[place] != second:
            self._seconds[place] = second
            self._requests[place] = 0
            self._tokens[place] = 0
        self._requests[place] += 1
        self._tokens[place] += tokens

    def total(self, now_s: float) -> tuple[int, int]:
        """How many requests, and how many tokens."""
        current = [place for place, second in enumerate(self._seconds) if second > int(now_s) - 60]
        return sum(self._requests[p] for p in current), sum(self._tokens[p] for p in current)
