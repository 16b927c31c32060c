from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import MAPS, batch
from torch import Tensor

from graphkd import OBJECTIVES, UserError
from graphkd.objective.fitnet import FitNet


def fitnet(**options: Any) -> FitNet:
    shapes = {f"{side}_shapes": MAPS[side] for side in MAPS}
    objective = OBJECTIVES.build("fitnet", **{**shapes, **options})
    assert isinstance(objective, FitNet)
    return objective


def naive(student: Tensor, teacher: Tensor, weight: Tensor) -> float:
    """1x1 convolution, BatchNorm at its start, ReLU and mean squared difference, channel by channel."""
    total = 0.0
    for channel, row in enumerate(weight[:, :, 0, 0].double()):
        mapped = sum(row[k] * student[:, k].double() for k in range(len(row)))
        assert isinstance(mapped, Tensor)
        normalised = (mapped - mapped.mean()) / (mapped.var(correction=0) + 1e-5).sqrt()
        total += (normalised.clamp(min=0) - teacher[:, channel].double()).square().sum().item()
    return total / teacher.numel()


@given(st.integers(2, 9), st.integers(0, 3), st.integers(0, 99))
def test_equals_the_formula(samples: int, layer: int, seed: int) -> None:
    torch.manual_seed(seed)
    objective, some = fitnet(layer=layer), batch(samples, seed)
    assert some.teacher is not None
    terms = objective(some)
    assert set(terms) == {"fitnet"}
    weight = objective.regressor.conv.weight
    assert isinstance(weight, Tensor)
    expected = naive(some.student.features[layer], some.teacher.features[layer], weight)
    assert terms["fitnet"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_only_the_chosen_layer_is_looked_at(layer: int) -> None:
    some = batch(6)
    fitnet(layer=layer)(some)["fitnet"].backward()
    reached = [feature.grad is not None for feature in some.student.features]
    assert reached == [index == layer for index in range(4)]


def test_the_regressor_learns_a_teacher_that_is_within_its_reach() -> None:
    torch.manual_seed(0)
    objective, some = fitnet(), batch(16)
    goal = fitnet().regressor(some.student.features[2]).detach()
    assert some.teacher is not None
    some.teacher.features[2] = goal
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = objective(some)["fitnet"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_maps_of_another_size_have_a_regressor_too() -> None:
    shapes = MAPS["student"]
    assert fitnet(teacher_shapes=[*shapes[:2], (8, 2, 2)]).regressor.conv.stride == (2, 2)


@pytest.mark.parametrize("layer", [-1, 4, "last", 1.5])
def test_a_layer_out_of_range_is_named(layer: Any) -> None:
    with pytest.raises(UserError, match="layer"):
        fitnet(layer=layer)


def test_a_network_with_fewer_maps_limits_the_layer() -> None:
    with pytest.raises(UserError, match=r"layer is 2, but must be between 0 .* and 1 for this pair"):
        fitnet(teacher_shapes=MAPS["teacher"][:2])


def test_shapes_that_no_regressor_joins_are_named() -> None:
    with pytest.raises(UserError, match=r"objective 'fitnet': layer 2: .*\(6, 4, 4\) .*\(8, 7, 7\)"):
        fitnet(teacher_shapes=[(6, 8, 8), (6, 8, 8), (8, 7, 7)])
