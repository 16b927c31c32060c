"""Tables of aggregated runs, as data (unrounded), CSV, Markdown and plain cells."""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graphkd.binding import bind, options_of
from graphkd.errors import check, choices, did_you_mean
from graphkd.report.files import make_folder, write_atomically
from graphkd.report.record import Record
from graphkd.report.statistics import (
    Row,
    Summary,
    aggregate,
    is_finished,
    left_out,
    listed,
    warnings_about,
)

if TYPE_CHECKING:
    import pandas as pd

NONE = "—"
LEGEND = (
    "Mean ± sample standard deviation over n seeds (fewer where a cell says so), best mean in bold, "
    f"{NONE} where there is none."
)
LONGEST_STEM = 120


@dataclass(frozen=True)
class Column:
    """A value of a run as a table shows it.

    Attributes:
        label: The heading, with the unit.
        decimals: Digits behind the point in print.
        best: Which mean is best, or None where a column is no competition.
    """

    label: str
    decimals: int
    best: Literal["max", "min"] | None = None


COLUMNS: dict[str, Column] = {
    "test_top1_last": Column("test top-1, last epoch (%)", 2, "max"),
    "test_top1_at_best_val": Column("test top-1, at best validation (%)", 2, "max"),
    "val_top1_best": Column("validation top-1, best epoch (%)", 2, "max"),
    "test_top1_max": Column("test top-1, best epoch, chosen on test (%)", 2, "max"),
    "test_top5_last": Column("test top-5, last epoch (%)", 2, "max"),
    "test_nll_last": Column("test NLL, last epoch", 4, "min"),
    "agreement_last": Column("agreement with teacher, last epoch (%)", 2, "max"),
    "seconds_per_step": Column("seconds per step", 4),
    "peak_memory_mib": Column("peak memory (MiB)", 0),
    "duration_s": Column("duration (s)", 1),
}


@dataclass(frozen=True)
class TableSpec:
    """What a table shows, as `configs/table/<name>.yaml` says it; the number of seeds is always shown.

    Attributes:
        name: Name of the layout.
        columns: Keys of `COLUMNS`, in order.
    """

    name: str
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises `UserError` where a column is unknown or named twice, or there is none."""
        table = f"table '{self.name}'"
        check(bool(self.columns), f"{table}: the list 'columns' is empty (choices: {choices(COLUMNS)})")
        for column, count in Counter(self.columns).items():
            hint = did_you_mean(column, COLUMNS)
            check(column in COLUMNS, f"{table} has no column '{column}'{hint} (choices: {choices(COLUMNS)})")
            check(count == 1, f"{table} has the column '{column}' twice")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> TableSpec:
        """Builds the spec from a config.

        Raises:
            UserError: A key or column is unknown or missing, or a value is of a wrong type.
        """
        part = f"table '{options.get('name', '')}'"
        return cls(**bind(options, options_of(cls), part).all)


@dataclass(frozen=True)
class Cell:
    """One printed cell: its text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """One table, whatever its layout.

    Attributes:
        name: Name, from which files get theirs.
        title: Heading.
        caption: What stands below the heading, may be empty.
        header: Headings of the printed columns.
        cells: The printed cells by row, rounded.
        frame: All values, unrounded.
        notes: Footnotes and warnings, a line each.
    """

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    frame: pd.DataFrame
    notes: tuple[str, ...]

    def csv(self) -> str:
        """All values, unrounded, as CSV."""
        return self.frame.to_csv(index=False, lineterminator="\n")

    def rows(self) -> list[list[str]]:
        """The printed cells as plain text, without the header."""
        return [[cell.text for cell in row] for row in self.cells]

    def markdown(self) -> str:
        """Heading, caption, printed cells, legend and notes as GitHub Markdown."""
        grid = [
            _markdown_row(_escaped(label) for label in self.header),
            _markdown_row(":--" if index == 0 else "--:" for index, _ in enumerate(self.header)),
            *(_markdown_row(_markdown_cell(cell) for cell in row) for row in self.cells),
        ]
        notes = "\n".join(f"- {_escaped(note)}" for note in self.notes)
        blocks = [f"### {_escaped(self.title)}", _escaped(self.caption), "\n".join(grid), LEGEND, notes]
        return "\n\n".join(block for block in blocks if block) + "\n"


def build_tables(records: Iterable[Record], spec: TableSpec, order: Sequence[str] = ()) -> list[Table]:
    """One table for each study and pair that has a finished run, sorted by these.

    Args:
        records: Runs of any kind and status; those that are no finished students become a note.
        spec: What to show.
        order: Variants in the order of their rows; the others follow by name.
    """
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.study, record.pair].append(record)
    return [
        _build_table(study, pair, group, spec, order)
        for (study, pair), group in sorted(groups.items())
        if any(is_finished(record) for record in group)
    ]


def write_tables(tables: Sequence[Table], folder: str | os.PathLike[str]) -> list[Path]:
    """Writes `<name>.csv` and `<name>.md` for each table, each whole or not at all, and makes the folder.

    Returns:
        The files, in the order of the tables.

    Raises:
        UserError: The folder cannot be made.
        OSError: A file cannot be written.
    """
    make_folder(folder)
    paths = []
    for stem, table in zip(_stems([table.name for table in tables]), tables, strict=True):
        for suffix, text in ((".csv", table.csv()), (".md", table.markdown())):
            paths.append(Path(folder, stem + suffix))
            write_atomically(paths[-1], text)
    return paths


def _build_table(
    study: str, pair: str, records: Sequence[Record], spec: TableSpec, order: Sequence[str]
) -> Table:
    place = {variant: index for index, variant in enumerate(order)}
    rows = sorted(aggregate(records), key=lambda row: place.get(row.variant, len(place)))
    summaries = {column: [_summary(row, column) for row in rows] for column in spec.columns}
    printed = [column for column in spec.columns if any(summary.n for summary in summaries[column])]
    columns = [_cells(rows, summaries[column], COLUMNS[column]) for column in printed]
    leading = ([Cell(row.label) for row in rows], [Cell(str(len(row.runs))) for row in rows])
    return Table(
        name=f"{study}_{pair}" + ("" if spec.name == "default" else f"_{spec.name}"),
        title=f"{study}, {pair}",
        caption=_caption(rows),
        header=("variant", "n", *(COLUMNS[column].label for column in printed)),
        cells=tuple(zip(*leading, *columns, strict=True)),
        frame=_frame(rows, summaries),
        notes=(*warnings_about(rows), *left_out(records)),
    )


def _summary(row: Row, column: str) -> Summary:
    return row.summary(lambda run: getattr(run if hasattr(run, column) else run.metrics, column))


def _cells(rows: Sequence[Row], summaries: Sequence[Summary], column: Column) -> list[Cell]:
    means = [summary.mean for summary in summaries if math.isfinite(summary.mean)]
    best = {"max": max, "min": min}[column.best](means) if column.best and len(means) > 1 else None
    return [
        Cell(_text(summary, len(row.runs), column.decimals), summary.mean == best)
        for row, summary in zip(rows, summaries, strict=True)
    ]


def _text(summary: Summary, runs: int, decimals: int) -> str:
    if summary.n == 0:
        return NONE
    spread = NONE if summary.n == 1 else f"{summary.std:.{decimals}f}"
    count = "" if summary.n == runs else f" (n={summary.n})"
    return f"{summary.mean:.{decimals}f} ± {spread}{count}"


def _caption(rows: Sequence[Row]) -> str:
    """The accuracy of the teacher, or of each teacher with its rows."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        teacher = row.runs[0].teacher
        if teacher is not None:
            accuracy = "unknown" if teacher.accuracy is None else f"{teacher.accuracy:.2f} %"
            labels[accuracy, teacher.identity].append(row.label)
    if len(labels) == 1:
        return "".join(f"Teacher: test top-1 {accuracy}." for accuracy, _ in labels)
    several = "; ".join(f"{accuracy} for {listed(names)}" for (accuracy, _), names in sorted(labels.items()))
    return f"Teachers differ between rows: test top-1 {several}." if several else ""


def _frame(rows: Sequence[Row], summaries: Mapping[str, Sequence[Summary]]) -> pd.DataFrame:
    import pandas as pd

    names = ("study", "pair", "variant", "label", "identity")
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in names}
    teachers = [row.runs[0].teacher for row in rows]
    columns["teacher_accuracy"] = [
        math.nan if teacher is None or teacher.accuracy is None else teacher.accuracy for teacher in teachers
    ]
    columns["n"] = [len(row.runs) for row in rows]
    columns["seeds"] = [" ".join(str(seed) for seed in row.seeds) for row in rows]
    for column, values in summaries.items():
        for part in ("mean", "std", "ci95", "n"):
            columns[f"{column}_{part}"] = [getattr(summary, part) for summary in values]
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    return f"**{_escaped(cell.text)}**" if cell.best else _escaped(cell.text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*|<])", r"\\\1", text)


def _stems(names: Sequence[str]) -> list[str]:
    """A file name for each table: portable, inside the folder, and distinct whatever the file system."""
    stems: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:LONGEST_STEM] or "table"
        taken = {stem.lower() for stem in stems}
        stem, number = base, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{base}-{number}"
        stems.append(stem)
    return stems
