"""Who may read what this program writes: its owner alone, whatever the umask.

Prompts and answers are people's texts, and a run folder holds both: results, journal, logs, exports. Every place that makes
such a file or folder does it by what stands here; `Disk` in `storage.py`, which writes the parts, too. A folder that is there
already keeps its mode: whoever made it decided.

SQLite gives the files beside a database (`-wal`, `-shm`, `-journal`) the mode of the database itself.
"""

import os
from pathlib import Path

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def private_opener(path: str, flags: int) -> int:
    """For `open(..., opener=private_opener)`: a file that this makes is its owner's alone."""
    return os.open(path, flags, PRIVATE_FILE)


def make_private_folder(path: Path) -> None:
    """Make a folder for its owner alone, where there is none; those above it are made as the umask says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(exist_ok=True, mode=PRIVATE_FOLDER)


def make_private_file(path: Path) -> None:
    """Make an empty file for its owner alone, where there is none, for a library that opens files by name."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))


def make_new_private_file(path: Path) -> None:
    """Make an empty file in place of whatever bears its name, also of a link that leads elsewhere."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE))
