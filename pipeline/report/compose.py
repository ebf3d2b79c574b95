"""What a report on some runs consists of: tables alone, or a whole page."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from pipeline.records import Status
from pipeline.report.charts import of_one_run, of_several
from pipeline.report.facts import RunFacts, summed
from pipeline.report.many import Together, several_runs
from pipeline.report.page import Page, Tile, html
from pipeline.report.shown import UNKNOWN, Table, milliseconds, share
from pipeline.report.tables import cost_said, one_run, ratio


def tables_of(runs: Sequence[RunFacts]) -> Iterator[Table]:
    """The tables about one run, or about several."""
    return one_run(runs[0]) if len(runs) == 1 else several_runs(runs)


def page_of(runs: Sequence[RunFacts], made: datetime) -> str:
    """The page about one run, or about several, as HTML. Raises SetupError where charts cannot be drawn."""
    one = len(runs) == 1
    return html(
        Page(
            title=f"Run {runs[0].about.job}" if one else f"{len(runs):,} runs",
            tiles=list(_tiles(runs)),
            charts=list(of_one_run(runs[0]) if one else of_several(runs)),
            tables=list(tables_of(runs)),
        ),
        made,
    )


def _tiles(runs: Sequence[RunFacts]) -> Iterator[Tile]:
    """The few figures that a reader wants first."""
    together = Together(runs)
    total = together.total()
    wanted = sum(facts.about.rows for facts in runs)
    by_status = summed(together.cells, lambda cell: cell.status)
    yield Tile(f"rows of {wanted:,}", f"{total.rows:,}")
    for status in (Status.OK, Status.FAILED):
        of = ratio(by_status[status].rows if status in by_status else 0, total.rows)
        yield Tile(status, UNKNOWN if of is None else share(of))
    yield Tile("cost", cost_said(together.cells))
    tokens = [total.known_tokens(kind) for kind in ("prompt_tokens", "completion_tokens")]
    yield Tile("tokens", UNKNOWN if None in tokens else f"{sum(filter(None, tokens)):,}")
    latency = together.spread("latency_ms").percentile(50)
    yield Tile("latency, median", UNKNOWN if latency is None else milliseconds(latency))
