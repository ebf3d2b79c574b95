"""Runs in processes of their own that share one account at one provider, told apart in its ledger.

Only what they are and what the ledger counted of them lives here; what must come of it stands in the tests.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson

from pipeline.simulator.settings import Settings
from tests.support.cli import CommandLine, Running
from tests.support.provider import Provider, listening

_RUN = re.compile(rb"\brun (\w+)\b")
_JOB = """
name = "{name}"
[input]
path = "rows.jsonl"
[prompt]
user = "This is of run {name}. Say {{{{ text }}}}"
[model]
provider = "dashscope"
name = "qwen-plus"
base_url = "{base_url}"
[output]
path = "run"
[limits]
max_concurrency = 1000
account = "team"
priority = {priority}
{limits}
"""


class Sharer(NamedTuple):
    """A run: its name, how much it matters, and rows of so many words each."""

    name: str
    priority: float = 1.0
    rows: int = 30_000
    words: tuple[int, ...] = (5,)


@contextmanager
def account(settings: Settings) -> Iterator[Provider]:
    """A provider that knows each request by its run."""

    def run_of(body: bytes) -> str:
        found = _RUN.search(body)
        return found[1].decode() if found else "?"

    with listening(Provider(settings, key=run_of)) as provider:
        yield provider


class Place:
    """The folders of some runs of one user. `limits` are further lines of `[limits]`."""

    def __init__(self, folder: Path, base_url: str, limits: str) -> None:
        self._folder = folder
        self._base_url = base_url
        self._limits = limits

    def made(self, sharer: Sharer, **env: str) -> CommandLine:
        """The command line in a run's own folder, with its job in it."""
        folder = self._folder / sharer.name
        folder.mkdir()
        rows = (
            orjson.dumps({"text": f"{n} " + "word " * sharer.words[n % len(sharer.words)]})
            for n in range(sharer.rows)
        )
        (folder / "rows.jsonl").write_bytes(b"\n".join(rows))
        text = _JOB.format(
            name=sharer.name, base_url=self._base_url, priority=sharer.priority, limits=self._limits
        )
        (folder / "job.toml").write_text(text, encoding="utf-8")
        return CommandLine(folder, {"HOME": str(self._folder), "DASHSCOPE_API_KEY": "sk-right", **env})

    def log(self, sharer: Sharer) -> str:
        return (self._folder / sharer.name / "run" / "run.log").read_text(encoding="utf-8")

    @contextmanager
    def running(self, *sharers: Sharer) -> Iterator[dict[str, Running]]:
        """All of them under way."""
        with ExitStack() as runs:
            yield {
                sharer.name: runs.enter_context(self.made(sharer).started("run", "job.toml", "--quiet"))
                for sharer in sharers
            }


class Count:
    """What the ledger has of some seconds."""

    def __init__(self, provider: Provider, from_s: float, to_s: float) -> None:
        entries = [entry for entry in provider.ledger.entries if from_s <= entry.arrived_s < to_s]
        self.for_s = to_s - from_s
        self.sent = len(entries)
        self.refused = sum(1 for entry in entries if entry.status == 429)
        taken = [entry for entry in entries if entry.status != 429]
        # Of all runs, also of one that sent nothing meanwhile.
        self.requests = Counter(dict.fromkeys(provider.ledger.keys, 0))
        self.tokens = self.requests.copy()
        self.requests.update(entry.key for entry in taken)
        for entry in taken:
            self.tokens[entry.key] += entry.prompt_tokens + entry.completion_tokens

    @property
    def refused_share(self) -> float:
        return self.refused / max(self.sent, 1)

    def requests_used(self, per_minute: float) -> float:
        return self.requests.total() / (per_minute / 60 * self.for_s)

    def tokens_used(self, per_minute: float) -> float:
        return self.tokens.total() / (per_minute / 60 * self.for_s)


def arrived_s(provider: Provider) -> float:
    """When the last request that is over had come, by the provider's clock."""
    entries = provider.ledger.entries
    return entries[-1].arrived_s if entries else 0.0


def wait_until(provider: Provider, at_s: float) -> None:
    """Until requests of that time by the provider's clock are over."""
    while (before_s := arrived_s(provider)) < at_s:
        provider.wait(lambda: arrived_s(provider) >= min(before_s + 10, at_s))
