"""run.log and notes on stderr, as text and as JSON lines."""

import io
import json
import logging
import os
from pathlib import Path

import pytest

from pipeline.errors import Interrupted, RunFolderError
from pipeline.run_log import LogFormat, Notes, RunLog
from tests.support.rig import NOW


def note(stream: io.StringIO, log_format: LogFormat, *, quiet: bool) -> Notes:
    return Notes(stream=stream, quiet=quiet, format=log_format, now=lambda: NOW)


def test_run_log_has_the_traceback_of_a_bug_and_only_the_sentence_of_an_operators_error(
    tmp_path: Path,
) -> None:
    for error in (
        ZeroDivisionError("oh"),
        RunFolderError("a sentence"),
        KeyboardInterrupt(),
        Interrupted("x", 143),
    ):
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


def test_notes_are_sentences_or_objects_with_their_figures() -> None:
    said = {}
    for name in ("text", "json"):
        stream = io.StringIO()
        note(stream, name, quiet=False).say("two\nlines", level="error", rows=3)
        said[name] = stream.getvalue()
    assert said["text"] == "two\nlines\n"
    assert json.loads(said["json"]) == {
        "time": "2026-01-01T00:00:00.000+00:00",
        "level": "error",
        "message": "two\nlines",
        "rows": 3,
    }
    assert said["json"].count("\n") == 1


def test_quiet_notes_say_only_what_must_be_known() -> None:
    stream = io.StringIO()
    quiet = note(stream, "text", quiet=True)
    quiet.say("progress")
    quiet.say("why it ended", level="error", always=True)
    assert stream.getvalue() == "why it ended\n"


def test_a_log_that_was_moved_away_is_begun_anew_and_one_that_was_cut_goes_on(tmp_path: Path) -> None:
    log = logging.getLogger("promptmill")
    file, moved = tmp_path / "run.log", tmp_path / "run.log.1"
    with RunLog(tmp_path, "text"):
        log.info("first")
        file.rename(moved)  # as logrotate does
        log.info("second")
        moved.write_bytes(file.read_bytes())  # as its copytruncate does
        os.truncate(file, 0)
        log.info("third")
    assert [line.split()[-1] for line in moved.read_text().splitlines()] == ["second"]
    assert file.read_bytes().count(b"\0") == 0
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["third"]


def test_a_log_whose_folder_is_gone_stops_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with RunLog(folder, "text"):
        (folder / "run.log").unlink()
        folder.rmdir()
        logging.getLogger("promptmill").info("a line")
    assert not folder.exists()
