"""What HKD and CRD refuse, which both do in the same way."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from samples import CLASSES, TRAIN_LABELS, WIDTHS, batch

from graphkd import BUILDERS, GNNS, OBJECTIVES, UserError
from graphkd.objective.base import Setting

each = pytest.mark.parametrize("name", ["hkd", "crd"])


def build(name: str, **changes: Any) -> Any:
    graphs = {"builder": BUILDERS.build("knn"), **{side: encoder(4, 4) for side in ("student_gnn", "teacher_gnn")}}
    options = {
        "student_dim": WIDTHS["student"], "teacher_dim": WIDTHS["teacher"], "labels": TRAIN_LABELS, "dim": 4,
        "negatives": 3, **(graphs if name == "hkd" else {}),
    }  # fmt: skip
    return OBJECTIVES.build(name, **{**options, **changes})


def encoder(in_dim: int, out_dim: int) -> Any:
    return GNNS.build("tag", in_dim=in_dim, out_dim=out_dim)


@each
@pytest.mark.parametrize("samples", [len(TRAIN_LABELS) // 2, len(TRAIN_LABELS)])
def test_banks_of_other_samples_are_refused(name: str, samples: int) -> None:
    build(name).check(Setting(TRAIN_LABELS, CLASSES, batch_size=8))
    others = (TRAIN_LABELS[:samples] + 1) % CLASSES
    with pytest.raises(UserError, match=f"'{name}': its labels, of {len(TRAIN_LABELS)} samples, are not .* {samples}"):
        build(name).check(Setting(others, CLASSES, batch_size=8))


@each
@pytest.mark.parametrize("shape", [(1, 3), (4, 3), (16, 3), (8,)])
def test_negatives_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    objective, some = build(name, sampler="explicit"), batch(8)
    objective(dataclasses.replace(some, negatives=torch.zeros(8, 3).long()))
    with pytest.raises(UserError, match=r"negatives have shape .*, but must be \[8, K\]"):
        objective(dataclasses.replace(some, negatives=torch.zeros(shape).long()))


@each
@pytest.mark.parametrize("side", ["student_dim", "teacher_dim"])
def test_a_width_that_is_not_the_networks_is_named(name: str, side: str) -> None:
    with pytest.raises(UserError, match=f"'{name}': a network's embedding has .* features, but 99 were given"):
        build(name, **{side: 99})(batch(8))


@pytest.mark.parametrize("side", ["student_gnn", "teacher_gnn"])
@pytest.mark.parametrize("widths", [(5, 4), (4, 5)])
def test_an_encoder_of_another_width_is_refused(side: str, widths: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"'hkd': {side} must take 4 features to 4 .* not {widths[0]} to {widths[1]}"):
        build("hkd", **{side: encoder(*widths)})
