from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from golden import Golden, assert_close
from hypothesis import given
from hypothesis import strategies as st
from samples import MAPS, normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.vid import VID


def output(maps: list[Tensor]) -> NetworkOutput:
    """The maps behind a stem that is of no interest."""
    return NetworkOutput(maps[-1].flatten(1), [maps[0], *maps], maps[-1].mean((2, 3)))


def batch(student: list[Tensor], teacher: list[Tensor]) -> DistillationBatch:
    indices = torch.arange(len(student[0]))
    return DistillationBatch(output(student), output(teacher), labels=indices % 2, indices=indices)


def vid(some: DistillationBatch, **options: Any) -> VID:
    assert some.teacher is not None
    shapes = [[(f.shape[1], f.shape[2], f.shape[3]) for f in each.features] for each in (some.student, some.teacher)]
    objective = OBJECTIVES.build("vid", student_shapes=shapes[0], teacher_shapes=shapes[1], **options)
    assert isinstance(objective, VID)
    return objective


def loss_of(objective: VID, some: DistillationBatch) -> Tensor:
    terms = objective(some)
    assert set(terms) == {"vid"}
    return terms["vid"]


def naive(student: Tensor, teacher: Tensor, parameters: dict[str, Tensor]) -> float:
    """One map: the Gaussian's negative log-likelihood position by position."""
    weights = [parameters[f"regressor.{index}.weight"][:, :, 0, 0].double() for index in (0, 2, 4)]
    total = 0.0
    for mine, theirs in zip(student.double(), teacher.double(), strict=True):
        for row in range(mine.shape[1]):
            for column in range(mine.shape[2]):
                mean = weights[2] @ (weights[1] @ (weights[0] @ mine[:, row, column]).clamp(min=0)).clamp(min=0)
                for channel, rho in enumerate(parameters["log_scale"].tolist()):
                    variance = math.log(1 + math.exp(rho)) + 1e-5
                    error = (mean[channel] - theirs[channel, row, column]).item()
                    total += 0.5 * (error**2 / variance + math.log(variance))
    return total / teacher.numel()


def test_equals_the_published_code() -> None:
    golden = Golden("losses")
    student = golden["student.map2"].clone().requires_grad_()
    some = batch([student], [golden["teacher.map2"]])
    objective = vid(some)
    assert_close(objective.gaussians[0].state_dict()["log_scale"], golden["vid_map2.param.log_scale"])
    objective.gaussians[0].load_state_dict(golden.under("vid_map2.param"))
    loss = loss_of(objective, some)
    loss.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, golden["vid_map2.loss"])
    assert student.grad is not None
    assert_close(student.grad, golden["vid_map2.grad0"])


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.floats(0.1, 20), st.integers(0, 99))
def test_equals_the_formula(samples: int, channels: int, others: int, variance: float, seed: int) -> None:
    torch.manual_seed(seed)
    student = [normal(seed, samples, channels, 2, 3), normal(seed + 1, samples, 3, 1, 2)]
    teacher = [normal(seed + 50, samples, others, 2, 3), normal(seed + 51, samples, 2, 1, 2)]
    some = batch(student, teacher)
    objective = vid(some, initial_variance=variance)
    for gaussian in objective.gaussians:
        log_scale = gaussian.state_dict()["log_scale"]
        log_scale += 0.3 * torch.arange(len(log_scale))
    expected = sum(
        naive(mine, theirs, gaussian.state_dict())
        for mine, theirs, gaussian in zip(student, teacher, objective.gaussians, strict=True)
    )
    assert loss_of(objective, some).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("variance", [1e-3, 1.0, 5.0, 2e3])
def test_the_variance_starts_where_asked(variance: float) -> None:
    """Where the error is nothing, the loss is half the logarithm of the variance."""
    dead = torch.zeros(2, 3, 4, 4)
    some = batch([dead], [dead])
    assert loss_of(vid(some, initial_variance=variance), some).item() == pytest.approx(
        0.5 * math.log(variance), abs=1e-4
    )


def test_the_best_variance_is_the_mean_squared_error() -> None:
    dead, teacher = torch.zeros(4, 3, 5, 5), 2 * normal(0, 4, 1, 5, 5)
    some = batch([dead], [teacher])
    best = teacher.square().mean().item()
    objective = vid(some, initial_variance=best)
    loss = loss_of(objective, some)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = next(p.grad for name, p in objective.named_parameters() if name.endswith("log_scale"))
    assert gradient is not None
    assert gradient.item() == pytest.approx(0, abs=1e-6)
    for other in (0.8 * best, 1.2 * best):
        assert loss_of(vid(some, initial_variance=other), some) > loss


def test_each_channel_of_the_teacher_has_its_variance() -> None:
    objective = OBJECTIVES.build("vid", student_shapes=MAPS["student"], teacher_shapes=MAPS["teacher"])
    scales = [tuple(p.shape) for name, p in objective.named_parameters() if name.endswith("log_scale")]
    assert scales == [(6,), (8,), (10,)]


def test_the_larger_map_is_pooled() -> None:
    large, small = normal(0, 3, 4, 8, 8), normal(1, 3, 5, 4, 4)
    pooled = large.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    for some, same in (
        (batch([large], [small]), batch([pooled], [small])),
        (batch([small], [large]), batch([small], [pooled])),
    ):
        objective = vid(some)
        torch.testing.assert_close(loss_of(objective, some), loss_of(objective, same))


@pytest.mark.parametrize("variance", [0, -1.0, 1e-5, "wide"])
def test_a_variance_out_of_range_is_named(variance: Any) -> None:
    dead = torch.zeros(2, 3, 4, 4)
    with pytest.raises(UserError, match="initial_variance"):
        vid(batch([dead], [dead]), initial_variance=variance)


def test_unequally_many_maps_are_named() -> None:
    with pytest.raises(UserError, match=r"objective 'vid'.* student has 3 and the teacher 2"):
        OBJECTIVES.build("vid", student_shapes=MAPS["student"], teacher_shapes=MAPS["teacher"][:3])
