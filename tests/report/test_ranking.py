"""Ranks over pairs, their critical difference, and the interquartile mean, against SciPy and naive loops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from graphkd.report.ranking import (
    RESAMPLES,
    Ranking,
    critical_difference,
    friedman_p,
    interquartile_mean,
    rank_over_pairs,
)

Values = Mapping[str, Mapping[str, Sequence[float]]]


def ranked(values: Values) -> Ranking:
    """A ranking that is there."""
    ranking = rank_over_pairs(values)
    assert ranking is not None
    return ranking


def random_values(variants: int, pairs: int, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Rounded, so that there are ties."""
    rng = np.random.default_rng(1)
    return {
        f"v{v}": {f"p{p}": np.round(rng.normal(v / 2, 1, seeds), 1).tolist() for p in range(pairs)}
        for v in range(variants)
    }


@pytest.mark.parametrize(("variants", "pairs"), [(3, 2), (5, 6), (14, 6)])
def test_friedman_is_that_of_scipy(variants: int, pairs: int) -> None:
    values = np.round(np.random.default_rng(0).normal(size=(pairs, variants)) + np.arange(variants) / 3, 1)
    ranks = np.apply_along_axis(stats.rankdata, 1, -values)
    assert friedman_p(ranks) == pytest.approx(stats.friedmanchisquare(*values.T).pvalue, rel=1e-9)


def test_friedman_of_equal_ranks_is_undefined() -> None:
    assert math.isnan(friedman_p(np.full((3, 4), 2.5)))


@pytest.mark.parametrize("variants", [2, 3, 14])
def test_the_critical_difference_is_that_of_the_studentized_range(variants: int) -> None:
    quantile = stats.studentized_range.ppf(0.95, variants, np.inf)
    expected = quantile / math.sqrt(2) * math.sqrt(variants * (variants + 1) / (6 * 5))
    assert critical_difference(variants, 5) == pytest.approx(expected, rel=1e-5)


def test_the_critical_difference_is_the_published_one() -> None:
    assert critical_difference(4, 14) == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)  # Demšar, 2006


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
def test_the_interquartile_mean_is_a_trimmed_one(n: int) -> None:
    values = np.random.default_rng(n).normal(size=(3, n))
    expected = [stats.trim_mean(row, 0.25) for row in values]
    np.testing.assert_allclose(interquartile_mean(values), expected, rtol=1e-12)


def test_ranks_are_means_over_pairs_and_ties_share_theirs() -> None:
    ranking = ranked({"a": {"p": [3.0], "q": [1.0]}, "b": {"p": [1.0], "q": [1.0]}, "c": {"p": [2.0], "q": [5.0]}})
    assert {one.label: one.rank for one in ranking.standings} == {"c": 1.5, "a": 1.75, "b": 2.75}
    assert [one.label for one in ranking.standings] == ["c", "a", "b"]
    assert all(math.isnan(one.low) for one in ranking.standings), "one seed a pair has no interval"


def test_the_interval_is_a_bootstrap_within_pairs() -> None:
    values = random_values(3, 2, 4)
    for one in ranked(values).standings:
        rng = np.random.default_rng(0)
        places = {pair: rng.integers(4, size=(RESAMPLES, 4)) for pair in ("p0", "p1")}
        drawn = [
            sorted(values[one.label][pair][at] for pair in places for at in places[pair][turn])
            for turn in range(RESAMPLES)
        ]
        means = [sum(of[2:6]) / 4 for of in drawn]
        assert (one.low, one.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
        assert one.low <= one.iqm <= one.high


def test_variants_without_every_pair_are_named_and_left_out() -> None:
    values: Values = {"a": {"p": [1.0], "q": [2.0]}, "b": {"p": [2.0], "q": []}, "c": {"p": [0.0], "q": [1.0]}}
    ranking = ranked(values)
    assert [one.label for one in ranking.standings] == ["a", "c"]
    assert ranking.incomplete == ("b",)


@pytest.mark.parametrize(
    "values", [{}, {"a": {"p": [1.0]}, "b": {"p": [2.0]}}, {"a": {"p": [1.0], "q": [1.0]}, "b": {"p": [1.0]}}]
)
def test_one_pair_or_one_variant_gives_no_ranking(values: Values) -> None:
    assert rank_over_pairs(values) is None
