"""The report's page as a browser has it: at a phone's and a desk's width, light, dark and printed, whatever a model wrote.

Needs a Chromium on this machine; all that can be seen without one is in `tests/unit/test_report_html.py`.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from struct import unpack

import pytest

from pipeline.commands.report import carry_out
from pipeline.history import Event
from tests.support.chromium import NAMES, Browser, browsing, installed
from tests.support.reported import START, answer, estimated, failure, keeping_history, moment, run_folder

CHROMIUM = installed()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no Chromium here: none of {', '.join(NAMES)} is installed"
)

WIDTHS = {"phone": 390, "desk": 1280}
HOSTILE = (
    "<img src=x onerror='window.harmed=1'><script>window.harmed=1</script></svg></td>\"'&amp;\u202e{{ 7*7 }}"
)
# What is wider than its place, or stands outside the page or its picture.
OVERFLOWS = """
[...document.body.querySelectorAll('*')].filter(one => {
  if (one.tagName === 'SCRIPT') return false;
  const at = one.getBoundingClientRect();
  if (one instanceof SVGElement) {
    if (one.tagName !== 'text' || !one.textContent) return false;
    const picture = one.ownerSVGElement.getBoundingClientRect();
    return at.left < picture.left - 1 || at.right > picture.right + 1
      || at.top < picture.top - 1 || at.bottom > picture.bottom + 1;
  }
  const wide = getComputedStyle(one).display !== 'inline' && one.scrollWidth > one.clientWidth + 1;
  return wide || at.left < -1 || at.right > document.documentElement.clientWidth + 1;
}).map(one => `${one.tagName} ${one.className.baseVal ?? one.className}: ${one.textContent.trim().slice(0, 60)}`)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with browsing(CHROMIUM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages about one run with everything in it, about several, and about one that has hardly begun."""
    folder = tmp_path_factory.mktemp("runs")
    for day in range(6):
        start = START + timedelta(days=day)
        rows = [
            answer(
                n,
                started_at=start + timedelta(seconds=2 * n),
                latency_ms=50.0 * (1 + n % 40),
                first_token_ms=30.0 * (1 + n % 17),
                prompt_tokens=20 + 37 * (n % 50),
                completion_tokens=1 + n % 90,
                cost=Decimal(n % 13 + 1) / 1000,
                gold="yes",
                label="yes" if n % 5 else "no",
                finish_reason="stop" if n % 7 else "length",
                status="ok" if n % 7 else "truncated",
            )
            for n in range(150)
        ]
        rows += [
            failure(150, error_message=HOSTILE, started_at=start),
            failure(151, "timeout", error_message="wide " * 200, row_id="r" * 300, started_at=start),
            answer(152, content=HOSTILE, row_id=HOSTILE, model="m" * 150, latency_ms=9e5, started_at=start),
            answer(153, content="w" * 5000, cost=Decimal(99_999), finish_reason=HOSTILE, started_at=start),
            failure(154, error_code="c" * 200, attempts=6, started_at=start),
        ]
        job = {
            "name": ("nightly", "a job with a long name of many words")[day % 2],
            "response": {"labels": ["yes", "no"], "gold": "gold"},
            "limits": {"requests_per_minute": 40, "tokens_per_minute": 50_000},
            "budget": {"max_cost": 200_000},
        }
        run_folder(folder / f"run-{day}", rows, rows_per_part=64, job=job, started=start, wanted=1_000_000)
    done = run_folder(folder / "done", [answer(n, completion_tokens=13) for n in range(10)])
    (done / "estimate.json").write_text(json.dumps(estimated()), encoding="utf-8")
    with keeping_history(folder / "run-0") as history:
        for n in range(40):
            told = {"sent": 7 * n, "refused": n // 2, "tokens": 9_000 * n, "in_flight": n % 9, "ceiling": 9}
            history.keep(moment(10 * n, spent=10**9 * n, requests_per_minute=45.0, **told))
            history.tell(
                Event(n * 1_000_000, "run-1", f"requests a minute cut, for the reason that {HOSTILE}")
            )
        history.keep()
    run_folder(folder / "begun", [], wanted=10)
    named = {
        "one": (str(folder / "run-0"),),
        "several": (str(folder / "run-*"),),
        "begun": (str(folder / "begun"),),
        "done": (str(done),),
    }
    made = {}
    for name, runs in named.items():
        made[name] = folder / f"{name}.html"
        assert carry_out(runs, html=str(made[name])) == 0
    return made


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", ["one", "several", "begun", "done"])
def test_nothing_overflows_and_nothing_complains(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, page: str, width: str
) -> None:
    looks = {}
    for dark in (False, True):
        browser.complaints.clear()
        browser.open(pages[page], width=WIDTHS[width], dark=dark)
        assert browser.evaluate(OVERFLOWS) == []
        assert browser.complaints == []
        assert browser.evaluate("window.harmed") is None
        assert browser.evaluate("document.images.length + document.querySelectorAll('script').length") == 1
        shot = tmp_path / f"{page}-{width}-{'dark' if dark else 'light'}.png"
        shot.write_bytes(browser.screenshot())
        assert unpack(">I", shot.read_bytes()[16:20]) == (WIDTHS[width],)
        looks[dark] = browser.evaluate(
            "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"
        )
    assert looks[False] != looks[True]


def test_each_chart_is_drawn_in_the_pages_colours(browser: Browser, pages: dict[str, Path]) -> None:
    colour = "getComputedStyle(document.querySelector('svg text')).fill"
    browser.open(pages["one"], width=1280)
    light = browser.evaluate(colour)
    titles = browser.evaluate("[...document.querySelectorAll('.chart h2')].map(one => one.textContent)")
    assert titles == [
        "Requests and refusals (429) a minute",
        "Tokens a minute",
        "Requests in flight",
        "Spent over time",
        "Lag of the event loop, p99",
        "Rows settled a minute",
        "Times",
        "Prompt tokens a row",
        "Completion tokens a row",
        "Finish reasons",
        "Failures by kind",
    ]
    assert browser.evaluate(
        "[...document.querySelectorAll('svg')].every(one => one.querySelectorAll('path').length > 2)"
    )
    browser.open(pages["one"], width=1280, dark=True)
    assert browser.evaluate(colour) != light
    browser.open(pages["several"], width=1280)
    titles = browser.evaluate("[...document.querySelectorAll('.chart h2')].map(one => one.textContent)")
    assert titles[:3] == ["Rows by day", "Cost by day and job", "Latency by day"]


def test_a_click_on_a_head_sorts_and_another_turns_it_round(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["several"], width=1280)
    cost = """(() => {
      const sections = [...document.querySelectorAll('section.table')];
      const table = sections.find(one => one.textContent.startsWith('By day')).querySelector('table');
      const at = [...table.tHead.rows[0].cells].findIndex(one => one.textContent === 'HEAD');
      if (CLICK) table.tHead.rows[0].cells[at].querySelector('button').click();
      return [...table.tBodies[0].rows].map(one => one.cells[at].textContent);
    })()"""
    given = browser.evaluate(cost.replace("HEAD", "change").replace("CLICK", "false"))
    down = browser.evaluate(cost.replace("HEAD", "day").replace("CLICK", "true"))
    assert down == sorted(down)
    assert browser.evaluate(cost.replace("HEAD", "day").replace("CLICK", "true")) == down[::-1]
    once = browser.evaluate(cost.replace("HEAD", "change").replace("CLICK", "true"))
    again = browser.evaluate(cost.replace("HEAD", "change").replace("CLICK", "true"))
    assert once[-1] == again[-1] == "–" == given[0], "what is unknown stays last"
    marks = "document.querySelectorAll('th[aria-sort]').length"
    assert browser.evaluate(marks) == 1


def test_it_prints_on_white_whatever_the_screen(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["one"], width=760, dark=True, media="print")
    assert (
        browser.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == "rgb(0, 0, 0)"
    assert browser.evaluate(OVERFLOWS) == []
