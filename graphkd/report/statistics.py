"""Mean and spread of values over seeds."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

TIE_DIGITS = 9
"""Means that are equal to so many decimals are ties: beyond, they differ by rounding alone."""


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one value over seeds; NaN where it is undefined.

    Attributes:
        mean: Mean of the runs that have the value.
        std: Sample standard deviation (divided by n - 1), NaN for n = 1.
        ci95: Half the width of the 95 % confidence interval of the mean (Student's t), NaN for n = 1.
        n: Number of runs that have the value.
    """

    mean: float
    std: float
    ci95: float
    n: int


def summarise(values: Iterable[float | None]) -> Summary:
    """Return mean and spread; values that are None or not finite are left out, and `n` counts the rest."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    n = len(known)
    if n == 0:
        return Summary(math.nan, math.nan, math.nan, 0)
    mean = float(statistics.mean(known))
    if n == 1:
        return Summary(mean, math.nan, math.nan, 1)
    std = math.hypot(*(value - mean for value in known)) / math.sqrt(n - 1)
    return Summary(mean, std, t_quantile(n - 1) * std / math.sqrt(n), n)


@functools.cache
def t_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t: how many standard errors a 95 % interval reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
