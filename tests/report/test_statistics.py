"""Mean, spread and interval against numpy and scipy."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from graphkd.report.statistics import Summary, summarise

finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=2, max_size=20))
def test_mean_and_sample_std_are_those_of_numpy(values: list[float]) -> None:
    summary = summarise(values)
    assert summary.n == len(values)
    assert summary.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    assert summary.std == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-9)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20, unique=True))
def test_the_interval_is_student_t(values: list[int]) -> None:
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert summarise(values).ci95 == pytest.approx((high - low) / 2, rel=1e-6)


@given(st.lists(finite, max_size=10), st.randoms())
def test_the_mean_does_not_depend_on_the_order(values: list[float], shuffler: random.Random) -> None:
    shuffled = shuffler.sample(values, len(values))
    assert str(summarise(shuffled).mean) == str(summarise(values).mean)


def test_one_value_has_no_spread_and_none_no_mean() -> None:
    one, none = summarise([3.5]), summarise([])
    assert (one.n, one.mean) == (1, 3.5)
    assert math.isnan(one.std)
    assert math.isnan(one.ci95)
    assert none.n == 0
    assert math.isnan(none.mean)


def test_what_is_missing_or_not_finite_does_not_count() -> None:
    assert summarise([1.0, None, 3.0, math.nan, math.inf]) == summarise([1.0, 3.0])
    assert summarise([1.0, None, 3.0]).n == 2


def test_absurd_values_end_in_infinity_not_in_an_error() -> None:
    assert summarise([1.7e308, -1.7e308]).std == math.inf
    assert summarise([1.7e308, 1.7e308]).mean == 1.7e308


def test_equal_values_have_no_spread() -> None:
    assert summarise([91.1] * 7) == Summary(91.1, 0.0, 0.0, 7)
