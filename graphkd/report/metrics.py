"""What of a run tables and figures can show: the place to add a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from graphkd.errors import one_of
from graphkd.report.record import Record

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Metric:
    """How a value of a run is shown.

    Attributes:
        label: Heading of its column.
        decimals: Digits after the decimal point in print.
        best: Which mean is marked as best; None marks none.
        unit: The unit where the heading leaves it out; axes of figures show it.
    """

    label: str
    decimals: int
    best: Direction | None = None
    unit: str = ""

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


DIAGNOSTICS: dict[str, Metric] = {
    "teacher_homophily": Metric("homophily of the teacher's graph", 3),
    "student_homophily": Metric("homophily of the student's graph", 3),
    "overlap": Metric("overlap of the two graphs", 3),
    "teacher_degree": Metric("mean number of neighbours, teacher's graph", 2),
    "student_degree": Metric("mean number of neighbours, student's graph", 2),
    "alignment": Metric("cosine similarity of student and teacher embeddings", 3),
}
"""What explains graphs and contrast, by the last part of its name in `Metrics.diagnostics`; the first is the term's."""
METRICS: dict[str, Metric] = {
    "test_top1_last": Metric("test top-1, last epoch (%)", 2, "max"),
    "test_top1_at_best_val": Metric("test top-1, at best validation (%)", 2, "max"),
    "val_top1_best": Metric("validation top-1, best epoch (%)", 2, "max"),
    "test_top1_max": Metric("test top-1, best epoch, chosen on test (%)", 2, "max"),
    "test_top5_last": Metric("test top-5, last epoch (%)", 2, "max"),
    "test_nll_last": Metric("test NLL, last epoch", 4, "min", unit="nats"),
    "agreement_last": Metric("agreement with teacher, last epoch (%)", 2, "max"),
    "seconds_per_step": Metric("seconds per step", 4),
    "peak_memory_mib": Metric("peak memory (MiB)", 0),
    "duration_s": Metric("duration (s)", 1),
    **DIAGNOSTICS,
}
"""Fields of `Record` and of its `metrics` by name, and diagnostics."""


def metric_of(name: str, what: str = "there is no metric") -> Metric:
    """Return a metric, or the diagnostic of one term (`hkd.overlap`).

    Args:
        name: Its name.
        what: Beginning of the message where there is none.

    Raises:
        UserError: There is none.
    """
    term, _, last = name.rpartition(".")
    if term and last in DIAGNOSTICS:
        return replace(DIAGNOSTICS[last], label=f"{DIAGNOSTICS[last].label}, {term}")
    return METRICS[one_of(name, METRICS, what)]


def value_of(record: Record, name: str) -> float | None:
    """Return the value of a metric of a run, None where the run has none.

    Of a diagnostic without a term's name in front of it, it is the first term's. The peak memory of runs that trained
    together is that of all of them in one process, so none of them has one.
    """
    if name == "peak_memory_mib" and record.group_size > 1:
        return None
    if "." in name:
        return record.metrics.diagnostics.get(name)
    if name in DIAGNOSTICS:
        return diagnostic_of(record.metrics.diagnostics, name)
    value: float | None = getattr(record if hasattr(record, name) else record.metrics, name)
    return value


def diagnostic_of(diagnostics: Mapping[str, float | None], name: str) -> float | None:
    """Return a diagnostic by the last part of its name, the first term's that has it; None without one."""
    return next((value for key, value in diagnostics.items() if key.endswith(f".{name}")), None)
