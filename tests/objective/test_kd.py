from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from golden import Golden, assert_close
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError


def batch(student: Tensor, teacher: Tensor | None) -> DistillationBatch:
    indices = torch.arange(len(student))
    shown = None if teacher is None else NetworkOutput(teacher, [], teacher)
    return DistillationBatch(NetworkOutput(student, [], student), shown, indices % student.shape[1], indices)


def kd(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    found = OBJECTIVES.build("kd", **options)(batch(student, teacher))
    assert set(found) == {"kd"}
    loss: Tensor = found["kd"]
    return loss


def naive(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 sum of p log(p / q), mean over samples, written out."""

    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(softmax(theirs), softmax(mine), strict=True))
    return temperature**2 * total / len(student)


def normal(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equals_the_published_code() -> None:
    golden = Golden("losses")
    student = golden["student.logits"].clone().requires_grad_()
    loss = kd(student, golden["teacher.logits"])
    loss.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, golden["kd_T4.loss"])
    assert student.grad is not None
    assert_close(student.grad, golden["kd_T4.grad0"])


@given(st.integers(1, 9), st.integers(2, 6), st.floats(0.5, 20), st.integers(0, 99))
def test_equals_the_formula(samples: int, classes: int, temperature: float, seed: int) -> None:
    student, teacher = normal(seed, samples, classes), normal(seed + 1, samples, classes)
    found = kd(student, teacher, temperature=temperature)
    rounding = 5e-7 * temperature**2  # the terms of a small divergence cancel out
    assert found.item() == pytest.approx(naive(student, teacher, temperature), rel=1e-5, abs=rounding)


def test_is_nothing_where_student_and_teacher_agree() -> None:
    logits = normal(0, 6, 5)
    assert kd(logits, logits).item() == pytest.approx(0, abs=1e-6)
    assert kd(logits, logits + 7).item() == pytest.approx(0, abs=1e-5), "softmax does not see a shift"


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher = (normal(seed, 6, 5).requires_grad_() for seed in (0, 1))
    kd(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert teacher.grad is None


def test_a_high_temperature_matches_logits() -> None:
    """With T to infinity T^2 KL becomes half the mean over classes of the centred logits' squared difference."""
    student, teacher = normal(0, 6, 5).double(), normal(1, 6, 5).double()
    difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = difference.square().sum(1).mean() / (2 * 5)
    assert naive(student, teacher, 1e3) == pytest.approx(limit.item(), rel=1e-2)
    assert kd(student, teacher, temperature=100.0).item() == pytest.approx(limit.item(), rel=5e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_logits_are_compared_in_float32(dtype: torch.dtype) -> None:
    student, teacher = normal(0, 6, 5).to(dtype), normal(1, 6, 5).to(dtype)
    found = kd(student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(naive(student.float(), teacher.float(), 4), rel=1e-4)


def test_huge_logits_stay_finite() -> None:
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = kd(student, torch.tensor([[-1e4, 1e4]]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()  # type: ignore[arg-type]


def test_without_a_teacher_it_says_so() -> None:
    with pytest.raises(UserError, match="needs a teacher"):
        OBJECTIVES.build("kd")(batch(normal(0, 3, 4), None))


@pytest.mark.parametrize("temperature", [0, -1.0, "warm", None])
def test_a_temperature_out_of_range_is_named(temperature: Any) -> None:
    with pytest.raises(UserError, match="temperature"):
        OBJECTIVES.build("kd", temperature=temperature)
