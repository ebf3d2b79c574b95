"""What the simulator received and answered, so that a test can prove that nothing was lost or asked twice.

Counting only, no HTTP. A request is known by a key made of its body: the same bytes sent again have the same
key. Memory is bounded: beyond the bounds, totals stay exact and the dropped ones are counted.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_DIGESTS = 250_000
MOST_STATUSES = 1_000  # of one key; the first
NO_STATUS = 0  # stands among a key's statuses for a request that got no answer at all


def body_key(body: bytes) -> str:
    """Name a request by its body: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(body).hexdigest()[:16]


@dataclass(slots=True)
class Entry:
    """One request. `seen` counts the requests with this body, this one included.

    `arrived_s` is seconds since the server started. `answered`: the response was wholly written to a
    connected client. `completed`: it was, and held a completion. Tokens are those generated, and so billed
    (`billed`), whether they arrived or not. `modes` says what kind of call it was (`compatible`, `stream`, `images` ...),
    once it was known to be one.
    """

    arrived_s: float
    key: str
    seen: int
    model: str | None = None
    status: int | None = None
    answered: bool = False
    completed: bool = False
    fault: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_id: str | None = None
    modes: tuple[str, ...] = ()

    @property
    def billed(self) -> bool:
        return self.prompt_tokens + self.completion_tokens > 0


@dataclass(slots=True)
class KeyTally:
    """All requests of one key; `statuses` in the order in which they ended, 0 where there was no answer."""

    received: int = 0
    billed: int = 0
    answered: int = 0
    completed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    statuses: list[int] = field(default_factory=list)


@dataclass(slots=True)
class UploadTally:
    """What was uploaded to one store; `digests` count each content ever stored, so that twice shows."""

    uploaded: int = 0
    refused: int = 0
    deleted: int = 0
    uploaded_bytes: int = 0
    digests: Counter[str] = field(default_factory=Counter)
    dropped: int = 0  # uploads whose content was not remembered

    def add(self, content: bytes) -> None:
        self.uploaded += 1
        self.uploaded_bytes += len(content)
        digest = hashlib.sha256(content).hexdigest()
        if len(self.digests) < MOST_DIGESTS or digest in self.digests:
            self.digests[digest] += 1
        else:
            self.dropped += 1

    def totals(self) -> dict[str, int]:
        return {
            "uploaded": self.uploaded,
            "distinct": len(self.digests),
            "uploaded_bytes": self.uploaded_bytes,
            "refused": self.refused,
            "deleted": self.deleted,
            "dropped": self.dropped,
        }


class Ledger:
    """Counts each request when it has been read (`receive`) and again when it is over (`settle`).

    `key` names a request by its body.
    """

    def __init__(self, *, max_keys: int, max_entries: int, key: Callable[[bytes], str] = body_key) -> None:
        self._max_keys = max_keys
        self._key = key
        self.keys: dict[str, KeyTally] = {}
        self.keys_dropped = 0  # requests whose body was not remembered
        self.entries: deque[Entry] = deque(maxlen=max_entries)
        self.received = 0
        self.unread = 0  # refused for the size of their body, so neither received nor known by a key
        self.settled = 0
        self.billed = 0
        self.answered = 0
        self.completed = 0
        self.repeated = 0  # completions of a body that had been completed before
        self.max_in_flight = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.by_status: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.files = UploadTally()
        self.oss = UploadTally()

    def receive(self, body: bytes, arrived_s: float) -> Entry:
        key = self._key(body)
        self.received += 1
        self.max_in_flight = max(self.max_in_flight, self.received - self.settled)
        tally = self.keys.get(key)
        if tally is None:
            if len(self.keys) >= self._max_keys:
                self.keys_dropped += 1
                # A body that is not remembered counts as new each time with another number, so that a fault
                # drawn for it does not return for ever.
                return Entry(arrived_s, key, self.received)
            tally = self.keys[key] = KeyTally()
        tally.received += 1
        return Entry(arrived_s, key, tally.received)

    def settle(self, entry: Entry) -> None:
        self.settled += 1
        self.entries.append(entry)
        self.by_status[entry.status or NO_STATUS] += 1
        if entry.fault is not None:
            self.faults[entry.fault] += 1
        self.modes.update(entry.modes)
        self.billed += entry.billed
        self.answered += entry.answered
        self.completed += entry.completed
        self.prompt_tokens += entry.prompt_tokens
        self.completion_tokens += entry.completion_tokens
        tally = self.keys.get(entry.key)
        if tally is not None:
            self.repeated += entry.completed and tally.completed > 0
            tally.billed += entry.billed
            tally.answered += entry.answered
            tally.completed += entry.completed
            tally.prompt_tokens += entry.prompt_tokens
            tally.completion_tokens += entry.completion_tokens
            if len(tally.statuses) < MOST_STATUSES:
                tally.statuses.append(entry.status or NO_STATUS)

    def totals(self) -> dict[str, Any]:
        return {
            "received": self.received,
            "unread": self.unread,
            "billed": self.billed,
            "answered": self.answered,
            "completed": self.completed,
            "repeated": self.repeated,
            "in_flight": self.received - self.settled,
            "max_in_flight": self.max_in_flight,
            "distinct": len(self.keys),
            "by_status": {str(status or "none"): n for status, n in sorted(self.by_status.items())},
            "faults": dict(sorted(self.faults.items())),
            "modes": dict(sorted(self.modes.items())),
            "files": self.files.totals(),
            "oss": self.oss.totals(),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "keys_dropped": self.keys_dropped,
            "entries_dropped": self.settled - len(self.entries),
        }

    def report(self, *, keys: bool = True, full: bool = False) -> dict[str, Any]:
        """Return the totals, with `keys` each body's tally, and with `full` the last requests one by one."""
        report: dict[str, Any] = {"totals": self.totals()}
        if keys:
            report["keys"] = {key: asdict(tally) for key, tally in self.keys.items()}
        if full:
            report["entries"] = [asdict(entry) for entry in self.entries]
        return report
