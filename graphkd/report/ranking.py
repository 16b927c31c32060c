"""Variants compared over several pairs: mean ranks with their critical difference, and means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphkd.report.statistics import TIE_DIGITS, summarise, t_quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_PAIRS = 2
LEAST_VARIANTS = 2
LEVEL = 0.05


@dataclass(frozen=True)
class Standing:
    """How a variant stands over all pairs.

    Attributes:
        label: The variant.
        rank: Its rank by mean value, averaged over pairs; 1 is the best, ties share the mean of their ranks.
        mean: Mean over pairs of the means over seeds.
        low, high: Ends of its 95 % interval over seeds, NaN where a pair has one seed or nothing varies.
    """

    label: str
    rank: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranking:
    """Variants over the same pairs, the best rank first.

    Attributes:
        pairs: The pairs.
        standings: The variants that have a value on every pair.
        p: p value of the test that all variants rank alike, NaN where all values are equal: Friedman's, or for two
            variants the exact sign test.
        critical_difference: Mean ranks that are further apart than this differ at 5 % (Nemenyi); NaN for two variants,
            of which the sign test says it.
        incomplete: The variants that lack a pair.
    """

    pairs: tuple[str, ...]
    standings: tuple[Standing, ...]
    p: float
    critical_difference: float
    incomplete: tuple[str, ...]


def rank_over_pairs(values: Mapping[str, Mapping[str, Sequence[float]]]) -> Ranking | None:
    """Rank variants over pairs (Demšar, JMLR 2006); return None for fewer than two pairs or complete variants.

    Args:
        values: Values of the seeds, higher is better, by variant and pair.
    """
    import pandas as pd

    pairs = tuple(sorted({pair for of in values.values() for pair, seeds in of.items() if seeds}))
    complete = {label: of for label, of in values.items() if all(of.get(pair) for pair in pairs)}
    if len(pairs) < LEAST_PAIRS or len(complete) < LEAST_VARIANTS:
        return None
    means = pd.DataFrame({label: {pair: math.fsum(of[pair]) / len(of[pair]) for pair in pairs}
                          for label, of in complete.items()})  # fmt: skip
    ranks = means.round(TIE_DIGITS).rank(axis="columns", ascending=False)
    standings = [
        Standing(label, float(ranks[label].mean()), *_mean_with_interval([of[pair] for pair in pairs]))
        for label, of in complete.items()
    ]
    return Ranking(
        pairs,
        tuple(sorted(standings, key=lambda standing: standing.rank)),
        friedman_p(ranks.to_numpy()) if len(complete) > 2 else sign_p(ranks.to_numpy()),
        critical_difference(len(complete), len(pairs)) if len(complete) > 2 else math.nan,
        tuple(label for label in values if label not in complete),
    )


def friedman_p(ranks: NDArray[np.float64]) -> float:
    """Return the p value of the Friedman test, corrected for ties; NaN where all ranks are equal.

    Args:
        ranks: Ranks of the variants on each pair, float64 [pairs, variants].
    """
    from scipy.special import chdtrc

    pairs, variants = ranks.shape
    off = ranks - (variants + 1) / 2
    spread = float((off**2).sum()) / (pairs * (variants - 1))
    if spread == 0:
        return math.nan
    return float(chdtrc(variants - 1, pairs * float((off.mean(axis=0) ** 2).sum()) / spread))


def sign_p(ranks: NDArray[np.float64]) -> float:
    """Return the two-sided p value of the exact sign test of two variants; NaN where all pairs are ties.

    With few pairs, Friedman's and Nemenyi's tests take two variants to differ more often than their level says.

    Args:
        ranks: Ranks of the variants on each pair, float64 [pairs, 2]; ties are left out.
    """
    first, second = int((ranks[:, 0] < ranks[:, 1]).sum()), int((ranks[:, 0] > ranks[:, 1]).sum())
    if first + second == 0:
        return math.nan
    tail = sum(math.comb(first + second, wins) for wins in range(min(first, second) + 1))
    return min(1.0, math.ldexp(tail, 1 - first - second))


def critical_difference(variants: int, pairs: int) -> float:
    """Return how far mean ranks must be apart to differ at 5 % in the Nemenyi test (Demšar, 2006, section 3.2.2)."""
    return _range_quantile(variants) / math.sqrt(2) * math.sqrt(variants * (variants + 1) / (6 * pairs))


def _mean_with_interval(pairs: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the mean over pairs and its 95 % interval over seeds.

    Student's t with the degrees of freedom of Welch and Satterthwaite: a bootstrap of a few seeds is too narrow.
    """
    each = [summarise(seeds) for seeds in pairs]
    mean = math.fsum(of.mean for of in each) / len(each)
    if any(of.n < 2 for of in each):
        return mean, math.nan, math.nan
    variances = [of.std**2 / of.n for of in each]
    spread = math.fsum(variance**2 / (of.n - 1) for variance, of in zip(variances, each, strict=True))
    if spread == 0:
        return mean, math.nan, math.nan
    total = math.fsum(variances)
    reach = t_quantile(total**2 / spread) * math.sqrt(total) / len(each)
    return mean, mean - reach, mean + reach


def _range_quantile(groups: int) -> float:
    """Return the 95 % quantile of the range of so many standard normal values.

    Importing `scipy.stats`, which has it, takes longer than most reports.
    """
    import numpy as np
    from scipy.special import ndtr

    z = np.linspace(-8.0, 8.0, 4001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    def exceeds(width: float) -> bool:
        inside = density * (ndtr(z + width) - ndtr(z)) ** (groups - 1)  # z is the lowest value
        return bool(groups * inside.sum() * (z[1] - z[0]) > 1 - LEVEL)

    low, high = 0.0, 16.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if exceeds(middle) else (middle, high)
    return high
