"""What of a run tables and figures can show: the place to add a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
}
"""Fields of `Record` and of its `metrics` by name."""


def value_of(record: Record, name: str) -> float | None:
    """Return the value of a metric of a run, None where the run has none."""
    value: float | None = getattr(record if hasattr(record, name) else record.metrics, name)
    return value
