"""Discrepancies equal their formulas written as loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from samples import normal
from torch import Tensor

from graphkd import DISCREPANCIES, UserError


def relations(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape, dtype=torch.float64)


def compare(name: str, student: Tensor, teacher: Tensor, **options: Any) -> float:
    return float(DISCREPANCIES.build(name, **options).compare(student, teacher))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
@pytest.mark.parametrize("over", ["entries", "rows"])
def test_l2_and_huber_are_means_over_entries_or_rows(shape: tuple[int, ...], over: str) -> None:
    student, teacher = relations(0, *shape), relations(1, *shape)
    differences = [abs(a - b) for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    number = len(differences) if over == "entries" else 4
    squares = [d * d for d in differences]
    huber = [d * d / 2 if d < 0.5 else 0.5 * (d - 0.25) for d in differences]
    assert compare("l2", student, teacher, over=over) == pytest.approx(sum(squares) / number)
    assert compare("huber", student, teacher, over=over, delta=0.5) == pytest.approx(sum(huber) / number)


@pytest.mark.parametrize(("over", "number"), [("entries", 16), ("rows", 4)])
def test_kl_is_the_teachers_expectation(over: str, number: int) -> None:
    student, teacher = relations(0, 4, 4).softmax(1), relations(1, 4, 4).softmax(1)
    pairs = zip(teacher.flatten().tolist(), student.flatten().tolist(), strict=True)
    expected = sum(t * math.log((t + 1e-3) / (s + 1e-3)) for t, s in pairs) / number
    assert compare("kl", student, teacher, over=over, eps=1e-3) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_cosine_is_that_of_rows(shape: tuple[int, ...]) -> None:
    student, teacher = relations(0, *shape), relations(1, *shape)
    total = 0.0
    for a, b in zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True):
        total += sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    assert compare("cosine", student, teacher) == pytest.approx(1 - total / 4)


def test_mahalanobis_is_the_norm_under_the_covariance_of_the_differences() -> None:
    student, teacher = relations(0, 6, 6), relations(1, 6, 6)
    rows = student - teacher
    inverse = torch.linalg.inv(torch.cov(rows.T) + 0.3 * torch.eye(6, dtype=torch.float64))
    expected = torch.stack([(row @ inverse @ row).sqrt() for row in rows]).mean()
    assert compare("mahalanobis", student, teacher, ridge=0.3) == pytest.approx(float(expected))


@pytest.mark.parametrize(("name", "option"), [("huber", "delta"), ("kl", "eps"), ("mahalanobis", "ridge")])
def test_an_option_that_is_not_positive_is_named(name: str, option: str) -> None:
    with pytest.raises(UserError, match=rf"{option} is 0\.0, but must be positive"):
        DISCREPANCIES.build(name, **{option: 0})
