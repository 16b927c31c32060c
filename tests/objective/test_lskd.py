from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError


def lskd(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    indices = torch.arange(len(student))
    outputs = [NetworkOutput(logits, [], logits) for logits in (student, teacher)]
    found = OBJECTIVES.build("lskd", **options)(DistillationBatch(*outputs, labels=indices, indices=indices))
    assert set(found) == {"lskd"}
    loss: Tensor = found["lskd"]
    return loss


def naive(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 KL between softmaxes of z-scores over T, mean over samples, written out."""

    def softmax(row: list[float]) -> list[float]:
        mean, std = statistics.mean(row), statistics.stdev(row)
        powers = [math.exp((value - mean) / (std + 1e-7) / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(softmax(theirs), softmax(mine), strict=True))
    return temperature**2 * total / len(student)


@given(st.integers(1, 9), st.integers(2, 6), st.floats(0.5, 10), st.integers(0, 99))
def test_equals_the_formula(size: int, classes: int, temperature: float, seed: int) -> None:
    student, teacher = normal(seed, size, classes), 3 * normal(seed + 1, size, classes)
    rounding = 1e-6 * temperature**2  # the terms of a small divergence cancel out
    expected = naive(student, teacher, temperature)
    assert lskd(student, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-4, abs=rounding)


def test_does_not_see_a_rows_shift_and_scale() -> None:
    student, teacher = normal(0, 6, 5), normal(1, 6, 5)
    scale, shift = 1 + torch.arange(6.0)[:, None], normal(2, 6, 1)
    torch.testing.assert_close(lskd(scale * student + shift, teacher), lskd(student, teacher))
    assert lskd(scale * teacher + shift, teacher).item() == pytest.approx(0, abs=1e-5)


def test_is_kd_on_the_standardised_logits() -> None:
    student, teacher = normal(0, 6, 5), normal(1, 6, 5)
    scores = [(rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-7) for rows in (student, teacher)]
    outputs = [NetworkOutput(logits, [], logits) for logits in scores]
    kd = OBJECTIVES.build("kd", temperature=2)(
        DistillationBatch(*outputs, labels=torch.arange(6), indices=torch.arange(6))
    )
    torch.testing.assert_close(lskd(student, teacher), kd["kd"])


def test_a_constant_row_has_finite_gradient() -> None:
    student = torch.full((2, 5), 0.2, requires_grad=True)
    loss = lskd(student, normal(0, 2, 5))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_out_of_range_is_named(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature is"):
        OBJECTIVES.build("lskd", temperature=temperature)
