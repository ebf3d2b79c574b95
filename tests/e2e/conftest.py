"""A folder with a job and its rows, and a `promptmill` that leaves no process behind."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.support.cli import CommandLine, Ended
from tests.support.lives import ForkedCommandLine
from tests.support.provider import Provider, serving

Typed = Callable[..., Ended]
JOB = """
name = "mood"
[input]
path = "rows.jsonl"
id = "id"
[prompt]
user = 'Is this "positive" or "negative"? {{ text }}'
[model]
provider = "simulator"
name = "qwen-plus"
[response]
labels = ["positive", "negative"]
[output]
path = "out"
"""


@dataclass
class Workplace:
    """A user's folder: `job.toml`, `rows.jsonl`; results go to `out`."""

    folder: Path
    promptmill: CommandLine

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def write_rows(self, count: int) -> None:
        rows = ({"id": f"r{n}", "text": f"text number {n}"} for n in range(count))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / "rows.jsonl").write_text(text, encoding="utf-8")

    def point_at(self, provider: Provider | str, *, at_once: int = 4) -> None:
        """Send the job to this provider, or address, as if it were DashScope, so many requests at once."""
        job = self.folder / "job.toml"
        base_url = provider if isinstance(provider, str) else provider.base_url
        address = f'provider = "dashscope"\nbase_url = "{base_url}"'
        text = job.read_text(encoding="utf-8").replace('provider = "simulator"', address)
        job.write_text(f"{text}[limits]\nmax_concurrency = {at_once}\n", encoding="utf-8")
        self.promptmill.env["DASHSCOPE_API_KEY"] = "sk-right"

    def run(self, *arguments: str | Path, **env: str) -> Ended:
        return self.promptmill("run", "job.toml", *arguments, **env)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """A workplace with 40 rows. Whatever a test does there, no process may outlive it."""
    place = Workplace(tmp_path, ForkedCommandLine(tmp_path))
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    place.write_rows(40)
    yield place
    assert not place.promptmill.alive()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


@pytest.fixture
def typed(place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """A command typed in the workplace, in this process: for those that start nothing."""
    monkeypatch.chdir(place.folder)
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def run(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return run
