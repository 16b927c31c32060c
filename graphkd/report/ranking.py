"""Variants compared over several pairs: mean ranks with their critical difference, and means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphkd.report.statistics import TIE_DIGITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_PAIRS = 2
LEAST_VARIANTS = 2
LEVEL = 0.05
RESAMPLES = 2000


@dataclass(frozen=True)
class Standing:
    """How a variant stands over all pairs.

    Attributes:
        label: The variant.
        rank: Its rank by mean value, averaged over pairs; 1 is the best, ties share the mean of their ranks.
        mean: Mean over pairs of the means over seeds.
        low, high: Ends of its 95 % bootstrap interval, NaN where every pair has one seed.
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
        p: p value of the Friedman test that all variants rank alike, NaN where all values are equal.
        critical_difference: Mean ranks that are further apart than this differ at 5 % (Nemenyi).
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
        friedman_p(ranks.to_numpy()),
        critical_difference(len(complete), len(pairs)),
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


def critical_difference(variants: int, pairs: int) -> float:
    """Return how far mean ranks must be apart to differ at 5 % in the Nemenyi test (Demšar, 2006, section 3.2.2)."""
    return _range_quantile(variants) / math.sqrt(2) * math.sqrt(variants * (variants + 1) / (6 * pairs))


def _mean_with_interval(pairs: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the mean over pairs and its percentile bootstrap interval, seeds resampled within each pair."""
    import numpy as np

    mean = math.fsum(math.fsum(seeds) / len(seeds) for seeds in pairs) / len(pairs)
    if all(len(seeds) == 1 for seeds in pairs):
        return mean, math.nan, math.nan
    generator = np.random.default_rng(0)
    drawn = [np.asarray(seeds)[generator.integers(len(seeds), size=(RESAMPLES, len(seeds)))] for seeds in pairs]
    low, high = np.quantile(np.mean([seeds.mean(axis=1) for seeds in drawn], axis=0), [0.025, 0.975])
    return mean, float(low), float(high)


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
