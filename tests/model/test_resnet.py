"""The CIFAR ResNets, and the shapes of any network's output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import UserError
from graphkd.model import MODELS, Network, Shapes, output_shapes
from graphkd.model.resnet import CifarResNet

DEPTHS = {8: 8, 14: 14, 20: 20, 32: 32, 44: 44, 56: 56, 110: 110, "8x4": 8, "32x4": 32}


@pytest.mark.parametrize(("suffix", "depth"), DEPTHS.items())
def test_depth_counts_the_layers(suffix: int | str, depth: int) -> None:
    model = MODELS.build(f"resnet{suffix}", num_classes=10)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) or _is_3x3(m)]
    assert len(layers) == depth


def _is_3x3(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


def test_widths_are_those_of_the_stem_and_the_stages() -> None:
    model = MODELS.build("resnet14", num_classes=10, in_channels=1, widths=[4, 4, 6, 8])
    output = model(torch.rand(5, 1, 8, 8))
    assert output.logits.shape == (5, 10)
    assert [tuple(f.shape[1:]) for f in output.features] == [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2)]


def test_initialisation_is_kaiming_by_fan_out() -> None:
    torch.manual_seed(0)
    model = CifarResNet(num_classes=10, depth=8, widths=(32, 64, 128, 256))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 21}, "depth is 21"),
        ({"depth": 2}, "depth is 2"),
        ({"depth": -4}, "depth is -4"),
        ({"widths": [16, 16, 32]}, "'widths'"),
        ({"widths": [16, 0, 32, 64]}, "widths is"),
        ({"width": 3}, "did you mean 'widths'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODELS.build("resnet20", **{"num_classes": 10, **options})


def test_number_of_widths_is_checked_without_the_registry() -> None:
    with pytest.raises(UserError, match="widths is"):
        CifarResNet(num_classes=10, depth=8, widths=(16, 16, 32))  # type: ignore[arg-type]


def test_output_shapes_are_the_outputs_own() -> None:
    model = MODELS.build("resnet8x4", num_classes=7)
    expected = Shapes([(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)], 256, 7)
    assert output_shapes(model, in_channels=3, image_size=32) == expected


class NoisyNetwork(Network):
    """Draws random numbers and updates running statistics where its mode lets it; fails on 2 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.frozen = nn.BatchNorm2d(1).eval()

    def forward(self, images: Tensor) -> NetworkOutput:
        maps = self.norm(self.frozen(images)) + torch.rand_like(images)
        return NetworkOutput(maps.flatten(1), [maps], maps.flatten(1))


@pytest.mark.parametrize("channels", [1, 2])
def test_output_shapes_leaves_no_trace(channels: int) -> None:
    model = NoisyNetwork()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    if channels == 1:
        assert output_shapes(model, channels, 4) == Shapes([(1, 4, 4)], 16, 16)
    else:
        with pytest.raises(UserError, match="does not run on images of"):
            output_shapes(model, channels, 4)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)
