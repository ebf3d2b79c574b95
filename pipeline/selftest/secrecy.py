"""Promise 7: no secret and no traceback of ours gets out; the text of rows neither runs as a template nor reads a file
outside `input.root`.

The key is a made-up one that the simulator insists on, so that it is really sent; the server quotes it in refusals, of a row
and of the whole run. Then every file and word that the commands left is searched for it. Rows that try to run as templates are
proven by their answers, which quote what the server was asked; pictures outside the root, by what was never asked.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.records import FailureKind, Status
from pipeline.selftest.place import JOB, Place, Server, rows, sets
from pipeline.selftest.results import Row, read_rows, read_table
from pipeline.selftest.verdict import Verdict, breaches, some

_TEMPLATES = (
    "{{ 7 * 7 }}",
    "{{ image }}",
    "{{ row }}",
    "{{ cycler.__init__ }}",
    "{% set a = 1 %}",
    "{% if 1 %}in{% endif %}",
    "{# gone #}",
    "no template at all",
)
_PROMPT = """'Reply with "x{{ text }}-a" or "x{{ text }}-b". {{ note }}'"""
_SECRET = b"what lies outside of the root"
_TRACEBACK = b"Traceback (most recent call last)"
_QUOTED = "quoted"


class Evidence(NamedTuple):
    """`answers` are those that may stand in a row, by its id; `outside` the rows whose picture may not be read.

    `leaks` names what was found where; `searched` counts the files looked through, `keyed` the answers that took the key.
    """

    rows: list[Row]
    answers: Mapping[str, tuple[str, ...]]
    outside: list[str]
    received: int
    keyed: int
    leaks: list[str]
    searched: int


async def check(place: Place) -> Verdict:
    return judge(await gather(place))


async def gather(place: Place) -> Evidence:
    outside = _lay_out(place.folder)
    lines, answers = _lines(place, outside)
    async with place.simulator(api_key=place.key) as server:
        await _main(place, server, lines)
        totals = (await server.ledger())["totals"]
        await _refused(place, server)
    looked = Search({"the key": place.key.encode(), "a traceback": _TRACEBACK, "a file outside": _SECRET})
    for path in sorted(place.folder.rglob("*")):
        if path.is_file() and (path.suffix in {".out", ".err"} or "runs" in path.parts):
            looked.through(path, place.folder)
    return Evidence(
        rows=read_rows(place.folder / "runs" / "main"),
        answers=answers,
        outside=list(outside),
        received=totals["received"],
        keyed=totals["completed"],
        leaks=looked.found,
        searched=looked.files,
    )


def judge(evidence: Evidence) -> Verdict:
    by_id = {row.row_id: row for row in evidence.rows}
    ran = [name for name, allowed in evidence.answers.items() if _content(by_id.get(name)) not in allowed]
    read = [
        name
        for name in evidence.outside
        if (row := by_id.get(name)) is None
        or (row.status, row.error_kind, row.attempts) != (Status.FAILED, FailureKind.INVALID_INPUT, 0)
    ]
    due = len(evidence.answers) + 1  # the row whose refusal quotes the key
    quoted = by_id.get(_QUOTED)
    return Verdict(
        f"{len(evidence.leaks)} leaks of the key or a traceback in {evidence.searched} files; {len(ran)} of "
        f"{len(evidence.answers)} rows ran as templates; {len(read)} of {len(evidence.outside)} read outside the root",
        breaches(
            (evidence.leaks, f"found {some(evidence.leaks)}"),
            (ran, f"what was asked is not the text of the rows {some(ran)}"),
            (read, f"pictures outside the root that were not refused: {some(read)}"),
            (
                evidence.received != due,
                f"{evidence.received} requests were sent for the {due} rows that may be sent",
            ),
            (
                evidence.keyed != len(evidence.answers),
                f"{evidence.keyed} of {len(evidence.answers)} answers took the key: nothing was proven",
            ),
            (
                quoted is None or quoted.error_kind != FailureKind.INVALID_REQUEST,
                "the refusal that quotes the key was not met",
            ),
        ),
    )


def _content(row: Row | None) -> str | None:
    return None if row is None or row.status != Status.OK else row.content


async def _main(place: Place, server: Server, lines: bytes) -> None:
    """A run with the right key, and every command that shows something of it."""
    place.write_job(server, lines)
    settings = sets(
        "model.name=qwen-vl-plus",
        f"prompt.user={_PROMPT}",
        'prompt.images=["{{ image }}"]',
        "input.root=media",
        'output.columns=["image"]',
    )
    run = ("run", JOB, "--output", "runs/main", *settings)
    (await place.promptmill("check", *run[1:], "--show", "3", name="check")).expect(3)
    (await place.promptmill(*run, name="main")).expect(0)
    (await place.promptmill("status", "runs/main", name="status")).expect(0)
    (await place.promptmill("export", "runs/main", "-o", "runs/main.csv", name="export")).expect(0)


async def _refused(place: Place, server: Server) -> None:
    """A run whose key is refused, by a server that says which key that was."""
    demand = f"[[simulate:InvalidApiKey: Incorrect API key provided: {place.key}]]"
    place.write_job(server, rows((f"r{n}", demand) for n in range(8)))
    settings = sets("output.columns=[]")
    (await place.promptmill("run", JOB, "--output", "runs/refused", *settings, name="refused")).expect(4)


def _lay_out(folder: Path) -> dict[str, str]:
    """Make the root with a picture in it, and one outside; return the ways to the latter, by row id."""
    root, outside = folder / "media", folder / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "inside.png").write_bytes(_picture())
    secret = outside / "secret.png"
    secret.write_bytes(_picture() + _SECRET)
    (root / "link.png").symlink_to(secret)
    (root / "folder").symlink_to(outside)
    return {
        "dots": "../outside/secret.png",
        "more-dots": "folder/../../outside/secret.png",
        "absolute": str(secret),
        "url": secret.as_uri(),
        "link": "link.png",
        "folder-link": "folder/secret.png",
    }


def _lines(place: Place, outside: Mapping[str, str]) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    found: list[dict[str, str]] = []
    answers: dict[str, tuple[str, ...]] = {}
    for number, text in enumerate(_TEMPLATES):
        found.append({"id": f"t{number}", "text": text, "image": "inside.png", "note": ""})
        answers[f"t{number}"] = (f"x{text}-a", f"x{text}-b")
    found += ({"id": name, "text": "", "image": image, "note": ""} for name, image in outside.items())
    note = f"[[simulate:InvalidParameter: no account has the key {place.key}]]"
    found.append({"id": _QUOTED, "text": "", "image": "inside.png", "note": note})
    return b"".join(json.dumps(row).encode() + b"\n" for row in found), answers


def _picture() -> bytes:
    """The head of a picture of 64 by 64, which is all that is looked at."""
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + b"\0" * 4


class Search:
    """Looks for needles in files: in their bytes, and in what compressed ones say."""

    def __init__(self, needles: Mapping[str, bytes]) -> None:
        self._needles = needles
        self.found: list[str] = []
        self.files = 0

    def through(self, path: Path, base: Path) -> None:
        self.files += 1
        said = path.read_bytes()
        if path.suffix == ".parquet":
            table = read_table(path)
            said += repr([table.schema.metadata, table.to_pylist()]).encode()
        self.found += [
            f"{what} in {path.relative_to(base)}" for what, it in self._needles.items() if it in said
        ]
