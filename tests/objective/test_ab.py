from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import MAPS, batch, normal
from torch import Tensor, nn

from graphkd import MODELS, OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.ab import AB
from graphkd.objective.maps import ConvRegressor

Shape = tuple[int, int, int]


def build(student: list[Shape] = MAPS["student"], teacher: list[Shape] = MAPS["teacher"], **options: Any) -> AB:
    torch.manual_seed(0)
    objective = OBJECTIVES.build("ab", student_shapes=student, teacher_shapes=teacher, **options)
    assert isinstance(objective, AB)
    return objective


def preactivated(student: list[Tensor], teacher: list[Tensor]) -> DistillationBatch:
    """A batch in which only the pre-activations matter."""
    indices = torch.arange(len(student[0]))
    nothing = torch.zeros(len(indices), 2)
    outputs = [NetworkOutput(nothing, maps, nothing, maps) for maps in (student, teacher)]
    return DistillationBatch(outputs[0], outputs[1], indices, indices)


def loss(objective: AB, some: DistillationBatch) -> Tensor:
    (stage,) = objective.stages()
    return stage.loss(some)


def naive(students: list[Tensor], teachers: list[Tensor], margin: float) -> float:
    """The benchmark's sum over maps, written out by elements; the maps are those behind the stem."""
    total = 0.0
    for number, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        one_map = 0.0
        for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
            if s > -margin and t <= 0:
                one_map += (s + margin) ** 2
            if s <= margin and t > 0:
                one_map += (s - margin) ** 2
        total += 2 ** (number - len(students) + 1) * one_map / len(student) / 1000 * 3
    return total


@settings(max_examples=30)
@given(
    size=st.integers(1, 4), maps=st.integers(1, 3), side=st.integers(1, 4), margin=st.floats(0.1, 3),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_formula(size: int, maps: int, side: int, margin: float, seed: int) -> None:
    shapes: list[Shape] = [(2, side, side)] * (maps + 1)
    students = [2 * normal(seed + turn, size, *shape) for turn, shape in enumerate(shapes)]
    teachers = [normal(seed + 50 + turn, size, *shape) for turn, shape in enumerate(shapes)]
    found = loss(build(shapes, shapes, margin=margin), preactivated(students, teachers))
    assert found.item() == pytest.approx(naive(students[1:], teachers[1:], margin), rel=1e-5)


def test_other_shapes_go_through_connectors() -> None:
    some, objective = batch(5), build()
    assert some.teacher is not None
    maps = some.student.preactivations, some.teacher.preactivations
    assert maps[0] is not None
    assert maps[1] is not None
    connected = [connector(map_) for connector, map_ in zip(objective.connectors, maps[0][1:], strict=True)]
    assert all(map_.min() < 0 for map_ in connected), "without ReLU"
    assert loss(objective, some).item() == pytest.approx(naive(connected, maps[1][1:], 1.0), rel=1e-5)


def test_there_is_a_connector_where_shapes_differ() -> None:
    student = [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 4, 4)]
    teacher = [(9, 8, 8), (4, 8, 8), (7, 4, 4), (8, 2, 2)]
    kinds = [type(connector) for connector in build(student, teacher).connectors]
    assert kinds == [nn.Identity, ConvRegressor, ConvRegressor]


def test_is_nothing_behind_the_margin_on_the_teachers_side() -> None:
    teacher = normal(0, 3, 2, 4, 4)
    shapes: list[Shape] = [(2, 4, 4)] * 2
    agreeing, opposed = 1.01 * teacher.sign(), -1.01 * teacher.sign()
    objective = build(shapes, shapes)
    assert loss(objective, preactivated([teacher, agreeing], [teacher, teacher])).item() == 0
    assert loss(objective, preactivated([teacher, opposed], [teacher, teacher])).item() > 0


def test_of_the_teacher_the_side_of_zero_counts_alone() -> None:
    student, teacher = normal(0, 3, 2, 4, 4), normal(1, 3, 2, 4, 4)
    shapes: list[Shape] = [(2, 4, 4)] * 2
    found = [
        loss(build(shapes, shapes), preactivated([student] * 2, [scale * teacher] * 2)) for scale in (0.01, 1, 100)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_stage_trains_connectors_and_the_students_body() -> None:
    torch.manual_seed(0)
    student = MODELS.build("resnet8", num_classes=3, widths=(4, 4, 6, 8))
    teacher = MODELS.build("resnet8", num_classes=3, widths=(4, 6, 6, 8))
    images, labels = normal(0, 4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    outputs = student(images), teacher(images)
    shapes = [[tuple(map_.shape[1:]) for map_ in output.features] for output in outputs]
    objective = build(*shapes)
    (stage,) = objective.stages()
    assert (stage.name, stage.epochs, stage.trains_student, stage.lr) == ("boundaries", 30, True, None)
    stage.loss(DistillationBatch(outputs[0], outputs[1], labels, labels)).backward()  # type: ignore[no-untyped-call]
    body = {name: parameter.grad is not None for name, parameter in student.named_parameters()}
    assert body == {name: not name.startswith("fc.") for name in body}
    assert all(p.grad is not None for module in stage.modules for p in module.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_afterwards_nothing_is_left_to_train() -> None:
    objective = build()
    objective.freeze()
    assert objective(batch(5)) == {}
    assert not any(group["params"] for group in objective.parameter_groups())


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_network_without_preactivations_is_named(side: str) -> None:
    some = batch(5)
    without = dataclasses.replace(some, **{side: getattr(some, side)._replace(preactivations=None)})
    with pytest.raises(UserError, match=f"pre-activations, but the {side}"):
        loss(build(), without)


def test_unequal_numbers_of_maps_are_an_error() -> None:
    with pytest.raises(UserError, match=r"'ab'.*student has 2 and the teacher 3"):
        build(student=MAPS["student"][:-1])


def test_maps_that_no_connector_joins_are_an_error() -> None:
    with pytest.raises(UserError, match="'ab': layer 1"):
        build([(4, 8, 8), (4, 2, 2)], [(4, 8, 8), (4, 8, 8)])


@pytest.mark.parametrize(("option", "value"), [("margin", 0.0), ("stage_epochs", 0)])
def test_an_option_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}"):
        build(**{option: value})
