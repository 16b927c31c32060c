from __future__ import annotations

import pytest
import torch
from golden import Golden, assert_close
from hypothesis import given
from hypothesis import strategies as st
from samples import MAPS, normal
from torch import Tensor

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError


def output(maps: list[Tensor]) -> NetworkOutput:
    """The maps behind a stem that is of no interest."""
    return NetworkOutput(maps[-1].flatten(1), [maps[0], *maps], maps[-1].mean((2, 3)))


def nst(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    outputs = output(student), output(teacher)
    shapes = [[(f.shape[1], f.shape[2], f.shape[3]) for f in each.features] for each in outputs]
    objective = OBJECTIVES.build("nst", student_shapes=shapes[0], teacher_shapes=shapes[1])
    indices = torch.arange(len(student[0]))
    terms = objective(DistillationBatch(*outputs, labels=indices % 2, indices=indices))
    assert set(terms) == {"nst"}
    loss: Tensor = terms["nst"]
    return loss


def naive(student: Tensor, teacher: Tensor) -> float:
    """One map: MMD^2 with each kernel value by itself, mean over the samples."""

    def kernel(some: Tensor, others: Tensor) -> float:
        values = [
            (torch.dot(a, b) / (a.norm() * b.norm())).item() ** 2
            for a in some.flatten(1).double()
            for b in others.flatten(1).double()
        ]
        return sum(values) / len(values)

    found = [kernel(s, s) + kernel(t, t) - 2 * kernel(s, t) for s, t in zip(student, teacher, strict=True)]
    return sum(found) / len(found)


def test_equals_the_published_code() -> None:
    golden = Golden("losses")
    student = [golden[f"student.map{index}"].clone().requires_grad_() for index in range(3)]
    loss = nst(student, [golden[f"teacher.map{index}"] for index in range(3)])
    loss.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, golden["nst_maps.loss"])
    for index, map_ in enumerate(student):
        assert map_.grad is not None
        assert_close(map_.grad, golden[f"nst_maps.grad{index}"])


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_equals_the_formula(samples: int, channels: int, others: int, size: int, seed: int) -> None:
    """More channels than positions and fewer: both ways to sum the kernel."""
    student = [normal(seed, samples, channels, size, 2), normal(seed + 1, samples, 3, 1, 2)]
    teacher = [normal(seed + 50, samples, others, size, 2), normal(seed + 51, samples, 3, 1, 2)]
    expected = sum(naive(mine, theirs) for mine, theirs in zip(student, teacher, strict=True))
    assert nst(student, teacher).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("size", [2, 8])
def test_is_nothing_where_the_channels_are_distributed_alike(size: int) -> None:
    student = normal(0, 3, 6, size, size)
    for teacher in (student, student.flip(1), -4 * student, student.repeat(1, 2, 1, 1)):
        assert nst([student], [teacher]).item() == pytest.approx(0, abs=1e-6)
    assert nst([student], [student[:, :3]]).item() > 1e-3


def test_the_larger_map_is_pooled() -> None:
    large, small = normal(0, 3, 4, 8, 8), normal(1, 3, 5, 4, 4)
    pooled = large.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    assert nst([large], [small]).item() == pytest.approx(naive(pooled, small), rel=1e-4)
    assert nst([small], [large]).item() == pytest.approx(naive(small, pooled), rel=1e-4)


@pytest.mark.parametrize("size", [2, 8])
def test_dead_channels_give_no_nan(size: int) -> None:
    student = normal(0, 2, 6, size, size)
    student[:, 1] = 0
    student.requires_grad_()
    loss = nst([student], [torch.zeros(2, 6, size, size)])
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_unequally_many_maps_are_named() -> None:
    with pytest.raises(UserError, match=r"objective 'nst'.* student has 3 and the teacher 2"):
        OBJECTIVES.build("nst", student_shapes=MAPS["student"], teacher_shapes=MAPS["teacher"][:3])
