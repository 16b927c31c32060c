from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from golden import Golden, assert_close
from hypothesis import given
from hypothesis import strategies as st
from samples import WIDTHS, batch, normal
from torch import Tensor

from graphkd import OBJECTIVES, UserError
from graphkd.objective.cc import CC, congruence


def cc(dim: int = 8) -> CC:
    torch.manual_seed(0)
    objective = OBJECTIVES.build("cc", student_dim=WIDTHS["student"], teacher_dim=WIDTHS["teacher"], dim=dim)
    assert isinstance(objective, CC)
    return objective


def naive(student: Tensor, teacher: Tensor) -> float:
    """Mean over i of sum_c d_i d_{i+1}, d = |s - t|, written out."""
    differences = [
        [abs(mine - theirs) for mine, theirs in zip(*rows, strict=True)]
        for rows in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    sums = [sum(a * b for a, b in zip(*rows, strict=True)) for rows in pairwise(differences)]
    return sum(sums) / len(sums)


def test_equals_the_published_code() -> None:
    golden = Golden("losses")
    student = golden["student.vector"].clone().requires_grad_()
    loss = congruence(student, golden["teacher.vector32"])
    (gradient,) = torch.autograd.grad(loss, student)
    assert_close(loss, golden["cc_vector32.loss"])
    assert_close(gradient, golden["cc_vector32.grad0"])


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 99))
def test_equals_the_formula_behind_its_heads(size: int, dim: int, seed: int) -> None:
    objective, some = cc(dim), batch(size, seed)
    assert some.teacher is not None
    student, teacher = objective.student_head(some.student.embedding), objective.teacher_head(some.teacher.embedding)
    assert objective(some)["cc"].item() == pytest.approx(naive(student, teacher), rel=1e-4)


def test_is_nothing_where_every_other_sample_agrees() -> None:
    student, teacher = normal(0, 6, 4), normal(1, 6, 4)
    student[::2] = teacher[::2]
    assert congruence(student, teacher) == 0
    assert congruence(teacher[:1], student[1:2]) == 0, "a batch of one has no neighbours"


def test_both_heads_are_trained() -> None:
    objective = cc()
    objective(batch(6))["cc"].backward()
    for head in (objective.student_head, objective.teacher_head):
        assert head.weight.grad is not None
        assert head.weight.grad.any()


def test_a_width_out_of_range_is_named() -> None:
    with pytest.raises(UserError, match="dim is 0"):
        cc(dim=0)
