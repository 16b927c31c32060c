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
from graphkd.report.record import Record
from graphkd.report.statistics import (
    Row,
    Summary,
    aggregate,
    is_finished,
    left_out,
    listed,
    summarise,
    warnings_about,
)
from graphkd.report.tables import COLUMNS, on_data, value_of

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
        """Raises `UserError` where a pair is named twice, or a row or a published figure has no place."""
        table = f"table '{self.name}'"
        for pair, count in Counter(self.pairs).items():
            check(count == 1, f"{table} has the pair '{pair}' twice")
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
        """Builds the spec from a config.

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
        """The published figure of a variant and pair as mean and std, with n = 0 where there is none."""
        row = self.published.rows.get(variant) if self.published else None
        mean = row.mean[self.pairs.index(pair)] if row and pair in self.pairs else None
        if row is None or mean is None:
            return summarise([])
        std = row.std[self.pairs.index(pair)] if row.std else None
        return Summary(1, mean, math.nan if std is None else std, math.nan)

    def published_ari(self, variant: str) -> float:
        """The published ARI of a variant, NaN where there is none."""
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
    """Mean over pairs of (target - method) / (method - student) x 100 (HKD, ICCV 2021, Table 1).

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
    """One table for each study that the spec asks for, and each data set of it, sorted by these.

    Args:
        records: Runs of any kind and status; those that are no finished students become a note.
        spec: What to show.

    Raises:
        UserError: The study that is asked for has no finished run.
    """
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.study, record.data or ""].append(record)
    done = {key: group for key, group in sorted(groups.items()) if any(map(is_finished, group))}
    studies = {study for study, _ in done}
    hint = did_you_mean(spec.study or "", studies)
    message = f"table '{spec.name}': there is no finished run of the study '{spec.study}'{hint}"
    check(spec.study in (None, *studies), f"{message} (choices: {choices(studies)})")
    shown = {key: group for key, group in done.items() if spec.study in (None, key[0])}
    several = Counter(study for study, _ in shown)
    return [
        _build_grid(study + f"_{data or 'unknown'}" * (several[study] > 1), study, data, group, spec)
        for (study, data), group in shown.items()
    ]


@dataclass(frozen=True)
class _Line:
    """A row of the grid: variant, or label where a variant has several configurations on a pair; values by pair."""

    variant: str
    label: str
    accuracy: Mapping[str, Summary]
    runs: Mapping[str, Row]
    ari: Ari


def _build_grid(name: str, study: str, data: str, records: Sequence[Record], spec: GridSpec) -> Table:
    rows = aggregate(records)
    pairs = _in_order(spec.pairs, {row.pair for row in rows})
    lines = _lines(rows, pairs, spec)
    cells = [summary for line in lines if line.variant != TEACHER for summary in line.accuracy.values() if summary.n]
    counts = Counter(summary.n for summary in cells)
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    published = _published(lines, pairs, data, spec)
    target, student = spec.rows[spec.target], spec.rows[spec.student]
    where_else = [dataclasses.replace(row, label=f"{row.pair}: {row.label}") for row in rows]
    return Table(
        name=name + ("" if spec.name == study else f"_{spec.name}"),
        title=f"{study}{on_data(data)}",
        caption=f"{COLUMNS[ACCURACY].label}, n = {usual} where a cell does not say otherwise.",
        blocks=(_accuracies(lines, pairs, usual), *published, *_seconds(lines, pairs)),
        legend=(
            "Mean ± sample standard deviation over n seeds, best mean of a pair in bold, second best underlined (the "
            f"teacher aside), {NONE} where there is none. ARI of a row: mean over pairs of "
            f"({target} - row) / (row - {student}) x 100."
        ),
        frame=_frame(study, data, lines, pairs, spec),
        notes=(
            *_about_ari(lines, student), *(_about_data(data, spec) if published else ()), *_about_teachers(rows),
            *warnings_about(where_else), *left_out(records),
        ),
    )  # fmt: skip


def _in_order(first: Sequence[str], found: set[str]) -> list[str]:
    """Those of `first` that were found, then the others by name."""
    return [*(name for name in first if name in found), *sorted(found.difference(first))]


def _lines(rows: Sequence[Row], pairs: Sequence[str], spec: GridSpec) -> list[_Line]:
    runs: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        runs[row.label][row.pair] = row
    accuracy = {
        label: {pair: row.summary(lambda run: value_of(run, ACCURACY)) for pair, row in by_pair.items()}
        for label, by_pair in runs.items()
    }
    means = {label: {pair: summary.mean for pair, summary in of.items()} for label, of in accuracy.items()}
    target, student = means.get(spec.target, {}), means.get(spec.student, {})
    none = Ari(math.nan, (), ())
    lines = []
    for variant in (*spec.rows, *sorted(runs.keys() - spec.rows.keys())):
        if variant == TEACHER:
            teachers = {pair: summarise(_teachers(rows, pair).values()) for pair in pairs}
            lines.append(_Line(variant, spec.rows[variant], teachers, {}, none))
            continue
        is_compared = variant not in (spec.target, spec.student)
        ari = average_relative_improvement(target, means.get(variant, {}), student) if is_compared else none
        label = spec.rows.get(variant, variant)
        lines.append(_Line(variant, label, accuracy.get(variant, {}), runs.get(variant, {}), ari))
    return lines


def _teachers(rows: Sequence[Row], pair: str) -> dict[tuple[str, float | None], float | None]:
    """The accuracy of each teacher of a pair."""
    teachers = [run.teacher for row in rows if row.pair == pair for run in row.runs]
    return {(one.identity, one.accuracy): one.accuracy for one in teachers if one is not None}


def _accuracies(lines: Sequence[_Line], pairs: Sequence[str], usual: int) -> Block:
    columns = [[Cell(line.label) for line in lines]]
    for pair in pairs:
        summaries = [line.accuracy.get(pair, summarise([])) for line in lines]
        means = [
            math.nan if line.variant == TEACHER else summary.mean
            for line, summary in zip(lines, summaries, strict=True)
        ]  # fmt: skip
        columns.append([
            Cell(_teacher(summary) if line.variant == TEACHER else spread(summary, usual, 2), mark)
            for line, summary, mark in zip(lines, summaries, marks(means, "max"), strict=True)
        ])  # fmt: skip
    columns.append([Cell(_ari(line.ari, len(pairs))) for line in lines])
    return Block(("method", *pairs, "ARI (%)"), tuple(zip(*columns, strict=True)))


def _teacher(summary: Summary) -> str:
    """A pair's usual one teacher has no spread."""
    return fixed(summary.mean, 2) if summary.n < 2 else spread(summary, 1, 2)


def _ari(ari: Ari, pairs: int) -> str:
    return fixed(ari.value, 2) + (f" ({len(ari.pairs)} of {pairs} pairs)" if 0 < len(ari.pairs) < pairs else "")


def _published(lines: Sequence[_Line], pairs: Sequence[str], data: str, spec: GridSpec) -> list[Block]:
    """The published figures of the pairs that are shown, if there are any."""
    pairs = [pair for pair in pairs if any(spec.published_mean(line.variant, pair).n for line in lines)]
    if spec.published is None or not pairs:
        return []
    cells = []
    for line in lines:
        if line.variant in spec.published.rows:
            figures = [_published_cell(line, pair, data, spec) for pair in pairs]
            ari = fixed(spec.published_ari(line.variant), 2)
            difference = fixed(_ari_difference(line, data, spec), 2, "+")
            cells.append((Cell(line.label), *figures, Cell(ari if ari == NONE else f"{ari} ({difference})")))
    title = f"Published on {spec.published.data} ({spec.published.source}); in brackets: above less published"
    return [Block(("method", *pairs, f"ARI (%), {len(spec.pairs)} pairs"), tuple(cells), title)]


def _published_cell(line: _Line, pair: str, data: str, spec: GridSpec) -> Cell:
    figure = spec.published_mean(line.variant, pair)
    if not figure.n:
        return Cell(NONE)
    text = fixed(figure.mean, 2) if math.isnan(figure.std) else spread(figure, 1, 2)
    return Cell(f"{text} ({fixed(_difference(line, pair, data, spec), 2, '+')})")


def _difference(line: _Line, pair: str, data: str, spec: GridSpec) -> float:
    """Mean here less the published one; NaN where either is missing or the data differ."""
    if spec.published is None or data != spec.published.data or pair not in line.accuracy:
        return math.nan
    return line.accuracy[pair].mean - spec.published_mean(line.variant, pair).mean


def _ari_difference(line: _Line, data: str, spec: GridSpec) -> float:
    """ARI here less the published one; NaN where the data or the pairs that they are the mean of differ."""
    if spec.published is None or data != spec.published.data or set(line.ari.pairs) != set(spec.pairs):
        return math.nan
    return line.ari.value - spec.published_ari(line.variant)


def _seconds(lines: Sequence[_Line], pairs: Sequence[str]) -> list[Block]:
    column = COLUMNS["seconds_per_step"]
    cells = [
        (Cell(line.label), *(Cell(fixed(_mean(line, pair, "seconds_per_step"), column.decimals)) for pair in pairs))
        for line in lines
        if any(not math.isnan(_mean(line, pair, "seconds_per_step")) for pair in pairs)
    ]
    return [Block(("method", *pairs), tuple(cells), f"{column.label[0].upper()}{column.label[1:]}")] if cells else []


def _mean(line: _Line, pair: str, column: str) -> float:
    row = line.runs.get(pair)
    return math.nan if row is None else row.summary(lambda run: value_of(run, column)).mean


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


def _frame(study: str, data: str, lines: Sequence[_Line], pairs: Sequence[str], spec: GridSpec) -> pd.DataFrame:
    import pandas as pd

    frame: pd.DataFrame = pd.DataFrame([
        {"study": study, "data": data, "variant": line.variant, "label": line.label,
         **{name: value for pair in pairs for name, value in _values(line, pair, data, spec).items()},
         "ari": line.ari.value, "ari_pairs": len(line.ari.pairs), "ari_published": spec.published_ari(line.variant),
         "ari_difference": _ari_difference(line, data, spec),
         "published_data": spec.published.data if spec.published else ""}
        for line in lines
    ])  # fmt: skip
    return frame


def _values(line: _Line, pair: str, data: str, spec: GridSpec) -> dict[str, float]:
    """What the frame holds of a cell."""
    summary, published = line.accuracy.get(pair, summarise([])), spec.published_mean(line.variant, pair)
    return {
        **{f"{pair}_{part}": getattr(summary, part) for part in ("mean", "std", "ci95", "n")},
        f"{pair}_published": published.mean,
        f"{pair}_published_std": published.std,
        f"{pair}_difference": _difference(line, pair, data, spec),
        **{f"{pair}_{column}": _mean(line, pair, column) for column in ("seconds_per_step", "peak_memory_mib")},
    }
