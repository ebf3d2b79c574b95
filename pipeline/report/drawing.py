"""Charts as SVG without script, from a few shapes of data. The drawing is Vega-Lite's, compiled in the package vl-convert-python.

Colours are the page's own (`currentColor`, `var(--...)`), so that one picture serves light, dark and print. Nothing is fetched:
the data stand in the specification, and no address is allowed.
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.errors import SetupError
from pipeline.records import Status
from pipeline.report.spread import Bin

WIDTH_PX, HEIGHT_PX = 380, 210
_INK, _FAINT = "currentColor", "var(--faint)"
_COLOURS = [f"var(--c{number})" for number in range(1, 6)]
_FAILED = "var(--bad)"
_BAD = (Status.FAILED, "refused")
_FONT = "system-ui, sans-serif"
_AXIS = {
    "labelColor": _INK,
    "titleColor": _INK,
    "domainColor": _FAINT,
    "tickColor": _FAINT,
    "gridColor": _FAINT,
    "labelFontSize": 11,
    "titleFontSize": 11,
    "titleFontWeight": "normal",
    "labelOverlap": True,
    "tickCount": 5,
}
_CONFIG: dict[str, Any] = {
    "background": None,
    "font": _FONT,
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": {"labelColor": _INK, "labelFontSize": 11, "orient": "top", "title": None, "labelLimit": 150},
    "range": {"category": _COLOURS},
    "text": {"color": _INK, "fontSize": 11},
}
_NAME_CHARS, _BAR_NAME_CHARS = 18, 36


class Chart(NamedTuple):
    """One chart: its title, its picture, and what must be known to read it."""

    title: str
    svg: str
    note: str = ""


class Point(NamedTuple):
    """A value of one series at a time (Unix seconds)."""

    at_s: float
    value: float | None
    series: str


class Axis(NamedTuple):
    """What an axis of figures measures, and whether in whole numbers."""

    unit: str
    whole: bool = True


def svg(spec: dict[str, Any]) -> str:
    """A specification drawn. Raises SetupError where the drawing package is not installed."""
    try:
        drawer = importlib.import_module("vl_convert")  # 80 MB that only a page with charts needs
    except ImportError as error:
        raise SetupError(
            "charts need the package vl-convert-python, which is not installed: pip install 'promptmill[report]'"
        ) from error
    sized = {"width": WIDTH_PX, "height": HEIGHT_PX, "autosize": {"type": "fit", "contains": "padding"}}
    drawn: str = drawer.vegalite_to_svg({**sized, **spec, "config": _CONFIG}, allowed_base_urls=[])
    return drawn


def over_time(
    points: Sequence[Point],
    axis: Axis,
    *,
    limit: float | None = None,
    stacked: bool = False,
    lines: Sequence[Point] = (),
) -> str:
    """Series over time, in UTC. `limit` is drawn as a line across, `lines` over what is stacked."""
    series = list(dict.fromkeys(point.series for point in (*points, *lines)))
    colour = _colour(series)
    x = {"field": "t", "type": "temporal", "scale": {"type": "utc"}, "title": "UTC"}
    y = {"field": "v", "type": "quantitative", "title": axis.unit, "axis": _numbers(whole=axis.whole)}
    mark = (
        {"type": "area", "opacity": 0.85, "interpolate": "step-after"}
        if stacked
        else {"type": "line", "strokeWidth": 1.8}
    )
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": _values(points)},
            "mark": mark,
            "encoding": {"x": x, "y": y | {"stack": "zero" if stacked else None}, "color": colour},
        }
    ]
    if lines:
        layers.append(
            {
                "data": {"values": _values(lines)},
                "mark": {"type": "line", "strokeWidth": 1.5, "interpolate": "step-after"},
                "encoding": {"x": x, "y": y, "color": colour},
            }
        )
    if limit is not None:
        layers.append(
            {
                "data": {"values": [{"v": limit, "text": "limit"}]},
                "layer": [
                    {"mark": {"type": "rule", "color": _INK, "strokeDash": [5, 4]}},
                    {
                        "mark": {"type": "text", "align": "left", "dy": -5, "x": 4, "color": _INK},
                        "encoding": {"text": {"field": "text"}},
                    },
                ],
                "encoding": {"y": {"field": "v", "type": "quantitative"}},
            }
        )
    return svg({"layer": layers})


def _values(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [{"t": point.at_s * 1000, "v": point.value, "s": point.series} for point in points]


def near(limit: float | None, most: float) -> float | None:
    """A limit where it is near enough to be drawn with what reached `most`: else it would press that flat."""
    return limit if limit is not None and limit <= most * 3 else None


def limit_note(limit: float | None, drawn: float | None) -> str:
    """What to say of a limit that is not drawn."""
    return "" if limit is None or drawn is not None else f"the limit, {limit:,.0f}, is far above"


def distribution(bins: Sequence[Bin], *, unit: str) -> str:
    """How values spread, on a logarithmic axis."""
    series = list(dict.fromkeys(one.series for one in bins))
    return svg(
        {
            "data": {
                "values": [{"a": one.low, "b": one.high, "n": one.rows, "s": one.series} for one in bins]
            },
            "mark": {"type": "bar", "opacity": 0.6, "binSpacing": 0},
            "encoding": {
                "x": {
                    "field": "a",
                    "type": "quantitative",
                    "scale": {"type": "log", "nice": False},
                    "axis": {"grid": False},
                    "title": unit,
                },
                "x2": {"field": "b"},
                "y": {
                    "field": "n",
                    "type": "quantitative",
                    "title": "rows",
                    "stack": None,
                    "axis": _numbers(whole=True),
                },
                "y2": {"datum": 0},
                "color": _colour(series),
            },
        }
    )


def bars(values: Sequence[tuple[str, float]], *, unit: str) -> str:
    """Named values, the first on top. A name stands above its bar: there it has room, whatever font the reader has."""
    rows = [
        {"n": number, "said": f"{_cut(name, _BAR_NAME_CHARS)}: {value:,.0f}", "v": value}
        for number, (name, value) in enumerate(values)
    ]
    return svg(
        {
            "height": 36 * len(rows) + 40,
            "data": {"values": rows},
            "encoding": {
                "y": {"field": "n", "type": "ordinal", "axis": None},
                "x": {"field": "v", "type": "quantitative", "title": unit, "axis": _numbers(whole=True)},
            },
            "layer": [
                {"mark": {"type": "bar", "color": _COLOURS[0], "height": 12, "yOffset": 8}},
                {
                    "mark": {"type": "text", "align": "left", "dy": -7},
                    "encoding": {"text": {"field": "said"}, "x": {"value": 0}},
                },
            ],
        }
    )


def spans(values: Sequence[tuple[str, float, float, float]], *, unit: str) -> str:
    """Named spans from low to high with a mark in or beside them, as shares; each name stands above its span."""
    rows = [
        {
            "n": number,
            "said": f"{_cut(name, _BAR_NAME_CHARS)}: {mark:.1%}",
            "low": low,
            "high": high,
            "mark": mark,
        }
        for number, (name, low, high, mark) in enumerate(values)
    ]
    x = {
        "type": "quantitative",
        "title": unit,
        "axis": {"format": "%"},
        "scale": {"zero": False, "nice": True},
    }
    return svg(
        {
            "height": 36 * len(rows) + 40,
            "data": {"values": rows},
            "encoding": {"y": {"field": "n", "type": "ordinal", "axis": None}},
            "layer": [
                {
                    "mark": {
                        "type": "bar",
                        "color": _COLOURS[0],
                        "opacity": 0.45,
                        "height": 10,
                        "yOffset": 8,
                    },
                    "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}},
                },
                {
                    "mark": {"type": "tick", "color": _COLOURS[1], "thickness": 3, "size": 18, "yOffset": 8},
                    "encoding": {"x": x | {"field": "mark"}},
                },
                {
                    "mark": {"type": "text", "align": "left", "dy": -7},
                    "encoding": {"text": {"field": "said"}, "x": {"value": 0}},
                },
            ],
        }
    )


def daily(values: Sequence[tuple[str, float, str]], axis: Axis) -> str:
    """Values by day, and series within a day, as stacked columns. Days are as 2026-11-28."""
    series = list(dict.fromkeys(name for _, _, name in values))
    return svg(
        {
            "data": {"values": [{"day": day, "v": value, "s": _cut(name)} for day, value, name in values]},
            "mark": {"type": "bar"},
            "encoding": {
                "x": {
                    "field": "day",
                    "type": "ordinal",
                    "title": None,
                    "axis": {"labelAngle": 0, "labelExpr": "slice(datum.value, 5)"},
                },
                "y": {
                    "field": "v",
                    "type": "quantitative",
                    "title": axis.unit,
                    "axis": _numbers(whole=axis.whole),
                },
                "color": _colour([_cut(name) for name in series]),
            },
        }
    )


def _colour(series: Sequence[str]) -> dict[str, Any]:
    """The colours of some series in their order; one alone needs no legend."""
    colour: dict[str, Any] = {"field": "s", "type": "nominal", "sort": list(series)}
    others = iter(_COLOURS)
    own = [_FAILED if name in _BAD else next(others, _COLOURS[-1]) for name in series]
    return (
        colour
        | {"scale": {"domain": list(series), "range": own}}
        | ({"legend": None} if len(series) == 1 else {})
    )


def _numbers(*, whole: bool) -> dict[str, Any]:
    """How an axis writes its numbers: 12k for whole ones, which have no fractions between them; 0.25 for others."""
    return {"format": "~s", "tickMinStep": 1} if whole else {}


def _cut(name: str, chars: int = _NAME_CHARS) -> str:
    return name if len(name) <= chars else name[: chars - 1] + "…"
