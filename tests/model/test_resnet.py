"""The CIFAR ResNets against the benchmark's recorded tensors and outputs."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import UserError
from graphkd.model import MODELS, Network, Shapes, output_shapes
from graphkd.model.resnet import CifarResNet

GOLDEN = Path(__file__).parents[1] / "golden"
ZOO: dict[str, dict[str, Any]] = json.loads((GOLDEN / "zoo.json").read_text())
DEPTHS = {8: 8, 14: 14, 20: 20, 32: 32, 44: 44, 56: 56, 110: 110, "8x4": 8, "32x4": 32}


def seeded_tensor(name: str, shape: list[int]) -> Tensor:
    """The values that the golden outputs were recorded with."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        values = 1 + 0.1 * rng.rand(*shape)
    elif name.endswith(("running_mean", "bias")):
        values = 0.1 * rng.randn(*shape)
    elif len(shape) == 1:
        values = 1 + 0.1 * rng.randn(*shape)
    else:
        values = rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.tensor(values, dtype=torch.float32)


def distance(actual: Tensor, expected: Any) -> float:
    """Largest difference over the largest expected value."""
    expected = torch.as_tensor(expected)
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", ["resnet20", "resnet8x4", "resnet32x4"])
def test_golden_outputs(name: str) -> None:
    entry = ZOO[name]
    model = MODELS.build(name, num_classes=100).eval()
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == entry["state"]
    assert sum(parameter.numel() for parameter in model.parameters()) == entry["parameters"]

    model.load_state_dict({key: seeded_tensor(key, shape) for key, shape in entry["state"].items()})
    with np.load(GOLDEN / "zoo.npz") as zoo, torch.no_grad():
        output = model(torch.from_numpy(zoo["x"]))
        assert distance(output.logits, zoo[f"{name}.logits"]) < 1e-5
        assert distance(output.embedding, zoo[f"{name}.feature"]) < 1e-5
    shown = [*output.features, output.embedding]
    assert [list(feature.shape) for feature in shown] == entry["features"]
    means = [feature.abs().mean().item() for feature in shown]
    assert means == pytest.approx(entry["feature_mean_abs"], rel=1e-5)
    assert output.preactivations is not None
    for preactivation, feature in zip(output.preactivations, output.features, strict=True):
        assert torch.equal(preactivation.relu(), feature)


@pytest.mark.parametrize(("suffix", "depth"), DEPTHS.items())
def test_depth_counts_the_layers(suffix: int | str, depth: int) -> None:
    model = MODELS.build(f"resnet{suffix}", num_classes=10)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) or _is_3x3(m)]
    assert len(layers) == depth


def _is_3x3(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


def test_small_network_on_small_images_trains_every_parameter() -> None:
    model = MODELS.build("resnet14", num_classes=10, in_channels=1, widths=[4, 4, 6, 8])
    output = model(torch.rand(5, 1, 8, 8))
    assert output.logits.shape == (5, 10)
    assert [tuple(f.shape[1:]) for f in output.features] == [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2)]
    output.logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


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
        ({"num_classes": 0}, "num_classes is 0"),
        ({"in_channels": 0}, "in_channels is 0"),
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
        with pytest.raises(RuntimeError):
            output_shapes(model, channels, 4)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)
