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
from graphkd.objective.dist import correlation


def dist(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    indices = torch.arange(len(student))
    outputs = [NetworkOutput(logits, [], logits) for logits in (student, teacher)]
    found = OBJECTIVES.build("dist", **options)(DistillationBatch(*outputs, labels=indices, indices=indices))
    assert set(found) == {"dist"}
    loss: Tensor = found["dist"]
    return loss


def naive(student: Tensor, teacher: Tensor, temperature: float, inter: float, intra: float) -> float:
    """Pearson's correlations of each row and each column of the probabilities, written out."""

    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    def pearson(one: list[float], other: list[float]) -> float:
        one, other = [[value - statistics.mean(row) for value in row] for row in (one, other)]
        product = sum(a * b for a, b in zip(one, other, strict=True))
        return product / (math.hypot(*one) * math.hypot(*other) + 1e-8)

    mine, theirs = ([softmax(row) for row in side.double().tolist()] for side in (student, teacher))
    rows = [pearson(*pair) for pair in zip(mine, theirs, strict=True)]
    columns = [
        pearson(list(a), list(b)) for a, b in zip(zip(*mine, strict=True), zip(*theirs, strict=True), strict=True)
    ]
    return temperature**2 * (inter * (1 - statistics.mean(rows)) + intra * (1 - statistics.mean(columns)))


@given(
    st.integers(1, 9),
    st.integers(2, 6),
    st.floats(1, 10),
    st.sampled_from([(1.0, 1.0), (2.0, 0.0), (0.0, 3.0)]),
    st.integers(0, 99),
)
def test_equals_the_formula(
    size: int, classes: int, temperature: float, weights: tuple[float, float], seed: int
) -> None:
    student, teacher = 3 * normal(seed, size, classes), 3 * normal(seed + 1, size, classes)
    found = dist(student, teacher, temperature=temperature, inter=weights[0], intra=weights[1])
    expected = naive(student, teacher, temperature, *weights)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5 * temperature**2)


def test_is_nothing_where_student_and_teacher_agree() -> None:
    logits = 3 * normal(0, 8, 5)
    assert dist(logits, logits).item() == pytest.approx(0, abs=1e-4)


def test_correlation_is_pearsons() -> None:
    one, other = normal(0, 6, 7), normal(1, 6, 7)
    expected = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(one, other, strict=True)])
    torch.testing.assert_close(correlation(one, other, 1), expected)
    torch.testing.assert_close(correlation(one.T, other.T, 0), expected)
    torch.testing.assert_close(correlation(2 * one + 1, other, 1), expected, msg="it sees neither scale nor shift")


@pytest.mark.parametrize("value", [0.0, 0.2, 1e4])
def test_constant_rows_have_finite_gradients(value: float) -> None:
    student = torch.full((3, 5), value, requires_grad=True)
    loss = dist(student, normal(0, 3, 5))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("option", "value"), [("temperature", 0), ("inter", -1), ("intra", -0.5)])
def test_an_option_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} is {float(value)}"):
        OBJECTIVES.build("dist", **{option: value})
