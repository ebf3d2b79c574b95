"""What a run may spend: each attempt's worst case is set aside before it is sent, and settled with what it cost.

Sums and their order only: what an attempt can cost at most is `worst_case.py`'s, what it did cost `pricing.py`'s, what outlasts
the process the journal's and `monthly.py`'s. Amounts are whole billionths of the currency unit.

    paid + maybe + held + the next worst case <= max_cost

holds at every moment. `paid` are the answers' costs, `maybe` the worst cases of attempts that may have been billed without an
answer (a timeout, a cut stream, a killed run's requests in flight), `held` those of the attempts under way. All are sums of the
run folder, so a resumed run goes on from them, and an answer that leaves the results was paid for all the same.

Where the next worst case does not fit, its row waits, first come first served, as long as what is under way could free enough;
when nothing can, the run drains. So less than one worst case is left over. By the month the same is held against what a ledger
grants to this run.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

from pipeline.pricing import from_nano
from pipeline.records import Completion

# So often the month is looked up, and the ledger told what was spent.
_LOOK_S = 1.0


@dataclass(slots=True)
class MonthSpend:
    """What a run folder spent in one month; `month` is 202611 for November 2026. `granted` is what the ledger lets it come to."""

    month: int
    paid: int = 0
    maybe: int = 0
    held: int = 0
    granted: int = 0

    @property
    def spent(self) -> int:
        return self.paid + self.maybe


class Spend(NamedTuple):
    """A run folder's spend at one moment, in billionths; `held` is under way. `cap` is None where none is set."""

    paid: int
    maybe: int
    held: int
    cap: int | None


class Grants(Protocol):
    """The cap of a month, shared with other runs: see `monthly.py`."""

    def grant(self, spend: MonthSpend, amount: int) -> int:
        """What this run may come to this month, where so much more is asked for: `MonthSpend.granted`."""

    def room(self, month: int) -> int:
        """What is this run's in a month at most, with what it has spent of it."""

    def note(self, spend: MonthSpend) -> None:
        """Keep what this run has spent, and give back what it was granted and does not need."""

    def refusal(self, spend: MonthSpend, amount: int) -> str:
        """Why so much more is not to be had, and what to do."""


class Held:
    """What is set aside for one attempt: as a context manager around it. What was never sent is given back."""

    __slots__ = ("_budget", "_open", "amount", "month", "sent")

    def __init__(self, budget: "Budget", amount: int, month: MonthSpend) -> None:
        self._budget = budget
        self.amount = amount
        self._open = True
        self.month = month
        self.sent = False

    def settle(self, answer: Completion | None, *, maybe_paid: bool) -> None:
        """Count what the attempt came to: its answer's cost, its worst case where it may have been billed, or nothing."""
        self._open = False
        paid = maybe = 0
        if answer is not None:
            cost = self._budget.cost(answer)
            if cost is None:  # an answer without usage
                maybe = self.amount
            else:
                paid = cost
        elif maybe_paid:
            maybe = self.amount
        self._budget.settle(self, paid, maybe)

    def __enter__(self) -> "Held":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        if not self.sent:
            self._budget.settle(self, 0, 0)
        else:  # it is cut off on the wire, or a bug of ours met its answer
            self._open = False
            cut = kind is not None and not issubclass(kind, Exception)
            self._budget.settle(self, 0, self.amount, in_journal=cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpec:
    """What a budget goes by. `cap` is in billionths, None where none is set.

    `cost` prices an answer, None where that is unknown; `month` is the present one; `note` keeps what an attempt came to: month,
    paid, maybe.
    """

    cap: int | None
    currency: str | None
    cost: Callable[[Completion], int | None]
    month: Callable[[], int]
    note: Callable[[int, int, int], None]


class Budget:
    """The budget of one run over its folder; without a cap it only counts.

    `months` is what the folder has spent already. `on_full` is called, once, when nothing more fits.
    """

    def __init__(
        self, spec: BudgetSpec, months: Mapping[int, tuple[int, int]], grants: Grants | None = None
    ) -> None:
        self._months = {number: MonthSpend(number, paid, maybe) for number, (paid, maybe) in months.items()}
        self.cost = spec.cost
        self._spec = spec
        self._cap = spec.cap
        self._grants = grants
        self._used = sum(one.spent for one in self._months.values())  # with what is held
        self._held = 0
        self._line: deque[tuple[int, asyncio.Future[Held | None]]] = deque()
        self._look_s = float("-inf")
        self._this = MonthSpend(0)
        self._refused: int | None = None
        self.on_full: Callable[[], None] = lambda: None

    @property
    def spend(self) -> Spend:
        paid = sum(one.paid for one in self._months.values())
        return Spend(paid, self._used - self._held - paid, self._held, self._cap)

    def at_least(self, paid: int) -> None:
        """Count no less than this as paid: what results tell where a journal was lost."""
        if (missing := paid - self.spend.paid) > 0:
            self._used += missing
            spend = self._months.setdefault(self._spec.month(), MonthSpend(self._spec.month()))
            spend.paid += missing
            self._spec.note(spend.month, missing, 0)

    async def hold(self, amount: int) -> Held | None:
        """Set so much aside for an attempt; it may have to wait for others. None where it never fits: the run must stop."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._look_s:
            self._look(now_s)
        if self._refused is not None:
            return None
        if not self._line and self._fits(amount):
            return self._take(amount)
        if not self._line and self._never_fits(amount):
            self._refuse(amount)
            return None
        future: asyncio.Future[Held | None] = asyncio.get_running_loop().create_future()
        self._line.append((amount, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and (held := future.result()) is not None:
                self.settle(held, 0, 0)
            raise

    def settle(self, held: Held, paid: int, maybe: int, *, in_journal: bool = False) -> None:
        """Let go of what was held, and count what it came to.

        `in_journal`: the journal has it as an open attempt, which the next run counts.
        """
        amount, month = held.amount, held.month
        self._used += paid + maybe - amount
        self._held -= amount
        month.held -= amount
        if paid or maybe:
            month.paid += paid
            month.maybe += maybe
            if not in_journal:
                self._spec.note(month.month, paid, maybe)
        if self._line:
            self._serve()

    @property
    def months(self) -> list[MonthSpend]:
        """What the folder spent, by month."""
        return list(self._months.values())

    def _fits(self, amount: int) -> bool:
        if self._cap is not None and self._used + amount > self._cap:
            return False
        return self._grants is None or self._is_granted(self._grants, amount)

    def _is_granted(self, grants: Grants, amount: int) -> bool:
        this = self._this
        needed = this.paid + this.maybe + this.held + amount
        if needed > this.granted:
            this.granted = grants.grant(this, amount)
        return needed <= this.granted

    def _take(self, amount: int) -> Held:
        self._used += amount
        self._held += amount
        self._this.held += amount
        return Held(self, amount, self._this)

    def _never_fits(self, amount: int) -> bool:
        """Whether it does not fit though nothing under way were billed."""
        if self._cap is not None and self._used - self._held + amount > self._cap:
            return True
        grants, this = self._grants, self._this
        return (
            grants is not None
            and not self._is_granted(grants, amount)
            and (not this.held or this.spent + amount > grants.room(this.month))
        )

    def _serve(self) -> None:
        """Give what has become free to those who wait, in their order."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._look_s:
            self._look(now_s)
        while self._line:
            amount, future = self._line[0]
            if future.done():  # its row was cancelled
                self._line.popleft()
            elif self._fits(amount):
                self._line.popleft()
                future.set_result(self._take(amount))
            elif self._never_fits(amount):
                self._refuse(amount)
                return
            else:
                return

    def _refuse(self, amount: int) -> None:
        line, self._line = self._line, deque()
        for _, future in line:
            if not future.done():
                future.set_result(None)
        self._refused = amount
        self.on_full()

    def refusal(self) -> str:
        """Why nothing more fits, with the figures of now, and what to do next."""
        amount = self._refused
        assert amount is not None  # noqa: S101  (it is asked for once something was refused)
        spent = self._used - self._held
        if self._grants is not None and (self._cap is None or spent + amount <= self._cap):
            return self._grants.refusal(self._this, amount)
        maybe = spent - self.spend.paid
        of_it = f" ({said(maybe)} of it may have been paid without an answer)" if maybe else ""
        cap = said(self._cap or 0)
        return (
            f"max_cost is reached: {said(spent)} of {cap} {self._spec.currency or ''} is spent{of_it}, and the next row may cost "
            f"up to {said(amount)}. Raise [budget] max_cost (or --max-cost) and run the same command again"
        )

    def _look(self, now_s: float) -> None:
        self._look_s = now_s + _LOOK_S
        month = self._spec.month()
        this = self._months.get(month)
        if this is None:
            this = self._months[month] = MonthSpend(month)
        if self._grants is not None and self._this.month:
            self._grants.note(self._this)
            if this is not self._this:
                self._grants.note(this)
        self._this = this


def said(amount: int) -> str:
    """An amount of billionths in words, without zeros that say nothing."""
    text = f"{from_nano(amount):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
