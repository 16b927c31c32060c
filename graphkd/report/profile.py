"""Where the time of a step goes, as tables: one for each study, pair and data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from graphkd.report.markup import NONE, Block, Cell, Table
from graphkd.report.record import Record
from graphkd.report.statistics import Group, Row, aggregate, grouped, summarise, warnings_about

LEGEND = f"Milliseconds of a step, mean over n seeds, and share of the step; {NONE} where a variant has no such part."
_FIRST = ("data", "student", "teacher")
_LAST = ("backward", "optimizer")


def build_profiles(records: Iterable[Record], order: Sequence[str] = ()) -> list[Table]:
    """Build one table for each study, pair and data set whose finished runs recorded their phases.

    Args:
        records: Runs of any kind and status.
        order: Variants in the order of their rows; the others follow by name.
    """
    return [_build(group, order) for group in grouped(record for record in records if record.phases)]


def _build(group: Group, order: Sequence[str]) -> Table:
    import pandas as pd

    rows = aggregate(group.records, order)
    names = _phases(rows)
    counts = [len(row.runs) for row in rows]
    steps = [row.summary("seconds_per_step").mean for row in rows]
    phases = {name: [summarise(run.phases.get(name) for run in row.runs).mean for row in rows] for name in names}
    columns = [
        [Cell(row.label) for row in rows],
        [Cell(str(count)) for count in counts],
        [Cell(f"{1000 * step:.2f}") for step in steps],
        *([_cell(value, step) for value, step in zip(of, steps, strict=True)] for of in phases.values()),
    ]
    frame = {"variant": [row.label for row in rows], "n": counts, "seconds_per_step": steps}
    return Table(
        name=f"{group.name}_profile",
        title=f"{group.title}: time of a step",
        caption="",
        blocks=(Block(("variant", "n", "step", *names), tuple(zip(*columns, strict=True))),),
        legend=LEGEND,
        frame=pd.DataFrame({**frame, **{f"{name}_seconds": of for name, of in phases.items()}}),
        notes=tuple(warnings_about(rows)),
    )


def _phases(rows: Sequence[Row]) -> list[str]:
    """Return all phases in the order of a step: data, networks, the objective's terms, backward, optimizer."""
    found = dict.fromkeys(name for row in rows for run in row.runs for name in run.phases)
    terms = [name for name in found if name not in (*_FIRST, *_LAST)]
    return [name for name in (*_FIRST, *terms, *_LAST) if name in found]


def _cell(seconds: float, step: float) -> Cell:
    if math.isnan(seconds):
        return Cell(NONE)
    return Cell(f"{1000 * seconds:.2f} ({100 * seconds / step:.0f} %)")
