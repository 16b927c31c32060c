from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError

Rows = list[list[float]]


def mlkd(student: Tensor, teacher: Tensor, **options: Any) -> dict[str, Tensor]:
    objective = OBJECTIVES.build("mlkd", **options)
    indices = torch.arange(len(student) // len(objective.views))
    outputs = [NetworkOutput(logits, [], logits) for logits in (student, teacher)]
    found: dict[str, Tensor] = objective(
        DistillationBatch(*outputs, labels=indices, indices=indices, views=objective.views)
    )
    assert set(found) == {"instance", "batch", "class"}
    return found


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive(student: Rows, teacher: Rows, temperatures: tuple[float, ...], mask: str, views: int = 1) -> dict[str, float]:
    """The three sums over all views, the first ones on top, entry by entry."""
    size = len(student) // views
    sure = [softmax(row) for row in teacher[:size]]
    parts = [(rows[0], rows[1]) for rows in zip(*(split(side, size) for side in (student, teacher)), strict=True)]
    total = naive_view(*parts[0], sure, temperatures, mask)
    for second in parts[1:]:
        if mask == "released":  # no more than this, and the first view where T is 2 or 6
            for temperature in temperatures:
                chosen = parts[0] if temperature in (2, 6) else second
                total["instance"] += naive_view(*chosen, sure, (temperature,), "none")["instance"]
        else:
            more = naive_view(*second, sure, temperatures, mask)
            total = {part: total[part] + more[part] for part in total}
    return total


def split(rows: Rows, size: int) -> list[Rows]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def naive_view(
    student: Rows, teacher: Rows, sure: Rows, temperatures: tuple[float, ...], mask: str
) -> dict[str, float]:
    """The three sums of a view, masked by the teacher's probabilities `sure`."""
    size, classes = len(student), len(student[0])
    confidence = {"sample": [max(row) for row in sure], "class": [sum(column) for column in zip(*sure, strict=True)]}

    def masked(rows: list[float], kind: str) -> float:
        kept = [value <= statistics.median(confidence[kind]) for value in confidence[kind]]
        if mask == "select":
            return sum(row for row, keep in zip(rows, kept, strict=True) if keep) / len(rows)
        return sum(rows) / len(rows) * (sum(kept) / len(kept) if mask == "released" else 1)

    total = {"instance": 0.0, "batch": 0.0, "class": 0.0}
    for temperature in temperatures:
        p, q = ([softmax(row, temperature) for row in rows] for rows in (student, teacher))
        divergences = [
            temperature**2 * sum(b * math.log(b / a) for a, b in zip(*pair, strict=True))
            for pair in zip(p, q, strict=True)
        ]
        between_samples = [
            sum(
                (dot(p[i], p[j]) - dot(q[i], q[j])) ** 2 for j in range(size)
            ) for i in range(size)
        ]  # fmt: skip
        between_classes = [
            sum(
                (sum(row[a] * row[b] for row in p) - sum(row[a] * row[b] for row in q)) ** 2 for b in range(classes)
            ) for a in range(classes)
        ]  # fmt: skip
        total["instance"] += masked(divergences, "sample")
        total["batch"] += masked(between_samples, "sample")
        total["class"] += masked(between_classes, "class")
    return total


@settings(max_examples=20)
@given(
    st.sampled_from([(1, 10), (2, 10), (5, 10), (9, 10), (3, 100)]),
    st.sampled_from(["released", "select", "none"]),
    st.sampled_from([(2.0, 3.0, 4.0, 5.0, 6.0), (1.0,)]),
    st.sampled_from([("weak",), ("weak", "strong")]),
    st.integers(0, 99),
)
def test_equals_the_formula(
    shape: tuple[int, int], mask: str, temperatures: tuple[float, ...], views: tuple[str, ...], seed: int
) -> None:
    size, classes = shape[0] * len(views), shape[1]
    student, teacher = 2 * normal(seed, size, classes), 3 * normal(seed + 1, size, classes)
    found = mlkd(student, teacher, temperatures=temperatures, mask=mask, views=views)
    expected = naive(student.double().tolist(), teacher.double().tolist(), temperatures, mask, len(views))
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("mask", ["released", "select", "none"])
def test_the_gradient_is_that_of_a_small_step(mask: str) -> None:
    student, teacher = (2 * normal(0, 10, 10)).requires_grad_(), 3 * normal(1, 10, 10)
    direction = normal(2, 10, 10, dtype=torch.float64)
    for name, term in mlkd(student, teacher, mask=mask).items():
        (gradient,) = torch.autograd.grad(term, student, retain_graph=True)
        ahead, behind = (
            naive((student.double() + step * direction).tolist(), teacher.double().tolist(), (2, 3, 4, 5, 6), mask, 2)
            for step in (1e-5, -1e-5)
        )
        slope = (ahead[name] - behind[name]) / 2e-5
        assert float((gradient.double() * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_select_leaves_out_what_the_teacher_is_sure_of() -> None:
    student, teacher = normal(0, 4, 10).requires_grad_(), torch.tensor([9.0, 0.1, 0.2, 8.0])[:, None] * torch.eye(4, 10)
    instance = mlkd(student, teacher, mask="select", views=("weak",))["instance"]
    (gradient,) = torch.autograd.grad(instance, student)
    assert gradient.any(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("mask", ["released", "select"])
def test_equal_rows_and_large_logits_stay_finite(scale: float, mask: str) -> None:
    student = (scale * normal(0, 1, 10)).repeat(6, 1).requires_grad_()
    total = torch.stack(list(mlkd(student, (scale * normal(1, 1, 10)).repeat(6, 1), mask=mask).values())).sum()
    (gradient,) = torch.autograd.grad(total, student)
    assert total.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperatures": ()}, "temperatures is empty"),
        ({"temperatures": (2.0, 0.0)}, "temperatures has 0.0"),
        ({"views": ("weak", "weak")}, "views is .*each once"),
        ({"mask": "paper"}, "option 'mask'.*one of released, select, none"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        OBJECTIVES.build("mlkd", **options)
