from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import BUILDERS, OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.base import Setting

Rows = list[list[float]]
BUILT: dict[str, dict[str, Any]] = {"virtual": {}, "knn": {"k": 2}, "label_aware": {}, "self_only": {}}


def vrm(
    student: Tensor, teacher: Tensor, builder: str = "virtual", diagnostics: dict[str, Tensor] | None = None,
    **options: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """The terms of logits [2 B, C], real views first; sample i is of class i mod 2."""
    indices = torch.arange(len(student) // 2)
    outputs = [NetworkOutput(logits, [], logits) for logits in (student, teacher)]
    built = BUILDERS.build(builder, **BUILT[builder])
    found: dict[str, Tensor] = OBJECTIVES.build("vrm", builder=built, **options)(
        DistillationBatch(
            *outputs, labels=indices % 2, indices=indices, views=("weak", "strong"), diagnostics=diagnostics
        )
    )
    assert set(found) == {"samples", "classes"}
    return found


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def z_scores(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    std = math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
    return [(value - mean) / (std + 1e-7) for value in row]


def edge(a: list[float], b: list[float]) -> list[float]:
    norm = math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    return [(x - y) / max(norm, 1e-3) for x, y in zip(a, b, strict=True)]


def huber(a: list[float], b: list[float], delta: float) -> float:
    gaps = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return sum(gap**2 / 2 if gap <= delta else delta * (gap - delta / 2) for gap in gaps)


def naive_pairs(teacher: Rows, builder: str) -> list[tuple[int, int]]:
    """Real and virtual sample of each edge."""
    size = len(teacher) // 2
    everybody = [(i, j) for i in range(size) for j in range(size)]
    if builder == "label_aware":
        return [(i, j) for i, j in everybody if i % 2 == j % 2]
    if builder == "self_only":
        return [(i, i) for i in range(size)]
    if builder == "virtual":
        return everybody
    p = [softmax(row) for row in teacher[:size]]
    cosine = [[sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b) for b in p] for a in p]
    nearest = {i: sorted(set(range(size)) - {i}, key=lambda j, i=i: -cosine[i][j])[:1] for i in range(size)}
    return [(i, j) for i in range(size) for j in (i, *nearest[i])]


def kept_pairs(student: Rows, teacher: Rows, builder: str, prune: float | None) -> list[tuple[int, int]]:
    """The pairs that are reliable."""
    size, classes = len(student) // 2, len(student[0])
    entropy = [-sum(p * math.log(p) for p in softmax(row) if p > 0) for row in student]
    return [
        (i, j)
        for i, j in naive_pairs(teacher, builder)
        if prune is None or entropy[i] + entropy[size + j] <= prune * 2 * math.log(classes)
    ]


def naive(student: Rows, teacher: Rows, builder: str, delta: float, prune: float | None) -> dict[str, float]:
    """Edge by edge."""
    size, classes = len(student) // 2, len(student[0])
    s, t = [z_scores(row) for row in student], [z_scores(row) for row in teacher]
    losses = [
        huber(edge(s[i], s[size + j]), edge(t[i], t[size + j]), delta)
        for i, j in kept_pairs(student, teacher, builder, prune)
    ]
    s_columns, t_columns = ([[row[c] for row in rows] for c in range(classes)] for rows in (s, t))
    of_classes = [
        huber(edge(s_columns[a], s_columns[b]), edge(t_columns[a], t_columns[b]), delta)
        for a in range(classes)
        for b in range(classes)
        if a != b
    ]
    return {"samples": sum(losses) / max(len(losses), 1), "classes": sum(of_classes) / len(of_classes)}


@settings(max_examples=25)
@given(
    st.sampled_from([(1, 10), (2, 10), (5, 10), (9, 10), (3, 50)]), st.sampled_from(sorted(BUILT)),
    st.sampled_from([1.0, 0.1]), st.sampled_from([None, 0.9, 0.5, 0.3]), st.integers(0, 99),
)  # fmt: skip
def test_equals_the_formula(shape: tuple[int, int], builder: str, delta: float, prune: float | None, seed: int) -> None:
    size, classes = shape
    student, teacher = 2 * normal(seed, 2 * size, classes), 3 * normal(seed + 1, 2 * size, classes)
    found = vrm(student, teacher, builder, delta=delta, prune_unreliable=prune)
    expected = naive(student.double().tolist(), teacher.double().tolist(), builder, delta, prune)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("builder", ["virtual", "knn"])
def test_the_gradient_is_that_of_a_small_step(builder: str) -> None:
    student, teacher = (2 * normal(0, 8, 10)).requires_grad_(), 3 * normal(1, 8, 10)
    direction = normal(2, 8, 10, dtype=torch.float64)
    for name, term in vrm(student, teacher, builder, prune_unreliable=0.8).items():
        (gradient,) = torch.autograd.grad(term, student, retain_graph=True)
        ahead, behind = (
            naive((student.double() + step * direction).tolist(), teacher.double().tolist(), builder, 1.0, 0.8)[name]
            for step in (1e-5, -1e-5)
        )
        slope = (ahead - behind) / 2e-5
        assert float((gradient.double() * direction).sum()) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_equal_views_give_no_gradient_of_rounding() -> None:
    """An image that RandAugment leaves as it is: its edge to itself has no direction."""
    teacher = normal(0, 1, 10).repeat(2, 1)
    student = (normal(1, 1, 10).repeat(2, 1) + 1e-7 * normal(2, 2, 10)).requires_grad_()
    term = vrm(student, teacher, prune_unreliable=None)["samples"]
    (gradient,) = torch.autograd.grad(term, student)
    assert term.item() < 1e-6
    assert gradient.abs().max() < 1


def test_is_nothing_where_student_and_teacher_agree() -> None:
    logits = 3 * normal(0, 10, 10)
    assert all(term.item() == pytest.approx(0, abs=1e-9) for term in vrm(logits, logits.clone()).values())


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_equal_rows_and_large_logits_stay_finite(scale: float) -> None:
    student = (scale * normal(0, 1, 10)).repeat(6, 1).requires_grad_()
    total = torch.stack(list(vrm(student, (scale * normal(1, 1, 10)).repeat(6, 1)).values())).sum()
    (gradient,) = torch.autograd.grad(total, student)
    assert total.isfinite()
    assert gradient.isfinite().all()


def test_where_all_edges_are_unreliable_samples_teach_nothing() -> None:
    student = (0.01 * normal(0, 8, 10)).requires_grad_()
    term = vrm(student, normal(1, 8, 10), prune_unreliable=0.9)["samples"]
    (gradient,) = torch.autograd.grad(term, student)
    assert term.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("builder", ["virtual", "label_aware"])
@pytest.mark.parametrize("prune", [None, 0.5, 0.01])
def test_the_diagnostics_are_those_of_the_edges_that_are_matched(builder: str, prune: float | None) -> None:
    student, teacher = 2 * normal(0, 10, 10), 3 * normal(1, 10, 10)
    found: dict[str, Tensor] = {}
    vrm(student, teacher, builder, found, prune_unreliable=prune)
    pairs = [(i, j) for i, j in kept_pairs(student.double().tolist(), teacher.tolist(), builder, prune) if i != j]
    assert found["teacher_degree"] == pytest.approx(len(pairs) / 5)
    same = sum(i % 2 == j % 2 for i, j in pairs) / len(pairs) if pairs else math.nan
    assert found["teacher_homophily"] == pytest.approx(same, nan_ok=True)


def test_two_classes_are_told() -> None:
    objective = OBJECTIVES.build("vrm", builder=BUILDERS.build("virtual"))
    (note,) = objective.notes(Setting(torch.arange(20) % 2, 2, 8))
    assert "two classes" in note
    assert not objective.notes(Setting(torch.arange(20) % 3, 3, 8))


@pytest.mark.parametrize(
    ("builder", "options", "said"),
    [
        ("virtual", {"delta": 0.0}, "delta is 0.0"),
        ("virtual", {"prune_unreliable": 1.0}, "prune_unreliable is 1.0.*null or between 0 and 1"),
        ("bank_knn", {}, "no feature bank"),
    ],
)
def test_an_option_out_of_range_is_named(builder: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        OBJECTIVES.build("vrm", builder=BUILDERS.build(builder), **options)
