from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import normal
from torch import nn

from graphkd import MODELS, UserError
from graphkd.model import output_shapes
from graphkd.model.mobilenetv2 import InvertedResidual, MobileNetV2


@pytest.mark.parametrize(
    ("width", "channels", "last"),
    [(0.0625, [2, 1, 2, 6, 20], 1280), (1.0, [32, 24, 32, 96, 320], 1280), (1.5, [48, 36, 48, 144, 480], 1920)],
)
def test_width_multiplies_the_channels(width: float, channels: list[int], last: int) -> None:
    shapes = output_shapes(MobileNetV2(10, width=width, expansion=2), in_channels=3, image_size=32)
    sides = [16, 16, 8, 4, 2]
    assert shapes.features == [(channel, side, side) for channel, side in zip(channels, sides, strict=True)]
    assert shapes.embedding == last


def test_expansion_widens_every_stage_but_the_first() -> None:
    model = MobileNetV2(10, width=0.25, expansion=3)
    factors = {
        part.conv[0].out_channels / part.conv[0].in_channels: name
        for name, part in reversed(list(model.named_modules())) if isinstance(part, InvertedResidual)
    }  # fmt: skip
    assert factors == {1: "blocks.0.0", 3: "blocks.1.0"}


def test_a_shortcut_adds_the_input_where_the_shapes_agree() -> None:
    x = normal(0, 2, 4, 8, 8)
    for block, has_shortcut in (
        (InvertedResidual(4, 4, 1, 2), True), (InvertedResidual(4, 4, 2, 2), False),
        (InvertedResidual(4, 5, 1, 2), False),
    ):  # fmt: skip
        block.eval()
        assert torch.equal(block(x), x + block.conv(x) if has_shortcut else block.conv(x))


def test_only_the_stem_ends_in_a_relu() -> None:
    torch.manual_seed(0)
    output = MobileNetV2(10, width=0.25)(normal(0, 4, 3, 32, 32))
    assert torch.equal(output.preactivations[0].relu(), output.features[0])
    for preactivation, feature in zip(output.preactivations[1:], output.features[1:], strict=True):
        assert preactivation is feature
        assert feature.min() < 0
    assert output.embedding.min() >= 0


def test_initialisation_is_normal_by_fan_out_and_small_in_the_head() -> None:
    torch.manual_seed(0)
    model = MobileNetV2(100)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert model.classifier[0].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not model.classifier[0].bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0.05}, "width is 0.05"), ({"width": -1}, "width is -1"), ({"expansion": 0}, "expansion is 0"),
     ({"widht": 1.0}, "did you mean 'width'")],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS.build("MobileNetV2", **{"num_classes": 10, **options})
