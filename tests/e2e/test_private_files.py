"""Under a umask that hides nothing, what a run and an export leave behind is still their owner's alone."""

import stat
from pathlib import Path

import pytest

from tests.e2e.conftest import Workplace
from tests.support.provider import Provider

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
DOCUMENTS = """
name = "documents"
[input]
path = "documents.jsonl"
id = "document_id"
root = "."
[prompt]
user = "{{ question }}"
documents = "path"
[model]
provider = "dashscope"
base_url = "BASE_URL"
name = "qwen-long"
[output]
path = "OUT"
"""


def modes(folder: Path) -> dict[str, int]:
    """What may be done with a folder and all in it, by name."""
    return {
        str(path.relative_to(folder.parent)): stat.S_IMODE(path.stat().st_mode)
        for path in (folder, *sorted(folder.rglob("*")))
    }


def assert_private(folder: Path, *names: str) -> None:
    found = modes(folder)
    assert set(names) <= found.keys(), found
    wrong = {
        name: oct(mode)
        for name, mode in found.items()
        if mode != (0o700 if (folder.parent / name).is_dir() else 0o600)
    }
    assert not wrong


def test_a_run_folder_is_its_owners_alone_while_the_run_goes_on_and_after(
    place: Workplace, provider: Provider
) -> None:
    place.promptmill.umask = 0
    place.point_at(provider)
    provider.hold_after(10)
    with place.promptmill.started("run", "job.toml") as run:
        provider.wait_held(4)
        assert_private(
            place.out,
            "out/journal.sqlite",
            "out/journal.sqlite-wal",
            "out/journal.sqlite-shm",
            "out/run.lock",
            "out/run.log",
            "out/run.json",
            "out/results",
        )
        provider.release()
        assert run.end().code == 0
    assert_private(place.out, "out/results/part-00000.parquet")


def test_the_log_of_a_server_of_ours_is_its_owners_alone(place: Workplace) -> None:
    place.promptmill.umask = 0
    assert place.run().code == 0
    assert_private(place.out, "out/simulator.log")


def test_the_list_of_uploads_is_its_owners_alone(place: Workplace, provider: Provider) -> None:
    place.promptmill.umask = 0
    place.promptmill.env["DASHSCOPE_API_KEY"] = "sk-right"
    job = DOCUMENTS.replace("BASE_URL", provider.base_url).replace("OUT", str(place.out))
    (place.folder / "documents.toml").write_text(job, encoding="utf-8")
    arguments = ("--input", SAMPLES / "documents.jsonl", "--set", f"input.root={SAMPLES}", "--limit", "1")
    assert place.promptmill("run", "documents.toml", *arguments).code == 0
    assert_private(place.out, "out/uploads.sqlite")


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_an_export_is_its_owners_alone_also_in_place_of_one_that_was_not(
    place: Workplace, ending: str
) -> None:
    place.promptmill.umask = 0
    assert place.run().code == 0
    file = place.folder / f"answers.{ending}"
    file.touch(0o666)
    assert place.promptmill("export", "out", "-o", file).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_export_is_never_written_through_a_link_that_was_put_there(place: Workplace) -> None:
    assert place.run().code == 0
    victim = place.folder / "victim"
    victim.write_text("kept", encoding="utf-8")
    (place.folder / "answers.csv.tmp").symlink_to(victim)
    assert place.promptmill("export", "out", "-o", "answers.csv").code == 0
    assert victim.read_text(encoding="utf-8") == "kept"
    assert (place.folder / "answers.csv").read_text(encoding="utf-8").startswith("id,text,")
