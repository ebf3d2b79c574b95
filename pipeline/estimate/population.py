"""How large each row of a dataset is, and the strata that rows are drawn from.

A row's size is its prompt's tokens where all are counted; where only some are, its length in characters, which costs next to
nothing to know, and the counts of some rows beside it.
"""

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from pipeline.counting import REPEATED, Counts, count_rows, row_chars
from pipeline.errors import JobError
from pipeline.plan import Plan
from pipeline.records import Row
from pipeline.sampling import draw, make_strata

_AT_ONCE = 1_000
# Hears how many rows were read, and the tokens counted in them.
OnProgress = Callable[[int, int], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """All rows of a job.

    `sizes` are by index, below 0 for a row that is not asked; `exact` says that they are the prompts' tokens. `counted` are the
    rows whose prompts were counted, by index, and `counts` their figures in the same order; all rows where `exact`.
    """

    sizes: "array[int]"
    exact: bool
    counted: range | list[int]
    counts: Counts

    @property
    def rows(self) -> int:
        return len(self.sizes)

    @property
    def histogram(self) -> Counter[int]:
        """How many rows there are of each size, of those that are asked."""
        return Counter(size for size in self.sizes if size >= 0)

    @property
    def asked(self) -> int:
        """How many rows are asked."""
        return sum(size >= 0 for size in self.sizes)

    @property
    def repeated(self) -> int:
        """How many rows share the answer of an identical prompt."""
        return sum(size == REPEATED for size in self.sizes)

    def draw(self, count: int, seed: int) -> list[int]:
        """Draw rows that are asked, in a random order. Raises JobError where there are not so many."""
        if count > (asked := self.asked):
            raise JobError(
                f"{count:,} rows cannot be drawn: {asked:,} of the dataset's {self.rows:,} rows become requests. "
                "Nothing was sent. Take fewer, or run the job"
            )
        return draw(self.sizes, make_strata(self.histogram, count), count, seed)


def count_all(plan: Plan, *, limit: int | None, on_progress: OnProgress = None) -> Population:
    """Count the prompt of every row, or of the first `limit`."""
    counts = count_rows(plan, islice(plan.dataset.rows(), limit), on_progress=on_progress)
    return Population(sizes=counts.tokens, exact=True, counted=range(len(counts.tokens)), counts=counts)


def count_some(
    plan: Plan, sample: int, *, limit: int | None, seed: int, on_progress: OnProgress = None
) -> Population:
    """Look how long every row is, and count the prompts of `sample` rows drawn by it."""
    if plan.job.file.response.dedupe:
        raise JobError(
            "--sample cannot tell which prompts are identical and share an answer ([response] dedupe): leave it out"
        )
    sizes = array("q")
    for row in islice(plan.dataset.rows(), limit):
        sizes.append(row_chars(plan, row))
        if on_progress and row.index % 10_000 == 0:
            on_progress(row.index, 0)
    lengths = Population(sizes=sizes, exact=False, counted=[], counts=Counts())
    drawn = sorted(lengths.draw(sample, seed))
    wanted = set(drawn)
    rows: list[Row] = []
    counts = Counts()
    for row in islice(plan.dataset.rows(), limit):
        if row.index in wanted:
            rows.append(row)
            if len(rows) == _AT_ONCE:
                counts.add(count_rows(plan, rows, workers=1))
                rows.clear()
    counts.add(count_rows(plan, rows, workers=1))
    return Population(sizes=sizes, exact=False, counted=drawn, counts=counts)
