"""What every network offers: logits, feature maps and embedding in one output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import UserError, check, one_line
from graphkd.registry import Registry


class Network(nn.Module, ABC):
    """A classifier that shows its inner features beside the logits."""

    token_blocks: tuple[str, ...] = ()
    """Names of its blocks that return sequences of tokens, which the option `features` takes for maps."""

    @abstractmethod
    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, C, H, W].

        `features` holds the maps after their last ReLU, the stem's first; `preactivations`, if any, the same
        maps before it, or as they are where no activation gives them.
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


def trial_output(network: nn.Module, in_channels: int, image_size: int, with_gradient: bool = False) -> NetworkOutput:
    """Return what a network makes of one square image of zeros.

    Neither the network (device, state, train or eval mode of each part) nor the random generators change.

    Args:
        network: Maps images to a `NetworkOutput`.
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        with_gradient: Whether the output carries gradient.

    Raises:
        UserError: The network does not run on such images.
    """
    with probing(network), torch.set_grad_enabled(with_gradient):
        try:
            output: NetworkOutput = network(black_image(network, in_channels, image_size))
        except Exception as error:  # of networks from anywhere
            images = f"{in_channels}x{image_size}x{image_size}"
            raise UserError(f"the network does not run on images of {images}: {one_line(error)}") from error
    return output


def output_shapes(network: nn.Module, in_channels: int, image_size: int) -> Shapes:
    """Return the shapes of `trial_output`.

    Raises:
        UserError: As there.
    """
    return shapes_of(trial_output(network, in_channels, image_size))


def shapes_of(output: NetworkOutput) -> Shapes:
    """Return the shapes in a network's output, without the batch."""
    features = [(feature.shape[1], feature.shape[2], feature.shape[3]) for feature in output.features]
    return Shapes(features, output.embedding.shape[1], output.logits.shape[1])


def parts_behind_the_maps(network: nn.Module, in_channels: int, image_size: int) -> list[nn.Module]:
    """Return the parts whose own parameters the last feature map does not depend on.

    Raises:
        UserError: As in `trial_output`.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    last = trial_output(network, in_channels, image_size, with_gradient=True).features[-1]
    gradients = torch.autograd.grad(last.sum(), parameters, allow_unused=True)
    reached = {id(parameter) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    own = {part: [id(parameter) for parameter in part.parameters(recurse=False)] for part in network.modules()}
    return [part for part, known in own.items() if known and reached.isdisjoint(known)]


def check_ends(num_classes: int, in_channels: int) -> None:
    """Check what every network has at its two ends.

    Raises:
        UserError: One of them is not positive.
    """
    check(num_classes >= 1, f"num_classes is {num_classes}, but must be at least 1")
    check(in_channels >= 1, f"in_channels is {in_channels}, but must be at least 1")


def initialise_by_fan_out(network: nn.Module) -> None:
    """Draw the weights of all convolutions as the CRD benchmark does: normal, by fan-out, for ReLU."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def through_stages(stem: Tensor, stages: Iterable[nn.ModuleList]) -> tuple[list[Tensor], list[Tensor]]:
    """Return a map's way through stages of blocks that return the sum before its ReLU.

    Args:
        stem: What the stem returns before its ReLU, float [B, C, H, W].
        stages: Blocks by stage.

    Returns:
        The maps of stem and stages, before and after their last ReLU.
    """
    preactivations, features = [stem], [F.relu(stem)]
    for stage in stages:
        x = features[-1]
        for block in stage:
            preactivation = block(x)
            x = F.relu(preactivation)
        preactivations.append(preactivation)
        features.append(x)
    return preactivations, features


def pooled(map_: Tensor) -> Tensor:
    """Return the mean over all positions, [B, C, H, W] to [B, C]."""
    return F.adaptive_avg_pool2d(map_, 1).flatten(1)


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
    """Put a network into eval mode; afterwards each part of it is in its own mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
