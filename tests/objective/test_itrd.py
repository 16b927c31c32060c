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
from graphkd.objective.base import Setting
from graphkd.objective.itrd import ITRD


def itrd(student_dim: int, teacher_dim: int, **options: Any) -> ITRD:
    objective = OBJECTIVES.build("itrd", student_dim=student_dim, teacher_dim=teacher_dim, **options)
    assert isinstance(objective, ITRD)
    return objective


def terms_of(objective: ITRD, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    indices = torch.arange(len(student))
    outputs = [NetworkOutput(embedding, [], embedding) for embedding in (student, teacher)]
    terms = objective(DistillationBatch(*outputs, labels=indices, indices=indices))
    assert list(terms) == ["correlation", "mutual"]
    return terms


def embedded(objective: ITRD, student: Tensor) -> Tensor:
    """What the objective's linear layer makes of an embedding, in float64."""
    state = {name: value.double() for name, value in objective.state_dict().items()}
    return student.double() @ state["embed.weight"].T + state["embed.bias"]


def as_identity(objective: ITRD) -> ITRD:
    with torch.no_grad():
        torch.nn.init.eye_(objective.embed.weight)
        objective.embed.bias.zero_()
    return objective


def naive_correlation(student: list[list[float]], teacher: list[list[float]], alpha: float) -> float:
    """Feature by feature: Pearson's correlation by B where the standard deviations are by B - 1."""
    samples, total = len(student), 0.0
    for mine, theirs in zip(zip(*student, strict=True), zip(*teacher, strict=True), strict=True):
        correlation = 0.0
        if samples > 1:
            means, spreads = [[f(column) for column in (mine, theirs)] for f in (statistics.mean, statistics.stdev)]
            for a, b in zip(mine, theirs, strict=True):
                correlation += (a - means[0]) / spreads[0] * (b - means[1]) / spreads[1] / samples
        total += (abs(correlation - 1) ** 2) ** alpha
    return math.log2(total)


def naive_mutual(student: list[list[float]], teacher: list[list[float]]) -> float:
    """Both Gram matrices entry by entry."""

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)

    size = range(len(student))
    alone = [[cosine(student[i], student[j]) for j in size] for i in size]
    joint = [[alone[i][j] * cosine(teacher[i], teacher[j]) for j in size] for i in size]
    traces = [sum(gram[i][i] for i in size) for gram in (alone, joint)]
    return sum((alone[i][j] / traces[0]) ** 2 - (joint[i][j] / traces[1]) ** 2 for i in size for j in size)


@settings(max_examples=20)
@given(
    st.sampled_from([1, 2, 3, 7, 9]), st.sampled_from([10, 100]), st.booleans(), st.sampled_from([1.01, 0.5, 1.5]),
    st.integers(0, 99),
)  # fmt: skip
def test_equals_the_formula(samples: int, width: int, same_width: bool, alpha: float, seed: int) -> None:
    torch.manual_seed(seed)
    student, teacher = normal(seed, samples, width if same_width else 12), normal(seed + 1, samples, width)
    objective = itrd(student.shape[1], width, alpha=alpha)
    mapped, theirs = embedded(objective, student).tolist(), teacher.double().tolist()
    expected = {
        "correlation": naive_correlation(mapped, theirs, alpha),
        "mutual": naive_mutual(student.double().tolist() if same_width else mapped, theirs),
    }
    found = {name: term.item() for name, term in terms_of(objective, student, teacher).items()}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_student_like_the_teacher_has_the_least_correlation_term() -> None:
    samples, width = 9, 6
    teacher = normal(0, samples, width)
    objective = as_identity(itrd(width, width, alpha=1.5))
    found = terms_of(objective, 3 * teacher + 2, teacher)["correlation"].item()
    assert found == pytest.approx(math.log2(width * (1 / samples) ** 3), rel=1e-4)
    assert found < terms_of(objective, normal(1, samples, width), teacher)["correlation"].item()


def test_equal_rows_have_no_correlation_and_finite_gradients() -> None:
    width = 5
    objective = itrd(4, width)
    student, teacher = normal(0, 1, 4).expand(7, 4).clone().requires_grad_(), normal(1, 7, width)
    terms = terms_of(objective, student, teacher)
    assert terms["correlation"].item() == pytest.approx(math.log2(width))
    (of_correlation,) = torch.autograd.grad(terms["correlation"], student, retain_graph=True)
    (of_mutual,) = torch.autograd.grad(terms["mutual"], student)
    assert not of_correlation.any()
    assert of_mutual.isfinite().all()
    assert of_mutual.abs().max() < 10


def test_a_feature_that_is_constant_in_the_teacher_counts_as_uncorrelated() -> None:
    objective = itrd(4, 5)
    student, teacher = normal(0, 7, 4).requires_grad_(), normal(1, 7, 5)
    teacher[:, 1], teacher[:, 3] = 0.0, 0.1
    terms = terms_of(objective, student, teacher)
    without = [0, 2, 4]
    mapped, theirs = embedded(objective, student.detach())[:, without], teacher.double()[:, without]
    expected = math.log2(2 + 2 ** naive_correlation(mapped.tolist(), theirs.tolist(), objective.alpha))
    assert terms["correlation"].item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(sum(terms.values(), torch.zeros(())), student)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_row_of_zeros_is_similar_to_none(side: str) -> None:
    rows = {"student": normal(0, 7, 5), "teacher": normal(1, 7, 5)}
    rows[side][2] = 0.0
    rows["student"].requires_grad_()
    mutual = terms_of(itrd(5, 5), rows["student"], rows["teacher"])["mutual"]
    (gradient,) = torch.autograd.grad(mutual, rows["student"])
    assert mutual.isfinite()
    assert gradient.abs().max() < 10
    if side == "student":
        others = [0, 1, 3, 4, 5, 6]
        expected = naive_mutual(*(rows[each][others].double().tolist() for each in ("student", "teacher")))
        assert mutual.item() == pytest.approx(expected, rel=1e-4)
        assert not gradient[2].any()


def note(objective: ITRD, batch_size: int) -> str:
    """What it says before a training with such batches."""
    return " ".join(objective.notes(Setting(torch.arange(50) % 5, 5, batch_size)))


def test_one_sample_teaches_nothing() -> None:
    objective = itrd(4, 5)
    assert "one sample" in note(objective, 1)
    student = normal(0, 1, 4).requires_grad_()
    terms = terms_of(objective, student, normal(1, 1, 5))
    assert terms["correlation"].item() == pytest.approx(math.log2(5))
    assert terms["mutual"].item() == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(sum(terms.values(), torch.zeros(())), student)
    assert gradient.abs().max() < 1e-5


def test_two_samples_teach_no_correlation() -> None:
    objective = itrd(4, 5)
    assert "`correlation` teaches nothing" in note(objective, 2)
    assert not note(objective, 3)
    for samples, teaches in ((2, {"mutual"}), (3, {"correlation", "mutual"})):
        student = normal(0, samples, 4).requires_grad_()
        terms = terms_of(objective, student, normal(1, samples, 5))
        gradients = {name: torch.autograd.grad(term, student, retain_graph=True)[0] for name, term in terms.items()}
        assert {name for name, gradient in gradients.items() if gradient.abs().max() > 1e-4} == teaches


@pytest.mark.parametrize("alpha", [0.0, -1.5])
def test_an_alpha_out_of_range_is_named(alpha: float) -> None:
    with pytest.raises(UserError, match=f"objective 'itrd': alpha is {alpha}, but must be positive"):
        itrd(4, 5, alpha=alpha)
