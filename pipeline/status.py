"""`promptmill status`: progress and spend of a run, read from its journal while it goes on or after."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pipeline.budget import said
from pipeline.history import Event
from pipeline.journal_view import view
from pipeline.progress import Snapshot, as_json, from_json
from pipeline.run_folder import RUN_FILE, sum_parts
from pipeline.run_lock import is_held
from pipeline.totals import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run as it stands. `live` is what the running process last said of itself; None where none runs.

    `reason` is why the last run ended, where it could say.
    `spend` is what all attempts cost and what may have been paid without an answer, in billionths.
    `events` are the latest changes of pace, with their reasons.
    `open_rows` of the settled rows have no part yet; their cost is not in the totals.
    """

    name: str
    rows: int
    parts: int
    totals: Totals
    spend: tuple[int, int]
    open_rows: int
    in_flight: int
    live: Snapshot | None
    running: bool
    reason: str | None
    events: Sequence[Event]

    @property
    def state(self) -> Literal["running", "finished", "stopped"]:
        if self.running:
            return "running"
        return "finished" if self.is_looked_over and self.totals.rows == self.rows else "stopped"

    @property
    def is_looked_over(self) -> bool:
        """Whether any run has come to know the rows of the input."""
        return bool(self.rows or self.parts)

    def to_json(self) -> dict[str, Any]:
        """All of it for a program: amounts are strings, and null where they are not known (docs/limits.md, docs/budgets.md).

        `cost` is also null where a part is still open and no run goes on: what its rows cost is known to the run alone.
        """
        paid, maybe = self.spend
        cost = self.totals.known_cost if not self.open_rows else self.live.cost if self.live else None
        return {
            "name": self.name,
            "state": self.state,
            "rows": self.rows if self.is_looked_over else None,
            "done": self.totals.rows,
            "parts": self.parts,
            "status": dict(self.totals.status),
            "errors": dict(self.totals.errors),
            "tokens": dict(self.totals.tokens),
            "cost": None if cost is None else f"{cost:f}",
            "spent": said(paid + maybe) if paid + maybe else None,
            "maybe_cost": said(maybe) if paid + maybe else None,
            "in_flight": self.in_flight,
            "exit_reason": self.reason,
            "now": None if self.live is None else as_json(self.live),
            "events": [
                {"at": local(event).isoformat(), "run_id": event.run_id, "reason": event.reason}
                for event in self.events
            ],
        }

    def cost_said(self) -> str:
        """The spend in words."""
        if self.live is not None and self.live.cost is not None and self.live.currency is not None:
            return f"cost {self.live.cost:.6f} {self.live.currency}"
        if self.totals.known_cost is None:
            known = f"; of the others {self.totals.cost:.6f}" if self.totals.cost else ""
            return f"cost unknown for {self.totals.unpriced:,} rows{known}"
        following = (
            f", and that of {self.open_rows:,} rows whose part is still open" if self.open_rows else ""
        )
        return f"cost {self.totals.cost:.6f}{following}"

    def spend_said(self) -> str | None:
        """What the folder spent, in words, where it is more than its rows tell; None where nothing was or no price is known."""
        paid, maybe = self.spend
        if not paid + maybe:
            return None
        uncertain = f", {said(maybe)} of it at most, for requests without an answer" if maybe else ""
        return f"spent {said(paid + maybe)}{uncertain}"


def read_status(folder: Path) -> RunStatus:
    """Read a run folder's state. Raises RunFolderError where it is none."""
    running = is_held(folder)
    seen = view(folder)
    totals = sum_parts(seen.parts)
    still_open = Totals()
    # Prices are known to the run alone: what is settled in open ranges is counted here, its cost follows with the part.
    still_open.add(seen.outcomes, [Decimal(0)] * len(seen.outcomes))
    totals.merge(still_open)
    live = json.loads(seen.manifest.get("live", "null"))
    return RunStatus(
        name=seen.manifest.get("name", folder.name),
        rows=int(seen.manifest.get("rows", "0")),
        parts=len(seen.parts),
        totals=totals,
        spend=seen.spend,
        open_rows=still_open.rows,
        in_flight=seen.in_flight,
        live=from_json(live) if live is not None and running else None,
        running=running,
        reason=None if running else _last_reason(folder),
        events=seen.events,
    )


def local(event: Event) -> datetime:
    """When an event was, by the clock of this machine."""
    return datetime.fromtimestamp(event.at_us / 1_000_000, tz=UTC).astimezone()


def _last_reason(folder: Path) -> str | None:
    """Why the last run ended, by its own summary; None where it was killed before it could say."""
    try:
        return str(json.loads((folder / RUN_FILE).read_bytes())["summary"]["exit_reason"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
        return None
