from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError

Rows = list[list[float]]


def crld(student: Tensor, teacher: Tensor, **options: Any) -> dict[str, Tensor]:
    """The terms of logits [2 B, C], weak views first."""
    indices = torch.arange(len(student) // 2)
    outputs = [NetworkOutput(logits, [], logits) for logits in (student, teacher)]
    found: dict[str, Tensor] = OBJECTIVES.build("crld", **options)(
        DistillationBatch(*outputs, labels=indices, indices=indices, views=("weak", "strong"))
    )
    assert set(found) == {"within", "cross"}
    return found


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def naive(student: Rows, teacher: Rows, temperature: float, weak: float, strong: float) -> dict[str, float]:
    """Sample by sample."""
    size = len(student) // 2
    total = {"within": 0.0, "cross": 0.0}

    def kd(mine: int, theirs: int) -> float:
        p, q = softmax(student[mine], temperature), softmax(teacher[theirs], temperature)
        return temperature**2 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))

    for first in range(size):
        second = size + first
        if max(softmax(teacher[first])) >= weak:
            total["within"] += (kd(first, first) + kd(second, second)) / size
        if max(softmax(teacher[second])) >= strong:
            total["cross"] += (kd(second, first) + kd(first, second)) / size
    return total


@settings(max_examples=20)
@given(
    st.sampled_from([(1, 10), (2, 10), (5, 10), (9, 10), (3, 100)]), st.sampled_from([1.0, 4.0]),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.2, 0.6]), st.integers(0, 99),
)  # fmt: skip
def test_equals_the_formula(shape: tuple[int, int], temperature: float, weak: float, strong: float, seed: int) -> None:
    size, classes = shape
    student, teacher = 2 * normal(seed, 2 * size, classes), 3 * normal(seed + 1, 2 * size, classes)
    found = crld(student, teacher, temperature=temperature, weak_threshold=weak, strong_threshold=strong)
    expected = naive(student.double().tolist(), teacher.double().tolist(), temperature, weak, strong)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_gradient_is_that_of_a_small_step() -> None:
    student, teacher = (2 * normal(0, 6, 10)).requires_grad_(), 3 * normal(1, 6, 10)
    direction = normal(2, 6, 10, dtype=torch.float64)
    for name, term in crld(student, teacher, weak_threshold=0.5).items():
        (gradient,) = torch.autograd.grad(term, student, retain_graph=True)
        ahead, behind = (
            naive((student.double() + step * direction).tolist(), teacher.double().tolist(), 4.0, 0.5, 0.2)[name]
            for step in (1e-5, -1e-5)
        )
        assert term.item() > 0
        slope = (ahead - behind) / 2e-5
        assert float((gradient.double() * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_each_term_has_the_confidence_of_its_own_view() -> None:
    sure, unsure = 9.0, 0.1
    teacher = torch.tensor([sure, unsure, unsure, sure])[:, None] * torch.eye(4, 10)  # weak of 2 samples, then strong
    student = normal(0, 4, 10).requires_grad_()
    for name, reached in {"within": [True, False, True, False], "cross": [False, True, False, True]}.items():
        term = crld(student, teacher, weak_threshold=0.9, strong_threshold=0.9)[name]
        (gradient,) = torch.autograd.grad(term, student)
        assert gradient.any(1).tolist() == reached


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_equal_rows_and_large_logits_stay_finite(scale: float) -> None:
    student = (scale * normal(0, 1, 10)).repeat(6, 1).requires_grad_()
    total = torch.stack(list(crld(student, (scale * normal(1, 1, 10)).repeat(6, 1)).values())).sum()
    (gradient,) = torch.autograd.grad(total, student)
    assert total.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"weak_threshold": 1.1}, "weak_threshold is 1.1"),
        ({"strong_threshold": -0.1}, "strong_threshold is -0.1"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        OBJECTIVES.build("crld", **options)


def test_a_batch_without_a_strong_view_is_an_error() -> None:
    logits = normal(0, 3, 10)
    output = NetworkOutput(logits, [], logits)
    with pytest.raises(UserError, match="no view 'strong'"):
        OBJECTIVES.build("crld")(DistillationBatch(output, output, torch.arange(3), torch.arange(3)))
