from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from golden import Golden, assert_close
from hypothesis import given
from hypothesis import strategies as st
from samples import batch, normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError


def output(map_: Tensor) -> NetworkOutput:
    return NetworkOutput(map_.flatten(1), [torch.zeros(len(map_), 2, 8, 8), map_], map_.mean((2, 3)))


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    indices = torch.arange(len(student))
    terms = OBJECTIVES.build("sp")(DistillationBatch(output(student), output(teacher), indices % 2, indices))
    assert set(terms) == {"sp"}
    loss: Tensor = terms["sp"]
    return loss


def naive(student: Tensor, teacher: Tensor) -> float:
    """The squared difference of both normalised Gram matrices over B^2, written out."""

    def similarity(map_: Tensor) -> list[list[float]]:
        rows = map_.flatten(1).tolist()
        gram = [[sum(a * b for a, b in zip(row, other, strict=True)) for other in rows] for row in rows]
        return [[value / math.sqrt(sum(each**2 for each in row)) for value in row] for row in gram]

    mine, theirs = similarity(student), similarity(teacher)
    size = range(len(student))
    return sum((mine[i][j] - theirs[i][j]) ** 2 for i in size for j in size) / len(student) ** 2


def test_equals_the_published_code() -> None:
    golden = Golden("losses")
    student = golden["student.map2"].clone().requires_grad_()
    loss = sp(student, golden["teacher.map2"])
    loss.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, golden["sp_map2.loss"])
    assert student.grad is not None
    assert_close(student.grad, golden["sp_map2.grad0"])


@given(st.integers(2, 6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_equals_the_formula(samples: int, channels: int, size: int, seed: int) -> None:
    student, teacher = normal(seed, samples, channels, size, size), normal(seed + 1, samples, 4, 2, 3)
    expected = naive(student, teacher)
    assert sp(student, teacher).item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_only_the_last_map_is_looked_at() -> None:
    some = batch(6)
    OBJECTIVES.build("sp")(some)["sp"].backward()
    assert [feature.grad is not None for feature in some.student.features] == [False, False, False, True]


def test_it_sees_no_rotation_and_no_scale() -> None:
    student, teacher = normal(0, 6, 3, 2, 2), normal(1, 6, 5, 2, 2)
    rotation = torch.linalg.qr(normal(2, 12, 12)).Q
    turned = 5 * (student.flatten(1) @ rotation).view_as(student)
    torch.testing.assert_close(sp(turned, teacher), sp(student, teacher))
    assert sp(turned, student).item() == pytest.approx(0, abs=1e-10)


def test_the_order_of_the_samples_does_not_matter() -> None:
    student, teacher = normal(0, 6, 3, 2, 2), normal(1, 6, 5, 2, 2)
    torch.testing.assert_close(sp(student.flip(0), teacher.flip(0)), sp(student, teacher))
    assert not torch.isclose(sp(student.flip(0), teacher), sp(student, teacher))


def test_one_sample_alone_is_similar_to_itself() -> None:
    assert sp(normal(0, 1, 3, 2, 2), normal(1, 1, 5, 2, 2)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_network_without_maps_is_named(side: str) -> None:
    some = batch(4)
    without = dataclasses.replace(some, **{side: getattr(some, side)._replace(features=[])})
    with pytest.raises(UserError, match=f"'sp': it needs a feature map, but the {side}'s network shows none"):
        OBJECTIVES.build("sp")(without)
