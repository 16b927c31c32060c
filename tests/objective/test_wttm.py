from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError


def wttm(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    indices = torch.arange(len(student))
    outputs = [NetworkOutput(logits, [], logits) for logits in (student, teacher)]
    found = OBJECTIVES.build("wttm", **options)(DistillationBatch(*outputs, labels=indices, indices=indices))
    assert set(found) == {"wttm"}
    loss: Tensor = found["wttm"]
    return loss


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def naive(student: list[list[float]], teacher: list[list[float]], exponent: float) -> float:
    """The sum of the teacher's powers times the divergence from their shares, sample by sample."""
    total = 0.0
    for mine, theirs in zip(map(softmax, student), map(softmax, teacher), strict=True):
        powers = [p**exponent for p in theirs]
        shares = [power / sum(powers) for power in powers]
        total += sum(powers) * sum(q * math.log(q / p) for q, p in zip(shares, mine, strict=True))
    return total / len(student)


def naive_gradient(student: list[list[float]], teacher: list[list[float]], exponent: float) -> list[list[float]]:
    """By the student's logits: the sum of the powers times (student - shares), over the batch size."""
    gradient = []
    for mine, theirs in zip(map(softmax, student), map(softmax, teacher), strict=True):
        powers = [p**exponent for p in theirs]
        gradient.append([(sum(powers) * p - power) / len(student) for p, power in zip(mine, powers, strict=True)])
    return gradient


@given(st.integers(1, 9), st.sampled_from([2, 10, 100]), st.sampled_from([0.1, 0.2, 1.0, 2.5]), st.integers(0, 99))
def test_equals_the_formula_with_its_gradient(size: int, classes: int, exponent: float, seed: int) -> None:
    student, teacher = 2 * normal(seed, size, classes), 3 * normal(seed + 1, size, classes)
    student.requires_grad_()
    rows = student.double().tolist(), teacher.double().tolist(), exponent
    found = wttm(student, teacher, exponent=exponent)
    assert found.item() == pytest.approx(naive(*rows), rel=1e-5, abs=1e-5)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient.double(), torch.tensor(naive_gradient(*rows), dtype=torch.float64),
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def test_the_target_is_the_softened_teacher_and_an_open_sample_weighs_more() -> None:
    student, teacher = normal(0, 1, 10), 3 * normal(1, 1, 10)
    target = F.softmax(teacher / 4, dim=1)
    weight = F.softmax(teacher, dim=1).pow(0.25).sum()
    expected = weight * F.kl_div(F.log_softmax(student, dim=1), target, reduction="sum")
    torch.testing.assert_close(wttm(student, teacher, exponent=0.25), expected)
    flat = torch.zeros(1, 10)
    sure = torch.tensor([[50.0] + 9 * [0.0]])
    assert wttm(sure, sure, exponent=1.0) == pytest.approx(0, abs=1e-6)
    assert wttm(student, flat, exponent=0.25) == pytest.approx(
        10**0.75 * F.kl_div(F.log_softmax(student, dim=1), torch.full((1, 10), 0.1), reduction="sum").item(), rel=1e-5
    )


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("exponent", [0.1, 3.0])
def test_equal_rows_and_large_logits_stay_finite(scale: float, exponent: float) -> None:
    student = (scale * normal(0, 1, 10)).repeat(5, 1).requires_grad_()
    loss = wttm(student, (scale * normal(1, 1, 10)).repeat(5, 1), exponent=exponent)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("exponent", [0, -1.0])
def test_an_exponent_out_of_range_is_named(exponent: float) -> None:
    with pytest.raises(UserError, match="exponent is"):
        OBJECTIVES.build("wttm", exponent=exponent)
