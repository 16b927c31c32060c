"""What every registered network must do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from samples import normal, tensors_of
from torch import Tensor

from graphkd import MODELS, NetworkOutput, UserError
from graphkd.engine.weights import load_weights, save_weights
from graphkd.model import Network, Shapes, output_shapes

CLASSES = 7
SMALL: dict[str, dict[str, Any]] = {
    "CifarResNet": {"depth": 8, "widths": (4, 4, 6, 8)},
    "WideResNet": {"depth": 10, "widen": 1},
    "Vgg": {"layers": (1, 2, 1, 1, 1), "widths": (4, 4, 6, 6, 8)},
    "MobileNetV2": {"width": 0.125},
    "ShuffleNetV1": {"widths": (48, 72, 96), "blocks": (1, 2, 1)},
    "ShuffleNetV2": {"widths": (4, 6, 8, 16), "blocks": (1, 2, 1)},
    "BottleneckResNet": {"blocks": (1, 1, 2, 1), "width": 4},
}
"""Options that make the networks of a class small, where a test does not need the registered ones."""
one_of_each_family = pytest.mark.parametrize(
    "name", sorted({MODELS.factory(name): name for name in reversed(MODELS.names())}.values())
)


@pytest.fixture(scope="module", params=MODELS.names())
def network(request: pytest.FixtureRequest) -> Network:
    """Every network as it is registered, for grey images, in eval mode; the tests leave its weights as they are."""
    torch.manual_seed(0)
    return MODELS.build(request.param, num_classes=CLASSES, in_channels=1).eval()


def small(name: str, seed: int = 0, **options: Any) -> Network:
    """A small network of the same class."""
    torch.manual_seed(seed)
    few = SMALL.get(MODELS.factory(name).__name__, {})
    return MODELS.build(name, **{"num_classes": CLASSES, "in_channels": 1, **few, **options})


def images(count: int, size: int = 8, seed: int = 0) -> Tensor:
    return normal(seed, count, 1, size, size)


def same_state(one: Network, other: Network) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def shapes_of(output: NetworkOutput) -> Shapes:
    features = [(feature.shape[1], feature.shape[2], feature.shape[3]) for feature in output.features]
    return Shapes(features, output.embedding.shape[1], output.logits.shape[1])


@pytest.mark.parametrize("size", [8, 30, 32])
def test_shapes_are_those_that_are_told(network: Network, size: int) -> None:
    with torch.no_grad():
        output = network(images(2, size))
    told = output_shapes(network, in_channels=1, image_size=size)
    assert shapes_of(output) == told
    assert told.num_classes == CLASSES
    sides = [height for _, height, _ in told.features]
    assert len(sides) >= 2
    assert sides == sorted(sides, reverse=True)
    for tensor in tensors_of(output):
        assert tensor.dtype == torch.float32
        assert len(tensor) == 2
        assert tensor.isfinite().all()


def test_gradient_reaches_every_parameter(network: Network) -> None:
    # In eval mode: in training a norm cancels the bias of the convolution before it, and all its gradient.
    network(images(3)).logits.sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name
    network.zero_grad()


@one_of_each_family
def test_training_gives_finite_gradients_updates_the_norms_and_changes_no_image(name: str) -> None:
    network = small(name).train()
    norms = {key: value.clone() for key, value in network.named_buffers()}
    given = images(6)
    torch.stack([tensor.square().mean() for tensor in tensors_of(network(given))]).sum().backward()
    assert torch.equal(given, images(6))
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    for key, value in network.named_buffers():
        assert not torch.equal(value, norms[key]), key
        assert not key.endswith("num_batches_tracked") or value == 1, key


def test_a_sample_alone_gives_the_same(network: Network) -> None:
    batch = images(3)
    with torch.no_grad():
        together = network(batch).logits
        alone = torch.cat([network(sample[None]).logits for sample in batch])
    assert (together - alone).abs().max() <= 1e-5 * together.abs().max()


def test_preactivations_belong_to_the_features(network: Network) -> None:
    with torch.no_grad():
        output = network(images(3))
    assert output.preactivations is None or len(output.preactivations) == len(output.features)
    for preactivation, feature in zip(output.preactivations or [], output.features, strict=True):
        assert preactivation.shape == feature.shape
        if feature.min() >= 0:
            assert torch.equal(preactivation.relu(), feature)
            assert preactivation.min() < 0


@one_of_each_family
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    assert same_state(small(name, seed=1), small(name, seed=1))
    assert not same_state(small(name, seed=1), small(name, seed=2))


@one_of_each_family
def test_weights_are_contiguous_and_come_back_from_a_file(name: str, tmp_path: Path) -> None:
    saved, loaded = small(name, seed=1), small(name, seed=2)
    assert all(tensor.is_contiguous() for tensor in saved.state_dict().values())
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same_state(saved, loaded)


@one_of_each_family
def test_a_file_of_the_benchmark_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    saved, loaded = small(name, seed=1), small(name, seed=2)
    saved.train()(images(6))  # so that the statistics of the norms tell too
    momenta = {turn: {"momentum_buffer": torch.ones_like(p)} for turn, p in enumerate(saved.parameters())}
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False, "params": list(momenta)}
    content = {
        "epoch": 240,
        "model": saved.state_dict(),
        "accuracy": torch.tensor(74.6),
        "optimizer": {"state": momenta, "param_groups": [settings]},
    }
    torch.save(content, tmp_path / "ckpt_epoch_240.pth")
    load_weights(loaded, tmp_path / "ckpt_epoch_240.pth")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images(2)).logits, saved.eval()(images(2)).logits)


@one_of_each_family
@pytest.mark.parametrize("option", ["num_classes", "in_channels"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_that_are_not_positive_are_refused(name: str, option: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}"):
        small(name, **{option: value})


@one_of_each_family
def test_number_of_channels_of_the_images(name: str) -> None:
    for channels in (1, 3, 5):
        network = small(name, in_channels=channels).eval()
        assert network(torch.zeros(2, channels, 8, 8)).logits.shape == (2, CLASSES)
