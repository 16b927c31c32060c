"""A figure of what graphs were like against accuracy: a point for each variant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from graphkd.report.figure_style import DPI, GREY, SIZES, STYLES, WIDTH, look, wrapped
from graphkd.report.figures import Shown, also_bars, limits
from graphkd.report.metrics import METRICS
from graphkd.report.record import Record
from graphkd.report.rows import Group, Row, aggregate, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = ("teacher_homophily", "student_homophily", "overlap", "alignment")
"""The diagnostics that accuracy is set against."""
FEWEST = 3
"""Fewer variants show no relation."""
PANEL_HEIGHT = 230.0
LABEL_HEIGHT = 12.0
"""In points, as all lengths of figures."""
MARGIN = 0.15
"""Space on either side of the points, as a share of their range."""
COLUMN = 0.08
"""Points with gaps of less than this share of a panel's width have their numbers in one column."""


class _Point(NamedTuple):
    """A variant in a panel: its number, its value of the diagnostic, and its accuracy."""

    number: int
    at: float
    shown: Shown


def build_graph_figures(
    records: Iterable[Record], order: Sequence[str] = (), metric: str = "test_top1_last"
) -> list[tuple[str, Figure]]:
    """Build a figure for each study, pair and data set in which enough variants have diagnostics.

    Args:
        records: Runs of any kind and status; those that are no finished students are left out.
        order: Variants in the order of their numbers; the others follow by name.
        metric: A key of `METRICS`, the vertical axis.

    Returns:
        The names, as of tables with `_graphs` behind, and the figures.
    """
    figures = []
    with look():
        for group in grouped(records):
            explained = [record for record in group.records if record.metrics.diagnostics]
            rows = [row for row in aggregate(explained, order) if row.by_seed(metric)]
            panels = [panel for panel in PANELS if sum(bool(row.by_seed(panel)) for row in rows) >= FEWEST]
            if panels:
                figures.append((f"{group.name}_graphs", _draw(group, rows, panels, metric)))
    return figures


def _draw(group: Group, rows: Sequence[Row], panels: Sequence[str], metric: str) -> Figure:
    """Draw a panel for each diagnostic, in which each variant is a numbered point."""
    from matplotlib.figure import Figure

    accuracy = [Shown.of(row, metric, "") for row in rows]
    points = [
        [
            _Point(number, row.summary(panel).mean, shown)
            for number, (row, shown) in enumerate(zip(rows, accuracy, strict=True), start=1)
            if row.by_seed(panel)
        ]
        for panel in panels
    ]
    highest = max(len(stack) for of in points for stack in _stacks(of))
    panel_height = max(PANEL_HEIGHT, LABEL_HEIGHT * (highest + 2))
    lines = math.ceil(len(panels) / 2)
    note = [wrapped(text, 0.94 * WIDTH, "small") for text in _legend(rows)]
    height = panel_height * lines + 14 * sum(text.count("\n") + 1 for text in note) + 60
    figure = Figure((WIDTH / 72, height / 72), dpi=DPI, layout="constrained")
    figure.suptitle(wrapped(group.title, 0.94 * WIDTH, "title"), x=8 / WIDTH, ha="left", weight="bold")
    low, high = limits(accuracy, METRICS[metric].label)
    for place, (panel, of) in enumerate(zip(panels, points, strict=True), start=1):
        axes = figure.add_subplot(lines, 2, place)
        axes.set_xlabel(wrapped(METRICS[panel].axis, 0.4 * WIDTH))
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylabel(wrapped(METRICS[metric].axis, 0.8 * PANEL_HEIGHT) if place % 2 else "")
        axes.set_xlim(*_range(of))
        axes.set_ylim(low, high)
        _draw_points(axes, of, LABEL_HEIGHT * (high - low) / panel_height)
    legend = figure.legend(
        handles=[], loc="outside lower left", title="\n".join(note), alignment="left", borderaxespad=0
    )
    legend.get_title().set_color(GREY)
    return figure


def _legend(rows: Sequence[Row]) -> list[str]:
    bars = also_bars([len(row.runs) for row in rows])
    return [
        f"A point is the mean of a variant over its seeds{bars}. Graphs and embeddings are those of the last epoch.",
        *(f"{number}: {row.label} (n={len(row.runs)})" for number, row in enumerate(rows, start=1)),
    ]


def _range(points: Sequence[_Point]) -> tuple[float, float]:
    """Return the ends of the horizontal axis, with room for numbers beside the points."""
    values = [point.at for point in points]
    pad = MARGIN * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    return min(values) - pad, max(values) + pad


def _stacks(points: Sequence[_Point]) -> list[list[_Point]]:
    """Return the points whose numbers share a column, each column from the lowest mean to the highest."""
    left, right = _range(points)
    stacks: list[list[_Point]] = []
    for point in sorted(points, key=lambda point: point.at):
        if not stacks or point.at - stacks[-1][-1].at >= COLUMN * (right - left):
            stacks.append([])
        stacks[-1].append(point)
    return [sorted(stack, key=lambda point: point.shown.summary.mean) for stack in stacks]


def _draw_points(axes: Axes, points: Sequence[_Point], apart: float) -> None:
    """Draw numbered points, the numbers of points that lie close together in a column beside them.

    Args:
        axes: Axes with their limits.
        points: The points.
        apart: Least distance of two numbers, on the vertical axis.
    """
    colour, marker, _ = STYLES[0]
    at = [point.at for point in points]
    means = [point.shown.summary.mean for point in points]
    reaches = [point.shown.reach for point in points]
    axes.errorbar(at, means, yerr=reaches, color=colour, linewidth=0, elinewidth=1, alpha=0.4)
    axes.plot(at, means, color=colour, marker=marker, markeredgecolor="white", linestyle="")
    left, right = axes.get_xlim()
    _, high = axes.get_ylim()
    leaders: list[tuple[float, float]] = []
    for stack in _stacks(points):
        heights = _spread([point.shown.summary.mean for point in stack], apart, high - apart)
        beside = max(point.at for point in stack) + 0.025 * (right - left)
        for point, height in zip(stack, heights, strict=True):
            leaders += [(point.at, point.shown.summary.mean), (beside, height), (math.nan, math.nan)]
            axes.annotate(str(point.number), (beside, height), va="center", fontsize=SIZES["small"])
    axes.plot(*zip(*leaders, strict=True), color=GREY, linewidth=0.5)


def _spread(heights: Sequence[float], apart: float, highest: float) -> list[float]:
    """Return ascending heights moved up until they are apart, then down as far as the highest place demands."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + apart) if found else height)
    for place in reversed(range(len(found))):
        found[place] = min(found[place], highest)
        highest = found[place] - apart
    return found
