"""Average relative improvement, the measure of the HKD paper's Table 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphkd.report.statistics import summarise


@dataclass(frozen=True)
class Ari:
    """Average relative improvement over a method: the mean over `pairs` in percent, NaN where there are none.

    Pairs where the method is not above the student are left out and `below`.
    """

    value: float
    pairs: tuple[str, ...]
    below: tuple[str, ...]


def average_relative_improvement(
    target: Mapping[str, float], method: Mapping[str, float], student: Mapping[str, float]
) -> Ari:
    """Return the mean over pairs of (target - method) / (method - student) x 100 (HKD, ICCV 2021, Table 1).

    All three are mean accuracies by pair. The mean is over the pairs that all three have, but for those where the
    method is not above the student: there the ratio means nothing.
    """
    common = [pair for pair in method if pair in target and pair in student]
    used = tuple(pair for pair in common if method[pair] > student[pair])
    ratios = [(target[pair] - method[pair]) / (method[pair] - student[pair]) * 100 for pair in used]
    below = tuple(pair for pair in common if pair not in used)
    return Ari(summarise(ratios).mean, used, below)
