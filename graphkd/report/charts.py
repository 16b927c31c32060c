"""Charts of the HTML page: figures of Plotly as plain data, which the page draws.

Building them as data takes no import of Plotly; the tests check them against its schema.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphkd.report.curves import Curve
from graphkd.report.figure_style import STYLES
from graphkd.report.markup import visible

COLOURS = tuple("#808080" if colour == "#000000" else colour for colour, _, _ in STYLES)
"""The palette of the figures, with grey for black: it must be seen on dark pages too."""
SYMBOLS = {
    "circle": "M5 0A5 5 0 1 1 5 10A5 5 0 1 1 5 0", "square": "M1 1H9V9H1Z", "triangle-up": "M5 0L10 9H0Z",
    "diamond": "M5 -1L11 5L5 11L-1 5Z", "triangle-down": "M0 1H10L5 10Z",
    "cross": "M3.5 0H6.5V3.5H10V6.5H6.5V10H3.5V6.5H0V3.5H3.5Z",
    "x": "M2 0L5 3L8 0L10 2L7 5L10 8L8 10L5 7L2 10L0 8L3 5L0 2Z",
}  # fmt: skip
"""Marks by their name in Plotly, each as a path in a square of 10 units."""
DASHES = {"solid": "", "dash": "6 3", "dot": "1.5 2.5", "dashdot": "7 3 1.5 3"}
"""Lines by their name in Plotly, each with its pattern in SVG."""
HEIGHT = 280
ROW_HEIGHT, LINE_HEIGHT, AROUND_ROWS = 26, 16, 60
"""Pixels of a chart, of a row of a dot plot and of a line of its label at least, and what the axis there takes."""
LABEL_WIDTH = 26
"""Signs in a line of a label beside an axis."""
DIGITS = 5
"""Significant digits of what is drawn."""
BAND_OPACITY = 0.16
"""Of a single band; many have less each, or nothing would be seen of the lines behind them."""
CLEAR = "rgba(0,0,0,0)"


@dataclass(frozen=True)
class Chart:
    """A figure of the page.

    Attributes:
        title: What it shows.
        figure: Traces and layout as Plotly takes them. The `meta` of a trace is the label of its row.
        height: Height in pixels.
        is_wide: Whether it takes the whole width of the page.
    """

    title: str
    figure: Mapping[str, Any]
    height: int = HEIGHT
    is_wide: bool = False


@dataclass(frozen=True)
class Look:
    """How a row is told from the others in all charts of a section."""

    colour: str
    dash: str
    symbol: str

    @property
    def pattern(self) -> str:
        """The dashes of its line in SVG."""
        return DASHES[self.dash]

    @property
    def path(self) -> str:
        """Its mark in SVG."""
        return SYMBOLS[self.symbol]


@dataclass(frozen=True)
class Dots:
    """A line of a dot plot: the mean, the ends of its bar (the mean itself for none), and values by name."""

    label: str
    look: Look
    mean: float
    low: float
    high: float
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A row in a chart of two values, each with how far its bar reaches to both sides; `name` is shown beside it."""

    label: str
    name: str
    look: Look
    x: float
    y: float
    x_reach: float = 0.0
    y_reach: float = 0.0


def look_of(place: int) -> Look:
    """Return the look of the row at a place: all colours first, then again with other lines and symbols."""
    turn, colour = divmod(place, len(COLOURS))
    return Look(COLOURS[colour], list(DASHES)[turn % len(DASHES)], list(SYMBOLS)[(colour + turn) % len(SYMBOLS)])


def dot_chart(title: str, rows: Sequence[Dots], baseline: float | None = None) -> Chart:
    """Return a chart with a line for each of one or more rows, from the top; `baseline` is a line through them all."""
    traces = []
    for row in rows:
        at, colour = _beside_axis(row.label), {"color": row.look.colour}
        if row.values:
            ticks = {**colour, "symbol": "line-ns-open", "size": 12, "opacity": 0.75, "line": {"width": 1.5}}
            traces.append({
                "x": _rounded(list(row.values.values())), "y": [at] * len(row.values), "text": list(row.values),
                "mode": "markers", "marker": ticks, "meta": row.label, "hovertemplate": "%{text}: %{x}<extra></extra>",
            })  # fmt: skip
        above, below = _rounded([row.high - row.mean, row.mean - row.low])
        bar = {"type": "data", "symmetric": False, "array": [above], "arrayminus": [below], **colour, "thickness": 2}
        traces.append({
            "x": _rounded([row.mean]), "y": [at], "mode": "markers", "meta": row.label, "error_x": bar,
            "marker": {**colour, "symbol": row.look.symbol, "size": 10}, "name": _text(row.label),
            "hovertemplate": "%{fullData.name}: %{x}<extra></extra>",
        })  # fmt: skip
    layout = _layout()
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "gridcolor": CLEAR}
    if baseline is not None:
        line = {"color": "#808080", "dash": "dash", "width": 1}
        layout["shapes"] = [{"type": "line", "yref": "paper", "x0": baseline, "x1": baseline, "y0": 0, "y1": 1,
                             "line": line, "layer": "below"}]  # fmt: skip
    tallest = max(len(_lines(row.label, LABEL_WIDTH)) for row in rows)
    height = max(ROW_HEIGHT, LINE_HEIGHT * tallest) * len(rows) + AROUND_ROWS
    return Chart(title, {"data": traces, "layout": layout}, height, is_wide=True)


def curve_chart(title: str, curves: Mapping[str, Curve], looks: Mapping[str, Look]) -> Chart:
    """Return a value by epoch: a line for each row, with a band from its lowest to its highest seed."""
    traces: list[dict[str, Any]] = []
    opacity = f"{round(255 * BAND_OPACITY / max(1.0, len(curves) / 6)):02x}"
    for label, curve in curves.items():
        look = looks[label]
        if curve.low != curve.high:
            outline = {"x": [*curve.epochs, *curve.epochs[::-1]], "y": _rounded([*curve.high, *curve.low[::-1]])}
            band = {"fill": "toself", "fillcolor": look.colour + opacity, "line": {"width": 0}}
            traces.append({**outline, **band, "mode": "lines", "hoverinfo": "skip", "meta": label})
        traces.append({
            "x": list(curve.epochs), "y": _rounded(curve.mean), "meta": label, "name": _text(label),
            "mode": "lines" if len(curve.epochs) > 1 else "markers", "marker": {"color": look.colour},
            "line": {"color": look.colour, "dash": look.dash, "width": 1.75},
            "hovertemplate": "%{fullData.name}<br>epoch %{x}: %{y}<extra></extra>",
        })  # fmt: skip
    return Chart(title, {"data": traces, "layout": _layout("epoch")})


def point_chart(title: str, vertical: str, points: Sequence[Point]) -> Chart:
    """Return two values against each other, a point for each row; the title names the horizontal one."""
    traces = [
        {
            "x": _rounded([point.x]), "y": _rounded([point.y]), "mode": "markers", "meta": point.label,
            "name": _text(point.name), "hovertemplate": "%{fullData.name}<br>%{x}, %{y}<extra></extra>",
            "marker": {"color": point.look.colour, "symbol": point.look.symbol, "size": 10},
            "error_x": _bar(point.x_reach, point.look), "error_y": _bar(point.y_reach, point.look),
        }
        for point in points
    ]  # fmt: skip
    return Chart(title, {"data": traces, "layout": _layout("", vertical)})


def _bar(reach: float, look: Look) -> dict[str, Any]:
    return {"type": "data", "array": _rounded([reach]), "color": look.colour + "80", "thickness": 1.5, "width": 0}


def _layout(x: str = "", y: str = "") -> dict[str, Any]:
    axis = {
        "automargin": True, "zeroline": False, "gridcolor": "#80808040", "tickfont": {"size": 11},
        "ticklabelstandoff": 4,
    }  # fmt: skip
    return {
        "xaxis": {**axis, "title": {"text": _text(x), "font": {"size": 12}, "standoff": 8}},
        "yaxis": {**axis, "title": {"text": "<br>".join(_lines(y, 40)), "font": {"size": 12}, "standoff": 8}},
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8}, "showlegend": False, "hovermode": "closest",
        "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "font": {"family": "system-ui, sans-serif"},
    }  # fmt: skip


def _beside_axis(label: str) -> str:
    return "<br>".join(_lines(label, LABEL_WIDTH))


def _lines(text: str, width: int) -> list[str]:
    return [_text(line) for line in textwrap.wrap(text, width)]


def _text(text: str) -> str:
    """Return a text as Plotly shows it: only tags, references and dollars, between which is TeX, mean more to it."""
    return html.escape(visible(text), quote=False).replace("$", "&#36;")


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
