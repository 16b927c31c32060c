"""The benchmark's networks against its recorded tensors and outputs."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from golden import FOLDER, Golden, assert_close
from torch import Tensor

from graphkd import MODELS, NetworkOutput
from graphkd.model import Network
from graphkd.model.base import parts_behind_the_maps

ZOO: dict[str, dict[str, Any]] = json.loads((FOLDER / "zoo.json").read_text())
RECORDED = Golden("zoo")
OTHERS: dict[str, tuple[int, list[float]]] = {
    "ShuffleV1": (949_258, [0.4515317, 1.657505, 14.5689, 32.18819, 32.18819, 49.68988]),
    "vgg11": (9_277_284, [0.5222226, 0.8746518, 0.8933434, 0.9605598, 0.7660644, 0.7660645, 1.140617]),
    "vgg16": (14_774_436, [0.5802124, 0.9504765, 0.9887854, 0.8528416, 0.5300235, 0.5300235, 0.8821967]),
    "vgg19": (20_086_692, [0.5802124, 0.9504765, 0.9886893, 0.8359123, 0.4660214, 0.4660214, 0.7877085]),
    "wrn_16_1": (180_916, [1.051325, 2.024116, 3.507627, 6.147699, 3.263874, 5.296136]),
    "wrn_40_1": (569_780, [1.051325, 4.739917, 22.77799, 99.92873, 46.66164, 67.77468]),
}
"""Of networks that zoo.json lacks, as a separate transcription of the published code gave it: number of parameters, and
mean absolute value of each feature, of the embedding and of the logits, for the same images and the same filling."""
BENCHMARK = [*ZOO, *OTHERS, *(f"resnet{depth}" for depth in (8, 14, 32, 44, 56, 110))]


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


def shapes_of(model: Network) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def parameters(model: Network) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def run_filled(model: Network) -> NetworkOutput:
    """What the network returns for the recorded images, filled with the recorded values."""
    model.load_state_dict({name: seeded_tensor(name, shape) for name, shape in shapes_of(model).items()})
    with torch.no_grad():
        output: NetworkOutput = model.eval()(RECORDED["x"])
    return output


def magnitudes(tensors: list[Tensor]) -> list[float]:
    return [tensor.abs().mean().item() for tensor in tensors]


@pytest.mark.parametrize("name", ZOO)
def test_golden_tensors_and_outputs(name: str) -> None:
    entry = ZOO[name]
    model = MODELS.build(name, num_classes=100)
    assert list(shapes_of(model).items()) == list(entry["state"].items())
    assert parameters(model) == entry["parameters"]
    output = run_filled(model)
    assert_close(output.logits, RECORDED[f"{name}.logits"])
    assert_close(output.embedding, RECORDED[f"{name}.feature"])
    shown = [*output.features, output.embedding]
    assert [list(feature.shape) for feature in shown] == entry["features"]
    assert magnitudes(shown) == pytest.approx(entry["feature_mean_abs"], rel=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_networks_that_are_not_in_the_golden_file(name: str) -> None:
    count, expected = OTHERS[name]
    model = MODELS.build(name, num_classes=100)
    assert parameters(model) == count
    output = run_filled(model)
    assert magnitudes([*output.features, output.embedding, output.logits]) == pytest.approx(expected, rel=1e-5)


def test_every_network_of_the_benchmark_is_there() -> None:
    assert set(BENCHMARK) <= set(MODELS.names())


@pytest.mark.parametrize(
    ("name", "behind"),
    [("resnet8", ["fc"]), ("wrn_16_1", ["bn1", "fc"]), ("vgg8", ["classifier"]), ("ShuffleV1", ["linear"]),
     ("ShuffleV2", ["conv2", "bn2", "linear"]), ("MobileNetV2", ["conv2.0", "conv2.1", "classifier.0"])],
)  # fmt: skip
def test_what_stands_behind_the_last_map_is_what_the_benchmarks_stages_leave_alone(
    name: str, behind: list[str]
) -> None:
    network = MODELS.build(name, num_classes=3)
    names = {part: name for name, part in network.named_modules()}
    assert [names[part] for part in parts_behind_the_maps(network, 3, 32)] == behind
    assert all(parameter.grad is None for parameter in network.parameters())
