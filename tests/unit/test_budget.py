"""The budget's sums: they never pass the cap, whatever the order of attempts, and room that returns is used."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.budget import Budget, BudgetSpec, Grants, Held, MonthSpend, said
from pipeline.records import Completion, Usage
from tests.support.clock import run_virtual

NOVEMBER, DECEMBER = 202611, 202612


class Kept:
    """What a budget notes of its attempts, as a journal would, and the month by the test's calendar."""

    def __init__(self) -> None:
        self.sums: dict[int, tuple[int, int]] = {}
        self.month = NOVEMBER

    def note(self, month: int, paid: int, maybe: int) -> None:
        before = self.sums.get(month, (0, 0))
        self.sums[month] = (before[0] + paid, before[1] + maybe)


def answer(cost: int | None) -> Completion:
    return Completion("a", "stop", Usage(prompt_tokens=cost))


def budget(
    cap: int | None,
    kept: Kept | None = None,
    months: Mapping[int, tuple[int, int]] | None = None,
    grants: Grants | None = None,
) -> Budget:
    """A budget for which an answer costs its prompt tokens."""
    kept = kept or Kept()
    spec = BudgetSpec(
        cap=cap,
        currency="CNY",
        cost=lambda completion: completion.usage.prompt_tokens,
        month=lambda: kept.month,
        note=kept.note,
    )
    return Budget(spec, months or {}, grants)


def on_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(main())


async def held(one: Budget, amount: int) -> Held:
    found = await one.hold(amount)
    assert found is not None
    return found


async def sent(one: Budget, amount: int) -> Held:
    found = await held(one, amount)
    found.sent = True
    return found


@pytest.mark.parametrize(
    ("reply", "maybe_paid", "paid", "maybe"),
    [
        (answer(7), False, 7, 0),
        (answer(0), False, 0, 0),
        (answer(None), False, 0, 10),  # without usage nobody knows: at its worst
        (answer(25), False, 25, 0),  # more than was set aside: counted all the same
        (None, True, 0, 10),
        (None, False, 0, 0),
    ],
)
def test_an_attempt_settles_with_what_it_came_to(
    reply: Completion | None, maybe_paid: bool, paid: int, maybe: int
) -> None:
    async def main() -> None:
        kept = Kept()
        one = budget(100, kept)
        attempt = await sent(one, 10)
        assert one.spend == (0, 0, 10, 100)
        attempt.settle(reply, maybe_paid=maybe_paid)
        assert one.spend == (paid, maybe, 0, 100)
        assert kept.sums == ({NOVEMBER: (paid, maybe)} if paid or maybe else {})

    on_loop(main)


def test_what_was_never_sent_is_given_back_and_what_is_cut_off_on_the_wire_is_not() -> None:
    async def main() -> None:
        kept = Kept()
        one = budget(100, kept)
        with pytest.raises(asyncio.CancelledError), await held(one, 10):
            raise asyncio.CancelledError
        assert one.spend == (0, 0, 0, 100)
        with pytest.raises(asyncio.CancelledError), await sent(one, 20):
            raise asyncio.CancelledError
        assert one.spend == (0, 20, 0, 100)
        assert kept.sums == {}  # the journal has it as an open attempt
        with pytest.raises(ZeroDivisionError), await sent(one, 30):
            raise ZeroDivisionError  # a bug of ours on an answer that came
        assert one.spend == (0, 50, 0, 100)
        assert kept.sums == {NOVEMBER: (0, 30)}

    on_loop(main)


def test_earlier_runs_of_the_folder_count() -> None:
    async def main() -> None:
        one = budget(100, months={NOVEMBER: (50, 20), 202501: (10, 0)})
        assert one.spend == (60, 20, 0, 100)
        assert await one.hold(21) is None
        assert "max_cost is reached: 0.00000008 of 0.0000001 CNY is spent (0.00000002 of it" in one.refusal()
        assert (
            "the next row may cost up to 0.000000021. Raise [budget] max_cost (or --max-cost)"
            in one.refusal()
        )

    on_loop(main)


def test_results_say_what_was_paid_at_least_where_the_journal_was_lost() -> None:
    kept = Kept()
    one = budget(100, kept, months={NOVEMBER: (5, 1)})
    one.at_least(30)
    one.at_least(20)
    assert one.spend == (30, 1, 0, 100)
    assert kept.sums == {NOVEMBER: (25, 0)}


def test_a_row_that_does_not_fit_waits_for_room_and_the_run_goes_on() -> None:
    """Three at a time fit at their worst, thirty in all at their cost."""

    async def main() -> None:
        one = budget(30, Kept())
        full: list[bool] = []
        one.on_full = lambda: full.append(True)
        most = 0

        async def row() -> None:
            nonlocal most
            attempt = await one.hold(10)
            if attempt is None:
                return
            with attempt:
                attempt.sent = True
                most = max(most, one.spend.held)
                await asyncio.sleep(1)
                attempt.settle(answer(1), maybe_paid=False)

        await asyncio.gather(*(row() for _ in range(40)))
        assert most == 30
        assert full == [True]
        # It stopped when the next could not fit whatever comes back: less than one worst case is left.
        assert 30 - 10 < one.spend.paid <= 30

    on_loop(main)


def test_the_first_come_is_the_first_served_and_small_rows_do_not_pass_large_ones() -> None:
    async def main() -> None:
        one = budget(10)
        first = await sent(one, 8)
        order: list[str] = []

        async def row(name: str, amount: int) -> None:
            attempt = await held(one, amount)
            order.append(name)
            attempt.settle(None, maybe_paid=False)

        large = asyncio.create_task(row("large", 9))
        await asyncio.sleep(0)
        small = asyncio.create_task(row("small", 1))
        await asyncio.sleep(1)
        assert order == []
        first.settle(None, maybe_paid=False)
        await asyncio.gather(large, small)
        assert order == ["large", "small"]

    on_loop(main)


def test_who_waits_and_is_cancelled_holds_nothing_even_if_room_came_at_that_moment() -> None:
    async def main() -> None:
        one = budget(10)
        first = await sent(one, 8)
        waiting = [asyncio.create_task(one.hold(9)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        first.settle(None, maybe_paid=False)  # room for the second, which is then cancelled too
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert one.spend == (0, 0, 0, 10)

    on_loop(main)


def test_once_full_all_who_wait_are_told_and_the_run_once() -> None:
    async def main() -> None:
        one = budget(10)
        full: list[bool] = []
        one.on_full = lambda: full.append(True)
        first = await sent(one, 8)
        waiting = [asyncio.create_task(one.hold(9)) for _ in range(3)]
        await asyncio.sleep(0)
        first.settle(None, maybe_paid=True)
        assert await asyncio.gather(*waiting) == [None, None, None]
        assert await one.hold(1) is None
        assert full == [True]

    on_loop(main)


def test_an_attempt_belongs_to_the_month_in_which_it_was_begun() -> None:
    async def main() -> None:
        kept = Kept()
        one = budget(None, kept)
        begun = await sent(one, 10)
        kept.month = DECEMBER
        await asyncio.sleep(1.1)  # the month is looked up every second
        later = await sent(one, 10)
        begun.settle(answer(3), maybe_paid=False)
        later.settle(None, maybe_paid=True)
        assert kept.sums == {NOVEMBER: (3, 0), DECEMBER: (0, 10)}

    on_loop(main)


class Granting:
    """Grants of a test: so much each month, less what others took."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.others = 0
        self.noted: list[tuple[int, int]] = []

    def grant(self, spend: MonthSpend, amount: int) -> int:
        needed = spend.spent + spend.held + amount
        return max(spend.granted, needed) if needed <= self.room(spend.month) else spend.granted

    def room(self, month: int) -> int:
        return self.cap - self.others

    def note(self, spend: MonthSpend) -> None:
        self.noted.append((spend.month, spend.spent))

    def refusal(self, spend: MonthSpend, amount: int) -> str:
        return f"{spend.month} is full at {spend.spent}, {amount} more"


def test_a_month_is_full_with_what_others_spend_and_the_next_month_is_not() -> None:
    async def main() -> None:
        kept, grants = Kept(), Granting(100)
        one = budget(None, kept, months={202610: (1_000, 0)}, grants=grants)
        (await sent(one, 60)).settle(answer(60), maybe_paid=False)
        grants.others = 20
        waiting = await sent(one, 15)
        blocked = asyncio.create_task(one.hold(15))
        await asyncio.sleep(0)
        assert not blocked.done()  # what is under way may come back
        waiting.settle(answer(2), maybe_paid=False)
        attempt = await blocked
        assert attempt is not None
        attempt.settle(answer(15), maybe_paid=False)
        kept.month = DECEMBER
        await asyncio.sleep(1.1)
        (await sent(one, 80)).settle(answer(80), maybe_paid=False)
        assert kept.sums == {NOVEMBER: (77, 0), DECEMBER: (80, 0)}
        assert await one.hold(1) is None
        assert one.refusal() == "202612 is full at 80, 1 more"
        assert (NOVEMBER, 77) in grants.noted

    on_loop(main)


def test_a_new_month_waits_for_the_cap_of_all_while_the_old_one_may_free_it() -> None:
    async def main() -> None:
        kept = Kept()
        one = budget(10, kept, grants=Granting(100))
        old = await sent(one, 8)
        kept.month = DECEMBER
        await asyncio.sleep(1.1)
        waiting = asyncio.create_task(one.hold(5))
        await asyncio.sleep(0)
        assert not waiting.done()
        old.settle(answer(1), maybe_paid=False)
        assert await waiting is not None

    on_loop(main)


@settings(max_examples=200, deadline=None)
@given(
    cap=st.integers(0, 200),
    monthly=st.none() | st.integers(0, 200),
    rows=st.lists(
        st.tuples(
            st.integers(0, 40),  # worst case
            st.floats(0, 1),  # share of it that is billed
            st.sampled_from(["answered", "lost", "refused", "unsent", "cut"]),
            st.floats(0, 3),  # seconds
        ),
        max_size=40,
    ),
    before=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_no_order_of_attempts_passes_a_cap_or_stops_while_room_may_return(
    cap: int,
    monthly: int | None,
    rows: list[tuple[int, float, str, float]],
    before: tuple[int, int],
) -> None:
    async def main() -> None:
        kept = Kept()
        kept.note(NOVEMBER, *before)
        one = budget(cap, kept, dict(kept.sums), None if monthly is None else Granting(monthly))
        lowest = min(cap, cap if monthly is None else monthly)
        already = sum(before)
        refused: list[int] = []
        billed = cut = 0

        async def row(worst: int, share: float, end: str, lasts_s: float) -> None:
            nonlocal billed, cut
            attempt = await one.hold(worst)
            spend = one.spend
            assert spend.paid + spend.maybe + spend.held <= max(lowest, already)
            if attempt is None:
                refused.append(worst)
                return
            try:
                with attempt:
                    await asyncio.sleep(lasts_s / 2)
                    if end == "unsent":
                        raise asyncio.CancelledError
                    attempt.sent = True
                    await asyncio.sleep(lasts_s / 2)
                    if end == "cut":
                        billed += worst
                        cut += worst
                        raise asyncio.CancelledError
                    cost = int(worst * share)
                    billed += {"answered": cost, "lost": worst}.get(end, 0)
                    attempt.settle(answer(cost) if end == "answered" else None, maybe_paid=end == "lost")
            except asyncio.CancelledError:
                pass

        await asyncio.gather(*(row(*one_row) for one_row in rows))
        spend = one.spend
        assert already + billed == spend.paid + spend.maybe + spend.held
        assert spend.held == 0
        assert sum(kept.sums[NOVEMBER]) + cut == already + billed
        if refused:
            assert lowest - (already + billed) < max(refused)
        else:
            assert already + billed <= max(lowest, already)

    on_loop(main)


@pytest.mark.parametrize(
    ("amount", "words"),
    [(0, "0"), (1, "0.000000001"), (5_000_000_000, "5"), (1_230_000_000, "1.23"), (10**18, "1000000000")],
)
def test_amounts_are_said_without_zeros_that_say_nothing(amount: int, words: str) -> None:
    assert said(amount) == words
