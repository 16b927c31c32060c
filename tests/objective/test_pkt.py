from __future__ import annotations

import math

import pytest
import torch
from golden import TOLERANCE, Golden, assert_close
from hypothesis import given
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    indices = torch.arange(len(student))
    outputs = [NetworkOutput(embedding, [], embedding) for embedding in (student, teacher)]
    found = OBJECTIVES.build("pkt")(DistillationBatch(*outputs, labels=indices, indices=indices))
    assert set(found) == {"pkt"}
    loss: Tensor = found["pkt"]
    return loss


def vectorised(student: Tensor, teacher: Tensor) -> Tensor:
    """The formula in the precision of its input."""
    tables = []
    for rows in (student, teacher):
        unit = rows / (rows.square().sum(1, keepdim=True).sqrt() + 1e-7)
        tables.append((unit @ unit.T + 1) / 2)
    mine, theirs = (table / table.sum(1, keepdim=True) for table in tables)
    return (theirs * torch.log((theirs + 1e-7) / (mine + 1e-7))).mean()


def naive(student: Tensor, teacher: Tensor) -> float:
    """The formula as loops over pairs."""

    def probabilities(rows: list[list[float]]) -> list[list[float]]:
        def closeness(one: list[float], other: list[float]) -> float:
            product = sum(a * b for a, b in zip(one, other, strict=True))
            return (product / (math.hypot(*one) + 1e-7) / (math.hypot(*other) + 1e-7) + 1) / 2

        table = [[closeness(one, other) for other in rows] for one in rows]
        return [[value / sum(row) for value in row] for row in table]

    total = 0.0
    for mine, theirs in zip(*(probabilities(side.double().tolist()) for side in (student, teacher)), strict=True):
        total += sum(t * math.log((t + 1e-7) / (s + 1e-7)) for s, t in zip(mine, theirs, strict=True))
    return total / len(student) ** 2


def test_equals_the_published_code() -> None:
    golden = Golden("losses")
    student, teacher = golden["student.vector"].clone().requires_grad_(), golden["teacher.vector"]
    loss = pkt(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    single, exact = vectorised(student, teacher), vectorised(student.double(), teacher.double())
    noise = abs(single.item() / exact.item() - 1)
    assert noise < 1e-4
    assert_close(loss, golden["pkt_vector.loss"], max(TOLERANCE, 4 * noise))
    assert_close(gradient, golden["pkt_vector.grad0"])


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_equals_the_formula(size: int, width: int, seed: int) -> None:
    student, teacher = normal(seed, size, width), normal(seed + 1, size, 2 * width)
    assert pkt(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-6, abs=1e-12)


def test_is_exact_where_student_and_teacher_almost_agree() -> None:
    teacher = normal(0, 64, 32)
    student = teacher + 1e-2 * normal(1, 64, 32)
    assert pkt(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-6)


def test_is_nothing_where_the_directions_agree() -> None:
    teacher = normal(0, 8, 5)
    lengths = 1 + torch.arange(8.0)[:, None]
    assert pkt(lengths * teacher, teacher).item() == pytest.approx(0, abs=1e-7)


def test_zero_vectors_have_finite_gradients() -> None:
    student = normal(0, 4, 3)
    student[1] = 0
    student.requires_grad_()
    loss = pkt(student, normal(1, 4, 3))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_is_not_rounded_under_autocast() -> None:
    student, teacher = normal(0, 8, 5), normal(1, 8, 5)
    expected = pkt(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pkt(student, teacher), expected)
