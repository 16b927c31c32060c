"""Ranks over pairs, their critical difference, and means over pairs, against SciPy and naive loops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from graphkd.report.ranking import (
    Ranking,
    critical_difference,
    friedman_p,
    rank_over_pairs,
    sign_p,
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


def test_ranks_are_means_over_pairs_and_ties_share_theirs() -> None:
    ranking = ranked({"a": {"p": [3.0], "q": [1.0]}, "b": {"p": [1.0], "q": [1.0]}, "c": {"p": [2.0], "q": [5.0]}})
    assert {one.label: one.rank for one in ranking.standings} == {"c": 1.5, "a": 1.75, "b": 2.75}
    assert [one.label for one in ranking.standings] == ["c", "a", "b"]
    assert all(math.isnan(one.low) for one in ranking.standings), "one seed a pair has no interval"


@pytest.mark.parametrize(("pairs", "seeds"), [(2, 2), (2, 3), (5, 3)])
def test_the_interval_holds_the_true_mean_as_often_as_it_says(pairs: int, seeds: int) -> None:
    """Hardly ever less than 19 times in 20, also with the few seeds of a usual table."""
    rng, rounds = np.random.default_rng(0), 2000
    values = rng.normal(50, 1, (rounds, pairs, seeds))
    found = rank_over_pairs({f"v{v}": {f"p{p}": values[v, p].tolist() for p in range(pairs)} for v in range(rounds)})
    assert found is not None
    inside = sum(one.low <= 50 <= one.high for one in found.standings) / rounds
    assert 0.94 < inside < 0.995


def test_the_interval_of_one_spread_alone_is_students() -> None:
    """A pair whose seeds are all equal adds no variance and no freedom."""
    seeds = [1.0, 2.0, 4.0]
    (one, _) = ranked({"a": {"p": seeds, "q": [3.0, 3.0]}, "b": {"p": [0.0], "q": [0.0]}}).standings
    low, high = stats.t.interval(0.95, 2, np.mean(seeds), stats.sem(seeds))
    assert (one.low, one.high) == pytest.approx(((low + 3) / 2, (high + 3) / 2))


@pytest.mark.parametrize("seeds", [[1.0], [2.0, 2.0]])
def test_without_a_spread_on_each_pair_there_is_no_interval(seeds: list[float]) -> None:
    other = [1.0, 2.0, 3.0] if len(seeds) == 1 else seeds
    assert all(math.isnan(one.low) for one in ranked({v: {"p": other, "q": seeds} for v in "ab"}).standings)


@pytest.mark.parametrize("won", [(4, 0), (5, 0), (6, 0), (3, 5), (2, 2), (0, 0)])
def test_two_variants_are_tested_by_signs(won: tuple[int, int]) -> None:
    """Four pairs of four are no 5 %, whatever an approximation says; ties are left out."""
    first, second = won
    values = {"a": {}, "b": {}}  # type: dict[str, dict[str, list[float]]]
    for number, (one, other) in enumerate([(2.0, 1.0)] * first + [(1.0, 2.0)] * second + [(1.0, 1.0)] * 2):
        values["a"][f"p{number}"], values["b"][f"p{number}"] = [one], [other]
    ranking = ranked(values)
    expected = stats.binomtest(first, first + second).pvalue if first + second else math.nan
    assert ranking.p == pytest.approx(expected, nan_ok=True)
    assert math.isnan(ranking.critical_difference)
    assert sign_p(np.array([[1.0, 2.0]] * 6)) < 0.05 < sign_p(np.array([[1.0, 2.0]] * 5))


def test_every_pair_counts_alike_in_the_mean() -> None:
    values: Values = {
        "a": {"easy": [90.0, 92.0, 94.0], "hard": [10.0], "usual": [50.0, 52.0]},
        "b": {"easy": [90.0], "hard": [20.0], "usual": [50.0]},
    }
    assert {one.label: one.mean for one in ranked(values).standings} == pytest.approx({"a": 51.0, "b": 160 / 3})


def test_means_that_differ_by_rounding_share_their_rank() -> None:
    values: Values = {"a": {"p": [0.1, 0.2, 0.3], "q": [1.0]}, "b": {"p": [0.3, 0.2, 0.1 + 1e-15], "q": [1.0]}}
    assert [one.rank for one in ranked(values).standings] == [1.5, 1.5]


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
