from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import MAPS, batch, normal
from torch import Tensor, nn

from graphkd import OBJECTIVES, DistillationBatch, NetworkOutput, UserError
from graphkd.objective.ft import FT

Shape = tuple[int, int, int]


def build(student: Shape = MAPS["student"][-1], teacher: Shape = MAPS["teacher"][-1], **options: Any) -> FT:
    torch.manual_seed(0)
    objective = OBJECTIVES.build("ft", student_shapes=[(1, 8, 8), student], teacher_shapes=[teacher], **options)
    assert isinstance(objective, FT)
    return objective


def last_maps(student: Tensor, teacher: Tensor) -> DistillationBatch:
    indices = torch.arange(len(student))
    nothing = torch.zeros(len(indices), 2)
    outputs = [NetworkOutput(nothing, [map_], nothing) for map_ in (student, teacher)]
    return DistillationBatch(outputs[0], outputs[1], indices, indices)


def layers(modules: nn.Module, x: Tensor) -> Tensor:
    """Convolution, perhaps BatchNorm on the batch's own figures, LeakyReLU: again and again, in float64."""
    for module in modules:  # type: ignore[attr-defined]
        if isinstance(module, nn.Conv2d):
            x = F.conv2d(x, module.weight.double(), module.bias.double(), padding=1)  # type: ignore[union-attr]
        elif isinstance(module, nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, module.weight.double(), module.bias.double(), padding=1)  # type: ignore[union-attr]
        elif isinstance(module, nn.BatchNorm2d):
            x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        else:
            x = torch.where(x > 0, x, 0.1 * x)
    return x


def factor(map_: Tensor, p1: int, side: int) -> list[list[float]]:
    """The normalised mean over channels of map^p1 of every sample, written out."""
    block = map_.shape[2] // side
    rows = []
    for sample in map_.tolist():
        pooled = [
            [
                [sum(c[block * y + dy][block * x + dx] for dy in range(block) for dx in range(block)) / block**2
                 for x in range(side)]
                for y in range(side)
            ]
            for c in sample
        ]  # fmt: skip
        row = [sum(c[y][x] ** p1 for c in pooled) / len(pooled) for y in range(side) for x in range(side)]
        norm = sum(value**2 for value in row) ** 0.5
        rows.append([value / norm for value in row])
    return rows


def naive(objective: FT, student: Tensor, teacher: Tensor, p1: int, p2: int) -> float:
    side = min(student.shape[2], teacher.shape[2])
    s = factor(layers(objective.translator, student.double()), p1, side)
    t = factor(layers(objective.paraphraser[0], teacher.double()), p1, side)
    differences = [
        abs(a - b) ** p2 for mine, theirs in zip(s, t, strict=True) for a, b in zip(mine, theirs, strict=True)
    ]
    return sum(differences) / len(differences)


@settings(max_examples=20)
@given(
    size=st.integers(2, 4), widths=st.tuples(st.integers(1, 5), st.integers(2, 6)), p1=st.integers(1, 3),
    p2=st.integers(1, 2), sides=st.tuples(*[st.sampled_from([2, 4])] * 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_formula(
    size: int, widths: tuple[int, int], p1: int, p2: int, sides: tuple[int, int], seed: int
) -> None:
    shapes: list[Shape] = [(width, side, side) for width, side in zip(widths, sides, strict=True)]
    student, teacher = (normal(seed + turn, size, *shape) for turn, shape in enumerate(shapes))
    objective = build(*shapes, p1=p1, p2=p2)
    found = objective(last_maps(student, teacher))
    assert set(found) == {"ft"}
    assert found["ft"].item() == pytest.approx(naive(objective, student, teacher, p1, p2), rel=1e-4)


def test_the_size_of_the_translation_does_not_matter() -> None:
    some, objective = batch(6), build()
    before = objective(some)["ft"]
    with torch.no_grad():  # BatchNorm and LeakyReLU come last, so the translation grows threefold
        objective.translator[-2].weight.mul_(3)
        objective.translator[-2].bias.mul_(3)
    torch.testing.assert_close(objective(some)["ft"], before)


def test_the_stage_is_the_error_of_reconstruction() -> None:
    objective, some = build(), batch(5)
    assert some.teacher is not None
    teacher = some.teacher.features[-1].double()
    (stage,) = objective.stages()
    assert (stage.name, stage.epochs, stage.lr, stage.trains_student) == ("paraphraser", 30, 0.01, False)
    rebuilt = layers(objective.paraphraser[1], layers(objective.paraphraser[0], teacher))
    assert stage.loss(some).item() == pytest.approx((rebuilt - teacher).square().mean().item(), rel=1e-5)


def test_the_stage_trains_the_paraphraser_alone_which_is_then_frozen() -> None:
    objective, some = build(), batch(6)
    (stage,) = objective.stages()
    optimizer = torch.optim.SGD([p for module in stage.modules for p in module.parameters()], lr=0.2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = stage.loss(some)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in objective.translator.parameters())
    objective.freeze()
    (group,) = objective.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in objective.translator.parameters()}


def test_no_gradient_flows_into_the_paraphraser_from_the_term() -> None:
    objective, some = build(), batch(6)
    objective(some)["ft"].backward()
    assert all(parameter.grad is None for parameter in objective.paraphraser.parameters())
    assert all(parameter.grad is not None for parameter in objective.translator.parameters())


def test_the_layers_are_the_benchmarks() -> None:
    objective = build((8, 2, 2), (10, 2, 2))
    found = [
        [(module.in_channels, module.out_channels) for module in part if hasattr(module, "in_channels")]
        for part in (*objective.paraphraser, objective.translator)  # type: ignore[misc]
    ]
    assert found == [
        [(10, 10), (10, 5), (5, 5)],
        [(5, 5), (5, 10), (10, 10)],
        [(8, 8), (8, 5), (5, 5)],
    ]
    norms = [module.num_features for module in objective.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == [8, 5, 5], "in the translator alone"


@pytest.mark.parametrize(("rate", "code"), [(0.5, 5), (0.25, 2), (2.0, 20)])
def test_the_rate_sets_the_channels_of_both_codes(rate: float, code: int) -> None:
    objective, some = build(rate=rate), batch(3)
    assert some.teacher is not None
    assert objective.paraphraser[0](some.teacher.features[-1]).shape[1] == code
    assert objective.translator(some.student.features[-1]).shape[1] == code


def test_the_stages_schedule_can_be_set() -> None:
    (stage,) = build(stage_epochs=3, stage_lr=0.05).stages()
    assert (stage.epochs, stage.lr) == (3, 0.05)


@pytest.mark.parametrize(
    ("option", "value"), [("rate", 0.0), ("rate", 0.05), ("p1", 0), ("p2", 0), ("stage_epochs", 0), ("stage_lr", 0.0)]
)
def test_an_option_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}"):
        build(**{option: value})


def test_a_network_without_maps_is_an_error() -> None:
    with pytest.raises(UserError, match="the student has none"):
        OBJECTIVES.build("ft", student_shapes=[], teacher_shapes=[(4, 2, 2)])
