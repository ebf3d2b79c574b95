"""All the figures of docs/performance.md, printed and written there between its two marks: what `make bench` runs.

    python benchmarks/run_all.py

Takes a few minutes. Exits 1 where a target is missed. On a machine that does other work the figures rise, those of all
clients alike: trust the ratios first.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`, however this was started

from benchmarks import choices, delays, modes, over_http, overhead, startup, steps
from benchmarks.support import ROOT, machine, write_between, yardstick_us

PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- figures: written by `make bench` -->", "<!-- end of figures -->"


def main() -> int:
    sections = [machine()]
    missed = []
    yardstick = [yardstick_us()]

    def show(title: str, text: str, holds: bool) -> None:
        sections.append(f"### {title}\n\n{text}")
        print(f"\n{title}\n{text}", flush=True)
        yardstick.append(yardstick_us())
        if not holds:
            missed.append(title)

    print(machine(), flush=True)
    start = startup.measure()
    show("Start", startup.as_table(start), start.holds)
    http = over_http.measure()
    show("Over HTTP, against a server that answers at once", over_http.as_table(http), http.holds)
    slow = delays.measure()
    show("Over HTTP, against a server that takes its time", delays.as_table(slow), delays.holds(slow))
    own = overhead.measure()
    show("Our own overhead, with a transport that answers at once", overhead.as_table(own), own.holds)
    show("Where the microseconds go", steps.as_table(steps.measure()), True)
    show("Chosen by measurement", choices.as_table(choices.measure()), True)
    of_modes = modes.measure()
    show("Streams, pictures, documents", of_modes.text, of_modes.holds)
    pace = (
        f"Yardstick, which says how fast the machine was meanwhile: one turn of a fixed loop of plain Python took "
        f"{min(yardstick):.2f} to {max(yardstick):.2f} us CPU. CPU times rise and fall with it; ratios do not."
    )
    sections.append(pace)
    print(f"\n{pace}")
    verdict = f"Missed here: {', '.join(missed)}." if missed else "Every target is met."
    sections.append(verdict)
    print(f"\n{verdict}")
    write_between(PAGE, BEGIN, END, sections)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
