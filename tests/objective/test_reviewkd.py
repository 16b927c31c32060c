from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import MAPS, WIDTHS, batch, normal
from torch import Tensor, nn

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, Progress, UserError
from graphkd.objective.reviewkd import ReviewKD

Shape = tuple[int, int, int]
FULL = {"ramp_epochs": 1}
"""Without a ramp."""


def build(
    student: list[Shape] = MAPS["student"], teacher: list[Shape] = MAPS["teacher"],
    dims: tuple[int, int] = (WIDTHS["student"], WIDTHS["teacher"]), **options: Any,
) -> ReviewKD:  # fmt: skip
    torch.manual_seed(0)
    objective = OBJECTIVES.build(
        "reviewkd", student_dim=dims[0], teacher_dim=dims[1], student_shapes=student, teacher_shapes=teacher, **options
    )
    assert isinstance(objective, ReviewKD)
    return objective


def normed(module: Any, x: Tensor) -> Tensor:
    """A convolution without bias, then BatchNorm on the batch's own figures, in float64."""
    x = F.conv2d(x, module[0].weight.double(), padding=module[0].kernel_size[0] // 2)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    return x * module[1].weight.double().view(1, -1, 1, 1) + module[1].bias.double().view(1, -1, 1, 1)


def nearest(map_: Tensor, side: int) -> Tensor:
    places = [position * map_.shape[2] // side for position in range(side)]
    return map_[:, :, places][:, :, :, places]


def block_means(map_: Tensor, side: int) -> Tensor:
    samples, channels, size, _ = map_.shape
    return map_.view(samples, channels, side, size // side, side, size // side).mean((3, 5))


def hierarchical(student: Tensor, teacher: Tensor) -> float:
    side = student.shape[2]
    pairs = [(student, teacher)]
    pairs += [(block_means(student, to), block_means(teacher, to)) for to in (4, 2, 1) if to < side]
    weights = [1, 1 / 2, 1 / 4, 1 / 8][: len(pairs)]
    losses = [(s - t).square().mean().item() for s, t in pairs]
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)


def naive(objective: ReviewKD, students: list[Tensor], teachers: list[Tensor]) -> float:
    """From the deepest level up, attention and all, written out; maps behind the stem and 1x1 embeddings."""
    total, deeper = 0.0, None
    for level in reversed(range(len(students))):
        fusion: Any = objective.fusions[level]
        student, teacher = students[level].double(), teachers[level].double()
        mixed = normed(fusion.reduce, student)
        if deeper is not None:
            deeper = nearest(deeper, mixed.shape[2])
            conv = fusion.attention[0]
            scores = F.conv2d(torch.cat([mixed, deeper], 1), conv.weight.double(), conv.bias.double())
            attention = 1 / (1 + (-scores).exp())
            mixed = mixed * attention[:, 0, None] + deeper * attention[:, 1, None]
        deeper = nearest(mixed, teacher.shape[2])
        total += hierarchical(normed(fusion.expand, deeper), teacher)
    return total


@settings(max_examples=20)
@given(
    size=st.integers(2, 5), seed=st.integers(0, 99), width=st.integers(1, 7),
    sides=st.tuples(*[st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=3)] * 2),
)  # fmt: skip
def test_equals_the_formula(size: int, seed: int, width: int, sides: tuple[list[int], list[int]]) -> None:
    count = min(len(side) for side in sides)
    shapes: list[list[Shape]] = [
        [(3 + turn + level, side, side) for level, side in enumerate([8, *own[:count]])]
        for turn, own in enumerate(sides)
    ]
    dims = (5, 6)
    maps = [[normal(seed + 9 * turn + level, size, *shape) for level, shape in enumerate(own)]
            for turn, own in enumerate(shapes)]  # fmt: skip
    embeddings = [normal(seed + 99 + turn, size, dim) for turn, dim in enumerate(dims)]
    student_output = NetworkOutput(embeddings[0], maps[0], embeddings[0])
    teacher_output = NetworkOutput(embeddings[1], [], embeddings[1], preactivations=maps[1])
    indices = torch.arange(size)
    objective = build(*shapes, dims, width=width, **FULL)
    found = objective(DistillationBatch(student_output, teacher_output, indices, indices))
    student, teacher = (
        [*own[1:], embedding[:, :, None, None]] for own, embedding in zip(maps, embeddings, strict=True)
    )
    assert set(found) == {"reviewkd"}
    assert found["reviewkd"].item() == pytest.approx(naive(objective, student, teacher), rel=1e-4)


def test_the_teachers_maps_are_those_before_their_relu_and_the_students_those_after() -> None:
    some, objective = batch(6), build(**FULL)
    teacher = some.teacher
    assert teacher is not None
    assert teacher.preactivations is not None
    student = [*some.student.features[1:], some.student.embedding[:, :, None, None]]
    expected = naive(objective, student, [*teacher.preactivations[1:], teacher.embedding[:, :, None, None]])
    assert objective(some)["reviewkd"].item() == pytest.approx(expected, rel=1e-4)
    after = naive(objective, student, [*teacher.features[1:], teacher.embedding[:, :, None, None]])
    assert expected != pytest.approx(after, rel=1e-2)
    hidden = dataclasses.replace(some, teacher=teacher._replace(preactivations=None))
    with pytest.raises(UserError, match="'reviewkd': it needs pre-activations, but the teacher"):
        objective(hidden)


def test_it_grows_over_the_first_epochs() -> None:
    some = batch(6)

    def term(epoch: int, **options: Any) -> float:
        at = dataclasses.replace(some, progress=Progress(epoch=epoch, epochs=240))
        value: float = build(**options)(at)["reviewkd"].item()
        return value

    full = term(0, **FULL)
    assert [term(epoch) / full for epoch in (0, 9, 19, 20, 200)] == pytest.approx([0.05, 0.5, 1, 1, 1])
    assert term(0, ramp_epochs=4) / full == pytest.approx(0.25)


@pytest.mark.parametrize(("dim", "width", "expected"), [(12, None, 12), (600, None, 512), (12, 5, 5)])
def test_the_width_is_the_embeddings_up_to_512_or_what_is_asked_for(dim: int, width: int | None, expected: int) -> None:
    objective = build([(1, 2, 2), (2, 2, 2)], [(1, 2, 2), (2, 2, 2)], (dim, 3), width=width)
    assert [fusion.reduce[0].out_channels for fusion in objective.fusions] == [expected] * 2


def test_deeper_levels_reach_the_shallow_ones_and_not_the_other_way() -> None:
    some = batch(6)
    objective = build(**FULL)
    fused: list[Tensor] = []
    for fusion in objective.fusions:
        fusion.register_forward_hook(lambda _module, _inputs, outputs: fused.append(outputs[0]))
    objective(some)
    maps = [*some.student.features[1:], some.student.embedding]
    for level, output in enumerate(reversed(fused)):
        gradients = torch.autograd.grad(output.square().sum(), maps, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [deeper >= level for deeper in range(len(maps))]


def test_the_students_levels_come_out_in_the_teachers_shapes() -> None:
    some, shapes = batch(6), []
    objective = build()
    for fusion in objective.fusions:
        fusion.register_forward_hook(lambda _module, _inputs, outputs: shapes.append(tuple(outputs[0].shape[1:])))
    objective(some)
    assert shapes == [(WIDTHS["teacher"], 1, 1), *reversed(MAPS["teacher"][1:])]


def test_a_single_sample_is_normalised_by_running_statistics_where_there_is_one_value() -> None:
    objective, one = build(**FULL), batch(1)
    norm = objective.fusions[-1].reduce[1]
    assert isinstance(norm, nn.BatchNorm2d)
    before = norm.running_mean.clone() if norm.running_mean is not None else None
    assert objective(one)["reviewkd"].isfinite()
    assert before is not None
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]


def test_unequal_numbers_of_maps_are_an_error() -> None:
    with pytest.raises(UserError, match=r"'reviewkd'.*student has 2 and the teacher 3"):
        build(student=MAPS["student"][:-1])


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("ramp_epochs", 0)])
def test_an_option_out_of_range_is_named(option: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}"):
        build(**{option: value})
