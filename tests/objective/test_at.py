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


def output(maps: list[Tensor]) -> NetworkOutput:
    """The maps behind a stem that is of no interest."""
    return NetworkOutput(maps[-1].flatten(1), [maps[0], *maps], maps[-1].mean((2, 3)))


def at(student: list[Tensor], teacher: list[Tensor], **options: Any) -> Tensor:
    outputs = output(student), output(teacher)
    shapes = [[(f.shape[1], f.shape[2], f.shape[3]) for f in each.features] for each in outputs]
    objective = OBJECTIVES.build("at", student_shapes=shapes[0], teacher_shapes=shapes[1], **options)
    indices = torch.arange(len(student[0]))
    terms = objective(DistillationBatch(*outputs, labels=indices % 2, indices=indices))
    assert set(terms) == {"at"}
    loss: Tensor = terms["at"]
    return loss


def naive(student: Tensor, teacher: Tensor, p: float) -> float:
    """One map: the mean squared difference of both attentions, written out."""

    def attention(map_: list[list[list[float]]]) -> list[float]:
        channels, height, width = len(map_), len(map_[0]), len(map_[0][0])
        found = [
            sum(abs(map_[channel][row][column]) ** p for channel in range(channels)) / channels
            for row in range(height)
            for column in range(width)
        ]
        norm = math.sqrt(sum(value**2 for value in found))
        return [value / norm for value in found]

    squares = [
        (a - b) ** 2
        for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True)
        for a, b in zip(attention(mine), attention(theirs), strict=True)
    ]
    return sum(squares) / len(squares)


def test_equals_the_published_code() -> None:
    golden = Golden("losses")
    student = [golden[f"student.map{index}"].clone().requires_grad_() for index in range(3)]
    loss = at(student, [golden[f"teacher.map{index}"] for index in range(3)])
    loss.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, golden["at_maps.loss"])
    for index, map_ in enumerate(student):
        assert map_.grad is not None
        assert_close(map_.grad, golden[f"at_maps.grad{index}"])


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 2.5, 4]), st.integers(0, 99))
def test_equals_the_formula(samples: int, channels: int, height: int, p: float, seed: int) -> None:
    sizes = [(height, 3), (2, 2)]
    student = [normal(seed + turn, samples, channels, *size) for turn, size in enumerate(sizes)]
    teacher = [normal(seed + 50 + turn, samples, 2, *size) for turn, size in enumerate(sizes)]
    expected = sum(naive(mine, theirs, p) for mine, theirs in zip(student, teacher, strict=True))
    assert at(student, teacher, p=p).item() == pytest.approx(expected, rel=1e-4)


def test_the_larger_map_is_pooled() -> None:
    large, small = normal(0, 3, 4, 8, 8), normal(1, 3, 5, 4, 4)
    pooled = large.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    assert at([large], [small]).item() == pytest.approx(naive(pooled, small, 2), rel=1e-4)
    assert at([small], [large]).item() == pytest.approx(naive(small, pooled, 2), rel=1e-4)


def test_it_sees_neither_scale_nor_sign_nor_order_of_channels() -> None:
    student, teacher = normal(0, 3, 4, 5, 5), normal(1, 3, 6, 5, 5)
    scale = torch.tensor([0.1, -3.0, 50.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(at([student * scale], [teacher.flip(1)]), at([student], [teacher]))


def test_is_nothing_where_student_and_teacher_are_active_alike() -> None:
    student = normal(0, 3, 4, 5, 5)
    assert at([student], [7 * student]).item() == pytest.approx(0, abs=1e-12)


def test_a_higher_power_looks_more_at_the_peak() -> None:
    """With one peak in common the attentions agree ever better."""
    student, teacher = normal(0, 3, 1, 5, 5), normal(1, 3, 1, 5, 5)
    student[:, :, 2, 2] = teacher[:, :, 2, 2] = 5
    losses = [at([student], [teacher], p=p).item() for p in (1, 2, 4)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_a_dead_map_gives_no_nan(p: float) -> None:
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    at([student], [torch.zeros(2, 3, 4, 4)], p=p).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("p", [0.5, 0, -2, "high"])
def test_a_power_out_of_range_is_named(p: Any) -> None:
    with pytest.raises(UserError, match=r"p is|option 'p'"):
        at([normal(0, 2, 3, 4, 4)], [normal(1, 2, 3, 4, 4)], p=p)


def test_unequally_many_maps_are_named() -> None:
    with pytest.raises(UserError, match=r"objective 'at'.* student has 3 and the teacher 2"):
        OBJECTIVES.build("at", student_shapes=MAPS["student"], teacher_shapes=MAPS["teacher"][:3])
