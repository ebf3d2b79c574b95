"""Jobs that are made to be killed: their rows, their files, and how their provider behaves."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pipeline.simulator.latency import parse_latency
from pipeline.simulator.settings import Settings
from tests.support.simulators import png

_JOB = """
name = "{name}"
[input]
path = "rows.jsonl"
id = "id"
root = "."
[prompt]
user = 'Is this "positive" or "negative"? {{{{ text }}}}'
{prompt}
[model]
{address}
name = "{model}"
[response]
{response}
[output]
path = "out"
rows_per_part = {rows_per_part}
[limits]
max_concurrency = {at_once}
requests_per_minute = 6_000_000
tokens_per_minute = 60_000_000_000
{more}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A job over `rows` rows. `lasts_s` is about how long a life is let live: some requests, some parts.

    Where it `changes`, it is killed while it goes on in the folder of a finished run over other rows: `before`.
    `files` are made of a number and shared by the rows in turn; `column` is the prompt's key that brings them.
    """

    name: str
    rows: int
    at_once: int = 8
    rows_per_part: int = 40
    lasts_s: float = 0.4
    model: str = "qwen-plus"
    latency: str = "uniform:10ms-60ms"
    stream_s: float = 0.0
    response: str = 'labels = ["positive", "negative"]'
    more: str = ""
    column: str | None = None
    files: int = 0
    content: Callable[[int], tuple[str, bytes]] | None = None
    changes: bool = False

    @property
    def before(self) -> list[int]:
        """The numbers of the rows of a run before, none where there is none."""
        return list(range(self.rows)) if self.changes else []

    @property
    def numbers(self) -> list[int]:
        """The numbers of the rows, in input order. A row that changed has another number, as it is another question."""
        if not self.changes:
            return list(range(self.rows))
        changed = [self.rows + n if n % 3 == 0 else n for n in range(self.rows) if n % 10]
        return Random(self.rows).sample(changed, len(changed))

    def settings(self) -> Settings:
        return Settings(
            latency=parse_latency(self.latency),
            stream_s=self.stream_s,
            file_uploads_per_second=None,
            file_queries_per_second=None,
            file_polls=1 if self.column == "documents" else 0,
        )

    def write(self, folder: Path, base_url: str | None) -> list[bytes]:
        """Write the job, its rows and its files; returns the contents of the files. Without a URL it starts its own server."""
        contents, names = [], []
        for number in range(self.files):
            assert self.content is not None
            name, content = self.content(number)
            (folder / name).write_bytes(content)
            names.append(name)
            contents.append(content)
        self.write_rows(folder, self.numbers, names)
        prompt = "" if self.column is None else f'{self.column} = ["{{{{ path }}}}"]'
        address, more = 'provider = "simulator"', f'[simulator]\nlatency = "{self.latency}"'
        if base_url is not None:
            address, more = f'provider = "dashscope"\nbase_url = "{base_url}"', self.more
        job = _JOB.format(
            name=self.name,
            prompt=prompt,
            address=address,
            model=self.model,
            response=self.response,
            rows_per_part=self.rows_per_part,
            at_once=self.at_once,
            more=more,
        )
        (folder / "job.toml").write_text(job, encoding="utf-8")
        return contents

    def write_rows(self, folder: Path, numbers: Sequence[int], files: Sequence[str] = ()) -> None:
        """Write the rows of these numbers, in this order."""
        rows = [{"id": f"r{n}", "text": f"This is row {n} of all."} for n in numbers]
        if files:
            rows = [{**row, "path": files[n % len(files)]} for n, row in enumerate(rows)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def digest(content: bytes) -> str:
    """What the program knows a content by."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _document(number: int) -> tuple[str, bytes]:
    return f"document-{number}.txt", f"This is document {number}. ".encode() * 20_000


def _picture(number: int) -> tuple[str, bytes]:
    return f"picture-{number}.png", png(64 + number, 64, padding=300_000)


TEXT = Work(name="text", rows=1500)
# Parts all the time, and many requests in flight.
LOAD = Work(name="load", rows=6000, at_once=64, rows_per_part=25, latency="uniform:0ms-30ms", lasts_s=0.3)
STREAMS = Work(
    name="streams",
    rows=300,
    latency="uniform:5ms-30ms",
    stream_s=0.04,
    response='labels = ["positive", "negative"]\nstream = true',
)
# Uploads are paced at three a second: lives last longer, and few rows need many files.
DOCUMENTS = Work(
    name="documents",
    rows=36,
    rows_per_part=9,
    lasts_s=1.2,
    model="qwen-long",
    response="",
    column="documents",
    files=12,
    content=_document,
)
PICTURES = Work(
    name="pictures",
    rows=120,
    rows_per_part=20,
    lasts_s=0.5,
    model="qwen-vl-max",
    column="images",
    files=40,
    content=_picture,
    more='[media]\nupload = "oss"\nupload_over_bytes = 1000',
)
# A finished run whose rows were then edited, dropped and put in another order: killed while it takes its answers over, and after.
CHANGED = Work(name="changed", rows=800, lasts_s=0.2, changes=True)
# Its provider is a child of the run, which takes most of a second to start.
CHILD = Work(name="child", rows=200, lasts_s=1.2)
