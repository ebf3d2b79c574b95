"""The journal as another process sees it, while a run writes it or after."""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from pipeline.databases import is_damage, reading
from pipeline.errors import RunFolderError
from pipeline.history import Event, events_of
from pipeline.journal import FILE_NAME, IN_FLIGHT, OPEN_OUTCOMES, parts_of
from pipeline.kept import decode, is_intact
from pipeline.records import Outcome
from pipeline.spent import spend
from pipeline.totals import PartRecord

_EVENTS_SEEN = 5


class JournalView(NamedTuple):
    """What another process sees of a run, while it goes on or after: manifest, parts, and the open ranges' outcomes."""

    manifest: dict[str, str]
    parts: list[PartRecord]
    outcomes: list[Outcome]
    in_flight: int
    spend: tuple[int, int] = (0, 0)  # as `Journal.spend`
    events: tuple[Event, ...] = ()  # the latest, oldest first


def view(folder: Path) -> JournalView:
    """Read a journal without touching the run that writes it. Raises RunFolderError where there is none."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise RunFolderError(
            f"{folder} is not a run folder: it has no {FILE_NAME}. Give the job's output.path"
        )
    try:
        with reading(path) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reopened'").fetchone() is None:
                return JournalView({}, [], [], 0)  # a run is about to make its tables
            return JournalView(
                manifest=dict(db.execute("SELECT name, value FROM manifest")),
                parts=list(parts_of(db)),
                outcomes=[decode(data) for (data,) in db.execute(OPEN_OUTCOMES) if is_intact(data)],
                in_flight=db.execute(IN_FLIGHT).fetchone()[0],
                spend=spend(db),
                events=tuple(events_of(db, _EVENTS_SEEN)),
            )
    except sqlite3.Error as error:
        if is_damage(error):
            raise RunFolderError(
                f"{path} is damaged: {error}. Run the job's command again: it sets the file aside and goes on from the parts"
            ) from error
        raise RunFolderError(
            f"{path} cannot be read: {error}. Look at the folder as the user who runs the job"
        ) from error
