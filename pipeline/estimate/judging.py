"""What is known of a job and what was looked at, brought together: what is expected, between what it lies, and the most.

Rows that a run settled are known. For all others each figure is judged by the rows of a pilot, else by rows of an earlier run,
else not at all: then only the prompts are known, and the most that answers can come to. Where prompts were counted, only what
is billed besides them is judged: the difference to the count, and the answer.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import fsum

from pipeline.estimate.figures import BreakEven, Cost, Estimate, Source
from pipeline.estimate.options import Option
from pipeline.estimate.population import Population
from pipeline.estimate.routes import Volume, break_evens, saved_by_cache, time_at_limits
from pipeline.estimate.settled import FIGURES, Seen, Settled
from pipeline.estimate.words import job_notes, option_notes, source_notes
from pipeline.plan import Plan
from pipeline.sampling import LEAST_DRAWN, Drawn, Interval, Strata, make_strata, total

_PLACE = {name: place for place, name in enumerate(FIGURES)}
_Figure = Callable[[int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that an estimate is made of. `other` is another run whose rows are to be judged by, where one was named."""

    plan: Plan
    population: Population
    options: Sequence[Option]
    own: Settled
    other: Settled | None = None
    other_folder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """The rows to judge by: their sizes and figures. `others`: they are not rows of the job, but like them."""

    source: Source
    rows: Sequence[tuple[int, list[int]]]
    others: bool


def judge(known: Known) -> Estimate:
    """Make the estimate. Pure arithmetic, but for the counting done before."""
    return _Judge(known).estimate()


class _Judge:
    def __init__(self, known: Known) -> None:
        self._known = known
        self._plan = known.plan
        self._population = known.population
        self._options = known.options
        self._own = known.own
        settled = known.own.rows
        sizes = known.population.sizes
        self._open = Counter(size for index, size in enumerate(sizes) if size >= 0 and index not in settled)
        self._rows = sum(self._open.values())
        self._sample = self._chosen()
        rows = known.population.histogram
        self._strata = make_strata(rows, len(self._sample.rows)) if rows else Strata((), (1.0,))
        self._counted = list(self._counted_rows(settled))
        # Those whose bill is not known yet. Of rows that stand for others, as those of a sample do, none may be left out.
        asked = {one.row for one in self._own.pilot} if known.population.exact else set()
        self._unasked = list(self._counted_rows(settled | asked)) if asked else self._counted

    def _counted_rows(self, but: set[int]) -> Iterator[tuple[int, int, int]]:
        """The rows whose prompt was counted: their size, their tokens and the most that their answer can be."""
        population = self._population
        counts = population.counts
        for index, tokens, most in zip(population.counted, counts.tokens, counts.most, strict=True):
            if population.sizes[index] >= 0 and index not in but:
                yield population.sizes[index], tokens, most

    def estimate(self) -> Estimate:
        plan, population, own, source = self._plan, self._population, self._own, self._sample.source
        answers = source.kind != "none" or not self._rows
        input_ = self._input()
        output = self._expected("output") if answers else None
        requests = self._requests()
        most_output = self._most(lambda _, most: None if most < 0 else float(most), _PLACE["output"])
        volume = self._volume(input_, output, requests)
        costs = [self._cost(place, option, volume) for place, option in enumerate(self._options)]
        return Estimate(
            job=plan.job.file.name,
            provider=plan.target.provider.name,
            model=plan.target.model_name,
            rows=population.rows,
            unsendable=self._unsendable(),
            repeated=population.repeated,
            settled=len(own.rows) + len(own.pilot),
            paid=self._paid(),
            counted=sum(tokens >= 0 for tokens in population.counts.tokens),
            source=source,
            input=input_,
            output=output,
            reasoning=self._expected("reasoning") if answers else None,
            most_output=most_output,
            requests=requests,
            failed_share=self._share("failed", "rows"),
            costs=costs,
            break_even=self._break_evens(costs, input_),
            notes=[
                *job_notes(plan, population),
                *source_notes(source, own, known_model=self._foreign_model()),
            ],
            problems=list(population.counts.problems),
        )

    # Which rows to judge by

    def _chosen(self) -> _Sample:
        sizes, own, exact = self._population.sizes, self._own, self._population.exact
        pilot = [
            (sizes[one.row], one.figures) for one in own.pilot if one.row < len(sizes) and sizes[one.row] >= 0
        ]
        if len(pilot) >= min(LEAST_DRAWN, self._rows) and pilot:
            return _Sample(source=Source(kind="pilot", rows=len(pilot)), rows=pilot, others=False)
        other = self._known.other
        if other is not None:
            rows = _by_prompt(other.others)
            source = Source(kind="run", rows=len(rows), folder=self._known.other_folder)
            return _Sample(source=source, rows=rows, others=True)
        if len(own.others) >= LEAST_DRAWN and not own.changed:
            rows = [
                (sizes[one.row], one.figures)
                for one in own.others
                if one.row < len(sizes) and sizes[one.row] >= 0
            ]
            if len(rows) >= LEAST_DRAWN:
                return _Sample(source=Source(kind="settled", rows=len(rows)), rows=rows, others=True)
        if len(own.others) >= LEAST_DRAWN and exact:
            rows = _by_prompt(own.others)
            return _Sample(source=Source(kind="settled", rows=len(rows)), rows=rows, others=True)
        return _Sample(source=Source(kind="none"), rows=[], others=True)

    def _foreign_model(self) -> str | None:
        judged_by = self._known.other if self._sample.source.kind == "run" else self._own
        model = judged_by.model if judged_by is not None else None
        return None if model == self._plan.target.model_name else model

    # What is expected

    def _expected(self, name: str) -> Interval:
        return self._judged(_PLACE[name])

    def _judged(self, place: int, counted: _Figure | None = None) -> Interval:
        """A figure over all rows; `counted` is the part of it that is known of each row by its tokens."""
        known = float(self._own.sums[place])
        if not self._rows:
            return Interval.exactly(known)
        base: _Figure = counted or (lambda _: 0.0)
        drawn = [Drawn(size, figures[place] - base(size)) for size, figures in self._sample.rows]
        known += fsum(count * base(size) for size, count in self._open.items())
        return total(self._strata, self._open, drawn, others=self._sample.others).plus(known)

    def _input(self) -> Interval:
        place = _PLACE["input"]
        if self._sample.rows or not self._rows:
            return self._judged(place, float if self._population.exact else None)
        return self._by_counts(lambda tokens, _: float(max(tokens, 0))).plus(self._own.sums[place])

    def _requests(self) -> Interval:
        place = _PLACE["requests"]
        if self._sample.rows or not self._rows:
            return self._judged(place, (lambda _: 1.0) if self._population.exact else None)
        lost = self._by_counts(lambda tokens, _: float(tokens < 0))
        known = self._own.sums[place] + self._rows
        return Interval(known - lost.value, known - lost.high, known - lost.low)

    def _unsendable(self) -> Interval:
        unread = float(sum(size == -1 for size in self._population.sizes))
        if self._population.exact:
            return Interval.exactly(unread)
        return self._by_counts(lambda tokens, _: float(tokens < 0)).plus(unread)

    def _by_counts(self, figure: Callable[[int, int], float]) -> Interval:
        """A figure of each row's count and bound, over all rows that are not settled: from all of them, or those counted."""
        if self._population.exact:
            return Interval.exactly(fsum(figure(tokens, most) for _, tokens, most in self._counted))
        drawn = [Drawn(size, figure(tokens, most)) for size, tokens, most in self._counted]
        if len(drawn) < 2:
            return Interval.exactly(fsum(one.figure for one in drawn))
        return total(make_strata(self._open, len(drawn)), self._open, drawn)

    def _most(self, figure: Callable[[int, int], float | None], place: int) -> float | None:
        """The most that a figure can come to, by the most that each row's can be; None where one has no bound."""
        figures: dict[tuple[int, int], float] = {}
        for _, tokens, most in self._unasked:
            if tokens >= 0 and (tokens, most) not in figures:
                found = figure(tokens, most)
                if found is None:
                    return None
                figures[tokens, most] = found
        known = float(self._own.sums[place])
        if self._unasked is not self._counted:
            known += sum(one.figures[place] for one in self._own.pilot)
            return known + fsum(figures.get((tokens, most), 0.0) for _, tokens, most in self._unasked)
        return known + self._by_counts(lambda tokens, most: figures.get((tokens, most), 0.0)).high

    def _share(self, name: str, of: str) -> float | None:
        """What share one figure is of another, or of the rows, in the rows looked at."""
        rows = self._sample.rows
        whole = len(rows) if of == "rows" else sum(figures[_PLACE[of]] for _, figures in rows)
        return sum(figures[_PLACE[name]] for _, figures in rows) / whole if whole else None

    # Money and time

    def _paid(self) -> int | None:
        if self._options[0].price is None:
            return None
        first = len(FIGURES)
        return self._own.sums[first] + sum(one.figures[first] for one in self._own.pilot)

    def _cost(self, place: int, option: Option, found: Volume) -> Cost:
        price, whole, column = option.price, option.whole, len(FIGURES) + place
        expected = least = None
        most: float | None = None
        if whole is not None:

            def prompt_cost(tokens: int) -> float:
                return float(whole.nano_cost(max(tokens, 0), 0, 0, None, 0) or 0)

            def most_cost(tokens: int, row_most: int) -> float | None:
                answer = row_most if option.of_job else option.most_tokens or -1
                ways = [whole.nano_cost(tokens, answer, 0, None, thought) for thought in (0, 1)]
                return max((float(cost) for cost in ways if cost is not None), default=None)

            most = self._most(most_cost, column)
            if self._sample.rows or not self._rows:
                expected = self._judged(column, prompt_cost if self._population.exact else None)
            else:
                known = self._own.sums[column]
                least = self._by_counts(lambda tokens, _: prompt_cost(tokens)).low + known
        time_s, bound_by = time_at_limits(self._plan, option, found)
        return Cost(
            provider=option.provider.name,
            model=option.model_name,
            route=option.route,
            own=option.own,
            currency=price.currency if price else None,
            price_version=price.version if price else None,
            expected=expected,
            least=least,
            most=most,
            time_s=time_s,
            bound_by=bound_by,
            notes=tuple(option_notes(self._plan, option, requests=found.requests)),
        )

    def _break_evens(self, costs: Sequence[Cost], input_: Interval) -> list[BreakEven]:
        prompts = [tokens for _, tokens, _ in self._counted if tokens > 0]
        saved = saved_by_cache(self._options, prompts)
        if saved is None or not sum(prompts):
            return []
        whole = saved * input_.value / sum(prompts)
        return list(break_evens(self._options, costs, whole, self._share("cached", "input")))

    def _volume(self, input_: Interval, output: Interval | None, requests: Interval) -> Volume:
        """What is asked in all, and what of it was answered already."""
        done = [
            sum((one.figures[place] for one in self._own.pilot), start=self._own.sums[place])
            for place in range(len(FIGURES))
        ]
        return Volume(
            requests=requests.value,
            tokens=input_.value + (output.value if output else 0),
            with_answers=output is not None,
            done_requests=done[_PLACE["requests"]],
            done_tokens=done[_PLACE["input"]] + done[_PLACE["output"]],
            latency_ms=self._share("latency_ms", "rows"),
        )


def _by_prompt(rows: Sequence[Seen]) -> list[tuple[int, list[int]]]:
    """Rows of other work, whose size is what their prompt was billed; those without a bill tell nothing of their size."""
    return [(one.prompt_tokens, one.figures) for one in rows if one.prompt_tokens]
