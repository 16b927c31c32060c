"""Where the time of a step goes, as tables: one for each study, pair and data set."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from graphkd.report.markup import NONE, Block, Cell, Table
from graphkd.report.record import Record
from graphkd.report.statistics import Row, aggregate, is_finished, summarise, warnings_about

LEGEND = f"Milliseconds of a step, mean over n seeds, and share of the step; {NONE} where a variant has no such part."
_FIRST = ("data", "student", "teacher")
_LAST = ("backward", "optimizer")


def build_profiles(records: Iterable[Record], order: Sequence[str] = ()) -> list[Table]:
    """One table for each study, pair and data set whose finished runs recorded their phases.

    Args:
        records: Runs of any kind and status.
        order: Variants in the order of their rows; the others follow by name.
    """
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if is_finished(record) and record.phases:
            groups[record.study, record.pair, record.data or ""].append(record)
    return [_build(group, order) for _, group in sorted(groups.items())]


def _build(records: Sequence[Record], order: Sequence[str]) -> Table:
    import pandas as pd

    place = {variant: index for index, variant in enumerate(order)}
    rows = sorted(aggregate(records), key=lambda row: place.get(row.variant, len(place)))
    names = _phases(rows)
    values = {name: [summarise(run.phases.get(name) for run in row.runs).mean for row in rows] for name in names}
    steps = [row.summary(lambda run: run.seconds_per_step).mean for row in rows]
    columns = [[_cell(value, step) for value, step in zip(values[name], steps, strict=True)] for name in names]
    leading = [
        [Cell(row.label) for row in rows],
        [Cell(str(len(row.runs))) for row in rows],
        [Cell(f"{1000 * step:.2f}") for step in steps],
    ]
    frame = {"variant": [row.label for row in rows], "n": [len(row.runs) for row in rows], "seconds_per_step": steps}
    first = rows[0]
    return Table(
        name=f"{first.study}_{first.pair}_profile",
        title=f"{first.study}, {first.pair}: time of a step",
        caption="",
        blocks=(Block(("variant", "n", "step", *names), tuple(zip(*leading, *columns, strict=True))),),
        legend=LEGEND,
        frame=pd.DataFrame({**frame, **{f"{name}_seconds": values[name] for name in names}}),
        notes=tuple(warnings_about(rows)),
    )


def _phases(rows: Sequence[Row]) -> list[str]:
    """All phases in the order of a step: data, networks, the objective's terms, backward, optimizer."""
    found = dict.fromkeys(name for row in rows for run in row.runs for name in run.phases)
    terms = [name for name in found if name not in (*_FIRST, *_LAST)]
    return [name for name in (*_FIRST, *terms, *_LAST) if name in found]


def _cell(seconds: float, step: float) -> Cell:
    if math.isnan(seconds):
        return Cell(NONE)
    return Cell(f"{1000 * seconds:.2f} ({100 * seconds / step:.0f} %)")
