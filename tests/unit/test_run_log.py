"""run.log and notes on stderr, as text and as JSON lines."""

import io
import json
import logging
from pathlib import Path

import pytest

from pipeline.errors import RunFolderError
from pipeline.run_log import Notes, RunLog
from tests.support.rig import NOW


def test_run_log_has_the_traceback_of_a_bug_and_only_the_sentence_of_an_operators_error(
    tmp_path: Path,
) -> None:
    for error in (ZeroDivisionError("oh"), RunFolderError("a sentence"), KeyboardInterrupt()):
        with pytest.raises(type(error)), RunLog(tmp_path, "text"):
            raise error
    text = (tmp_path / "run.log").read_text()
    assert text.count("Traceback") == 1
    assert "ZeroDivisionError: oh" in text
    assert "ERROR a sentence\n" in text


def test_a_log_that_takes_no_more_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.log").symlink_to("/dev/full")
    with RunLog(tmp_path, "text"):
        logging.getLogger("promptmill").info("a line")
    assert capsys.readouterr() == ("", "")


def test_a_json_log_has_one_object_a_line_whatever_the_message(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLog(tmp_path, "json"):
        logging.getLogger("promptmill").info("row %s: %s", "é", "two\nlines")
        raise ZeroDivisionError("oh")
    first, bug = map(json.loads, (tmp_path / "run.log").read_text().splitlines())
    assert (first["level"], first["message"]) == ("info", "row é: two\nlines")
    assert (bug["level"], bug["message"]) == ("critical", "a bug")
    assert "ZeroDivisionError: oh" in bug["traceback"]
    assert first["time"] <= bug["time"]


def test_notes_are_sentences_or_objects_with_their_figures_or_nothing() -> None:
    said = {}
    for name, format_, quiet in (("text", "text", False), ("json", "json", False), ("quiet", "json", True)):
        stream = io.StringIO()
        Notes(stream=stream, quiet=quiet, format=format_, now=lambda: NOW).say(
            "two\nlines", level="error", rows=3
        )
        said[name] = stream.getvalue()
    assert said["text"] == "two\nlines\n"
    assert said["quiet"] == ""
    assert json.loads(said["json"]) == {
        "time": "2026-01-01T00:00:00.000+00:00",
        "level": "error",
        "message": "two\nlines",
        "rows": 3,
    }
    assert said["json"].count("\n") == 1
