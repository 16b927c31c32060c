from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import MAPS, batch, normal
from torch import Tensor

from graphkd import MODELS, OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective import Objective

Shape = tuple[int, int, int]


def build(student: list[Shape], teacher: list[Shape], **options: Any) -> Objective:
    return OBJECTIVES.build("fsp", student_shapes=student, teacher_shapes=teacher, **options)


def loss(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    shapes = [[(maps.shape[1], maps.shape[2], maps.shape[3]) for maps in side] for side in (students, teachers)]
    (stage,) = build(*shapes).stages()
    indices = torch.arange(len(students[0]))
    nothing = torch.zeros(len(indices), 2)
    outputs = [NetworkOutput(nothing, maps, nothing) for maps in (students, teachers)]
    return stage.loss(DistillationBatch(outputs[0], outputs[1], indices, indices))


def pooled(rows: list[list[float]], side: int) -> list[list[float]]:
    """Means of square blocks."""
    block = len(rows) // side
    return [
        [
            sum(rows[block * y + dy][block * x + dx] for dy in range(block) for dx in range(block)) / block**2
            for x in range(side)
        ]
        for y in range(side)
    ]


def gram(a: Tensor, b: Tensor) -> list[float]:
    """Mean over positions of a_i b_j for all channels i, j of one sample's two maps."""
    side = min(a.shape[1], b.shape[1])
    matrix = []
    for i in a.tolist():
        for j in b.tolist():
            one, other = pooled(i, side), pooled(j, side)
            matrix.append(sum(one[y][x] * other[y][x] for y in range(side) for x in range(side)) / side**2)
    return matrix


def naive(students: list[Tensor], teachers: list[Tensor]) -> float:
    """The sum over adjacent features of the mean squared difference of Gram matrices, written out."""
    total = 0.0
    for layer in range(len(students) - 1):
        squares: list[float] = []
        for sample in range(len(students[0])):
            s, t = (gram(maps[layer][sample], maps[layer + 1][sample]) for maps in (students, teachers))
            squares += [(a - b) ** 2 for a, b in zip(s, t, strict=True)]
        total += sum(squares) / len(squares)
    return total


@settings(max_examples=15)
@given(
    size=st.integers(1, 3), channels=st.lists(st.integers(1, 3), min_size=2, max_size=4), seed=st.integers(0, 99),
    sides=st.tuples(*[st.lists(st.sampled_from([1, 2, 4]), min_size=4, max_size=4)] * 2),
)  # fmt: skip
def test_equals_the_formula(size: int, channels: list[int], seed: int, sides: tuple[list[int], list[int]]) -> None:
    students, teachers = (
        [
            normal(seed + 50 * turn + layer, size, width, side[layer], side[layer])
            for layer, width in enumerate(channels)
        ]
        for turn, side in enumerate(sides)
    )
    assert loss(students, teachers).item() == pytest.approx(naive(students, teachers), rel=1e-5)


def test_positions_may_change_places_in_all_features_at_once() -> None:
    students, teachers = ([normal(seed + turn, 2, 3, 4, 4) for turn in range(3)] for seed in (0, 10))
    turned = [map_.rot90(1, (2, 3)) for map_ in students]
    torch.testing.assert_close(loss(turned, teachers), loss(students, teachers))
    assert loss(turned, students).item() == pytest.approx(0, abs=1e-10)
    assert loss([students[0], *turned[1:]], students).item() > 1e-3


def test_the_stage_trains_the_students_body() -> None:
    torch.manual_seed(0)
    student, teacher = (MODELS.build(name, num_classes=3, widths=(4, 4, 6, 8)) for name in ("resnet8", "resnet14"))
    images, labels = normal(0, 4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    outputs = student(images), teacher(images)
    shapes = [[tuple(map_.shape[1:]) for map_ in output.features] for output in outputs]
    (stage,) = build(*shapes).stages()
    assert (stage.name, stage.epochs, stage.trains_student, stage.lr) == ("flow", 30, True, None)
    assert not stage.modules
    stage.loss(DistillationBatch(outputs[0], outputs[1], labels, labels)).backward()  # type: ignore[no-untyped-call]
    body = {name: parameter.grad is not None for name, parameter in student.named_parameters()}
    assert body == {name: not name.startswith("fc.") for name in body}
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_afterwards_there_is_no_term() -> None:
    objective = build(MAPS["student"], MAPS["student"])
    assert objective(batch(5, same_maps=True)) == {}
    assert not list(objective.parameters())


def test_a_pair_with_other_channels_is_told_both_lists() -> None:
    with pytest.raises(UserError, match=r"cannot work for this pair.*\[4, 4, 6, 8\].*\[6, 6, 8, 10\]"):
        build(MAPS["student"], MAPS["teacher"])


def test_other_sizes_do_not_matter_but_other_numbers_of_maps_do() -> None:
    build([(4, 8, 8), (6, 8, 8)], [(4, 8, 8), (6, 2, 2)])
    with pytest.raises(UserError, match=r"\[4, 6\].*\[4, 6, 6\]"):
        build([(4, 8, 8), (6, 8, 8)], [(4, 8, 8), (6, 8, 8), (6, 4, 4)])
    with pytest.raises(UserError, match="at least two"):
        build([(4, 8, 8)], [(4, 8, 8)])


def test_an_option_out_of_range_is_named() -> None:
    with pytest.raises(UserError, match="stage_epochs is 0"):
        build(MAPS["student"], MAPS["student"], stage_epochs=0)
