"""The layout `columns`: one table for each study, pair and data set, a row for each variant."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from graphkd.binding import bind, options_of
from graphkd.errors import check, choices, counted, did_you_mean
from graphkd.report.caveats import caveats, left_out
from graphkd.report.comparison import Comparison, compare_all
from graphkd.report.markup import NONE, Block, Cell, Table, fixed, listed, marks, spread
from graphkd.report.metrics import METRICS, Metric, metric_of
from graphkd.report.record import Record
from graphkd.report.rows import Group, Row, aggregate, common_protocol, grouped, named
from graphkd.report.statistics import Summary, summarise

if TYPE_CHECKING:
    import pandas as pd

LEGEND = (
    "Mean ± sample standard deviation over n seeds (fewer where a cell says so), best mean in bold, second best "
    f"underlined, {NONE} where there is none."
)
ROW_COLUMNS = ("study", "pair", "data", "variant", "label", "identity")
TEST_COLUMNS = {"low": "difference_low", "high": "difference_high", "n": "test_n", "n_baseline": "test_n_baseline"}
"""Names in the frame of fields of `Comparison`, where they differ."""


@dataclass(frozen=True)
class TableSpec:
    """What a table shows, as `configs/table/<name>.yaml` says it; the number of seeds is always shown.

    Attributes:
        name: Name of the layout.
        columns: Names of metrics, in order (`graphkd.report.metrics.metric_of`).
        layout: The kind of layout.
        baseline: The variant, or label of a row, that the others are tested against; None for no tests.
        compare: The metric that is tested.
        description: What it shows, in one line.
    """

    name: str
    columns: tuple[str, ...]
    layout: Literal["columns"] = "columns"
    baseline: str | None = None
    compare: str = "test_top1_last"
    description: str = ""

    def __post_init__(self) -> None:
        """Raise `UserError` where a column is unknown or named twice, or there is none."""
        table = f"table '{self.name}'"
        check(bool(self.columns), f"{table}: the list 'columns' is empty (choices: {choices(METRICS)})")
        for column in (*self.columns, self.compare):
            metric_of(column, f"{table} has no column")
            check(self.columns.count(column) < 2, f"{table} has the column '{column}' twice")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> TableSpec:
        """Build the spec from a config.

        Raises:
            UserError: A key or column is unknown or missing, or a value is of a wrong type.
        """
        return cls(**bind(options, options_of(cls), f"table '{options.get('name', '')}'").all)


def build_tables(records: Iterable[Record], spec: TableSpec, order: Sequence[str] = ()) -> list[Table]:
    """Build one table for each study, pair and data set that has a finished run, sorted by these.

    Args:
        records: Runs of any kind and status; those that are no finished students become a note.
        spec: What to show.
        order: Variants in the order of their rows; the others follow by name.
    """
    return [_build_table(group, spec, order) for group in grouped(records)]


def _build_table(group: Group, spec: TableSpec, order: Sequence[str]) -> Table:
    rows = aggregate(group.records, order)
    summaries = {name: [row.summary(name) for row in rows] for name in spec.columns}
    printed = {metric_of(name): of for name, of in summaries.items() if any(summary.n for summary in of)}
    baseline, tests, notes = _compare(rows, spec)
    tested = metric_of(spec.compare)
    test_header = (f"difference to {baseline}, {tested.label}", "95 % interval", "p (Holm)", "test") if tests else ()
    columns: list[Sequence[Cell | str]] = [
        [row.label for row in rows],
        [str(len(row.runs)) for row in rows],
        *(_cells(rows, of, metric) for metric, of in printed.items()),
        *zip(*(_test_cells(test, tested.decimals) for test in tests), strict=True),
    ]
    header = ("variant", "n", *(metric.label for metric in printed), *test_header)
    measured = {name for record in group.records for name in record.metrics.diagnostics}
    unknown = [name for name in (*spec.columns, spec.compare) if "." in name and name not in measured]
    if not printed:
        notes.append(f"no run has {listed([metric_of(name).label for name in spec.columns])}")
    notes += [f"no run has the diagnostic '{name}'{did_you_mean(name, measured)}" for name in unknown]
    return Table(
        name=group.name + ("" if spec.name == "default" else f"_{spec.name}"),
        title=group.title,
        caption=_caption(rows),
        blocks=(Block.of(header, zip(*columns, strict=True), tail=len(test_header)),),
        legend=LEGEND,
        frame=_frame(rows, summaries, tests, baseline=baseline, compared=spec.compare),
        notes=(*notes, *caveats(rows), *left_out(group.records)),
    )


def _cells(rows: Sequence[Row], summaries: Sequence[Summary], metric: Metric) -> list[Cell]:
    ranks = marks([summary.mean for summary in summaries], metric.best)
    return [
        Cell(spread(summary, len(row.runs), metric.decimals), mark)
        for row, summary, mark in zip(rows, summaries, ranks, strict=True)
    ]


def _compare(rows: Sequence[Row], spec: TableSpec) -> tuple[str, list[Comparison], list[str]]:
    """Test every row against the baseline's; return the baseline's label, a test for each row or none, and notes."""
    if spec.baseline is None:
        return "", [], []
    found = named(rows, spec.baseline)
    if len(found) != 1:
        labels = listed([row.label for row in found])
        reason = f"is several rows here ({labels})" if found else "has no finished run here"
        return "", [], [f"nothing is compared: the baseline '{spec.baseline}' {reason}"]
    (baseline,) = found
    values = [{} if row is baseline else row.by_seed(spec.compare) for row in rows]
    compared = zip(rows, compare_all(values, baseline.by_seed(spec.compare)), strict=True)
    tests = [Comparison(math.nan) if row is baseline else test for row, test in compared]
    number = sum(not math.isnan(test.p) for test in tests)
    untested = len(tests) - 1 - number
    why = f"{counted(untested, 'row')} without p: too few seeds with a value, or equal differences in all"
    if number == 0:
        return baseline.label, tests, [why] if untested else []
    note = (
        f"differences to {baseline.label} are those of a paired t-test over the seeds that both have, or of Welch's "
        f"where these are fewer than 2; p is two-sided and corrected after Holm, number of comparisons: {number}; "
        "intervals are not corrected for the number of comparisons; with few seeds (n), only large differences can be "
        "detected"
    )
    return baseline.label, tests, [note, why] if untested else [note]


def _test_cells(test: Comparison, decimals: int) -> list[str]:
    interval = NONE if math.isnan(test.low) else f"[{fixed(test.low, decimals)}, {fixed(test.high, decimals)}]"
    p = "< 0.001" if test.p_holm < 0.001 else fixed(test.p_holm, 3)
    n = f"n={test.n}" if test.n == test.n_baseline else f"n={test.n} and {test.n_baseline}"
    how = f"{test.test}, {n}" if test.test else NONE
    return [fixed(test.difference, decimals, "+"), interval, p, how]


def _caption(rows: Sequence[Row]) -> str:
    """Return the accuracy of the teacher or teachers, and the protocol where all rows share one."""
    protocol = common_protocol(rows)
    return " ".join(filter(None, [_teachers(rows), f"Protocol: {protocol.training}." if protocol else ""]))


def _teachers(rows: Sequence[Row]) -> str:
    """Return the accuracy of the teacher, or of each teacher with its rows; `caveats` names rows that have several."""
    labels: dict[tuple[float, str], dict[str, None]] = defaultdict(dict)
    for row in rows:
        for teacher in row.teachers:
            labels[math.inf if teacher.accuracy is None else teacher.accuracy, teacher.identity][row.label] = None
    texts = [
        ("unknown" if math.isinf(accuracy) else f"{accuracy:.2f} %", listed(list(names)))
        for (accuracy, _), names in sorted(labels.items())
    ]
    if len(texts) == 1:
        return f"Teacher: test top-1 {texts[0][0]}."
    several = "; ".join(f"{accuracy} for {names}" for accuracy, names in texts)
    what = (
        "There are several teachers" if any(len(row.teachers) > 1 for row in rows) else "Teachers differ between rows"
    )
    return f"{what}: test top-1 {several}." if several else ""


def _frame(
    rows: Sequence[Row], summaries: Mapping[str, Sequence[Summary]], tests: Sequence[Comparison], **tested: str
) -> pd.DataFrame:
    import pandas as pd

    accuracies = [summarise(teacher.accuracy for teacher in row.teachers) for row in rows]
    frame = pd.DataFrame({
        **{name: [getattr(row, name) for row in rows] for name in ROW_COLUMNS},
        "teacher_accuracy": [accuracy.mean for accuracy in accuracies],
        "protocol": ["; ".join(map(str, row.protocols)) for row in rows],
        "n": [len(row.runs) for row in rows],
        "seeds": [" ".join(map(str, row.seeds)) for row in rows],
    })  # fmt: skip
    parts = [pd.DataFrame(of).add_prefix(f"{name}_") for name, of in summaries.items()]
    if tests:
        parts += [pd.DataFrame(tested, frame.index), pd.DataFrame(tests).rename(columns=TEST_COLUMNS)]
    whole: pd.DataFrame = pd.concat([frame, *parts], axis="columns")
    return whole
