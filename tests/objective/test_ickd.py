from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import MAPS, batch, normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.ickd import ICKD


def output(map_: Tensor) -> NetworkOutput:
    return NetworkOutput(map_.flatten(1), [torch.zeros(len(map_), 2, 8, 8), map_], map_.mean((2, 3)))


def some_batch(student: Tensor, teacher: Tensor) -> DistillationBatch:
    indices = torch.arange(len(student))
    return DistillationBatch(output(student), output(teacher), labels=indices % 2, indices=indices)


def ickd(some: DistillationBatch) -> ICKD:
    assert some.teacher is not None
    shapes = [[tuple(map_.shape[1:]) for map_ in side.features] for side in (some.student, some.teacher)]
    objective = OBJECTIVES.build("ickd", student_shapes=shapes[0], teacher_shapes=shapes[1])
    assert isinstance(objective, ICKD)
    return objective


def loss_of(objective: ICKD, some: DistillationBatch) -> Tensor:
    terms = objective(some)
    assert set(terms) == {"ickd"}
    return terms["ickd"]


def naive(student: Tensor, teacher: Tensor, weight: Tensor) -> float:
    """The squared difference of the rows of both Gram matrices, channel by channel, after 1x1 convolution and norm."""
    mapped = torch.stack([sum(w * student[:, k] for k, w in enumerate(row)) for row in weight], dim=1)  # type: ignore[arg-type]
    mean, variance = mapped.mean((0, 2, 3), keepdim=True), mapped.var((0, 2, 3), correction=0, keepdim=True)
    mapped = (mapped - mean) / (variance + 1e-5).sqrt()
    channels, total = teacher.shape[1], 0.0
    for mine, theirs in zip(mapped.flatten(2), teacher.flatten(2), strict=True):
        for i in range(channels):
            rows = [[float(map_[i] @ map_[j]) for j in range(channels)] for map_ in (mine, theirs)]
            lengths = [math.sqrt(sum(value**2 for value in row)) for row in rows]
            total += sum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(*rows, strict=True))
    return total / (channels * len(student))


@pytest.mark.parametrize("channels", [10, 100])
@settings(max_examples=4, deadline=None)
@given(st.sampled_from([1, 3, 5]), st.integers(0, 99))
def test_equals_the_formula(channels: int, samples: int, seed: int) -> None:
    torch.manual_seed(seed)
    student, teacher = normal(seed, samples, 4, 2, 3), normal(seed + 1, samples, channels, 3, 3)
    some = some_batch(student, teacher)
    objective = ickd(some)
    expected = naive(student.double(), teacher.double(), objective.state_dict()["embed.0.weight"][:, :, 0, 0].double())
    assert loss_of(objective, some).item() == pytest.approx(expected, rel=1e-4)


def test_only_the_last_map_is_looked_at() -> None:
    some = batch(6)
    loss_of(ickd(some), some).backward()  # type: ignore[no-untyped-call]
    assert [feature.grad is not None for feature in some.student.features] == [False, False, False, True]


def test_it_does_not_see_where_in_a_sample_a_channel_is_active() -> None:
    student, teacher = normal(0, 5, 4, 3, 3), normal(1, 5, 6, 2, 4)
    objective = ickd(some_batch(student, teacher))
    moved = some_batch(student.flip(2, 3), 7 * teacher.mT)
    torch.testing.assert_close(loss_of(objective, moved), loss_of(objective, some_batch(student, teacher)))


def test_a_student_that_is_mapped_onto_the_teacher_has_no_loss() -> None:
    student = normal(0, 8, 4, 3, 3)
    some = some_batch(student, normal(1, 8, 6, 3, 3))
    objective = ickd(some)
    goal = some_batch(student, objective.embed(student).detach())
    assert loss_of(objective, goal).item() == pytest.approx(0, abs=1e-10)
    assert loss_of(objective, some).item() > 0.1


@pytest.mark.parametrize("size", [1, 4])
def test_dead_channels_and_equal_samples_have_finite_gradients(size: int) -> None:
    student, teacher = torch.ones(size, 4, 3, 3, requires_grad=True), normal(1, size, 6, 3, 3)
    teacher[:, 2] = 0
    some = some_batch(student, teacher)
    objective = ickd(some)
    loss = loss_of(objective, some)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    for tensor in (student, *objective.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_network_without_maps_is_named(side: str) -> None:
    shapes = {f"{one}_shapes": [] if one == side else MAPS[one] for one in MAPS}
    with pytest.raises(UserError, match=f"'ickd': it needs a feature map, but the {side}'s network shows none"):
        OBJECTIVES.build("ickd", **shapes)
