from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import normal
from torch import nn

from graphkd import MODELS, UserError
from graphkd.model import output_shapes
from graphkd.model.shufflenetv2 import ShuffleNetV2, SplitUnit


def test_half_of_the_channels_pass_through_a_unit() -> None:
    unit = SplitUnit(6).eval()
    x = normal(0, 2, 6, 4, 4)
    out = unit(x)
    assert torch.equal(out[:, ::2], x[:, :3])
    inner = unit.bn1(unit.conv1(x[:, 3:])).relu()
    assert torch.equal(out[:, 1::2], unit.bn3(unit.conv3(unit.bn2(unit.conv2(inner)))))


def test_stages() -> None:
    model = ShuffleNetV2(10, widths=(4, 6, 8, 10), blocks=(1, 3, 2))
    shapes = output_shapes(model, in_channels=3, image_size=32)
    assert shapes.features == [(24, 32, 32), (4, 16, 16), (6, 8, 8), (8, 4, 4)]
    assert shapes.embedding == 10
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [1, 3, 2]


def test_initialisation_is_uniform_by_fan_in() -> None:
    torch.manual_seed(0)
    for module in ShuffleNetV2(100).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 500:
            fan_in = module.weight[0].numel()
            assert module.weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"widths": [5, 6, 8, 10]}, "widths is"), ({"widths": [4, 6, 8, 0]}, "widths is"),
     ({"widths": [4, 6, 8]}, "'widths'"), ({"blocks": [1, 1, 0]}, "blocks is"), ({"blocks": 4}, "'blocks'")],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS.build("ShuffleV2", **{"num_classes": 10, **options})
