"""The layout `columns`: one table for each study, pair and data set, a row for each variant."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from graphkd.binding import bind, options_of
from graphkd.errors import check, choices, did_you_mean
from graphkd.report.comparison import Comparison, compare_all
from graphkd.report.markup import NONE, Block, Cell, Direction, Table, fixed, marks, spread
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

LEGEND = (
    "Mean ± sample standard deviation over n seeds (fewer where a cell says so), best mean in bold, second best "
    f"underlined, {NONE} where there is none."
)


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
    best: Direction | None = None


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
        layout: The kind of layout.
        baseline: The variant, or label of a row, that the others are tested against; None for no tests.
        compare: The key of `COLUMNS` that is tested.
    """

    name: str
    columns: tuple[str, ...]
    layout: Literal["columns"] = "columns"
    baseline: str | None = None
    compare: str = "test_top1_last"

    def __post_init__(self) -> None:
        """Raises `UserError` where a column is unknown or named twice, or there is none."""
        table = f"table '{self.name}'"
        check(bool(self.columns), f"{table}: the list 'columns' is empty (choices: {choices(COLUMNS)})")
        for column in (*self.columns, self.compare):
            hint = did_you_mean(column, COLUMNS)
            check(column in COLUMNS, f"{table} has no column '{column}'{hint} (choices: {choices(COLUMNS)})")
        for column, count in Counter(self.columns).items():
            check(count == 1, f"{table} has the column '{column}' twice")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> TableSpec:
        """Builds the spec from a config.

        Raises:
            UserError: A key or column is unknown or missing, or a value is of a wrong type.
        """
        part = f"table '{options.get('name', '')}'"
        return cls(**bind(options, options_of(cls), part).all)


def build_tables(records: Iterable[Record], spec: TableSpec, order: Sequence[str] = ()) -> list[Table]:
    """One table for each study, pair and data set that has a finished run, sorted by these.

    Args:
        records: Runs of any kind and status; those that are no finished students become a note.
        spec: What to show.
        order: Variants in the order of their rows; the others follow by name.
    """
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.study, record.pair, record.data or ""].append(record)
    shown = {key: group for key, group in sorted(groups.items()) if any(map(is_finished, group))}
    several = Counter((study, pair) for study, pair, _ in shown)
    return [
        _build_table(f"{study}_{pair}" + f"_{data or 'unknown'}" * (several[study, pair] > 1), group, spec, order)
        for (study, pair, data), group in shown.items()
    ]


def value_of(record: Record, column: str) -> float | None:
    """The value of a run that a column of `COLUMNS` shows."""
    value: float | None = getattr(record if hasattr(record, column) else record.metrics, column)
    return value


def on_data(data: str) -> str:
    """How titles name the data set, where records say it."""
    return f" on {data}" if data else ""


def _build_table(name: str, records: Sequence[Record], spec: TableSpec, order: Sequence[str]) -> Table:
    place = {variant: index for index, variant in enumerate(order)}
    rows = sorted(aggregate(records), key=lambda row: place.get(row.variant, len(place)))
    summaries = {column: [_summary(row, column) for row in rows] for column in spec.columns}
    printed = [column for column in spec.columns if any(summary.n for summary in summaries[column])]
    columns = [_cells(rows, summaries[column], COLUMNS[column]) for column in printed]
    leading = ([Cell(row.label) for row in rows], [Cell(str(len(row.runs))) for row in rows])
    tests = _tests(rows, spec)
    header = ("variant", "n", *(COLUMNS[column].label for column in printed), *tests.header)
    return Table(
        name=name + ("" if spec.name == "default" else f"_{spec.name}"),
        title=f"{rows[0].study}, {rows[0].pair}{on_data(rows[0].data)}",
        caption=_caption(rows),
        blocks=(Block(header, tuple(zip(*leading, *columns, *tests.cells, strict=True)), tail=len(tests.header)),),
        legend=LEGEND,
        frame=_frame(rows, summaries, tests.values),
        notes=(*tests.notes, *warnings_about(rows), *left_out(records)),
    )


def _summary(row: Row, column: str) -> Summary:
    return row.summary(lambda run: value_of(run, column))


def _cells(rows: Sequence[Row], summaries: Sequence[Summary], column: Column) -> list[Cell]:
    ranks = marks([summary.mean for summary in summaries], column.best)
    return [
        Cell(spread(summary, len(row.runs), column.decimals), mark)
        for row, summary, mark in zip(rows, summaries, ranks, strict=True)
    ]


@dataclass(frozen=True)
class _Tests:
    """What comparisons with a baseline add to a table: printed columns, columns of the frame, and notes."""

    header: tuple[str, ...] = ()
    cells: tuple[list[Cell], ...] = ()
    values: Mapping[str, Sequence[Any]] | None = None
    notes: tuple[str, ...] = ()


def _tests(rows: Sequence[Row], spec: TableSpec) -> _Tests:
    """Tests every row against the baseline's."""
    if spec.baseline is None:
        return _Tests()
    found = [row for row in rows if row.label == spec.baseline] or [row for row in rows if row.variant == spec.baseline]
    if len(found) != 1:
        labels = listed([row.label for row in found])
        reason = f"is several rows here ({labels})" if found else "has no finished run here"
        return _Tests(notes=(f"nothing is compared: the baseline '{spec.baseline}' {reason}",))
    baseline = found[0]
    values = [row.by_seed(lambda run: value_of(run, spec.compare)) for row in rows if row is not baseline]
    compared = iter(compare_all(values, baseline.by_seed(lambda run: value_of(run, spec.compare))))
    tests = [Comparison(math.nan) if row is baseline else next(compared) for row in rows]
    column = COLUMNS[spec.compare]
    number = sum(not math.isnan(test.p) for test in tests)
    note = (
        f"differences to {baseline.label} are those of a paired t-test over the seeds that both have, or of Welch's "
        f"where these are fewer than 2; p is two-sided and corrected after Holm, number of comparisons: {number}; few "
        "seeds (n) show large differences only"
    )
    return _Tests(
        header=(f"difference to {baseline.label}, {column.label}", "95 % interval", "p (Holm)", "test"),
        cells=tuple(map(list, zip(*(_test_cells(test, column.decimals) for test in tests), strict=True))),
        values={
            "baseline": [baseline.label] * len(rows),
            "compared": [spec.compare] * len(rows),
            **{name: [getattr(test, field) for test in tests] for name, field in _FIELDS.items()},
        },
        notes=(note,),
    )


_FIELDS = {
    "difference": "difference", "difference_low": "low", "difference_high": "high", "p": "p", "p_holm": "p_holm",
    "test": "test", "test_n": "n", "test_n_baseline": "n_baseline",
}  # fmt: skip
"""Columns of the frame, and the field of `Comparison` that each holds."""


def _test_cells(test: Comparison, decimals: int) -> list[Cell]:
    has_interval = not math.isnan(test.low)
    interval = f"[{fixed(test.low, decimals)}, {fixed(test.high, decimals)}]" if has_interval else NONE
    p = "< 0.001" if test.p_holm < 0.001 else fixed(test.p_holm, 3)
    n = f"n={test.n}" if test.n == test.n_baseline else f"n={test.n} and {test.n_baseline}"
    how = f"{test.test}, {n}" if test.test else NONE
    return [Cell(text) for text in (fixed(test.difference, decimals, "+"), interval, p, how)]


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


def _frame(
    rows: Sequence[Row], summaries: Mapping[str, Sequence[Summary]], tests: Mapping[str, Sequence[Any]] | None
) -> pd.DataFrame:
    import pandas as pd

    names = ("study", "pair", "data", "variant", "label", "identity")
    columns: dict[str, Sequence[Any]] = {name: [getattr(row, name) for row in rows] for name in names}
    teachers = [row.runs[0].teacher for row in rows]
    columns["teacher_accuracy"] = [
        math.nan if teacher is None or teacher.accuracy is None else teacher.accuracy for teacher in teachers
    ]
    columns["n"] = [len(row.runs) for row in rows]
    columns["seeds"] = [" ".join(str(seed) for seed in row.seeds) for row in rows]
    for column, values in summaries.items():
        for part in ("mean", "std", "ci95", "n"):
            columns[f"{column}_{part}"] = [getattr(summary, part) for summary in values]
    frame: pd.DataFrame = pd.DataFrame({**columns, **(tests or {})})
    return frame
