"""The report's page as text: it needs nothing else, runs nothing of others, and says so where charts cannot be drawn."""

import re
import stat
import sys
from pathlib import Path

import pytest

from pipeline.commands.report import carry_out
from pipeline.errors import JobError, SetupError
from tests.support.reported import answer, failure, run_folder

HOSTILE = "<script>alert(1)</script>"


def page(folder: Path) -> str:
    file = folder / "report.html"
    assert carry_out((str(folder / "run"),), html=str(file)) == 0
    return file.read_text(encoding="utf-8")


def test_the_page_needs_no_network_and_no_other_file(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", [answer(n) for n in range(9)])
    text = page(tmp_path)
    assert text.count("<svg") >= 3
    addresses = set(re.findall(r"https?://[^\s\"'<>]*", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, "namespaces alone"
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", text) == ["data:,"]
    assert "@import" not in text and "url(" not in text.replace("url(#", "")


def test_what_models_and_servers_wrote_is_escaped_everywhere(tmp_path: Path) -> None:
    rows = [
        answer(n, model=HOSTILE, finish_reason=HOSTILE, content=HOSTILE, row_id=HOSTILE) for n in range(3)
    ]
    rows.append(failure(3, error_message=HOSTILE, error_code=HOSTILE))
    run_folder(tmp_path / "run", rows, job={"name": HOSTILE})
    text = page(tmp_path)
    assert text.count("<script") == 1
    assert text.count("&lt;script&gt;alert(1)") >= 8


def test_the_page_is_its_owners_alone_and_written_whole(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", [answer(0)])
    page(tmp_path)
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]
    with pytest.raises(JobError, match="cannot be written"):
        carry_out((str(tmp_path / "run"),), html=str(tmp_path / "report.html" / "report.html"))


def test_a_page_beside_json_is_written_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(tmp_path / "run", [answer(0)])
    assert carry_out((str(tmp_path / "run"),), as_json=True, html=str(tmp_path / "a.html")) == 0
    assert capsys.readouterr().out.startswith("{")
    assert (tmp_path / "a.html").exists()


def test_without_the_drawing_package_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    run_folder(tmp_path / "run", [answer(n) for n in range(9)])
    with pytest.raises(SetupError, match=r"pip install 'promptmill\[report\]'"):
        page(tmp_path)


def test_paths_may_hold_dates_and_variables_as_in_job_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHICH", "run")
    run_folder(tmp_path / "run", [answer(0)])
    run_folder(tmp_path / "{odd}", [answer(0)])
    assert (
        carry_out(
            (f"{tmp_path}/{{env:WHICH}}", f"{tmp_path}/{{odd}}"), html=f"{tmp_path}/new/{{env:WHICH}}.html"
        )
        == 0
    )
    assert "2 runs" in (tmp_path / "new" / "run.html").read_text(encoding="utf-8")
    with pytest.raises(JobError, match="which is not known"):
        carry_out((f"{tmp_path}/{{tomorrow}}",))
