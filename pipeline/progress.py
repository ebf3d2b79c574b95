"""What a run shows while it goes on: the counters, and two displays of them on stderr.

A live bar on a terminal, one line every few seconds elsewhere. Displays read counters and never change them.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.budget import Spend
from pipeline.pricing import from_nano
from pipeline.records import FailureKind, Outcome, Status
from pipeline.run_log import Notes
from pipeline.totals import Costs, Totals

_RATE_WINDOW_S = 60.0
_SUM_AT_ONCE = 500
_NAME_CHARS = 24
_BAR_CHARS = 32
_LEAST_BAR_CHARS = 4
_BETWEEN = " · "
_NEAR, _FAR = 0.95, 10  # a pace so near its limit is the limit; one so far above what goes is none

# Says a sentence, and how much it matters: "info" or "warning".
Say = Callable[[str, str], None]


@dataclass(slots=True)
class Counters:
    """The figures of a run as it goes on. `totals` covers the whole run folder, earlier runs included."""

    rows: int
    totals: Totals
    costs: Costs
    sent: int = 0
    reused: int = 0
    deduplicated: int = 0
    settled_now: int = 0
    retrying: int = 0
    failed_attempts: Counter[FailureKind] = field(default_factory=Counter)
    _unsummed: list[Outcome] = field(default_factory=list)

    def settle(self, outcome: Outcome) -> None:
        """Count one more outcome; its tokens and cost are summed with others at once, which is cheaper."""
        self.settled_now += 1
        self._unsummed.append(outcome)
        if len(self._unsummed) >= _SUM_AT_ONCE:
            self.sum_up()

    def sum_up(self) -> Totals:
        """The totals with everything settled so far in them."""
        outcomes, self._unsummed = self._unsummed, []
        self.totals.add(outcomes, self.costs(outcomes))
        return self.totals

    def replace(self, before: Totals, outcomes: list[Outcome]) -> None:
        """Count a range as these outcomes instead of what it counted before."""
        self.totals.subtract(before)
        self.totals.add(outcomes, self.costs(outcomes))

    def take_back(self, outcomes: list[Outcome]) -> None:
        """Count these rows as open again."""
        counted = Totals()
        counted.add(outcomes, self.costs(outcomes))
        self.totals.subtract(counted)


class LimitsView(NamedTuple):
    """What the gate says of itself at one moment; limits are None where there is none.

    The last two are how many may go a minute at present, which is less than the limit in a storm; None is any number.
    """

    in_flight: int
    max_concurrency: int
    requests_last_minute: int
    tokens_last_minute: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    cooling_s: float
    chosen_requests_per_minute: float | None = None
    chosen_tokens_per_minute: float | None = None


class Snapshot(NamedTuple):
    """One moment of a run. `eta_s` is None until rows have settled; `cost` is None where any row's is unknown.

    `spent` is what the run folder spent and may have spent, `projected` what it will come to if rows go on as they did; both are
    None where there is no price. `cap` is the job's max_cost.
    """

    done: int
    rows: int
    ok: int
    failed: int
    other: int
    retrying: int
    limits: LimitsView
    eta_s: float | None
    rows_per_s: float
    cost: Decimal | None
    currency: str | None
    spent: Decimal | None = None
    projected: Decimal | None = None
    cap: Decimal | None = None


_AMOUNTS = ("cost", "spent", "projected", "cap")


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for `status` to read from another process; `from_json` is its inverse."""
    data = {**snapshot._asdict(), "limits": snapshot.limits._asdict()}
    return data | {name: str(data[name]) for name in _AMOUNTS if data[name] is not None}


def from_json(data: dict[str, Any]) -> Snapshot:
    amounts = {name: Decimal(data[name]) for name in _AMOUNTS if data.get(name) is not None}
    return Snapshot(**{**data, "limits": LimitsView(**data["limits"]), **amounts})


class Meter:
    """Turns counters into snapshots; remembers the last minute to tell the speed."""

    def __init__(
        self,
        counters: Counters,
        limits: Callable[[], LimitsView],
        currency: str | None,
        spend: Callable[[], Spend],
    ) -> None:
        self._counters = counters
        self._limits = limits
        self._currency = currency
        self._spend = spend
        self._seen: deque[tuple[float, int]] = deque()

    def snapshot(self, now_s: float) -> Snapshot:
        counters, totals = self._counters, self._counters.sum_up()
        self._seen.append((now_s, counters.settled_now))
        while now_s - self._seen[0][0] > _RATE_WINDOW_S:
            self._seen.popleft()
        since_s, before = self._seen[0]
        speed = (counters.settled_now - before) / (now_s - since_s) if now_s > since_s else 0.0
        ok, failed = totals.status[Status.OK], totals.status[Status.FAILED]
        spend, priced = self._spend(), self._currency is not None
        spent = from_nano(spend.paid + spend.maybe) if priced else None
        left = counters.rows - totals.rows
        return Snapshot(
            done=totals.rows,
            rows=counters.rows,
            ok=ok,
            failed=failed,
            other=totals.rows - ok - failed,
            retrying=counters.retrying,
            limits=self._limits(),
            eta_s=(counters.rows - totals.rows) / speed if speed else None,
            rows_per_s=speed,
            cost=totals.known_cost,
            currency=self._currency,
            spent=spent,
            projected=None if spent is None or not totals.rows else spent + totals.cost / totals.rows * left,
            cap=None if spend.cap is None else from_nano(spend.cap),
        )


def facts(snapshot: Snapshot) -> list[str]:
    """A snapshot in words, the parts that both displays show."""
    limits = snapshot.limits
    said = [f"ok {snapshot.ok:,}", f"failed {snapshot.failed:,}"]
    if snapshot.other:
        said.append(f"other {snapshot.other:,}")
    said.append(f"retrying {snapshot.retrying:,}")
    said.append(f"in flight {limits.in_flight:,}/{limits.max_concurrency:,}")
    requests = _of(limits.requests_per_minute, limits.chosen_requests_per_minute, limits.requests_last_minute)
    tokens = _of(limits.tokens_per_minute, limits.chosen_tokens_per_minute, limits.tokens_last_minute)
    said.append(f"req/min {limits.requests_last_minute:,}{requests}")
    said.append(f"tok/min {limits.tokens_last_minute:,}{tokens}")
    if limits.cooling_s > 0:
        said.append(f"cooling down {limits.cooling_s:.0f}s")
    said += _money(snapshot)
    said.append(f"ETA {clock(snapshot.eta_s)}")
    return said


def _money(snapshot: Snapshot) -> list[str]:
    unit = f" {snapshot.currency}" if snapshot.currency else ""
    if snapshot.cap is not None and snapshot.spent is not None:
        words = [f"spent {snapshot.spent:.4f} of {snapshot.cap.normalize():f}{unit}"]
    else:
        words = ["cost unknown" if snapshot.cost is None else f"cost {snapshot.cost:.4f}{unit}"]
    if snapshot.projected is not None:
        words.append(f"projected {snapshot.projected:.4f}{unit}")
    return words


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss, or "?" where unknown."""
    if seconds is None:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def _of(limit: float | None, chosen: float | None, used: int) -> str:
    """The limit, and the pace where it is another: slowed down after refusals, shared, or found where no limit is known."""
    differs = chosen is not None and chosen < (_FAR * max(used, 1) if limit is None else _NEAR * limit)
    return ("" if limit is None else f" of {limit:,.0f}") + (f" (pace {chosen:,.0f})" if differs else "")


@contextlib.asynccontextmanager
async def shown(meter: Meter, notes: Notes, *, name: str) -> AsyncIterator[Say]:
    """Show the run's progress while the block runs: a live bar on a terminal, else a note every few seconds.

    Yields what says a sentence in between, above the bar.
    """
    if notes.quiet:
        yield lambda message, level: None
        return
    console = Console(file=notes.stream) if notes.format == "text" and notes.stream.isatty() else None

    def say(message: str, level: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed must not end the run
            if console is None:
                notes.say(f"{name}: {message}", level=level)
            else:
                console.print(f"{name}: {message}", markup=False, highlight=False)

    ticker = asyncio.create_task(
        _lines(meter, notes, name) if console is None else _bar(meter, console, name)
    )
    try:
        yield say
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await ticker


def counting(notes: Notes, what: str) -> Callable[[int], None] | None:
    """A callback that shows a growing number of rows on a terminal's line of its own; None where there is no terminal."""
    stream = notes.stream
    if notes.quiet or notes.format != "text" or not stream.isatty():
        return None
    up = ""

    def show(rows: int) -> None:
        nonlocal up
        stream.write(f"{up}{what}: {rows:,} rows\x1b[K\n")
        stream.flush()
        up = "\x1b[A"  # to where the line began

    return show


async def _lines(meter: Meter, notes: Notes, name: str, every_s: float = 5.0) -> None:
    loop = asyncio.get_running_loop()
    meter.snapshot(loop.time())
    while True:
        await asyncio.sleep(every_s)
        snapshot = meter.snapshot(loop.time())
        said = f"{name}: {snapshot.done:,}/{snapshot.rows:,} rows, {', '.join(facts(snapshot))}"
        notes.say(said, **as_json(snapshot))


async def _bar(meter: Meter, console: Console, name: str, every_s: float = 0.25) -> None:
    loop = asyncio.get_running_loop()
    with Live(console=console, auto_refresh=False, redirect_stdout=False) as live:

        def draw() -> None:
            live.update(drawn(meter.snapshot(loop.time()), name, console.width), refresh=True)

        try:
            while True:
                draw()
                await asyncio.sleep(every_s)
        finally:
            draw()


def drawn(snapshot: Snapshot, name: str, width: int) -> Group:
    """A snapshot as it looks on a terminal of so many columns: the bar, and below it the facts, broken between two of them."""
    share = snapshot.done / snapshot.rows if snapshot.rows else 1.0
    figures = (
        f"{snapshot.done:,}/{snapshot.rows:,} rows {int(share * 100):3}%  {snapshot.rows_per_s:,.1f} rows/s"
    )
    title = name if len(name) <= _NAME_CHARS else name[: _NAME_CHARS - 1] + "…"
    head = Table.grid(padding=(0, 1))
    for _ in range(3):
        head.add_column(no_wrap=True)
    bar_width = min(_BAR_CHARS, width - len(title) - len(figures) - 2)
    bar = ProgressBar(total=max(snapshot.rows, 1), completed=snapshot.done, width=bar_width)
    head.add_row(Text(title, style="bold"), bar if bar_width >= _LEAST_BAR_CHARS else "", figures)
    lines: list[str] = []
    for fact in facts(snapshot):
        if lines and len(lines[-1]) + len(_BETWEEN) + len(fact) <= width:
            lines[-1] += _BETWEEN + fact
        else:
            lines.append(fact)
    return Group(head, Text("\n".join(lines), style="dim"))
