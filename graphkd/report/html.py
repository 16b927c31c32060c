"""One HTML page of everything that runs left behind; it needs nothing but itself."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import math
import os
import re
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from graphkd.files import make_folder, write_atomically
from graphkd.report.charts import Chart, Dots, Look, Point, curve_chart, dot_chart, look_of, point_chart
from graphkd.report.configs import compare_options, read_options
from graphkd.report.curves import read_curves
from graphkd.report.figures import Shown
from graphkd.report.graph_figures import PANELS
from graphkd.report.load import Loaded
from graphkd.report.markup import NONE, Block, Cell, Mark, Table, fixed, marks, visible
from graphkd.report.metrics import METRICS
from graphkd.report.ranking import Ranking, rank_over_pairs
from graphkd.report.record import Record
from graphkd.report.statistics import Group, Row, aggregate, grouped, left_out
from graphkd.report.tables import TableSpec, build_tables

PAGE = "report.html"
ACCURACY = "test_top1_last"
MOST_POINTS, FEWEST_POINTS = 120, 16
"""Points of a curve, between which the number of rows decides."""
POINTS = 12_000
"""Points that each value may have on the page, over all rows."""
CONFIGS_SHOWN = 60
"""More rows are not set side by side."""
NUMBER = re.compile(r"(?:\[|< )?([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?![\w.])", re.ASCII)
"""The number at the start of a cell, by which a column is sorted."""
SECONDS = ("seconds_per_step", "peak_memory_mib")


@dataclass(frozen=True)
class Cost:
    """What a student takes: the number of its parameters, and multiply-adds on one image."""

    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Studies:
    """What suites say about their studies.

    Attributes:
        order: Variants in the order of their rows.
        baselines: The baseline by study; the layout's for the others.
        grids: Tables with a column for each pair, by study.
    """

    order: Sequence[str] = ()
    baselines: Mapping[str, str | None] = field(default_factory=dict)
    grids: Mapping[str, Sequence[Table]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Grid:
    """A block as the page shows it: headings with whether they hold numbers, and rows of cells with sort keys."""

    title: str
    header: list[tuple[str, bool]]
    rows: list[list[tuple[str, Mark | None, str]]]


@dataclass(frozen=True)
class _Shown:
    """A table as the page shows it."""

    blocks: list[_Grid]
    lines: list[str]
    labels_are: str = "rows"


@dataclass(frozen=True)
class _Run:
    """A line of the list of runs."""

    record: Record
    label: str
    link: str


@dataclass(frozen=True)
class _Section:
    """A study on a data set, or one pair of it."""

    id: str
    title: str
    caption: str
    looks: Mapping[str, Look]
    tables: list[_Shown]
    charts: list[tuple[str, str, list[Chart]]]
    options: _Shown | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    runs: list[_Run] = field(default_factory=list)
    best: str = NONE
    accuracy: str = NONE


def write_page(
    loaded: Loaded,
    folder: str | os.PathLike[str],
    spec: TableSpec,
    studies: Studies | None = None,
    cost_of: Callable[[str], Cost | None] = lambda folder: None,
) -> Path:
    """Write `report.html`: tables, charts, options and links of all runs.

    The same runs give the same bytes under the same versions of Plotly and Jinja.

    Args:
        loaded: What a results folder holds.
        folder: Where to write; it is made.
        spec: Columns of the tables.
        studies: What suites say.
        cost_of: The cost of the student in a run's folder, None where it cannot be known.

    Raises:
        UserError: The folder cannot be made.
        OSError: The file cannot be written.
    """
    make_folder(folder)
    path = Path(folder, PAGE)
    write_atomically(path, _Page(loaded, folder, spec, studies or Studies(), cost_of).render())
    return path


class _Page:
    """Builds the sections, one study after the other."""

    def __init__(
        self,
        loaded: Loaded,
        folder: str | os.PathLike[str],
        spec: TableSpec,
        studies: Studies,
        cost_of: Callable[[str], Cost | None],
    ) -> None:
        self.loaded, self.folder, self.spec, self.studies, self.cost_of = loaded, folder, spec, studies, cost_of
        self.folders = {id(record): place for record, place in zip(loaded.records, loaded.folders, strict=True)}
        self.number = 0
        rows = len(aggregate(loaded.records))
        self.points = max(FEWEST_POINTS, min(MOST_POINTS, POINTS // max(1, rows)))

    def render(self) -> str:
        import jinja2

        loader = jinja2.PackageLoader("graphkd.report", "templates")
        environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
        environment.filters["visible"] = visible
        sections = list(self.sections())
        charts = [chart.figure for section in sections for _, _, of in section.charts for chart in of]
        teachers = [self.run(record, record.variant) for record in self.loaded.records if record.kind == "teacher"]
        code = Counter(record.code.version for record in self.loaded.records)
        template = environment.get_template("report.html.j2")
        return template.render(
            sections=sections,
            teachers=teachers,
            students=sum(record.kind == "student" for record in self.loaded.records),
            versions=sorted(code),
            problems=[*left_out(self.loaded.records), *self.loaded.problems],
            plotly=_packed(resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")),
            charts=_packed(json.dumps(charts, allow_nan=False, separators=(",", ":"))),
        )

    def sections(self) -> Iterator[_Section]:
        """Yield a section over the pairs of each study that has several, or a grid, and one for each pair."""
        pairs: dict[tuple[str, str], list[Group]] = defaultdict(list)
        for group in grouped(self.loaded.records):
            pairs[group.keys[0], group.data].append(group)
        for (study, data), groups in pairs.items():
            rows = {group.keys[1]: aggregate(group.records, self.studies.order) for group in groups}
            grids = [table for table in self.studies.grids.get(study, ()) if table.frame["data"].iloc[0] == data]
            if len(groups) > 1 or grids:
                yield self.over_pairs(study + (f" on {data}" if data else ""), rows, grids)
            for group in groups:
                yield self.pair(group, rows[group.keys[1]])

    def over_pairs(self, title: str, rows: Mapping[str, Sequence[Row]], grids: Sequence[Table]) -> _Section:
        labels = list(dict.fromkeys(row.label for of in rows.values() for row in of))
        looks = _looks(labels)
        by_label: dict[str, dict[str, list[float]]] = {label: {} for label in labels}
        for pair, of in rows.items():
            for row in of:
                by_label[row.label][pair] = list(row.by_seed(ACCURACY).values())
        ranking = rank_over_pairs(by_label)
        charts = [] if ranking is None else [_ranking_charts(ranking, looks)]
        tables = [_table(table) for table in grids]
        if ranking is not None:
            tables.append(_table(_ranking_table(ranking)))
        costs = list(self.cost_charts([row for of in rows.values() for row in of], looks))
        if costs:
            charts.append(("Accuracy against size", "A point is the mean of a variant on a pair.", costs))
        return _Section(self.id(), f"{title}: all pairs", "", looks, tables, charts)

    def pair(self, group: Group, rows: Sequence[Row]) -> _Section:
        looks = _looks([row.label for row in rows])
        study = group.keys[0]
        spec = self.spec
        if spec.baseline is None and self.studies.baselines.get(study):
            spec = dataclasses.replace(spec, baseline=self.studies.baselines[study])
        (table,) = build_tables(group.records, spec, self.studies.order)
        shown = [Shown.of(row, ACCURACY, "") for row in rows]
        baseline = next((one.summary.mean for one in shown if one.row.variant == spec.baseline and one.n), None)
        options = {row.label: read_options(self.folders[id(row.runs[0])]) for row in rows[:CONFIGS_SHOWN]}
        differing, shared = compare_options(options)
        best = max((one for one in shown if one.n), key=lambda one: one.summary.mean, default=None)
        return _Section(
            self.id(),
            group.title,
            table.caption,
            looks,
            [_table(table)],
            [(heading, note, charts) for heading, note, charts in self.pair_charts(shown, looks, baseline) if charts],
            _Shown([_grid(differing)], [], "columns") if differing.cells else None,
            shared,
            list(self.runs(group.records, rows)),
            best.row.label if best else NONE,
            fixed(best.summary.mean, 2) if best else NONE,
        )

    def pair_charts(
        self, shown: Sequence[Shown], looks: Mapping[str, Look], baseline: float | None
    ) -> Iterator[tuple[str, str, list[Chart]]]:
        known = [one for one in shown if one.n]
        dots = [
            Dots(
                one.row.label, looks[one.row.label], one.summary.mean, one.summary.mean - one.reach,
                one.summary.mean + one.reach,
                {f"seed {seed}": value for seed, value in one.row.by_seed(ACCURACY).items()},
            )
            for one in known
        ]  # fmt: skip
        metric = METRICS[ACCURACY]
        note = "Ticks are seeds, the mark their mean, the bar its 95 % interval (n=2: the sample standard deviation)."
        if baseline is not None:
            note += " The dashed line is the baseline."
        yield "Every seed", note, [dot_chart("Test accuracy of every seed", metric.axis, dots, baseline)] if dots else []
        against = [*self.cost_charts([one.row for one in known], looks), *_against(known, looks, SECONDS)]
        yield "Accuracy against cost", "A point is the mean of a variant over its seeds.", against
        curves = {one.row.label: read_curves([self.folders[id(run)] for run in one.row.runs], self.points) for one in shown}
        names = dict.fromkeys(name for of in curves.values() for name in of)
        yield (
            "By epoch",
            "Lines are means over seeds, bands reach from the lowest to the highest seed. Losses are those before their "
            "weights. Curves are thinned.",
            [
                curve_chart(name, {label: of[name] for label, of in curves.items() if name in of}, looks)
                for name in names
            ],
        )
        yield (
            "Graphs against accuracy",
            "Graphs and embeddings are those of the last epoch. Bars as above.",
            list(_against(known, looks, PANELS)),
        )

    def cost_charts(self, rows: Sequence[Row], looks: Mapping[str, Look]) -> Iterator[Chart]:
        """Yield accuracy against parameters and multiply-adds, where students differ in them."""
        costs = [(row, self.cost_of(self.folders[id(row.runs[0])])) for row in rows if row.by_seed(ACCURACY)]
        known = [(row, cost) for row, cost in costs if cost is not None]
        for name, title in (("parameters", "parameters of the student"), ("multiply_adds", "multiply-adds per image")):
            if len({getattr(cost, name) for _, cost in known}) > 1:
                shown = [(Shown.of(row, ACCURACY, ""), float(getattr(cost, name))) for row, cost in known]
                points = [
                    Point(one.row.label, looks[one.row.label], x, one.summary.mean, 0.0, one.reach) for one, x in shown
                ]
                yield point_chart(title.capitalize(), title, METRICS[ACCURACY].axis, points)

    def runs(self, records: Iterable[Record], rows: Sequence[Row]) -> Iterator[_Run]:
        labels = {id(run): row.label for row in rows for run in row.runs}
        for record in sorted(records, key=lambda record: (record.variant, record.identity, record.seed)):
            yield self.run(record, labels.get(id(record), record.variant))

    def run(self, record: Record, label: str) -> _Run:
        relative = os.path.relpath(self.folders[id(record)], self.folder)
        return _Run(record, label, urllib.parse.quote(Path(relative).as_posix()) + "/")

    def id(self) -> str:
        self.number += 1
        return f"section-{self.number}"


def _looks(labels: Sequence[str]) -> dict[str, Look]:
    return {label: look_of(place) for place, label in enumerate(labels)}


def _against(shown: Sequence[Shown], looks: Mapping[str, Look], metrics: Sequence[str]) -> Iterator[Chart]:
    """Yield accuracy against each of these metrics that two rows have."""
    for name in metrics:
        values = [(one, Shown.of(one.row, name, "")) for one in shown]
        points = [
            Point(one.row.label, looks[one.row.label], x.summary.mean, one.summary.mean, x.reach, one.reach)
            for one, x in values
            if x.n
        ]
        if len(points) > 1:
            axis = METRICS[name].axis
            yield point_chart(axis[0].upper() + axis[1:], axis, METRICS[ACCURACY].axis, points)


def _ranking_charts(ranking: Ranking, looks: Mapping[str, Look]) -> tuple[str, str, list[Chart]]:
    half = ranking.critical_difference / 2
    ranks = [Dots(one.label, looks[one.label], one.rank, one.rank - half, one.rank + half) for one in ranking.standings]
    iqms = [
        Dots(one.label, looks[one.label], one.iqm, *((one.iqm,) * 2 if math.isnan(one.low) else (one.low, one.high)))
        for one in sorted(ranking.standings, key=lambda one: -one.iqm)
    ]
    note = (
        f"Ranks by mean test accuracy over {len(ranking.pairs)} pairs, 1 is the best. Bars are as wide as the critical "
        f"difference ({ranking.critical_difference:.2f}): variants whose bars do not overlap differ at 5 % (Nemenyi). "
        "IQM is the mean of the middle half of all pairs and seeds, its bar the 95 % bootstrap interval."
    )
    charts = [dot_chart("Mean rank", "mean rank over pairs", ranks), dot_chart("IQM", "IQM of test top-1 (%)", iqms)]
    return "Ranks over pairs", note, [dataclasses.replace(chart, is_wide=False) for chart in charts]


def _ranking_table(ranking: Ranking) -> Table:
    import pandas as pd

    standings = ranking.standings
    columns = [
        [one.label for one in standings],
        [Cell(fixed(one.rank, 2), mark) for one, mark in zip(standings, marks([one.rank for one in standings], "min"), strict=True)],
        [Cell(fixed(one.iqm, 2), mark) for one, mark in zip(standings, marks([one.iqm for one in standings], "max"), strict=True)],
        [NONE if math.isnan(one.low) else f"[{one.low:.2f}, {one.high:.2f}]" for one in standings],
    ]
    p = "< 0.001" if ranking.p < 0.001 else fixed(ranking.p, 3)
    return Table(
        name="ranks",
        title="Ranks",
        caption="",
        blocks=(Block.of(("variant", "mean rank", "IQM (%)", "95 % interval"), zip(*columns, strict=True), "Ranks"),),
        legend=f"Friedman test that all variants rank alike: p = {p}." if p != NONE else "",
        frame=pd.DataFrame(standings),
        notes=tuple([f"not ranked, for they lack a pair: {', '.join(ranking.incomplete)}"] if ranking.incomplete else []),
    )


def _table(table: Table) -> _Shown:
    return _Shown([_grid(block) for block in table.blocks], [line for line in (table.legend, *table.notes) if line])


def _grid(block: Block) -> _Grid:
    keys = [[_number(cell.text) for cell in row] for row in block.cells]
    are_numbers = [
        place > 0 and all(key or row[place].text in ("", NONE) for row, key in zip(block.cells, of, strict=True))
        for place, of in enumerate(zip(*keys, strict=True))
    ]
    rows = [
        [
            (cell.text, cell.mark, key if is_number else cell.text)
            for cell, key, is_number in zip(row, own, are_numbers, strict=True)
        ]
        for row, own in zip(block.cells, keys, strict=True)
    ]
    return _Grid(block.title, list(zip(block.header, are_numbers, strict=True)), rows)


def _number(text: str) -> str:
    found = NUMBER.match(text)
    return found[1] if found else ""


def _packed(text: str) -> str:
    """Return a text as gzip in Base64: a third of Plotly's own length."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
