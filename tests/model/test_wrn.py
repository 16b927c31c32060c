from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import normal
from torch import nn

from graphkd import MODELS, UserError
from graphkd.model import output_shapes
from graphkd.model.wrn import WideResNet


@pytest.mark.parametrize("name", ["wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"])
def test_the_name_tells_depth_and_width(name: str) -> None:
    depth, widen = map(int, name.removeprefix("wrn_").split("_"))
    model = MODELS.build(name, num_classes=10)
    convolutions = [
        part_name for part_name, part in model.named_modules()
        if isinstance(part, nn.Conv2d) and not part_name.endswith("convShortcut")
    ]  # fmt: skip
    assert len(convolutions) + 3 == depth, "the depth counts a shortcut in each stage, and not the head"
    channels = [channels for channels, _, _ in output_shapes(model, in_channels=3, image_size=8).features]
    assert channels == [16, 16 * widen, 32 * widen, 64 * widen]


def test_a_shortcut_is_a_convolution_only_where_the_width_changes() -> None:
    shortcuts = [name for name in WideResNet(10, depth=16).state_dict() if "convShortcut" in name]
    assert shortcuts == ["block2.layer.0.convShortcut.weight", "block3.layer.0.convShortcut.weight"]


def test_preactivations_are_the_maps_after_the_next_norm() -> None:
    torch.manual_seed(0)
    model = WideResNet(10, depth=16, widen=1, in_channels=1)
    images = normal(0, 4, 1, 8, 8)
    model(images)
    output = model.eval()(images)
    norms = [stage.layer[0].bn1 for stage in (model.block1, model.block2, model.block3)]
    for norm, feature, preactivation in zip([*norms, model.bn1], output.features, output.preactivations, strict=True):
        assert torch.equal(norm(feature), preactivation)
        assert norm.num_batches_tracked == 1, "pre-activations cost no second pass through a norm"
        assert feature.min() < 0
    assert torch.equal(output.embedding, output.preactivations[-1].relu().mean((2, 3)))


def test_initialisation_is_normal_by_fan_out_and_the_bias_is_zero() -> None:
    torch.manual_seed(0)
    model = WideResNet(10, depth=10, widen=4)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert not model.fc.bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 20}, "depth is 20"), ({"depth": 4}, "depth is 4"), ({"widen": 0}, "widen is 0"),
     ({"widths": [16, 16, 32, 64]}, "no option 'widths'")],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS.build("wrn_16_1", **{"num_classes": 10, **options})
