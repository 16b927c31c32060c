from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import normal
from torch import nn

from graphkd import MODELS, UserError
from graphkd.model import output_shapes
from graphkd.model.shufflenetv1 import ShuffleNetV1, ShuffleUnit, shuffle_channels


@given(batch=st.integers(1, 3), groups=st.integers(1, 4), each=st.integers(1, 4))
def test_shuffling_puts_the_groups_between_each_other(batch: int, groups: int, each: int) -> None:
    x = normal(0, batch, groups * each, 2, 3)
    shuffled = shuffle_channels(x, groups)
    for group in range(groups):
        for position in range(each):
            assert torch.equal(shuffled[:, position * groups + group], x[:, group * each + position])
    assert torch.equal(shuffle_channels(shuffled, each), x)


def test_a_unit_of_stride_2_stands_beside_its_pooled_input() -> None:
    unit = ShuffleUnit(24, 48, 2, 1, 3).eval()
    x = normal(0, 2, 24, 8, 8)
    out = unit(x)
    assert out.shape == (2, 48, 4, 4)
    assert torch.equal(out[:, 24:], nn.AvgPool2d(3, 2, padding=1)(x))


def test_a_unit_of_stride_1_is_added_to_its_input() -> None:
    unit = ShuffleUnit(24, 24, 1, 3, 3).eval()
    x = normal(0, 2, 24, 8, 8)
    nn.init.zeros_(unit.bn3.weight)
    assert torch.equal(unit(x), x)


def test_stages_and_groups() -> None:
    model = ShuffleNetV1(10)
    shapes = output_shapes(model, in_channels=3, image_size=32)
    assert shapes.features == [(24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4)]
    assert shapes.embedding == 960
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [4, 8, 4]
    groups = {name: part.groups for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
    of_one_group = [name for name, count in groups.items() if count == 1]
    assert of_one_group == ["conv1", "layer1.0.conv1"], "there is no group in what the stem makes"
    assert all(count == 3 for name, count in groups.items() if name.endswith(".conv3"))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_all_numbers_of_groups_that_are_offered_work(groups: int) -> None:
    model = ShuffleNetV1(10, groups=groups, widths=(48, 72, 120), blocks=(1, 2, 1), in_channels=1)
    assert model(torch.rand(3, 1, 8, 8)).logits.shape == (3, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"groups": 4}, "groups is 4"), ({"groups": 0}, "groups is 0"), ({"widths": [24, 48, 96]}, "widths is"),
     ({"widths": [48, 96, 96]}, "widths is"), ({"widths": [48, 98, 192]}, "multiples of 12"),
     ({"blocks": [1, 0, 1]}, "blocks is"), ({"blocks": [1, 1]}, "'blocks'")],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS.build("ShuffleV1", **{"num_classes": 10, **options})
