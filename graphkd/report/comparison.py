"""Tests of variants against a baseline over seeds, corrected for their number.

The t-tests are written out: importing `scipy.stats` takes longer than most reports, and its last digits differ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphkd.report.statistics import summarise, t_quantile

LEAST_SHARED = 2
NO_SPREAD = 1e-9
"""Standard errors below this share of the values are rounding, not spread."""


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline; what is undefined is NaN.

    Attributes:
        difference: Mean of the variant less that of the baseline, over the seeds that the test uses.
        low, high: Ends of the 95 % interval of the difference.
        p: Two-sided p value, not corrected; NaN where nothing varies.
        p_holm: The same, corrected for all comparisons of the table.
        test: "paired t", "Welch t", or "" where there are too few seeds for either.
        n, n_baseline: Number of seeds of the variant and of the baseline in the test; equal in a paired test.
    """

    difference: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    test: str = ""
    n: int = 0
    n_baseline: int = 0


def compare(values: Mapping[int, float], baseline: Mapping[int, float]) -> Comparison:
    """Test a variant against the baseline, both by seed.

    A paired t-test over the seeds that both have, where these are two or more: runs of one seed share the student's
    initialisation and the order of the data. Otherwise Welch's t-test, which needs two seeds on either side.
    """
    shared = sorted(values.keys() & baseline.keys())
    scale = max((abs(value) for side in (values, baseline) for value in side.values()), default=0.0)
    if len(shared) >= LEAST_SHARED:
        paired = summarise(values[seed] - baseline[seed] for seed in shared)
        bare = Comparison(paired.mean, test="paired t", n=paired.n, n_baseline=paired.n)
        return _tested(bare, paired.std / math.sqrt(paired.n), paired.n - 1, scale)
    own, other = summarise(values.values()), summarise(baseline.values())
    bare = Comparison(own.mean - other.mean, n=own.n, n_baseline=other.n)
    if min(own.n, other.n) < 2:
        return bare
    variances = [side.std**2 / side.n for side in (own, other)]
    square = sum(variances)
    spread = variances[0] ** 2 / (own.n - 1) + variances[1] ** 2 / (other.n - 1)
    freedom = square**2 / spread if spread > 0 else math.nan
    return _tested(dataclasses.replace(bare, test="Welch t"), math.sqrt(square), freedom, scale)


def compare_all(rows: Sequence[Mapping[int, float]], baseline: Mapping[int, float]) -> list[Comparison]:
    """Test each row, by seed, against the baseline, with Holm's correction over them all."""
    comparisons = [compare(values, baseline) for values in rows]
    corrected = holm([comparison.p for comparison in comparisons])
    return [dataclasses.replace(one, p_holm=p) for one, p in zip(comparisons, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm, 1979, step-down); those that are NaN stay so and do not count."""
    import numpy as np
    import pandas as pd

    p = pd.Series(p_values, dtype=float)
    known = p.dropna().sort_values()
    corrected: list[float] = (known * np.arange(len(known), 0, -1)).cummax().clip(upper=1.0).reindex(p.index).tolist()
    return corrected


def _tested(bare: Comparison, error: float, freedom: float, scale: float) -> Comparison:
    """Add interval and p value, from the standard error; leave them out where nothing varies."""
    if not NO_SPREAD * scale < error < math.inf:
        return bare
    from scipy.special import stdtr

    half = t_quantile(freedom) * error
    p = 2 * float(stdtr(freedom, -abs(bare.difference) / error))
    return dataclasses.replace(bare, low=bare.difference - half, high=bare.difference + half, p=p)
