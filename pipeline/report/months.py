"""What runs spent by month, from the ledger that all runs of a user on this machine share."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from pipeline.monthly import LedgerRow
from pipeline.report.shown import Column, Kind, Table

_AMOUNTS = (
    Column("paid", Kind.AMOUNT),
    Column("maybe", Kind.AMOUNT),
    Column("reserved", Kind.AMOUNT),
    Column("counts", Kind.AMOUNT),
    Column(""),  # the currency
)
_NOTE = (
    "maybe: for requests that may have been billed without an answer; reserved: granted to runs that go on, or were killed; "
    "counts: all three, against max_cost_per_month"
)


def tables(rows: Sequence[LedgerRow]) -> Iterator[Table]:
    """The months of each scope, and below them the run folders."""
    months: dict[tuple[str, str, str], list[LedgerRow]] = {}
    for row in rows:
        months.setdefault((row.scope, row.month, row.currency), []).append(row)
    yield Table(
        "Spent by month",
        (Column("scope"), Column("month"), Column("run folders", Kind.COUNT), *_AMOUNTS),
        [(scope, month, len(of), *_amounts(of), currency) for (scope, month, currency), of in months.items()],
        _NOTE,
    )
    yield Table(
        "By run folder",
        (
            Column("scope"),
            Column("month"),
            Column("job"),
            Column("run folder"),
            *_AMOUNTS,
            Column("updated, UTC"),
        ),
        [
            (row.scope, row.month, row.job, str(row.folder), *_amounts([row]), row.currency, row.updated[:19])
            for row in rows
        ],
    )


def _amounts(rows: Sequence[LedgerRow]) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    paid = sum((row.paid for row in rows), Decimal(0))
    maybe = sum((row.maybe for row in rows), Decimal(0))
    reserved = sum((row.reserved for row in rows), Decimal(0))
    return paid, maybe, reserved, paid + maybe + reserved


def document(rows: Sequence[LedgerRow]) -> dict[str, Any]:
    """The ledger's rows for JSON; the schema stands in docs/reports.md."""
    return {"schema_version": 1, "ledger": [row._asdict() for row in rows]}
