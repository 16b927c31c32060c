"""The layout `grid`: one table for a study, methods by pairs, as in the HKD paper's Table 1."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphkd.errors import UserError, counted, one_of
from graphkd.report.ari import Ari, average_relative_improvement
from graphkd.report.caveats import caveats, left_out
from graphkd.report.grid_spec import GridSpec, Published
from graphkd.report.markup import NONE, Block, Cell, Table, fixed, listed, marks, spread
from graphkd.report.metrics import METRICS
from graphkd.report.record import Record
from graphkd.report.rows import Group, Row, aggregate, common_protocol, grouped, protocols_of
from graphkd.report.statistics import Summary, summarise

ACCURACY = "test_top1_last"
COSTS = ("seconds_per_step", "peak_memory_mib")
TEACHER = "teacher"
"""The row of the teachers' own accuracy."""


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
    if spec.study is not None:
        try:
            one_of(spec.study, studies, f"table '{spec.name}': there is no finished run of the study")
        except UserError as error:
            raise UserError(f"{error}; --study NAME shows another study") from None
    return [_build_grid(group, spec) for group in groups if spec.study in (None, *group.keys)]


@dataclass(frozen=True)
class _Line:
    """A row of the grid.

    Attributes:
        variant: The variant, or label where a variant has several configurations on a pair.
        label: How it is printed.
        accuracy: Its accuracy on each pair, with n = 0 where there is none.
        ari: Improvement of the target over it.
        values: What the frame holds of it; a difference to a published figure is NaN where the data differ.
    """

    variant: str
    label: str
    accuracy: Mapping[str, Summary]
    ari: Ari
    values: Mapping[str, Any]


def _build_grid(group: Group, spec: GridSpec) -> Table:
    import pandas as pd

    (study,) = group.keys
    rows = aggregate(group.records)
    found = {row.pair for row in rows}
    pairs = [*(pair for pair in spec.pairs if pair in found), *sorted(found.difference(spec.pairs))]
    lines = _lines(rows, pairs, group.data, spec)
    counts = Counter(one.n for line in lines if line.variant != TEACHER for one in line.accuracy.values() if one.n)
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    published = _published(lines, pairs, spec)
    protocol = common_protocol(rows)
    target, student = spec.rows[spec.target], spec.rows[spec.student]
    by_pair = [dataclasses.replace(row, label=f"{row.pair}: {row.label}") for row in rows]
    return Table(
        name=group.name + ("" if spec.name == study else f"_{spec.name}"),
        title=group.title,
        caption=f"{METRICS[ACCURACY].label}, n = {usual} where a cell does not say otherwise."
        + (f" Protocol: {protocol}." if protocol else ""),
        blocks=(_accuracies(lines, pairs, usual), *published, *_elsewhere(pairs, spec), *_seconds(lines, pairs)),
        legend=(
            "Mean ± sample standard deviation over n seeds, best mean of a pair in bold, second best underlined (the "
            f"teacher aside), {NONE} where there is none. ARI of a row: mean over pairs of "
            f"({target} - row) / (row - {student}) x 100."
        ),
        frame=pd.DataFrame([{"study": study, "data": group.data, **line.values} for line in lines]),
        notes=(
            *_notes(rows, lines, student, group.data, spec.published if published else None),
            *caveats(by_pair),
            *left_out(group.records),
        ),
    )


def _lines(rows: Sequence[Row], pairs: Sequence[str], data: str, spec: GridSpec) -> list[_Line]:
    by_label: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_label[row.label][row.pair] = row
    accuracy = {label: {pair: row.summary(ACCURACY) for pair, row in of.items()} for label, of in by_label.items()}
    means = {label: {pair: one.mean for pair, one in of.items() if one.n} for label, of in accuracy.items()}
    if TEACHER in spec.rows:
        by_label[TEACHER] = {}
        accuracy[TEACHER] = {pair: summarise(_teachers(rows, pair).values()) for pair in pairs}
    published_data = spec.published.data if spec.published else ""
    is_same_data = spec.published is not None and data == published_data
    lines = []
    for variant in (*spec.rows, *sorted(by_label.keys() - spec.rows.keys())):
        own = {pair: accuracy.get(variant, {}).get(pair, summarise([])) for pair in pairs}
        of = {} if variant in (TEACHER, spec.target, spec.student) else means.get(variant, {})
        ari = average_relative_improvement(means.get(spec.target, {}), of, means.get(spec.student, {}))
        label = spec.rows.get(variant, variant)
        protocols = dict.fromkeys(one for row in by_label.get(variant, {}).values() for one in row.protocols)
        values: dict[str, Any] = {"variant": variant, "label": label, "protocol": "; ".join(map(str, protocols))}
        for pair in pairs:
            published, runs = spec.published_mean(variant, pair), by_label.get(variant, {}).get(pair)
            cell = {
                **vars(own[pair]),
                "published": published.mean,
                "published_std": published.std,
                "difference": own[pair].mean - published.mean if is_same_data else math.nan,
                **{metric: runs.summary(metric).mean if runs else math.nan for metric in COSTS},
            }
            values |= {f"{pair}_{name}": value for name, value in cell.items()}
        published_ari = spec.published_ari(variant)
        is_same_mean = is_same_data and set(ari.pairs) == set(spec.pairs)
        values |= {
            "ari": ari.value,
            "ari_pairs": len(ari.pairs),
            "ari_published": published_ari,
            "ari_difference": ari.value - published_ari if is_same_mean else math.nan,
            "published_data": published_data,
            "published_protocol": str((spec.published and spec.published.protocol) or ""),
        }
        lines.append(_Line(variant, label, own, ari, values))
    return lines


def _teachers(rows: Sequence[Row], pair: str) -> dict[tuple[str, float | None], float | None]:
    """Return the accuracy of each teacher of a pair."""
    teachers = [run.teacher for row in rows if row.pair == pair for run in row.runs]
    return {(one.identity, one.accuracy): one.accuracy for one in teachers if one is not None}


def _accuracies(lines: Sequence[_Line], pairs: Sequence[str], usual: int) -> Block:
    columns: list[list[Cell | str]] = [[line.label for line in lines]]
    for pair in pairs:
        means = [math.nan if line.variant == TEACHER else line.accuracy[pair].mean for line in lines]
        texts = [
            _bare(line.accuracy[pair]) if line.variant == TEACHER else spread(line.accuracy[pair], usual, 2)
            for line in lines
        ]
        columns.append([Cell(*cell) for cell in zip(texts, marks(means, "max"), strict=True)])
    columns.append([_ari(line.ari, len(pairs)) for line in lines])
    return Block.of(("method", *pairs, "ARI (%)"), zip(*columns, strict=True))


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

    def cell(published: str, difference: float) -> str:
        return published if published == NONE else f"{published} ({fixed(difference, 2, '+')})"

    cells = [
        [
            line.label,
            *(
                cell(_bare(spec.published_mean(line.variant, pair)), line.values[f"{pair}_difference"])
                for pair in pairs
            ),
            cell(fixed(spec.published_ari(line.variant), 2), line.values["ari_difference"]),
        ]
        for line in lines
        if line.variant in spec.published.rows
    ]
    title = f"Published on {spec.published.data} ({spec.published.source}); in brackets: this study minus published"
    if spec.published.protocol is not None:
        title += f"; protocol: {spec.published.protocol}"
    return [Block.of(("method", *pairs, f"ARI (%), {counted(len(spec.pairs), 'pair')}"), cells, title)]


def _elsewhere(pairs: Sequence[str], spec: GridSpec) -> list[Block]:
    """Return the figures of other papers on the pairs that are shown, if there are any, each with its protocol."""
    if spec.elsewhere is None:
        return []
    places = {pair: spec.pairs.index(pair) for pair in pairs if pair in spec.pairs}
    cells = [
        [method, *(NONE if figures.mean[at] is None else f"{figures.mean[at]:.2f}" for at in places.values()),
         figures.source, str(figures.protocol)]
        for method, figures in spec.elsewhere.rows.items()
        if any(figures.mean[at] is not None for at in places.values())
    ]  # fmt: skip
    title = f"Published on {spec.elsewhere.data}, each by the protocol in its row: compare only where protocols agree"
    return [Block.of(("method", *places, "source", "protocol"), cells, title)] if cells else []


def _seconds(lines: Sequence[_Line], pairs: Sequence[str]) -> list[Block]:
    metric = METRICS["seconds_per_step"]
    means = [(line.label, [line.values[f"{pair}_seconds_per_step"] for pair in pairs]) for line in lines]
    cells = [
        [label, *(fixed(mean, metric.decimals) for mean in of)] for label, of in means if not all(map(math.isnan, of))
    ]
    return [Block.of(("method", *pairs), cells, metric.label.capitalize())] if cells else []


def _notes(
    rows: Sequence[Row], lines: Sequence[_Line], student: str, data: str, published: Published | None
) -> Iterator[str]:
    for line in lines:
        if line.ari.below:
            yield f"ARI of {line.label} leaves out {listed(line.ari.below)}, where {line.label} is not above {student}"
    if published is not None and published.data != data:
        here = f"are on {data}" if data else "do not say their data set"
        yield f"no differences to the published figures: those are on {published.data}, these runs {here}"
    elif published is not None and published.protocol is not None:
        others = [one for one in protocols_of(rows) if one != published.protocol]
        if others:
            theirs, ours = published.protocol, "; ".join(map(str, others))
            yield f"the published figures were obtained under another protocol ({theirs}) than these runs ({ours})"
        elif not protocols_of(rows):
            yield f"these runs do not say their protocol; that of the published figures is {published.protocol}"
    counts = {pair: len(_teachers(rows, pair)) for pair in sorted({row.pair for row in rows})}
    if several := [f"{pair} ({n})" for pair, n in counts.items() if n > 1]:
        yield f"students of a pair had different teachers: {listed(several)}"
