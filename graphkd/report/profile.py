"""Where the time of a step goes, as tables: one for each study, pair and data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from graphkd.report.caveats import caveats
from graphkd.report.markup import NONE, Block, Table, fixed
from graphkd.report.record import Record
from graphkd.report.rows import Group, Row, aggregate, grouped
from graphkd.report.statistics import summarise

LEGEND = f"Milliseconds per step, mean over n seeds, and share of the step; {NONE} where a variant has no such part."
_FIRST = ("data", "student", "teacher")
_LAST = ("backward", "optimizer")


def build_profiles(records: Iterable[Record], order: Sequence[str] = ()) -> list[Table]:
    """Build one table for each study, pair and data set whose finished runs recorded their phases.

    Args:
        records: Runs of any kind and status.
        order: Variants in the order of their rows; the others follow by name.
    """
    tables = []
    for group in grouped(records):
        if rows := aggregate((record for record in group.records if record.phases), order):
            tables.append(_build(group, rows))
    return tables


def _build(group: Group, rows: Sequence[Row]) -> Table:
    import pandas as pd

    found = dict.fromkeys(name for row in rows for run in row.runs for name in run.phases)
    terms = [name for name in found if name not in (*_FIRST, *_LAST)]
    names = [name for name in (*_FIRST, *terms, *_LAST) if name in found]  # in the order of a step
    cells, frame = [], []
    for row in rows:
        step = row.summary("seconds_per_step").mean
        phases = {name: summarise(run.phases.get(name) for run in row.runs).mean for name in names}
        texts = (_time(seconds, step) for seconds in phases.values())
        cells.append([row.label, str(len(row.runs)), fixed(1000 * step, 2), *texts])
        values = {f"{name}_seconds": seconds for name, seconds in phases.items()}
        frame.append({"variant": row.label, "n": len(row.runs), "seconds_per_step": step, **values})
    return Table(
        name=f"{group.name}_profile",
        title=f"{group.title}: time of a step",
        caption="",
        blocks=(Block.of(("variant", "n", "step", *names), cells),),
        legend=LEGEND,
        frame=pd.DataFrame(frame),
        notes=tuple(caveats(rows)),
    )


def _time(seconds: float, step: float) -> str:
    """Return milliseconds, and their share of the step where its time is known."""
    share = f" ({100 * seconds / step:.0f} %)" if step > 0 else ""
    return NONE if math.isnan(seconds) else f"{1000 * seconds:.2f}{share}"
