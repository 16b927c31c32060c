from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import batch

from graphkd import OBJECTIVES, UserError, WeightedSum
from graphkd.batch import Progress
from graphkd.objective.schedule import Schedule


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=5, unique=True).map(sorted), st.integers(0, 19),
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
)  # fmt: skip
def test_factors_are_interpolated_between_points(shares: list[int], epoch: int, factors: list[float]) -> None:
    points = [(share / 20, factor) for share, factor in zip(shares, factors, strict=False)]
    expected = np.interp(epoch / 20, *zip(*points, strict=True))
    assert Schedule(points).factor(Progress(epoch=epoch, epochs=20)) == pytest.approx(expected)


def test_two_points_of_one_share_are_a_jump() -> None:
    schedule = Schedule([(0.5, 0.0), (0.5, 1.0)])
    assert [schedule.factor(Progress(epoch=epoch, epochs=4)) for epoch in range(4)] == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("shares", [[], [0.5, 0.2], [-0.1, 1.0], [0.0, 1.1]])
def test_shares_must_increase_within_the_training(shares: list[float]) -> None:
    with pytest.raises(UserError, match="shares of the epochs are"):
        Schedule([(share, 1.0) for share in shares])


def test_a_sum_weighs_a_term_by_its_schedule() -> None:
    objectives = {"ce": (OBJECTIVES.build("ce"), 1.0), "kd": (OBJECTIVES.build("kd"), 0.5)}
    scheduled = WeightedSum(objectives, {"kd": Schedule([(0.0, 0.0), (1.0, 1.0)])})
    some = batch(6)
    for epoch in range(4):
        losses = scheduled(dataclasses.replace(some, progress=Progress(epoch=epoch, epochs=4)))
        assert torch.allclose(losses.weighted["kd"], 0.5 * epoch / 4 * losses.raw["kd"])
        assert torch.equal(losses.weighted["ce"], losses.raw["ce"])
