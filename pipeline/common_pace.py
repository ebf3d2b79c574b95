"""The pace that processes of one account keep together: which of them sends at this instant.

Shares (`leases.py`) divide a quota over seconds. A provider counts within one: where four runs of a quarter each send at the same
instant, or one long prompt is worth seconds of the whole, the others would be refused although each keeps to its share. So each
request also takes its turn here: it may go once all that went before it, from whichever process, is paid for at the whole's rate.

One small file a pool, read and written in place under a lock that the kernel drops with its holder: microseconds, no disk is
waited for, and a process that is killed leaves nothing behind. A cool-down that one process was told is in it too, for all.
"""

import fcntl
import math
import os
import struct
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from pipeline.fair_shares import REQUESTS, TOKENS
from pipeline.gate import Turn
from pipeline.leases import Rates
from pipeline.pace import CATCH_UP_S, LATE_S, LONGEST_DEBT_S, seconds_together
from pipeline.private import make_private_folder, private_opener
from pipeline.processes import boot_name
from pipeline.quota_search import HEADROOM

# The machine's start, by when all requests and all tokens are paid for, until when nothing is sent, and how many requests went.
_HEAD = struct.Struct("<16s3dQ")
_TIME = struct.Struct("<d")
_TIMES = 16_384  # when the latest requests went, in turn: more than a second's at a million a minute
SECOND_S = 1.01  # and what a request's way to the provider may differ from another's
LONGEST_COOLING_S = 600.0  # nobody waits longer; more is not what this program wrote
_LOCKED_S = 0.0005  # another process is in between: microseconds
_AT_ONCE_S = 1e-6


def pace_name(pool: str) -> str:
    """The name of a pool's file."""
    return f"pace-{blake2b(pool.encode(), digest_size=8).hexdigest()}"


class CommonPace:
    """The common pace as one process uses it, from one thread. `rates` are the whole's, in force from the next `take` on.

    `trouble` is what last kept it from the file: then the process goes by its own share alone.
    """

    def __init__(self, file: Path, rates: Rates) -> None:
        """Open the file, or make it. Raises OSError."""
        self._file = file
        self.rates = rates
        self.trouble: OSError | None = None
        self._boot = blake2b(boot_name().encode(), digest_size=16).digest()
        self._unused_tokens = 0.0
        self._cooling_until_s = -math.inf
        make_private_folder(file.parent)
        self._fd = private_opener(str(file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def take(self, now_s: float, tokens: int) -> Turn:
        """One request of so many tokens goes now, or so many seconds are to be waited, and it does not."""
        try:
            return self._locked(now_s, tokens)
        except OSError as error:
            self.trouble = error
            return Turn(0.0)

    def settle(self, unused_tokens: float) -> None:
        """What went before used so much less than it took (below 0: more)."""
        self._unused_tokens += unused_tokens

    def cool(self, now_s: float, until_s: float) -> None:
        """Nothing is sent by any process before the clock's time `until_s`."""
        self._cooling_until_s = max(self._cooling_until_s, until_s)
        self.look(now_s)

    def look(self, now_s: float) -> float:
        """The clock's time until which nothing is sent; what the lock kept from the file before is written."""
        try:
            self._locked(now_s, None)
        except OSError as error:
            self.trouble = error
        return self._cooling_until_s

    def look_at_file(self) -> None:
        """Somebody may have removed the file: all must go by the same one. Raises OSError."""
        with suppress(FileNotFoundError):
            if self._file.stat().st_ino == os.fstat(self._fd).st_ino:
                return
        fd = private_opener(str(self._file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)

    def _locked(self, now_s: float, tokens: int | None) -> Turn:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Turn(_LOCKED_S)
        try:
            return self._turn(now_s, tokens)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _turn(self, now_s: float, tokens: int | None) -> Turn:
        requests_s, tokens_s, cooling_s, count = self._read(now_s)
        requests_per_s, tokens_per_s = (None if rate is None else HEADROOM * rate / 60 for rate in self.rates)
        if tokens_per_s is not None:
            tokens_s = min(tokens_s - self._unused_tokens / tokens_per_s, now_s + LONGEST_DEBT_S)
        self._unused_tokens = 0.0
        self._cooling_until_s = max(self._cooling_until_s, cooling_s)
        turn = Turn(self._cooling_until_s - now_s)
        if tokens_per_s is not None and tokens_s - now_s > turn.wait_s:
            turn = Turn(tokens_s - now_s, TOKENS)
        if requests_per_s is not None:
            requests_wait_s = max(
                requests_s - now_s, self._full_s(count, 1, math.ceil(requests_per_s), now_s)
            )
            for seconds, most in seconds_together(requests_per_s / HEADROOM):
                requests_wait_s = max(requests_wait_s, self._full_s(count, seconds, most, now_s))
            if requests_wait_s > turn.wait_s:
                turn = Turn(requests_wait_s, REQUESTS)
        if tokens is not None and turn.wait_s <= _AT_ONCE_S:
            if requests_per_s is not None:
                # What lapsed while tokens were waited for may be caught up with; any one second still keeps its share.
                late_s = CATCH_UP_S if requests_s < tokens_s and now_s - tokens_s < CATCH_UP_S else LATE_S
                requests_s = max(requests_s, now_s - late_s) + 1 / requests_per_s
            if tokens_per_s is not None:
                tokens_s = max(tokens_s, now_s - LATE_S) + tokens / tokens_per_s
            os.pwrite(self._fd, _TIME.pack(now_s), _HEAD.size + count % _TIMES * _TIME.size)
            count += 1
        os.pwrite(self._fd, _HEAD.pack(self._boot, requests_s, tokens_s, self._cooling_until_s, count), 0)
        return turn if turn.wait_s > _AT_ONCE_S else Turn(0.0)

    def _read(self, now_s: float) -> tuple[float, float, float, int]:
        """What the file holds; a start from nothing where it is new, damaged, or of another start of the machine."""
        said = os.pread(self._fd, _HEAD.size, 0)
        if len(said) == _HEAD.size:
            boot, requests_s, tokens_s, cooling_s, count = _HEAD.unpack(said)
            most_s = now_s + LONGEST_COOLING_S
            if boot == self._boot and all(
                not math.isnan(at_s) and at_s <= most_s for at_s in (requests_s, tokens_s, cooling_s)
            ):
                return requests_s, tokens_s, cooling_s, count
        os.ftruncate(self._fd, 0)
        return now_s, now_s, -math.inf, 0

    def _full_s(self, count: int, seconds: int, most: int, now_s: float) -> float:
        """Seconds until the last `seconds` hold fewer than `most` requests."""
        if count < most or most > _TIMES:
            return 0.0
        said = os.pread(self._fd, _TIME.size, _HEAD.size + (count - most) % _TIMES * _TIME.size)
        went_s: float = _TIME.unpack(said)[0] if len(said) == _TIME.size else -math.inf
        return went_s + seconds - 1 + SECOND_S - now_s
