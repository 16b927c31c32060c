"""A figure of what graphs were like against accuracy: a point for each variant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from graphkd.report.figure_style import DPI, GREY, SIZES, STYLES, WIDTH, look, wrapped
from graphkd.report.figures import Shown, meaning_of_bars
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
COLUMN = 0.08
"""Points within this share of a panel's width have their numbers in one column."""


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

    lines = math.ceil(len(panels) / 2)
    note = [wrapped(text, 0.94 * WIDTH, "small") for text in _legend(rows)]
    height = PANEL_HEIGHT * lines + 14 * sum(text.count("\n") + 1 for text in note) + 60
    figure = Figure((WIDTH / 72, height / 72), dpi=DPI, layout="constrained")
    figure.suptitle(wrapped(group.title, 0.94 * WIDTH, "title"), x=8 / WIDTH, ha="left", weight="bold")
    accuracy = [Shown.of(row, metric, "") for row in rows]
    low = min(shown.summary.mean - shown.reach for shown in accuracy)
    high = max(shown.summary.mean + shown.reach for shown in accuracy)
    pad = 0.05 * (high - low) or 1.0
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, 2, place)
        axes.set_xlabel(wrapped(METRICS[panel].axis, 0.4 * WIDTH))
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylabel(wrapped(METRICS[metric].axis, 0.8 * PANEL_HEIGHT) if place % 2 else "")
        axes.set_ylim(low - pad, high + pad)
        axes.margins(x=0.15)
        points = [
            (number, row.summary(panel).mean, shown)
            for number, (row, shown) in enumerate(zip(rows, accuracy, strict=True), start=1)
            if row.by_seed(panel)
        ]
        _draw_points(axes, points)
    legend = figure.legend(
        handles=[], loc="outside lower left", title="\n".join(note), alignment="left", borderaxespad=0
    )
    legend.get_title().set_color(GREY)
    return figure


def _legend(rows: Sequence[Row]) -> list[str]:
    counts = [len(row.runs) for row in rows]
    bars = f", its bar {meaning_of_bars(counts)}" if max(counts) > 1 else ""
    return [
        f"A point is the mean of a variant over its seeds{bars}. Graphs and embeddings are those of the last epoch.",
        *(f"{number}: {row.label} (n={len(row.runs)})" for number, row in enumerate(rows, start=1)),
    ]


def _draw_points(axes: Axes, points: Sequence[tuple[int, float, Shown]]) -> None:
    """Draw numbered points, the numbers of points that lie close together in a column beside them."""
    colour, marker, _ = STYLES[0]
    for _, at, shown in points:
        axes.errorbar(at, shown.summary.mean, yerr=shown.reach, color=colour, linewidth=1, alpha=0.4)
    means = [(at, shown.summary.mean) for _, at, shown in points]
    axes.plot(*zip(*means, strict=True), color=colour, marker=marker, markeredgecolor="white", linestyle="")
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    apart = LABEL_HEIGHT * (high - low) / PANEL_HEIGHT
    start, columns = -math.inf, dict[int, float]()
    for number, at, _ in sorted(points, key=lambda point: point[1]):
        start = columns[number] = start if at - start < COLUMN * (right - left) else at
    for column in set(columns.values()):
        stack = sorted(
            (point for point in points if columns[point[0]] == column), key=lambda point: point[2].summary.mean
        )
        heights = _spread([shown.summary.mean for _, _, shown in stack], apart, high - apart)
        for (number, at, shown), height in zip(stack, heights, strict=True):
            beside = at + 0.025 * (right - left)
            axes.plot([at, beside], [shown.summary.mean, height], color=GREY, linewidth=0.5)
            axes.annotate(str(number), (beside, height), va="center", fontsize=SIZES["small"])


def _spread(heights: Sequence[float], apart: float, highest: float) -> list[float]:
    """Return ascending heights moved up until they are apart, then down as far as the highest place demands."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + apart) if found else height)
    for place in reversed(range(len(found))):
        found[place] = min(found[place], highest)
        highest = found[place] - apart
    return found
