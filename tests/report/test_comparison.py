"""Tests against a baseline: the same as scipy's, and honest where there is nothing to test."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from graphkd.report.comparison import compare, compare_all, holm

accuracies = st.floats(0, 100).map(lambda value: round(value, 2))
p_values = st.lists(st.floats(0, 1), max_size=8)


@given(st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=8))
def test_shared_seeds_are_paired_as_in_scipy(pairs: list[tuple[float, float]]) -> None:
    own, base = zip(*pairs, strict=True)
    assume(np.std(np.subtract(own, base)) > 1e-3)
    found = compare(dict(enumerate(own)), dict(enumerate(base)))
    expected = scipy.stats.ttest_rel(own, base)
    low, high = expected.confidence_interval()
    assert (found.test, found.n, found.n_baseline) == ("paired t", len(pairs), len(pairs))
    assert found.difference == pytest.approx(np.mean(own) - np.mean(base), abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


@given(st.lists(accuracies, min_size=2, max_size=6), st.lists(accuracies, min_size=2, max_size=6))
def test_other_seeds_are_tested_after_welch_as_in_scipy(own: list[float], base: list[float]) -> None:
    assume(np.std(own) + np.std(base) > 1e-3)
    found = compare(dict(enumerate(own)), {100 + seed: value for seed, value in enumerate(base)})
    expected = scipy.stats.ttest_ind(own, base, equal_var=False)
    low, high = expected.confidence_interval()
    assert (found.test, found.n, found.n_baseline) == ("Welch t", len(own), len(base))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


def test_only_shared_seeds_are_paired() -> None:
    found = compare({0: 80.0, 1: 82.0, 5: 99.0}, {0: 79.0, 1: 80.0, 7: 10.0})
    assert (found.test, found.n, found.difference) == ("paired t", 2, 1.5)


def test_one_shared_seed_is_not_paired() -> None:
    found = compare({0: 80.0, 1: 82.0}, {0: 79.0, 7: 78.0, 8: 77.0})
    assert (found.test, found.n, found.n_baseline, found.difference) == ("Welch t", 2, 3, 3.0)


@pytest.mark.parametrize("own", [{0: 80.0}, {}])
def test_too_few_seeds_are_not_tested(own: dict[int, float]) -> None:
    found = compare(own, {0: 79.0, 1: 78.0})
    assert (found.test, found.n) == ("", len(own))
    assert math.isnan(found.p)
    assert math.isnan(found.low)
    assert math.isnan(found.difference) == (not own)


@pytest.mark.parametrize("step", [0.0, 0.1, 1.0])
def test_a_difference_without_spread_has_no_p_value(step: float) -> None:
    base = {seed: 0.1 * seed for seed in range(3)}
    found = compare({seed: value + step for seed, value in base.items()}, base)
    assert found.difference == pytest.approx(step)
    assert math.isnan(found.p), "rounding is no spread"
    assert math.isnan(compare({0: 1.0, 1: 1.0}, {5: 2.0, 6: 2.0}).p)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    corrected = holm([math.nan, 0.02, 0.5])
    assert math.isnan(corrected[0])
    assert corrected[1:] == [0.04, 0.5]


@given(p_values)
def test_holm_is_the_closed_test_of_bonferroni(found: list[float]) -> None:
    """An independent way to it: the highest of the Bonferroni values at all places up to one's own."""
    order = np.argsort(found, kind="stable")
    steps = [min(1.0, (len(found) - place) * found[index]) for place, index in enumerate(order)]
    expected = [max(steps[: list(order).index(index) + 1]) for index in range(len(found))]
    assert holm(found) == pytest.approx(expected)
    assert all(p <= corrected <= min(1.0, p * len(found)) for p, corrected in zip(found, holm(found), strict=True))


def test_all_comparisons_of_a_table_are_corrected_together() -> None:
    base = {0: 70.0, 1: 71.0, 2: 72.0}
    rows = [{0: 72.0, 1: 74.0, 2: 74.5}, {0: 71.0, 1: 71.5, 2: 73.5}, {0: 70.0}]
    found = compare_all(rows, base)
    assert [one.p_holm for one in found[:2]] == holm([one.p for one in found[:2]])
    assert math.isnan(found[2].p_holm)
