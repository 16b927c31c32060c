from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError


def batch(logits: Tensor, labels: Tensor) -> DistillationBatch:
    return DistillationBatch(NetworkOutput(logits, [], logits), None, labels, torch.arange(len(labels)))


def naive(logits: Tensor, labels: Tensor, smoothing: float) -> float:
    """The mean over samples of - sum of target x log softmax, written out."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        norm = math.log(sum(math.exp(value) for value in row))
        for index, value in enumerate(row):
            target = (index == label) * (1 - smoothing) + smoothing / len(row)
            total -= target * (value - norm)
    return total / len(labels)


@given(st.integers(1, 9), st.integers(2, 6), st.floats(0, 0.9), st.integers(0, 99))
def test_equals_the_formula(samples: int, classes: int, smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    found = OBJECTIVES.build("ce", label_smoothing=smoothing)(batch(logits, labels))
    assert set(found) == {"ce"}
    assert found["ce"].item() == pytest.approx(naive(logits, labels, smoothing), rel=1e-5)


def test_needs_no_teacher() -> None:
    assert not OBJECTIVES.build("ce").needs_teacher


def test_its_gradient_is_that_of_the_softmax() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 3, 1, 1, 2])
    OBJECTIVES.build("ce")(batch(logits, labels))["ce"].backward()
    expected = (logits.softmax(1) - torch.nn.functional.one_hot(labels, 4)) / 5
    assert torch.allclose(logits.grad, expected, atol=1e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_logits_are_reduced_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(5) % 4
    found = OBJECTIVES.build("ce")(batch(logits, labels))["ce"]
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(naive(logits.float(), labels, 0), rel=1e-5)


def test_huge_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = OBJECTIVES.build("ce")(batch(logits, torch.tensor([0, 0])))["ce"]
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2, "much", True])
def test_a_smoothing_out_of_range_is_named(smoothing: Any) -> None:
    with pytest.raises(UserError, match="label_smoothing"):
        OBJECTIVES.build("ce", label_smoothing=smoothing)
