"""What every network offers: logits, feature maps and embedding in one output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.registry import Registry


class Network(nn.Module, ABC):
    """A classifier that shows its inner features beside the logits."""

    @abstractmethod
    def forward(self, images: Tensor) -> NetworkOutput:
        """The output for images, float [B, C, H, W].

        `features` holds the maps after their last ReLU, the stem's first; `preactivations`, if any, the same
        maps before it.
        """


MODELS: Registry[Network] = Registry("model", "graphkd.model", runtime={"num_classes", "in_channels", "model"})


class Shapes(NamedTuple):
    """The shapes in a network's output, without the batch.

    Attributes:
        features: (channels, height, width) of each feature map, the stem's first.
        embedding: Width of the pooled feature.
        num_classes: Width of the logits.
    """

    features: list[tuple[int, int, int]]
    embedding: int
    num_classes: int


def output_shapes(network: nn.Module, in_channels: int, image_size: int) -> Shapes:
    """The shapes that a network returns for square images, found by running it once on zeros.

    Neither the network (device, state, train or eval mode of each part) nor the random generators change.

    Args:
        network: Maps images to a `NetworkOutput`.
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
    """
    with probing(network):
        output: NetworkOutput = network(black_image(network, in_channels, image_size))
    features = [(feature.shape[1], feature.shape[2], feature.shape[3]) for feature in output.features]
    return Shapes(features, output.embedding.shape[1], output.logits.shape[1])


def black_image(network: nn.Module, in_channels: int, image_size: int) -> Tensor:
    """Zeros [1, in_channels, image_size, image_size], on the network's device and in its dtype."""
    parameter = next(network.parameters(), torch.empty(0))
    return torch.zeros(1, in_channels, image_size, image_size, dtype=parameter.dtype, device=parameter.device)


@contextmanager
def probing(network: nn.Module) -> Iterator[None]:
    """Within it a network can be run without a trace: in eval mode, without gradient, generators as before after it."""
    devices = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    with eval_mode(network), torch.no_grad(), torch.random.fork_rng(devices):
        yield


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode; afterwards each part of it is in its own mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
