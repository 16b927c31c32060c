"""The layout `grid`: one table for a study, methods by pairs, as in the HKD paper's Table 1."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from graphkd.binding import bind, convert, options_of
from graphkd.errors import check, choices, did_you_mean
from graphkd.report.markup import NONE, Block, Cell, Table, fixed, marks, spread
from graphkd.report.metrics import METRICS
from graphkd.report.record import Record
from graphkd.report.statistics import (
    Group,
    Row,
    Summary,
    aggregate,
    grouped,
    left_out,
    listed,
    summarise,
    warnings_about,
)

if TYPE_CHECKING:
    import pandas as pd

ACCURACY = "test_top1_last"
TEACHER = "teacher"
"""The row of the teachers' own accuracy."""


@dataclass(frozen=True)
class PublishedRow:
    """Published figures of a method.

    Attributes:
        mean: Test top-1 in percent for each pair of the grid, None where nothing was published.
        std: Their standard deviations, likewise; None where there are none at all.
        ari: The average relative improvement in percent.
    """

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...] | None = None
    ari: float | None = None


@dataclass(frozen=True)
class Published:
    """Published figures to stand beside a study's.

    Attributes:
        source: Where they were published.
        data: Name of the data set that they are on.
        rows: The figures by variant.
    """

    source: str
    data: str
    rows: Mapping[str, PublishedRow]


@dataclass(frozen=True)
class GridSpec:
    """What a grid shows, as `configs/table/<name>.yaml` says it.

    Attributes:
        name: Name of the layout.
        layout: The kind of layout.
        study: The study, or None for a grid of each.
        pairs: Columns in order; other pairs of the study follow by name, those that it lacks are left out.
        rows: Labels by variant, in order; other variants of the study follow by name. "teacher" is the accuracy
            of the teachers that the study's students had.
        target: The variant whose improvement over each row ARI measures.
        student: The variant trained without a teacher, to which ARI is relative.
        published: Figures to compare with.
    """

    name: str
    layout: Literal["grid"]
    study: str | None
    pairs: tuple[str, ...]
    rows: Mapping[str, str]
    target: str
    student: str
    published: Published | None = None

    def __post_init__(self) -> None:
        """Raise `UserError` where a pair is named twice, or a row or a published figure has no place."""
        table = f"table '{self.name}'"
        for pair in self.pairs:
            check(self.pairs.count(pair) == 1, f"{table} has the pair '{pair}' twice")
        published = self.published.rows if self.published else {}
        named = [("target", self.target), ("student", self.student), *(("published", name) for name in published)]
        for option, variant in named:
            hint = did_you_mean(variant, self.rows)
            message = f"{table}: option '{option}' names '{variant}', which is no row{hint} (choices: "
            check(variant in self.rows, f"{message}{choices(self.rows)})")
        for variant, row in published.items():
            for figures in (row.mean, row.std):
                fits = figures is None or len(figures) == len(self.pairs)
                check(fits, f"{table}: published row '{variant}' must have {len(self.pairs)} figures, one a pair")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> GridSpec:
        """Build the spec from a config.

        Raises:
            UserError: A key is unknown or missing, a value is of a wrong type, or as in the constructor.
        """
        part = f"table '{options.get('name', '')}'"
        values = bind(options, options_of(cls), part).all
        for variant, label in values["rows"].items():
            convert(label, str, f"{part}: row '{variant}'")
        if values["published"] is not None:
            rows = {
                name: convert(row, PublishedRow, f"{part}: published row '{name}'")
                for name, row in values["published"].rows.items()
            }
            values["published"] = dataclasses.replace(values["published"], rows=rows)
        return cls(**values)

    def published_mean(self, variant: str, pair: str) -> Summary:
        """Return the published figure of a variant and pair as mean and std, with n = 0 where there is none."""
        row = self.published.rows.get(variant) if self.published else None
        at = self.pairs.index(pair) if pair in self.pairs else None
        mean = None if row is None or at is None else row.mean[at]
        std = None if row is None or at is None or row.std is None else row.std[at]
        return summarise([mean]) if std is None or mean is None else Summary(mean, std, math.nan, 1)

    def published_ari(self, variant: str) -> float:
        """Return the published ARI of a variant, NaN where there is none."""
        row = self.published.rows.get(variant) if self.published else None
        return math.nan if row is None or row.ari is None else row.ari


@dataclass(frozen=True)
class Ari:
    """Average relative improvement over a method.

    Attributes:
        value: In percent; NaN where no pair is usable.
        pairs: The pairs it is the mean of.
        below: Pairs that are left out because the method is not above the student there.
    """

    value: float
    pairs: tuple[str, ...]
    below: tuple[str, ...]


def average_relative_improvement(
    target: Mapping[str, float], method: Mapping[str, float], student: Mapping[str, float]
) -> Ari:
    """Return the mean over pairs of (target - method) / (method - student) x 100 (HKD, ICCV 2021, Table 1).

    Args:
        target: Mean accuracies by pair of the method whose improvement is measured.
        method: The same of the method it improves on.
        student: The same of the student alone.

    Returns:
        The improvement over the pairs that all three have, but for those where the method is not above the student:
        there the ratio means nothing.
    """
    common = [pair for pair in method if pair in target and pair in student]
    used = tuple(pair for pair in common if method[pair] > student[pair])
    ratios = [(target[pair] - method[pair]) / (method[pair] - student[pair]) * 100 for pair in used]
    below = tuple(pair for pair in common if pair not in used)
    return Ari(summarise(ratios).mean, used, below)


def build_grids(records: Iterable[Record], spec: GridSpec) -> list[Table]:
    """Build one table for each study that the spec asks for, and each data set of it, sorted by these.

    Args:
        records: Runs of any kind and status; those that are no finished students become a note.
        spec: What to show.

    Raises:
        UserError: The study that is asked for has no finished run.
    """
    groups = grouped(records, by=("study",))
    studies = {study for group in groups for study in group.keys}
    hint = did_you_mean(spec.study or "", studies)
    message = f"table '{spec.name}': there is no finished run of the study '{spec.study}'{hint}"
    check(spec.study in (None, *studies), f"{message} (choices: {choices(studies)})")
    return [_build_grid(group, spec) for group in groups if spec.study in (None, *group.keys)]


@dataclass(frozen=True)
class _Line:
    """A row of the grid.

    Attributes:
        variant: The variant, or label where a variant has several configurations on a pair.
        label: How it is printed.
        accuracy: Its accuracy on each pair, with n = 0 where there is none.
        rows: Its runs by pair.
        ari: Improvement of the target over it.
        differences: Its accuracy less the published one on each pair; NaN where one is missing or the data differ.
        ari_difference: The same of ARI; NaN too where the pairs that they are the mean of differ.
    """

    variant: str
    label: str
    accuracy: Mapping[str, Summary]
    rows: Mapping[str, Row]
    ari: Ari
    differences: Mapping[str, float]
    ari_difference: float

    def mean(self, pair: str, metric: str) -> float:
        """Return the mean of a metric on a pair, NaN where there is none."""
        return self.rows[pair].summary(metric).mean if pair in self.rows else math.nan


def _build_grid(group: Group, spec: GridSpec) -> Table:
    (study,) = group.keys
    rows = aggregate(group.records)
    found = {row.pair for row in rows}
    pairs = [*(pair for pair in spec.pairs if pair in found), *sorted(found.difference(spec.pairs))]
    lines = _lines(rows, pairs, group.data, spec)
    counts = Counter(one.n for line in lines if line.variant != TEACHER for one in line.accuracy.values() if one.n)
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    published = _published(lines, pairs, spec)
    target, student = spec.rows[spec.target], spec.rows[spec.student]
    where_else = [dataclasses.replace(row, label=f"{row.pair}: {row.label}") for row in rows]
    return Table(
        name=group.name + ("" if spec.name == study else f"_{spec.name}"),
        title=group.title,
        caption=f"{METRICS[ACCURACY].label}, n = {usual} where a cell does not say otherwise.",
        blocks=(_accuracies(lines, pairs, usual), *published, *_seconds(lines, pairs)),
        legend=(
            "Mean ± sample standard deviation over n seeds, best mean of a pair in bold, second best underlined (the "
            f"teacher aside), {NONE} where there is none. ARI of a row: mean over pairs of "
            f"({target} - row) / (row - {student}) x 100."
        ),
        frame=_frame(group, lines, pairs, spec),
        notes=(
            *_about_ari(lines, student), *(_about_data(group.data, spec) if published else ()), *_about_teachers(rows),
            *warnings_about(where_else), *left_out(group.records),
        ),
    )  # fmt: skip


def _lines(rows: Sequence[Row], pairs: Sequence[str], data: str, spec: GridSpec) -> list[_Line]:
    by_label: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_label[row.label][row.pair] = row
    accuracy = {label: {pair: row.summary(ACCURACY) for pair, row in of.items()} for label, of in by_label.items()}
    means = {label: {pair: one.mean for pair, one in of.items() if one.n} for label, of in accuracy.items()}
    if TEACHER in spec.rows:
        by_label[TEACHER] = {}
        accuracy[TEACHER] = {pair: summarise(_teachers(rows, pair).values()) for pair in pairs}
    on_same_data = spec.published is not None and data == spec.published.data
    lines = []
    for variant in (*spec.rows, *sorted(by_label.keys() - spec.rows.keys())):
        own = {pair: accuracy.get(variant, {}).get(pair, summarise([])) for pair in pairs}
        of = {} if variant in (TEACHER, spec.target, spec.student) else means.get(variant, {})
        ari = average_relative_improvement(means.get(spec.target, {}), of, means.get(spec.student, {}))
        differences = {pair: own[pair].mean - spec.published_mean(variant, pair).mean for pair in pairs}
        ari_difference = ari.value - spec.published_ari(variant)
        if not on_same_data:
            differences = dict.fromkeys(pairs, math.nan)
        if not on_same_data or set(ari.pairs) != set(spec.pairs):
            ari_difference = math.nan
        label, runs = spec.rows.get(variant, variant), by_label.get(variant, {})
        lines.append(_Line(variant, label, own, runs, ari, differences, ari_difference))
    return lines


def _teachers(rows: Sequence[Row], pair: str) -> dict[tuple[str, float | None], float | None]:
    """Return the accuracy of each teacher of a pair."""
    teachers = [run.teacher for row in rows if row.pair == pair for run in row.runs]
    return {(one.identity, one.accuracy): one.accuracy for one in teachers if one is not None}


def _accuracies(lines: Sequence[_Line], pairs: Sequence[str], usual: int) -> Block:
    columns = [[Cell(line.label) for line in lines]]
    for pair in pairs:
        means = [math.nan if line.variant == TEACHER else line.accuracy[pair].mean for line in lines]
        texts = [
            _bare(line.accuracy[pair]) if line.variant == TEACHER else spread(line.accuracy[pair], usual, 2)
            for line in lines
        ]
        columns.append([Cell(*cell) for cell in zip(texts, marks(means, "max"), strict=True)])
    columns.append([Cell(_ari(line.ari, len(pairs))) for line in lines])
    return Block(("method", *pairs, "ARI (%)"), tuple(zip(*columns, strict=True)))


def _bare(summary: Summary) -> str:
    """Return the mean, and the spread where there is one: a pair's usual one teacher has none."""
    return fixed(summary.mean, 2) if math.isnan(summary.std) else spread(summary, 1, 2)


def _ari(ari: Ari, pairs: int) -> str:
    return fixed(ari.value, 2) + (f" ({len(ari.pairs)} of {pairs} pairs)" if 0 < len(ari.pairs) < pairs else "")


def _published(lines: Sequence[_Line], pairs: Sequence[str], spec: GridSpec) -> list[Block]:
    """Return the published figures of the pairs that are shown, if there are any."""
    pairs = [pair for pair in pairs if any(spec.published_mean(line.variant, pair).n for line in lines)]
    if spec.published is None or not pairs:
        return []

    def cell(published: str, difference: float) -> Cell:
        return Cell(published if published == NONE else f"{published} ({fixed(difference, 2, '+')})")

    cells = tuple(
        (
            Cell(line.label),
            *(cell(_bare(spec.published_mean(line.variant, pair)), line.differences[pair]) for pair in pairs),
            cell(fixed(spec.published_ari(line.variant), 2), line.ari_difference),
        )
        for line in lines
        if line.variant in spec.published.rows
    )
    title = f"Published on {spec.published.data} ({spec.published.source}); in brackets: above less published"
    return [Block(("method", *pairs, f"ARI (%), {len(spec.pairs)} pairs"), cells, title)]


def _seconds(lines: Sequence[_Line], pairs: Sequence[str]) -> list[Block]:
    metric = METRICS["seconds_per_step"]
    means = [(line.label, [line.mean(pair, "seconds_per_step") for pair in pairs]) for line in lines]
    cells = tuple(
        (Cell(label), *(Cell(fixed(mean, metric.decimals)) for mean in of))
        for label, of in means
        if not all(map(math.isnan, of))
    )
    return [Block(("method", *pairs), cells, f"{metric.label[0].upper()}{metric.label[1:]}")] if cells else []


def _about_ari(lines: Sequence[_Line], student: str) -> list[str]:
    return [
        f"ARI of {line.label} leaves out {listed(line.ari.below)}, where {line.label} is not above {student}"
        for line in lines
        if line.ari.below
    ]


def _about_data(data: str, spec: GridSpec) -> list[str]:
    if spec.published is None or data == spec.published.data:
        return []
    here = f"are on {data}" if data else "do not say their data set"
    return [f"no differences to the published figures: those are on {spec.published.data}, these runs {here}"]


def _about_teachers(rows: Sequence[Row]) -> list[str]:
    counts = {pair: len(_teachers(rows, pair)) for pair in sorted({row.pair for row in rows})}
    several = [f"{pair} ({n})" for pair, n in counts.items() if n > 1]
    return [f"students of a pair had different teachers: {listed(several)}"] if several else []


def _frame(group: Group, lines: Sequence[_Line], pairs: Sequence[str], spec: GridSpec) -> pd.DataFrame:
    import pandas as pd

    frame: pd.DataFrame = pd.DataFrame([
        {"study": group.keys[0], "data": group.data, "variant": line.variant, "label": line.label,
         **{name: value for pair in pairs for name, value in _values(line, pair, spec).items()},
         "ari": line.ari.value, "ari_pairs": len(line.ari.pairs), "ari_published": spec.published_ari(line.variant),
         "ari_difference": line.ari_difference, "published_data": spec.published.data if spec.published else ""}
        for line in lines
    ])  # fmt: skip
    return frame


def _values(line: _Line, pair: str, spec: GridSpec) -> dict[str, float]:
    """Return what the frame holds of a cell."""
    published = spec.published_mean(line.variant, pair)
    return {
        **{f"{pair}_{part}": value for part, value in vars(line.accuracy[pair]).items()},
        f"{pair}_published": published.mean,
        f"{pair}_published_std": published.std,
        f"{pair}_difference": line.differences[pair],
        **{f"{pair}_{metric}": line.mean(pair, metric) for metric in ("seconds_per_step", "peak_memory_mib")},
    }
