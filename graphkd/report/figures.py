"""One figure for each study, pair and data set: variants as lines of a dot plot, or as points along an option."""

from __future__ import annotations

import io
import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graphkd.files import make_folder, write_atomically
from graphkd.report.figure_style import (
    BASELINE_STYLE,
    DPI,
    GREY,
    LEVEL_DASHES,
    SIZES,
    STYLES,
    WIDTH,
    Style,
    height_of,
    look,
    wrapped,
)
from graphkd.report.markup import file_stems
from graphkd.report.metrics import metric_of
from graphkd.report.record import Record
from graphkd.report.rows import Group, Row, aggregate, grouped, named
from graphkd.report.statistics import Summary, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Point = tuple[float, float]
LEAST_ROW = 28.0
LEAST_HEIGHT = 250.0
"""The least height of a row of the dot plot, and of the axes of the plot along an option."""
LOG_FROM = 8
"""Positive values that span more than this factor stand on a logarithmic axis."""
DODGE = 19.0
"""Distance of the points of two series that share a value."""
PAIR = 2
"""So few seeds have a bar of their sample standard deviation."""


def write_figures(figures: Iterable[tuple[str, Figure]], folder: str | os.PathLike[str]) -> list[Path]:
    """Write `<name>.png` and `.svg` of each figure of `build_figures`; make the folder if there is any.

    Figures are taken one at a time. The same records give the same bytes under the same version of matplotlib.

    Returns:
        The files, in the order of the figures.

    Raises:
        UserError: The folder cannot be made.
        OSError: A file cannot be written.
    """
    names, drawn = itertools.tee(figures)
    paths = []
    with look():
        for stem, (_, figure) in zip(file_stems(name for name, _ in names), drawn, strict=True):
            make_folder(folder)
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
                content = io.BytesIO()
                figure.savefig(content, format=kind, metadata=metadata)
                paths.append(Path(folder, f"{stem}.{kind}"))
                write_atomically(paths[-1], content.getvalue())
    return paths


def build_figures(
    records: Iterable[Record],
    *,
    order: Sequence[str] = (),
    axis: str | None = None,
    baseline: str | None = None,
    metric: str = "test_top1_last",
) -> list[tuple[str, Figure]]:
    """Build a figure for each study, pair and data set of which a finished run has the metric.

    Without `axis` a dot plot with a line for each variant. With it the variants that give that option a number are
    points along it, joined where they vary nothing else, and the others are horizontal lines. Where no variant gives
    it a number, the dot plot.

    Args:
        records: Runs of any kind and status; those that are no finished students are left out.
        order: Variants from top to bottom of the dot plot; the others follow by name.
        axis: A key of `Record.varied`, such as "builder.k".
        baseline: The variant, or label of a row, whose mean is a line through the figure.
        metric: Name of a metric.

    Returns:
        The names, as of tables, and the figures.

    Raises:
        UserError: There is no such metric.
    """
    axis_label = metric_of(metric).axis
    figures = []
    with look():
        for group in grouped(records):
            rows = [Shown.of(row, metric, axis or "") for row in aggregate(group.records, order)]
            known = [shown for shown in rows if shown.n]
            if not known:
                continue
            found = named([shown.row for shown in known], baseline)
            line = next(shown for shown in known if shown.row is found[0]) if len(found) == 1 else None
            plot = _Plot(rows, group, axis_label, axis or "", line)
            figure = (_draw_along if any(shown.is_point for shown in known) else _draw_dots)(plot)
            _settle(figure)
            figures.append((group.name, figure))
    return figures


@dataclass(frozen=True)
class Shown:
    """A row with the metric of each run, their mean and spread, and the row's number on the axis, NaN for none."""

    row: Row
    values: tuple[float, ...]
    summary: Summary
    at: float

    @classmethod
    def of(cls, row: Row, metric: str, axis: str) -> Shown:
        values = tuple(row.by_seed(metric).values())
        number: Any = row.runs[0].varied.get(axis)
        try:
            at = math.nan if isinstance(number, bool) else float(number)
        except (TypeError, ValueError, OverflowError):
            at = math.nan
        return cls(row, values, summarise(values), at)

    @property
    def n(self) -> int:
        return self.summary.n

    @property
    def is_point(self) -> bool:
        return math.isfinite(self.at)

    @property
    def reach(self) -> float:
        """How far the bar reaches to each side: nowhere for one seed, and two are too few for an interval."""
        return 0.0 if self.n < PAIR else self.summary.std if self.n == PAIR else self.summary.ci95


@dataclass(frozen=True)
class _Plot:
    """What a figure shows: rows of a group, the metric's label, the option along which, and the baseline's row."""

    rows: Sequence[Shown]
    group: Group
    label: str
    axis: str
    baseline: Shown | None


def _draw_dots(plot: _Plot) -> Figure:
    """Draw a line for each row: label, every seed, the mean and its bar."""
    labels = [wrapped(f"{shown.row.label} (n={shown.n})", 0.42 * WIDTH) for shown in plot.rows]
    ends = [*itertools.accumulate((max(LEAST_ROW, height_of(label, "text") + 8) for label in labels), initial=0.0)]
    figure, axes = _new_figure(plot, ends[-1], plot.label, [])
    axes.set_xlim(*limits(plot.rows, plot.label))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_ylim(ends[-1], 0)
    middles = [(above + below) / 2 for above, below in pairwise(ends)]
    axes.set_yticks(middles, labels, fontsize=SIZES["text"])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    for end in ends[1:-1]:
        axes.axhline(end, color="0.93", linewidth=0.8, zorder=0.5, label="_rule")
    if plot.baseline:
        axes.axvline(plot.baseline.summary.mean, color=GREY, linestyle="--", linewidth=1, label="_baseline")
    for is_baseline in (False, True):
        placed = zip(plot.rows, middles, strict=True)
        rows = [(shown, at) for shown, at in placed if (shown is plot.baseline) == is_baseline]
        _draw_rows(axes, rows, BASELINE_STYLE if is_baseline else STYLES[0], "x", 4)
    return figure


def _draw_along(plot: _Plot) -> Figure:
    """Draw points at the rows' numbers on the axis, joined within a series; the other rows are horizontal lines."""
    from matplotlib.lines import Line2D

    series = _series([shown for shown in plot.rows if shown.is_point and shown.n], plot.axis)
    levels = [shown for shown in plot.rows if shown.n and (not shown.is_point or shown is plot.baseline)]
    styles = list(itertools.islice(itertools.cycle(STYLES), len(series)))
    dashes = list(itertools.islice(itertools.cycle(LEVEL_DASHES), len(levels)))
    keys = [
        Line2D([], [], color=colour, marker=marker, linestyle=line, linewidth=1.2, markeredgecolor="white", label=name)
        for name, (colour, marker, line) in zip(series, styles, strict=True)
        if len(series) > 1
    ] + [
        Line2D([], [], color=GREY, linestyle=dash, linewidth=1.1, label=_level_text(shown, plot))
        for shown, dash in zip(levels, dashes, strict=True)
    ]
    values = sorted({shown.at for rows in series.values() for shown in rows})
    is_log = values[0] > 0 and values[-1] > LOG_FROM * values[0]
    figure, axes = _new_figure(plot, LEAST_HEIGHT, f"{plot.axis} (log scale)" if is_log else plot.axis, keys)
    axes.set_title(plot.label, loc="left", fontsize=SIZES["text"])
    axes.set_ylim(*limits(plot.rows, plot.label))
    axes.ticklabel_format(axis="y", useOffset=False)
    dodge = min(DODGE, 0.3 * WIDTH / len(series))
    _set_scale(axes, values, is_log, DODGE + dodge * (len(series) - 1) / 2)
    for place, (rows, style) in enumerate(zip(series.values(), styles, strict=True)):
        shift = dodge * (place - (len(series) - 1) / 2)  # keeps series of equal values apart
        _draw_rows(axes, [(shown, shown.at) for shown in rows], style, "y", shift)
        line: dict[str, Any] = {"color": style[0], "linestyle": style[2], "linewidth": 1.2, "label": "_series"}
        _put(axes, [(shown.summary.mean, shown.at) for shown in rows], "y", shift, **line)
    for shown, dash in zip(levels, dashes, strict=True):
        axes.axhline(shown.summary.mean, color=GREY, linestyle=dash, linewidth=1.1, label="_level")
    return figure


def _series(points: Sequence[Shown], axis: str) -> dict[str, list[Shown]]:
    """Return rows that vary the same besides the axis, by number, under what tells each series from the others."""
    others = [
        {name: str(value) for name, value in shown.row.runs[0].varied.items() if name != axis} for shown in points
    ]
    common = set.intersection(*(set(options.items()) for options in others))
    series: dict[str, list[Shown]] = defaultdict(list)
    for shown, options in zip(points, others, strict=True):
        told = [f"{name}={value}" for name, value in sorted(options.items()) if (name, value) not in common]
        series[", ".join(told) or "as the base"].append(shown)
    return {name: sorted(rows, key=lambda shown: (shown.at, shown.row.label)) for name, rows in series.items()}


def _set_scale(axes: Axes, values: Sequence[float], is_log: bool, pad: float) -> None:
    """Set the horizontal axis: about `pad` points free on both sides, and a tick at each value."""
    onto, back = (math.log, math.exp) if is_log else (float, float)
    low, high = onto(values[0]), onto(values[-1])
    free = pad / (0.8 * WIDTH - 2 * pad) * ((high - low) or abs(low) or 1.0)
    axes.set_xscale("log" if is_log else "linear")
    axes.set_xlim(back(low - free), back(high + free))
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)


def _settle(figure: Figure) -> None:
    """Lay the figure out once, and remove the labels of ticks that would lie over the one before them."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # unlike "none", it costs no further drawing
    (axes,) = figure.axes
    free, texts = -math.inf, []
    for label in axes.get_xticklabels():
        box = label.get_window_extent()
        fits = box.x0 >= free
        free = box.x1 + 4 if fits else free
        texts.append(label.get_text() if fits else "")
    if "" in texts:
        axes.set_xticks(axes.get_xticks(), texts)


def _draw_rows(
    axes: Axes, rows: Sequence[tuple[Shown, float]], style: Style, along: Literal["x", "y"], shift: float
) -> None:
    """Draw means, bars and, beside these so that all are seen, the seeds; values run along one axis.

    `shift` moves all of it across the values, in points: up where they run along x, to the right along y. Marks that
    are alike in all rows are one artist, which takes a millisecond.
    """
    colour, marker, _ = style
    cap = "|" if along == "x" else "_"
    means: list[Point] = []
    seeds: dict[float, list[Point]] = defaultdict(list)
    for shown, at in rows:
        if shown.n > 1:
            mean = shown.summary.mean
            means.append((mean, at))
            ends = [(mean - shown.reach, at), (mean + shown.reach, at)]
            caps = {"marker": cap if shown.n > PAIR else "", "markersize": 9, "markeredgewidth": 1.6}
            _put(axes, ends, along, shift, color=colour, linewidth=1.6, label="_bar", **caps)
        step = min(3.0, 6.0 / max(1, shown.n - 1))
        for place, value in enumerate(shown.values):
            seeds[6.5 + step * place if shown.n > 1 else 0.0].append((value, at))
    if means:
        white = {"markeredgecolor": "white", "markeredgewidth": 0.8}
        _put(axes, means, along, shift, color=colour, linestyle="", marker=marker, markersize=8, label="_mean", **white)
    for aside, those in seeds.items():
        off = shift - aside if along == "x" else shift + aside
        hollow = {"markerfacecolor": "white", "markeredgewidth": 1, "markersize": 4}
        _put(axes, those, along, off, color=colour, linestyle="", marker="o", label="_seed", **hollow)


def _put(axes: Axes, points: Sequence[Point], along: Literal["x", "y"], shift: float, **look: Any) -> None:
    """Plot points of a value along one axis and a place on the other, moved across the values."""
    from matplotlib.transforms import offset_copy

    values, places = zip(*points, strict=True)
    x, y, dx, dy = (values, places, 0.0, shift) if along == "x" else (places, values, shift, 0.0)
    axes.plot(x, y, transform=offset_copy(axes.transData, axes.get_figure(root=True), dx, dy, "points"), **look)


def is_percent(label: str) -> bool:
    """Return whether the heading of a metric says percent."""
    return label.endswith("(%)")


def limits(rows: Sequence[Shown], label: str) -> tuple[float, float]:
    """Return the range of the metric that holds all that is drawn, in percent no wider than 0 to 100 needs."""
    known = [shown for shown in rows if shown.n]
    values = [value for shown in known for value in shown.values]
    ends = [shown.summary.mean + side * shown.reach for shown in known for side in (-1, 1)]
    low, high = min(*values, *ends), max(*values, *ends)
    if is_percent(label):
        low, high = max(low, min(0.0, *values)), min(high, max(100.0, *values))
    pad = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    return low - pad, high + pad


def _level_text(shown: Shown, plot: _Plot) -> str:
    """Return what the legend says of a horizontal line; the mean of a point is seen at the point."""
    name = f"{shown.row.label} (baseline)" if shown is plot.baseline else shown.row.label
    if shown.is_point:
        return name
    form = ".2f" if is_percent(plot.label) else ".4g"
    ends = [f"{shown.summary.mean + side * shown.reach:{form}}" for side in (-1, 1)]
    bar = f" ± {shown.reach:{form}}" if shown.n == PAIR else f" [{', '.join(ends)}]" if shown.n > PAIR else ""
    return f"{name}: {shown.summary.mean:{form}}{bar} (n={shown.n})"


def meaning_of_bars(counts: Collection[int]) -> str:
    """Return what the bars of means over these numbers of seeds are."""
    if max(counts, default=0) == PAIR:
        return "the sample standard deviation (n=2 is too few for an interval)"
    return f"the 95 % interval of the mean{'; where n=2, the sample standard deviation' * (PAIR in counts)}"


def also_bars(counts: Collection[int]) -> str:
    """Return what the bars of means are, to go behind what the marks are; nothing where one seed each has none."""
    return f", its bar {meaning_of_bars(counts)}" if max(counts, default=0) > 1 else ""


def _note(plot: _Plot) -> str:
    """Return what the figure shows, in sentences: the data set, the marks, the numbers of seeds, the baseline."""
    counts = {shown.n for shown in plot.rows}
    parts = [f"Data set: {plot.group.data}."] if plot.group.data else []
    dots = "Small circles are the n seeds"
    bar = meaning_of_bars(counts)
    if PAIR in counts and max(counts) > PAIR:
        bar += ", without ends"
    parts.append(f"{dots}, the large mark is their mean, the bar {bar}." if max(counts) > 1 else f"{dots}.")
    points = [shown for shown in plot.rows if shown.is_point]
    if any(shown.n for shown in points):
        ((usual, _),) = Counter(shown.n for shown in points).most_common(1)
        others = [f"n={shown.n} for {shown.row.label}" for shown in points if shown.n != usual]
        parts.append(f"n={usual} at each point{', but ' * bool(others)}{', '.join(others)}.")
    elif plot.baseline:
        parts.append(f"Dashed line: mean of {plot.baseline.row.label}, the baseline.")
    return " ".join(parts)


def _new_figure(plot: _Plot, inner_height: float, horizontal: str, keys: Sequence[Line2D]) -> tuple[Figure, Axes]:
    """Return a figure of fixed width, as high as its texts and axes (`inner_height` points) need, and its axes.

    The note is the title of the legend, whose entries are the keys; `horizontal` is the label of the axis.
    """
    from matplotlib.figure import Figure

    title = wrapped(", ".join(plot.group.keys), 0.94 * WIDTH, "title")
    label = wrapped(horizontal, 0.5 * WIDTH)
    note = wrapped(_note(plot), 0.94 * WIDTH, "small")
    for key in keys:
        key.set_label(wrapped(str(key.get_label()), 0.84 * WIDTH, "small"))
    legend_height = sum(height_of(str(key.get_label()), "small") + 4 for key in keys)
    around = height_of(title, "title") + height_of(label, "text") + height_of(note, "small") + legend_height + 70
    figure = Figure((WIDTH / 72, (inner_height + around) / 72), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr,call-arg]
    figure.suptitle(title, x=8 / WIDTH, ha="left", fontsize=SIZES["title"], weight="bold")
    axes = figure.subplots()
    axes.set_xlabel(label)
    legend = figure.legend(handles=keys, loc="outside lower left", title=note, alignment="left", borderaxespad=0)
    legend.get_title().set_color(GREY)
    return figure, axes
