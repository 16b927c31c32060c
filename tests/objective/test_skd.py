from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.discrepancy.mahalanobis import mahalanobis
from graphkd.objective.base import Setting


def skd(student: Tensor, teacher: Tensor, **options: Any) -> dict[str, Tensor]:
    indices = torch.arange(len(student))
    outputs = [NetworkOutput(logits, [], logits) for logits in (student, teacher)]
    found: dict[str, Tensor] = OBJECTIVES.build("skd", **options)(
        DistillationBatch(*outputs, labels=indices, indices=indices)
    )
    assert set(found) == {"instance", "direction"}
    return found


def naive(student: Tensor, teacher: Tensor, ridge: float) -> Tensor:
    """The mean distance of the rows of G_s - G_t, entry by entry, of float64 logits."""
    size, classes = student.shape
    one = torch.zeros((), dtype=torch.float64)

    def cosine(logits: Tensor, i: int, j: int) -> Tensor:
        a, b = logits[i], logits[j]
        return sum((x * y for x, y in zip(a, b, strict=True)), one) / ((a * a).sum().sqrt() * (b * b).sum().sqrt())

    rows = [
        [(cosine(student, i, j) - cosine(teacher, i, j)) / classes for j in range(size)] for i in range(size)
    ]  # fmt: skip
    means = [sum((row[j] for row in rows), one) / size for j in range(size)]
    inner = [
        [sum(((row[a] - means[a]) * (row[b] - means[b]) for row in rows), one) / (size - 1) for b in range(size)]
        for a in range(size)
    ]
    for a in range(size):
        inner[a][a] = inner[a][a] + ridge
    inverse = torch.linalg.inv(torch.stack([torch.stack(row) for row in inner]))
    total = one
    for row in rows:
        square = sum((row[a] * inverse[a, b] * row[b] for a in range(size) for b in range(size)), one)
        total = total + square.sqrt()
    return total / size


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("ridge", [0.1, 1e-5])
def test_direction_equals_the_formula_with_its_gradient(size: int, classes: int, ridge: float) -> None:
    student, teacher = 2 * normal(size, size, classes), 3 * normal(size + 1, size, classes) + 1
    exact = student.double().requires_grad_()
    expected = naive(exact, teacher.double(), ridge)
    student.requires_grad_()
    found = skd(student, teacher, ridge=ridge)["direction"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    (gradient,), (reference,) = torch.autograd.grad(found, student), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-6 * reference.abs().max().item())


@given(st.integers(1, 9), st.sampled_from([2, 10, 100]), st.floats(1, 10), st.integers(0, 99))
def test_instance_is_kd(size: int, classes: int, temperature: float, seed: int) -> None:
    student, teacher = 2 * normal(seed, size, classes), 3 * normal(seed + 1, size, classes)
    total = 0.0
    for mine, theirs in zip(student.double() / temperature, teacher.double() / temperature, strict=True):
        p, q = theirs.exp() / theirs.exp().sum(), mine.exp() / mine.exp().sum()
        total += sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True))
    found = skd(student, teacher, temperature=temperature)["instance"]
    assert found.item() == pytest.approx(temperature**2 * total / size, rel=1e-4, abs=1e-6 * temperature**2)


def test_mahalanobis_is_the_norm_under_the_covariance_of_the_rows() -> None:
    rows = normal(0, 9, 4, dtype=torch.float64)
    inverse = torch.linalg.inv(torch.cov(rows.T) + 0.3 * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(mahalanobis(rows, 0.3), torch.einsum("ia,ab,ib->i", rows, inverse, rows).sqrt())


def test_direction_sees_no_sample_s_scale() -> None:
    student, teacher = normal(0, 6, 10), normal(1, 6, 10)
    scale = 1 + torch.arange(6.0)[:, None]
    torch.testing.assert_close(skd(scale * student, teacher)["direction"], skd(student, teacher)["direction"])
    assert skd(scale * teacher, teacher)["direction"].item() == pytest.approx(0, abs=1e-6)


def test_of_one_sample_direction_teaches_nothing_and_a_note_says_so() -> None:
    student = normal(0, 1, 10).requires_grad_()
    found = skd(student, normal(1, 1, 10))
    (gradient,) = torch.autograd.grad(found["direction"], student, retain_graph=True)
    assert found["direction"].item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12
    assert torch.autograd.grad(found["instance"], student)[0].any()
    objective = OBJECTIVES.build("skd")
    (note,) = objective.notes(Setting(torch.arange(20) % 10, 10, batch_size=1))
    assert "`direction` teaches nothing" in note
    assert not objective.notes(Setting(torch.arange(20) % 10, 10, batch_size=2))


@pytest.mark.parametrize("rows", ["equal", "equal to the teacher's", "zero", "large"])
def test_gradients_stay_finite_and_small(rows: str) -> None:
    teacher = normal(1, 5, 10)
    student = {
        "equal": normal(0, 1, 10).repeat(5, 1),
        "equal to the teacher's": teacher,
        "zero": torch.cat([torch.zeros(2, 10), normal(0, 3, 10)]),
        "large": 1e4 * normal(0, 5, 10),
    }[rows].requires_grad_()
    found = skd(student, teacher if rows != "large" else 1e4 * teacher)
    total = found["instance"] + found["direction"]
    (gradient,) = torch.autograd.grad(total, student)
    assert total.isfinite()
    assert gradient.abs().max() < 10, "also where a square root or a norm is 0"


def test_the_same_rows_for_all_samples_have_a_zero_direction() -> None:
    """Whose square roots are all of 0."""
    student = normal(0, 1, 10).repeat(4, 1).requires_grad_()
    found = skd(student, normal(1, 1, 10).repeat(4, 1))["direction"]
    (gradient,) = torch.autograd.grad(found, student)
    assert found.item() == pytest.approx(0, abs=1e-9)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("option", "value"), [("temperature", 0), ("ridge", 0), ("ridge", -0.5)])
def test_an_option_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} is {float(value)}"):
        OBJECTIVES.build("skd", **{option: value})


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("classes", [2, 7, 10])
def test_the_released_mask_scales_terms_by_shares_of_samples_and_classes(size: int, classes: int) -> None:
    student, teacher = normal(size, size, classes), 2 * normal(size + 1, size, classes)
    plain, masked = skd(student, teacher), skd(student, teacher, mask="released")
    probabilities = teacher.softmax(dim=1)
    of_samples = [max(row) for row in probabilities.tolist()]
    of_classes = [sum(column) for column in probabilities.T.tolist()]
    for part, confidences in (("instance", of_samples), ("direction", of_classes)):
        share = sum(value <= statistics.median(confidences) for value in confidences) / len(confidences)
        assert masked[part].item() == pytest.approx(share * plain[part].item())
