"""When a run must have ended: its deadline, and the hours of the day in which it may run. Pure: the time comes in.

Feeding stops before the end, by the lead that lets requests in flight finish; at the end they are cancelled.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

# Of what is left when the run starts: a short deadline must not be all grace.
_LARGEST_LEAD_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Hours of the day, by the clock of a zone (None: the machine's); over midnight where `end` is not after `start`."""

    start: time
    end: time
    zone: ZoneInfo | None = None

    def closes(self, now: datetime) -> datetime | None:
        """When the window that `now` (aware) lies in closes; None outside of it."""
        local = now.astimezone(self.zone)
        for day in (local.date() - timedelta(days=1), local.date()):
            end_day = day if self.start < self.end else day + timedelta(days=1)
            opens = self._at(datetime.combine(day, self.start))
            closes = self._at(datetime.combine(end_day, self.end))
            if opens <= now < closes:
                return closes
        return None

    def opens(self, now: datetime) -> datetime:
        """When the window opens next after `now`."""
        today = now.astimezone(self.zone).date()
        openings = (self._at(datetime.combine(today + timedelta(days=days), self.start)) for days in range(3))
        return next(opening for opening in openings if opening > now)

    def _at(self, wall: datetime) -> datetime:
        """A wall-clock time as an instant: one that a change of clocks skips or repeats counts by the offset before it."""
        return wall.replace(tzinfo=self.zone).astimezone(UTC) if self.zone else wall.astimezone(UTC)


class End(NamedTuple):
    """When feeding stops and when all must be over, in seconds from the start, and why."""

    feed_s: float
    lead_s: float
    reason: str


class Closed(NamedTuple):
    """The run may not run now."""

    reason: str


def end_of_run(
    now: datetime, *, deadline_s: float | None, window: Window | None, grace_s: float
) -> End | Closed | None:
    """The earlier of deadline and the window's end; None where there is neither."""
    ends: list[tuple[float, str]] = []
    if deadline_s is not None:
        ends.append((deadline_s, f"the deadline of {deadline_s:g} s is reached"))
    if window is not None:
        closes = window.closes(now)
        if closes is None:
            opens = window.opens(now).astimezone(window.zone)
            return Closed(
                f"outside the window {window.start:%H:%M}-{window.end:%H:%M}, which opens at {opens:%Y-%m-%d %H:%M %Z}: "
                "nothing was sent; run the same command then"
            )
        ends.append(
            ((closes - now).total_seconds(), f"the window {window.start:%H:%M}-{window.end:%H:%M} closes")
        )
    if not ends:
        return None
    end_s, reason = min(ends)
    lead_s = min(grace_s, end_s * _LARGEST_LEAD_SHARE)
    return End(end_s - lead_s, lead_s, f"{reason}; run the same command again to go on")
