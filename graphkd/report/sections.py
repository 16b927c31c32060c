"""Sections of the HTML page: one for each pair of a study, and one over all pairs of it."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphkd.report.charts import Chart, Dots, Look, Point, curve_chart, dot_chart, look_of, point_chart
from graphkd.report.configs import compare_options, read_options
from graphkd.report.curves import read_curves
from graphkd.report.figures import Shown, also_bars
from graphkd.report.graph_figures import PANELS
from graphkd.report.load import Loaded
from graphkd.report.markup import NONE, Block, Cell, Table, fixed, marks
from graphkd.report.metrics import METRICS
from graphkd.report.ranking import Ranking, rank_over_pairs
from graphkd.report.record import Record
from graphkd.report.rows import Group, Row, aggregate, grouped, named
from graphkd.report.tables import TableSpec, build_tables

ACCURACY = "test_top1_last"
AXIS = METRICS[ACCURACY].axis
TIMES = ("seconds_per_step", "peak_memory_mib")
MOST_POINTS, FEWEST_POINTS, ALL_POINTS = 120, 16, 12_000
"""Points of a curve, and those of all rows together, from which follows how far curves are thinned."""
STUDENT_NODES = ("student", "data")
"""Nodes of the config on which the size of a student depends."""
MOST_SIDE_BY_SIDE = 60
"""Options of more rows than these would be read by nobody."""


@dataclass(frozen=True)
class Cost:
    """What a student takes: the number of its parameters, and multiply-adds on one image."""

    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Studies:
    """What suites say about their studies.

    Attributes:
        order: Variants in the order of their rows, by study.
        baselines: The baseline by study, which holds unless the layout names one.
        grids: Tables with a column for each pair, by study.
    """

    order: Mapping[str, Sequence[str]] = field(default_factory=dict)
    baselines: Mapping[str, str | None] = field(default_factory=dict)
    grids: Mapping[str, Sequence[Table]] = field(default_factory=dict)


@dataclass(frozen=True)
class Charts:
    """Charts below one heading, and how to read them."""

    heading: str
    note: str
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Run:
    """A line in the list of runs: the record, the label of its row, and where its folder is seen from the page."""

    record: Record
    label: str
    link: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with its own legend.

    Attributes:
        title: The heading.
        looks: How each row is drawn, by its label.
        tables: The tables.
        charts: Groups of charts, none of them empty.
        caption: What stands below the heading.
        options: What the options of rows differ in.
        shared: Options that are the same in all rows.
        runs: The runs of any status.
        best: Label and accuracy of the best row.
    """

    title: str
    looks: Mapping[str, Look]
    tables: Sequence[Table]
    charts: Sequence[Charts]
    caption: str = ""
    options: Block | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    runs: Sequence[Run] = ()
    best: tuple[str, str] = (NONE, NONE)


class Sections:
    """Builds the sections of a page.

    Args:
        loaded: What a results folder holds.
        folder: Folder of the page, for links.
        spec: Columns of the tables.
        studies: What suites say.
        cost_of: The cost of the student in a run's folder, None where it cannot be known.
    """

    def __init__(
        self,
        loaded: Loaded,
        folder: str | os.PathLike[str],
        spec: TableSpec,
        studies: Studies,
        cost_of: Callable[[str], Cost | None],
    ) -> None:
        """Set up; nothing is read before it is needed."""
        self.loaded, self.folder, self.spec, self.studies, self.cost_of = loaded, folder, spec, studies, cost_of
        self.folders = {id(record): place for record, place in zip(loaded.records, loaded.folders, strict=True)}
        self.read_options = functools.cache(read_options)

    def build(self) -> Iterator[Section]:
        """Yield the sections, study by study, what is over all pairs first."""
        studies: dict[tuple[str, str], list[tuple[Group, list[Row]]]] = defaultdict(list)
        number = 0
        for group in grouped(self.loaded.records):
            rows = aggregate(group.records, self.studies.order.get(group.keys[0], ()))
            number += len(rows)
            studies[group.keys[0], group.data].append((group, rows))
        points = max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // max(1, number)))
        for (study, data), groups in studies.items():
            grids = [table for table in self.studies.grids.get(study, ()) if table.frame["data"].iloc[0] == data]
            if len(groups) > 1 or grids:
                title = f"{study}{f' on {data}' if data else ''}: all pairs"
                over_pairs = self._over_pairs(title, [row for _, rows in groups for row in rows], grids)
                if over_pairs.tables or over_pairs.charts:  # a single variant has no rank
                    yield over_pairs
            for group, rows in groups:
                yield self._pair(group, rows, points)

    def run(self, record: Record, label: str) -> Run:
        """Return the line of a run."""
        place = os.path.relpath(self.folders[id(record)], self.folder)
        return Run(record, label, urllib.parse.quote(os.fsencode(Path(place).as_posix())) + "/")

    def _over_pairs(self, title: str, rows: Sequence[Row], grids: Sequence[Table]) -> Section:
        looks = _looks(rows)
        values: dict[str, dict[str, list[float]]] = {label: {} for label in looks}
        for row in rows:
            values[row.label][row.pair] = list(row.by_seed(ACCURACY).values())
        ranking = rank_over_pairs(values)
        bars = also_bars([len(row.by_seed(ACCURACY)) for row in rows])
        note = f"A point is the mean of a variant on a pair{bars}."
        costs = Charts("Accuracy against size", note, self._sizes(rows, looks))
        ranked = [] if ranking is None else [_ranking_charts(ranking, looks)]
        tables = [*grids, *([] if ranking is None else [_ranking_table(ranking)])]
        return Section(title=title, looks=looks, tables=tables, charts=[*ranked, *([costs] if costs.charts else [])])

    def _pair(self, group: Group, rows: Sequence[Row], points: int) -> Section:
        looks = _looks(rows)
        study, spec = group.keys[0], self.spec
        if spec.baseline is None:
            spec = dataclasses.replace(spec, baseline=self.studies.baselines.get(study))
        (table,) = build_tables(group.records, spec, self.studies.order.get(study, ()))
        shown = [one for one in (Shown.of(row, ACCURACY, "") for row in rows) if one.n]
        bars = also_bars([one.n for one in shown])
        against = [*self._sizes(rows, looks), *_against(shown, looks, TIMES)]
        charts = [
            _seeds(shown, looks, named(rows, spec.baseline)),
            Charts("Accuracy against cost", f"A point is the mean of a variant over its seeds{bars}.", against),
            self._curves(rows, looks, points),
            Charts(
                "Graphs against accuracy",
                f"A point is the mean of a variant over its seeds{bars}. Graphs as they were in the last epoch.",
                _against(shown, looks, PANELS),
            ),
        ]
        options, shared, notes = compare_options(
            {row.label: self.read_options(self._folder_of(row)) for row in rows}, MOST_SIDE_BY_SIDE
        )
        best = max(shown, key=lambda one: one.summary.mean, default=None)
        return Section(
            title=group.title,
            caption=table.caption,
            looks=looks,
            tables=[table],
            charts=[of for of in charts if of.charts],
            options=options if options.cells else None,
            shared=shared,
            notes=notes,
            runs=list(self._runs(group.records, rows)),
            best=(best.row.label, fixed(best.summary.mean, 2)) if best else (NONE, NONE),
        )

    def _curves(self, rows: Sequence[Row], looks: Mapping[str, Look], points: int) -> Charts:
        curves = {row.label: read_curves([self.folders[id(run)] for run in row.runs], points) for row in rows}
        names = dict.fromkeys(name for of in curves.values() for name in of)
        return Charts(
            "By epoch",
            "Lines are means over seeds, bands reach from the lowest to the highest seed. Losses are those before "
            f"their weights. Of long trainings about {points} epochs are shown.",
            [curve_chart(name, {row: of[name] for row, of in curves.items() if name in of}, looks) for name in names],
        )

    def _sizes(self, rows: Sequence[Row], looks: Mapping[str, Look]) -> list[Chart]:
        """Return accuracy against the size of students; each is counted once, and none if all are the same."""
        students = [self._student(row) for row in rows]
        firsts = dict(zip(students, rows, strict=True))
        costs = {student: self.cost_of(self._folder_of(row)) for student, row in firsts.items() if len(firsts) > 1}
        charts = []
        for name, title in (("parameters", "parameters of the student"), ("multiply_adds", "multiply-adds per image")):
            sizes = [
                (Shown.of(row, ACCURACY, ""), getattr(costs.get(student), name, None))
                for student, row in zip(students, rows, strict=True)
            ]
            points = [
                Point(
                    one.row.label,
                    f"{one.row.label}, {one.row.pair}",
                    looks[one.row.label],
                    size,
                    one.summary.mean,
                    0.0,
                    one.reach,
                )
                for one, size in sizes
                if size is not None and one.n
            ]
            if len({point.x for point in points}) > 1:
                charts.append(point_chart(title, AXIS, points))
        return charts

    def _student(self, row: Row) -> tuple[tuple[str, str], ...]:
        """Return the options on which the size of a row's student depends."""
        options = self.read_options(self._folder_of(row))
        return tuple((name, value) for name, value in options.items() if name.split(".")[0] in STUDENT_NODES)

    def _folder_of(self, row: Row) -> str:
        return self.folders[id(row.runs[0])]

    def _runs(self, records: Iterable[Record], rows: Sequence[Row]) -> Iterator[Run]:
        labels = {id(run): row.label for row in rows for run in row.runs}
        students = (record for record in records if record.kind == "student")
        for record in sorted(students, key=lambda record: (record.variant, record.identity, record.seed)):
            yield self.run(record, labels.get(id(record), record.variant))


def _looks(rows: Sequence[Row]) -> dict[str, Look]:
    return {label: look_of(place) for place, label in enumerate(dict.fromkeys(row.label for row in rows))}


def _seeds(shown: Sequence[Shown], looks: Mapping[str, Look], baseline: Sequence[Row]) -> Charts:
    dots = []
    means = [one.summary.mean for one in shown if len(baseline) == 1 and one.row is baseline[0]]
    for one in shown:
        mean, label = one.summary.mean, one.row.label
        seeds = {f"seed {seed}": value for seed, value in one.row.by_seed(ACCURACY).items()}
        dots.append(Dots(label, looks[label], mean, mean - one.reach, mean + one.reach, seeds))
    note = f"Ticks are seeds, the mark their mean{also_bars([one.n for one in shown])}."
    note += " The dashed line is the mean of the baseline." if means else ""
    return Charts("Accuracy of every seed", note, [dot_chart(AXIS, dots, *means)] if dots else [])


def _against(shown: Sequence[Shown], looks: Mapping[str, Look], metrics: Sequence[str]) -> list[Chart]:
    """Return accuracy against each of these metrics that two rows have."""
    charts = []
    for name in metrics:
        pairs = [(one, Shown.of(one.row, name, "")) for one in shown]
        points = [
            Point(label := one.row.label, label, looks[label], of.summary.mean, one.summary.mean, of.reach, one.reach)
            for one, of in pairs
            if of.n
        ]
        if len(points) > 1:
            charts.append(point_chart(METRICS[name].axis, AXIS, points))
    return charts


def _ranking_charts(ranking: Ranking, looks: Mapping[str, Look]) -> Charts:
    is_two = math.isnan(ranking.critical_difference)
    half = 0.0 if is_two else ranking.critical_difference / 2
    ranks = [Dots(one.label, looks[one.label], one.rank, one.rank - half, one.rank + half) for one in ranking.standings]
    means = [
        Dots(one.label, looks[one.label], one.mean, *((one.mean,) * 2 if math.isnan(one.low) else (one.low, one.high)))
        for one in sorted(ranking.standings, key=lambda one: -one.mean)
    ]
    charts = [
        dot_chart("mean rank over pairs, 1 is best", ranks),
        dot_chart("mean over pairs of test top-1 (%)", means),
    ]
    bars = (
        f" Their bars are as wide as the critical difference ({ranking.critical_difference:.2f}): variants whose bars "
        "do not overlap differ at 5 % (Nemenyi)."
    )
    return Charts(
        "Ranks over pairs",
        f"Ranks by mean test accuracy on {len(ranking.pairs)} pairs.{'' if is_two else bars} The mean is over pairs, "
        "its bar the 95 % interval over seeds (Student's t), which needs two seeds on each pair.",
        [dataclasses.replace(chart, is_wide=False) for chart in charts],
    )


def _ranking_table(ranking: Ranking) -> Table:
    import pandas as pd

    best = ranking.standings
    ranks, means = [one.rank for one in best], [one.mean for one in best]
    columns: list[list[Cell | str]] = [
        [one.label for one in best],
        [Cell(fixed(rank, 2), mark) for rank, mark in zip(ranks, marks(ranks, "min"), strict=True)],
        [Cell(fixed(mean, 2), mark) for mean, mark in zip(means, marks(means, "max"), strict=True)],
        [NONE if math.isnan(one.low) else f"[{one.low:.2f}, {one.high:.2f}]" for one in best],
    ]
    test = "Friedman's test" if len(best) > 2 else "Exact sign test"
    p = "is undefined" if math.isnan(ranking.p) else "< 0.001" if ranking.p < 0.001 else f"= {ranking.p:.3f}"
    missing = f"Not ranked, for they lack a pair: {', '.join(ranking.incomplete)}." if ranking.incomplete else ""
    header = ("variant", "mean rank", "mean over pairs (%)", "95 % interval")
    return Table(
        name="ranks",
        title="Ranks over pairs",
        caption="",
        blocks=(Block.of(header, zip(*columns, strict=True), "Ranks over pairs"),),
        legend=f"{test} that all variants rank alike: p {p}.",
        frame=pd.DataFrame(best),
        notes=(missing,) if missing else (),
    )
