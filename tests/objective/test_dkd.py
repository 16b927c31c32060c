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

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, Progress, UserError


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, epoch: int = 0, **options: Any) -> Tensor:
    outputs = [NetworkOutput(logits, [], logits) for logits in (student, teacher)]
    batch = DistillationBatch(*outputs, labels=labels, indices=labels, progress=Progress(0, epoch, 240))
    found = OBJECTIVES.build("dkd", **{"ramp_epochs": 0, **options})(batch)
    assert set(found) == {"dkd"}
    loss: Tensor = found["dkd"]
    return loss


def naive(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float) -> float:
    """The sum of alpha TCKD and beta NCKD, sample by sample."""

    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    def divergence(theirs: list[float], mine: list[float]) -> float:
        return sum(p * math.log(p / q) for p, q in zip(theirs, mine, strict=True))

    total = 0.0
    rows = (student.double().tolist(), teacher.double().tolist(), labels.tolist())
    for *logits, label in zip(*rows, strict=True):
        mine, theirs = (softmax(row) for row in logits)
        total += alpha * divergence([theirs[label], 1 - theirs[label]], [mine[label], 1 - mine[label]])
        mine, theirs = (softmax(row[:label] + row[label + 1 :]) for row in logits)
        total += beta * divergence(theirs, mine)
    return temperature**2 * total / len(labels)


@given(
    st.integers(1, 9),
    st.integers(2, 6),
    st.floats(1, 10),
    st.sampled_from([(1.0, 8.0), (2.0, 0.0), (0.0, 1.0)]),
    st.integers(0, 99),
)
def test_equals_the_formula(
    size: int, classes: int, temperature: float, weights: tuple[float, float], seed: int
) -> None:
    student, teacher = normal(seed, size, classes), 2 * normal(seed + 1, size, classes)
    labels = (torch.arange(size) * 7 + seed) % classes
    alpha, beta = weights
    found = dkd(student, teacher, labels, alpha=alpha, beta=beta, temperature=temperature)
    rounding = 1e-6 * temperature**2 * (alpha + beta)  # the terms of a small divergence cancel out
    expected = naive(student, teacher, labels, alpha, beta, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=rounding)


def test_equals_the_mask_of_the_released_code_with_its_gradient() -> None:
    """Where the target's logit is lowered by 1000."""
    student, teacher, labels = 3 * normal(0, 8, 6), 3 * normal(1, 8, 6), torch.arange(8) % 6
    student.requires_grad_()
    mask = 1000 * F.one_hot(labels, 6)
    mine, theirs = (F.log_softmax(logits / 4 - mask, dim=1) for logits in (student, teacher))
    expected = 16 * (theirs.exp() * (theirs - mine)).sum(1).mean()
    found = dkd(student, teacher, labels, alpha=0.0, beta=1.0)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_with_the_teachers_own_share_as_beta_it_is_kd() -> None:
    """KD = TCKD + (1 - p_target) NCKD (eq. 6), here for one sample."""
    student, teacher, labels = normal(0, 1, 5), normal(1, 1, 5), torch.tensor([3])
    share = 1 - F.softmax(teacher / 4, dim=1)[0, 3].item()
    output, shown = (NetworkOutput(logits, [], logits) for logits in (student, teacher))
    kd = OBJECTIVES.build("kd")(DistillationBatch(output, shown, labels, labels))["kd"]
    torch.testing.assert_close(dkd(student, teacher, labels, beta=share), kd)


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.05), (9, 0.5), (19, 1.0), (20, 1.0), (239, 1.0)])
def test_grows_over_the_first_epochs(epoch: int, share: float) -> None:
    student, teacher, labels = normal(0, 6, 5), normal(1, 6, 5), torch.arange(6) % 5
    full = dkd(student, teacher, labels)
    torch.testing.assert_close(dkd(student, teacher, labels, epoch, ramp_epochs=20), share * full)


def test_saturated_logits_stay_finite() -> None:
    student, labels = torch.tensor([[1e5, -1e5, 0.0]] * 3, requires_grad=True), torch.arange(3)
    loss = dkd(student, torch.tensor([[-1e5, 1e5, 3.0]] * 3), labels)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("option", ["alpha", "beta", "ramp_epochs", "temperature"])
def test_an_option_out_of_range_is_named(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is -1"):
        OBJECTIVES.build("dkd", **{option: -1})
