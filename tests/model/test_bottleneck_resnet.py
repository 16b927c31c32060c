from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graphkd import MODELS, UserError
from graphkd.model import output_shapes
from graphkd.model.bottleneck_resnet import BottleneckResNet


def test_the_name_tells_the_depth() -> None:
    model = MODELS.build("ResNet50", num_classes=10, width=1)
    layers = [
        part for name, part in model.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear)) and "shortcut" not in name
    ]  # fmt: skip
    assert len(layers) == 50


def test_stages() -> None:
    model = BottleneckResNet(10, blocks=(1, 2, 1, 3), width=2)
    shapes = output_shapes(model, in_channels=3, image_size=32)
    assert shapes.features == [(2, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert shapes.embedding == 64
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    assert [len(stage) for stage in stages] == [1, 2, 1, 3]


def test_a_shortcut_is_a_convolution_only_at_the_start_of_a_stage() -> None:
    model = BottleneckResNet(10, blocks=(2, 2, 2, 2), width=2)
    shortcuts = [name for name in model.state_dict() if name.endswith("shortcut.0.weight")]
    assert shortcuts == [f"layer{stage}.0.shortcut.0.weight" for stage in (1, 2, 3, 4)]


def test_initialisation_is_kaiming_by_fan_out() -> None:
    torch.manual_seed(0)
    model = BottleneckResNet(10, blocks=(1, 1, 1, 1), width=32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"blocks": [3, 4, 6]}, "'blocks'"), ({"blocks": [3, 4, 0, 3]}, "blocks is"), ({"width": 0}, "width is 0"),
     ({"depth": 50}, "no option 'depth'")],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS.build("ResNet50", **{"num_classes": 10, **options})
