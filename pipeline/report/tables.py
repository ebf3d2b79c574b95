"""The tables about one run, from its facts. What is said of several runs is in `many.py`."""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from pipeline.report import foreseen, labelled, over_time
from pipeline.report.facts import (
    About,
    Cell,
    ExtremeRow,
    Moments,
    RunFacts,
    Sums,
    summed,
)
from pipeline.report.shown import UNKNOWN, Column, Kind, Table, Value, amount, short
from pipeline.report.spread import ACCURACY, Spread
from pipeline.totals import TOKEN_KINDS

_ANSWER_CHARS = 80
_MESSAGE_CHARS = 200
PERCENTS = (50, 90, 95, 99)
_ROWS = Column("rows", Kind.COUNT)
_SHARE = Column("share", Kind.SHARE)


def ratio(part: Any, whole: Any) -> float | None:
    """A share; None of nothing."""
    return float(part / whole) if whole else None


def in_currency(value: Decimal | None, currency: str | None) -> str:
    """An amount with its currency."""
    return UNKNOWN if value is None else f"{amount(value)} {currency or ''}".rstrip()


def one_run(facts: RunFacts) -> Iterator[Table]:
    """All tables about one run, the most wanted first; those that have nothing to say are left out."""
    total = facts.total()
    yield about(facts)
    if not total.rows:
        return
    yield _counted("Outcomes", "status", facts, lambda cell: cell.status)
    yield _counted("Finish reasons", "finish reason", facts, lambda cell: cell.finish_reason, empty="(none)")
    yield tokens(total)
    yield cost(facts.cells)
    if facts.repriced is not None:
        yield repriced([facts])
    yield latency(facts.spread)
    yield _attempts(facts)
    if facts.failures:
        yield _failures(facts)
    if facts.labels is not None:
        yield from labelled.tables(facts.labels)
    if (limits := _limits(facts.about, facts.moments)) is not None:
        yield limits
    yield from foreseen.tables(facts)
    yield from over_time.tables(facts)
    yield _extremes("Slowest rows", facts.slowest.rows)
    if facts.dearest.rows:
        yield _extremes("Dearest rows", facts.dearest.rows)


def state(about: About, rows: int) -> str:
    """Whether a run goes on, is done, or stopped, in a word."""
    if about.running:
        return "running"
    return "finished" if rows >= about.rows else "stopped"


def about(facts: RunFacts) -> Table:
    """What the run is, how it stands and what it spent."""
    said, total = facts.about, facts.total()
    pairs: list[tuple[str, Value]] = [
        ("run folder", said.folder),
        ("model", " · ".join(filter(None, (said.model, said.provider, said.route))) or None),
        ("started", said.started and f"{said.started.astimezone():%Y-%m-%d %H:%M:%S %z}"),
        ("state", _state(said, total.rows)),
        ("rows", f"{total.rows:,} of {said.rows:,}"),
    ]
    if said.open_rows:
        pairs.append(("", f"{said.open_rows:,} of them in parts that are still open"))
    if said.elapsed_s is not None:
        pairs.append(("last run took", f"{said.elapsed_s:,.1f} s"))
    pairs.append(("attempts", f"{total.attempts:,}"))
    if said.maybe_paid:
        pairs.append(("maybe paid", f"{said.maybe_paid:,} requests that got no answer may have been billed"))
    pairs.append(("cost", cost_said(facts.cells)))
    if said.spent is not None:
        spent = in_currency(said.spent, said.currency)
        if said.maybe:
            spent += f", {amount(said.maybe)} of it at most, for requests without an answer"
        pairs.append(("spent", spent))
    if said.max_cost is not None:
        pairs.append(("max_cost", in_currency(said.max_cost, said.currency)))
    return Table(f"Run {said.job}", (Column("what"), Column("is")), pairs)


def _state(said: About, rows: int) -> str:
    reason = "" if said.exit_reason is None else f": {said.exit_reason} (exit code {said.exit_code})"
    return state(said, rows) + reason


def cost_said(cells: dict[Cell, Sums]) -> str:
    """What answers cost, in words: an amount a currency, and how many answers are not priced."""
    by_currency = summed(cells, lambda cell: cell.currency)
    unpriced = sum(sums.unpriced for sums in by_currency.values())
    known = [
        in_currency(sums.cost, currency) for currency, sums in by_currency.items() if currency is not None
    ]
    said = " + ".join(known) or UNKNOWN
    return f"{said}; unknown for {unpriced:,} answers" if unpriced else said


def _counted(
    title: str, head: str, facts: RunFacts, by: Callable[[Cell], str | None], *, empty: str = ""
) -> Table:
    found = summed(facts.cells, by)
    whole = sum(sums.rows for sums in found.values())
    rows = [
        (empty if name is None else name, sums.rows, ratio(sums.rows, whole))
        for name, sums in sorted(found.items(), key=lambda one: (-one[1].rows, one[0] or ""))
    ]
    return Table(title, (Column(head), _ROWS, _SHARE), rows)


def tokens(total: Sums) -> Table:
    """Tokens by kind, and how many answers did not tell theirs."""
    rows = [
        (
            kind.replace("_", " "),
            total.known_tokens(kind),
            ratio(total.tokens[kind], total.told[kind]),
            total.answers - total.told[kind],
        )
        for kind in TOKEN_KINDS
    ]
    columns = (
        Column("kind"),
        Column("tokens", Kind.COUNT),
        Column("an answer", Kind.MEAN),
        Column("answers without it", Kind.COUNT),
    )
    return Table(
        "Tokens", columns, rows, "cached and cache write are part of prompt; reasoning of completion"
    )


def cost(cells: dict[Cell, Sums]) -> Table:
    """Cost by model and route."""
    found = summed(cells, lambda cell: (cell.model, cell.route, cell.currency))
    rows = [
        (
            model or "(no answer)",
            route,
            sums.rows,
            sums.known_tokens("prompt_tokens"),
            sums.known_tokens("completion_tokens"),
            sums.known_cost,
            ratio(sums.cost * 1000, sums.answers - sums.unpriced),
            currency,
            sums.unpriced,
        )
        for (model, route, currency), sums in sorted(
            found.items(), key=lambda one: (-one[1].cost, -one[1].rows)
        )
    ]
    columns = (
        Column("model"),
        Column("route"),
        _ROWS,
        Column("prompt tokens", Kind.COUNT),
        Column("completion tokens", Kind.COUNT),
        Column("cost", Kind.AMOUNT),
        Column("per 1,000", Kind.AMOUNT),
        Column("currency"),
        Column("without price", Kind.COUNT),
    )
    return Table("Cost by model and route", columns, rows)


def repriced(runs: Sequence[RunFacts]) -> Table:
    """What the answers would have cost elsewhere, beside what they cost, a run a line."""
    rows: list[tuple[Value, ...]] = []
    notes = ["the same tokens at other prices: another model may count and answer otherwise"]
    for facts in runs:
        found, total = facts.repriced, facts.total()
        if found is None:
            continue
        where, there = found.where, found.priced_cost
        comparable = where.price is not None and where.price.currency == facts.about.currency
        comparable = comparable and not found.unpriced and not total.unpriced
        rows.append(
            (
                facts.about.job,
                where.model_name,
                where.provider.name,
                where.route,
                total.known_cost,
                facts.about.currency or "",
                there,
                where.price.currency if where.price else "",
                change(total.known_cost, there) if comparable else None,
                found.unpriced.total(),
            )
        )
        notes += [where.why] if where.why else []
        notes += [f"{count:,} answers: {reason}" for reason, count in found.unpriced.items() if where.price]
    columns = (
        Column("job"),
        Column("model"),
        Column("provider"),
        Column("route"),
        Column("it cost", Kind.AMOUNT),
        Column(""),
        Column("would cost", Kind.AMOUNT),
        Column(""),
        Column("change", Kind.CHANGE),
        Column("without price", Kind.COUNT),
    )
    return Table("The same elsewhere", columns, rows, "; ".join(dict.fromkeys(notes)))


def change(before: Decimal | None, now: Decimal | None) -> float | None:
    """How much more, as a share of what was before; None where either is not known."""
    return None if not before or now is None else float(now / before) - 1


_TIMES = {"latency_ms": "latency", "first_token_ms": "first token", "queue_ms": "wait for the limits"}


def latency(spread_of: Callable[[str], Spread]) -> Table:
    """Percentiles of the times; the last attempt's, as the columns are."""
    rows = []
    for measure, name in _TIMES.items():
        spread = spread_of(measure)
        percentiles = [spread.percentile(percent) for percent in PERCENTS]
        if spread.count:
            rows.append((name, spread.count, spread.mean, *percentiles, spread.most))
    columns = (
        Column("time"),
        _ROWS,
        Column("mean", Kind.MS),
        *(Column(f"p{percent}", Kind.MS) for percent in PERCENTS),
        Column("most", Kind.MS),
    )
    note = f"of each row's last attempt; percentiles within {ACCURACY:.0%}"
    return Table("Times", columns, rows, note)


def _attempts(facts: RunFacts) -> Table:
    whole = sum(facts.attempts.values())
    rows = [(attempts, count, ratio(count, whole)) for attempts, count in sorted(facts.attempts.items())]
    return Table("Attempts", (Column("attempts a row", Kind.COUNT), _ROWS, _SHARE), rows)


def _failures(facts: RunFacts) -> Table:
    rows = [
        (
            one.kind,
            one.code,
            one.rows,
            one.row_id,
            one.http_status,
            one.message and short(one.message, _MESSAGE_CHARS),
        )
        for one in sorted(facts.failures.values(), key=lambda one: -one.rows)
    ]
    columns = (
        Column("kind"),
        Column("code"),
        _ROWS,
        Column("for example row"),
        Column("HTTP"),
        Column("message"),
    )
    return Table("Failures", columns, rows)


def _extremes(title: str, found: list[ExtremeRow]) -> Table:
    rows = [
        (
            row.row_id,
            row.status,
            row.model,
            row.latency_ms,
            row.attempts,
            row.prompt_tokens,
            row.completion_tokens,
            row.cost,
            row.content and short(row.content, _ANSWER_CHARS),
        )
        for row in found
    ]
    columns = (
        Column("row"),
        Column("status"),
        Column("model"),
        Column("latency", Kind.MS),
        Column("attempts", Kind.COUNT),
        Column("prompt", Kind.COUNT),
        Column("completion", Kind.COUNT),
        Column("cost", Kind.AMOUNT),
        Column("answer"),
    )
    return Table(title, columns, rows)


def _limits(said: About, moments: Moments) -> Table | None:
    """The busiest minute against the limits, from when rows were settled; None where there is no limit."""
    rows = []
    for head, limit, busiest in (
        ("requests_per_minute, by rows", said.requests_per_minute, moments.busiest_minute("rows")),
        ("tokens_per_minute", said.tokens_per_minute, moments.busiest_minute("tokens")),
    ):
        if limit is not None:
            rows.append((head, limit, busiest, ratio(busiest, limit)))
    if not rows:
        return None
    columns = (
        Column("limit"),
        Column("set", Kind.COUNT),
        Column("busiest minute", Kind.COUNT),
        Column("used", Kind.SHARE),
    )
    return Table("Limits used", columns, rows, "by when rows were settled; attempts that failed not counted")
