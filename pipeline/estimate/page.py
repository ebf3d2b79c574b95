"""The estimate as one HTML file that needs nothing else, in the form of the reports."""

from datetime import datetime

from pipeline.estimate.figures import Estimate
from pipeline.estimate.tables import cost_said, interval_said, tables_of
from pipeline.report.page import Page, Tile, html


def page_of(estimate: Estimate, made: datetime) -> str:
    """The page as HTML."""
    own = estimate.costs[0]
    tiles = [
        Tile("rows", f"{estimate.rows:,}"),
        Tile("cost, 90 % interval", cost_said(own)),
        Tile("input tokens", interval_said(estimate.input)),
        Tile("output tokens", "not known" if estimate.output is None else interval_said(estimate.output)),
    ]
    return html(
        Page(title=f"Estimate {estimate.job}", tiles=tiles, charts=[], tables=list(tables_of(estimate))), made
    )
