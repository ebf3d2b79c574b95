"""A selftest as its user reads it: what it runs on, a line a promise, and what to do about those that do not hold."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pipeline.selftest.machine import Machine
from pipeline.selftest.promises import PROMISES, Mark, Told

_GIB = 1024**3
_SAYS_CHARS = max(len(promise.says) for promise in PROMISES)
_MARK_CHARS = max(map(len, Mark))


def header(machine: Machine) -> list[str]:
    cores = f"{machine.cores} {'core' if machine.cores == 1 else 'cores'}"
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / _GIB:.1f} GiB of memory"
    disk = "" if machine.file_system is None else f", {machine.file_system}"
    return [
        f"promptmill {machine.promptmill}, Python {machine.python}, {machine.system}, {cores}{memory}",
        f"in {machine.folder}{disk}, {machine.free_bytes / _GIB:.1f} GiB free",
    ]


def lines_of(told: Told) -> list[str]:
    """A promise's line, and below it what breaks the promise."""
    took = "" if told.mark is Mark.ABSENT else f"{told.elapsed_s:.1f} s"
    promise, verdict = told.promise, told.verdict
    return [
        f"{promise.number}  {told.mark:<{_MARK_CHARS}}  {promise.says:<{_SAYS_CHARS}}  {took:>6}  {verdict.figure}",
        *(f"   {breach}" for breach in verdict.breaches),
    ]


def closing(told: Sequence[Told], elapsed_s: float, folder: Path) -> list[str]:
    tried = [one for one in told if one.mark is not Mark.ABSENT]
    failed = [one for one in tried if one.mark is Mark.FAILED]
    if not failed:
        absent = len(told) - len(tried)
        rest = f"; {absent} not in this version" if absent else ""
        return [f"all {len(tried)} promises hold on this machine{rest}; {elapsed_s:.0f} s"]
    numbers = ", ".join(str(one.promise.number) for one in failed)
    return [
        f"{len(failed)} of {len(tried)} promises did not hold on this machine: {numbers}; {elapsed_s:.0f} s",
        f"What was run and what it said is kept in {folder}, a folder a promise.",
        "Try again when the machine is less busy, and on another disk with --folder DIR. What fails again is a fault: report it "
        "with these lines and the folder, which holds no key and no data of yours.",
    ]  # fmt: skip


def as_json(machine: Machine, told: Sequence[Told], elapsed_s: float, *, kept: bool) -> str:
    """The whole as one line of JSON."""
    content: dict[str, Any] = {
        **machine._asdict(),
        "holds": all(one.mark is not Mark.FAILED for one in told),
        "elapsed_s": round(elapsed_s, 1),
        "kept": kept,
        "promises": [
            {
                "number": one.promise.number,
                "promise": one.promise.says,
                "verdict": _JSON_MARKS[one.mark],
                "elapsed_s": round(one.elapsed_s, 1),
                "figure": one.verdict.figure,
                "breaches": list(one.verdict.breaches),
            }
            for one in told
        ],
    }
    return json.dumps(content)


_JSON_MARKS = {Mark.OK: "ok", Mark.FAILED: "failed", Mark.ABSENT: "absent"}


@dataclass(slots=True)
class Lines:
    """Writes each line as its promise is known, unless `quiet`; on a terminal also which are being tried."""

    out: TextIO
    err: TextIO
    quiet: bool
    _up: bool = False

    def write(self, lines: Sequence[str]) -> None:
        self._clear()
        if not self.quiet:
            self.out.write("".join(line + "\n" for line in lines))
            self.out.flush()

    def told(self, told: Told) -> None:
        self.write(lines_of(told))

    def running(self, numbers: Sequence[int]) -> None:
        self._clear()
        if numbers and self.err.isatty():
            self.err.write(f"trying {', '.join(map(str, numbers))} ...")
            self.err.flush()
            self._up = True

    def _clear(self) -> None:
        if self._up:
            self.err.write("\r\x1b[K")
            self.err.flush()
            self._up = False
