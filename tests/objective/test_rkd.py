from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from golden import Golden, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.rkd import relations


def rkd(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    indices = torch.arange(len(student))
    outputs = [NetworkOutput(embedding, [], embedding) for embedding in (student, teacher)]
    found = OBJECTIVES.build("rkd", **options)(DistillationBatch(*outputs, labels=indices, indices=indices))
    assert set(found) == {"rkd"}
    loss: Tensor = found["rkd"]
    return loss


def naive(student: Tensor, teacher: Tensor, distance: float, angle: float) -> float:
    """Both parts as loops over pairs and triplets."""
    of_both = [naive_relations(side.double().tolist()) for side in (student, teacher)]
    parts = []
    for mine, theirs in zip(*of_both, strict=True):
        gaps = [abs(a - b) for a, b in zip(mine, theirs, strict=True)]
        parts.append(sum(gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps) / len(gaps))
    return distance * parts[0] + angle * parts[1]


def naive_relations(rows: list[list[float]]) -> tuple[list[float], list[float]]:
    distances = [math.dist(one, other) for one in rows for other in rows]
    positive = [value for value in distances if value > 0]
    mean = sum(positive) / len(positive) if positive else 1
    angles = []
    for corner in rows:
        for one in rows:
            for other in rows:
                if corner in (one, other):
                    angles.append(0.0)
                    continue
                product = sum((a - c) * (b - c) for a, b, c in zip(one, other, corner, strict=True))
                angles.append(product / math.dist(one, corner) / math.dist(other, corner))
    return [value / mean for value in distances], angles


def test_equals_the_published_code() -> None:
    golden = Golden("losses")
    student = golden["student.vector"].clone().requires_grad_()
    loss = rkd(student, golden["teacher.vector"])
    (gradient,) = torch.autograd.grad(loss, student)
    assert_close(loss, golden["rkd_vector.loss"])
    assert_close(gradient, golden["rkd_vector.grad0"])


@settings(max_examples=40)
@given(
    st.integers(1, 6), st.integers(1, 5), st.sampled_from([(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)]), st.integers(0, 99)
)
def test_equals_the_formula(size: int, width: int, weights: tuple[float, float], seed: int) -> None:
    student, teacher = normal(seed, size, width), normal(seed + 1, size, 2 * width)
    found = rkd(student, teacher, distance=weights[0], angle=weights[1])
    assert found.item() == pytest.approx(naive(student, teacher, *weights), rel=1e-4, abs=1e-5)


def test_identical_rows_count_as_the_formula_says_and_have_finite_gradients() -> None:
    student, teacher = normal(0, 6, 4), normal(1, 6, 4)
    student[3] = student[4] = student[0]
    teacher[5] = teacher[1]
    student.requires_grad_()
    loss = rkd(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(naive(student, teacher, 25, 50), rel=1e-5)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("size", [1, 2, 5])
def test_one_point_has_no_relations(size: int) -> None:
    student = torch.ones(size, 3, requires_grad=True)
    distances, angles = relations(student)
    (gradient,) = torch.autograd.grad(distances.sum() + angles.sum(), student)
    assert not distances.any()
    assert not angles.any()
    assert not gradient.any()


def test_does_not_see_scale_shift_and_rotation() -> None:
    teacher = normal(0, 7, 5)
    rotation = torch.linalg.qr(normal(1, 5, 5)).Q
    assert rkd(3 * teacher @ rotation + 2, teacher).item() == pytest.approx(0, abs=1e-5)


def test_angles_are_not_rounded_under_autocast() -> None:
    student, teacher = normal(0, 7, 5), normal(1, 7, 5)
    expected = rkd(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rkd(student, teacher), expected)


@pytest.mark.parametrize("option", ["distance", "angle"])
def test_a_weight_out_of_range_is_named(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is -1"):
        OBJECTIVES.build("rkd", **{option: -1})
