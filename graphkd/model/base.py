"""The base class of all networks, and what networks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import UserError, check, one_line
from graphkd.registry import Registry


class Network(nn.Module, ABC):
    """A classifier that returns its inner features with the logits."""

    token_blocks: tuple[str, ...] = ()
    """Names of the blocks that return sequences of tokens; the option `features` can take them as maps."""

    @abstractmethod
    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, C, H, W]."""


MODELS: Registry[Network] = Registry("model", "graphkd.model", runtime={"num_classes", "in_channels", "model"})


class Shapes(NamedTuple):
    """Shapes of a network's output, without the batch.

    Attributes:
        features: (channels, height, width) of each feature map, the stem's first.
        embedding: Width of the embedding.
        num_classes: Width of the logits.
    """

    features: list[tuple[int, int, int]]
    embedding: int
    num_classes: int


def trial_output(network: nn.Module, in_channels: int, image_size: int, with_gradient: bool = False) -> NetworkOutput:
    """Return a network's output for one black square image; the network and random generators stay as they are.

    Args:
        network: Maps images to a `NetworkOutput`.
        in_channels: Channels of the image.
        image_size: Height and width of the image, in pixels.
        with_gradient: Whether the output carries gradient.

    Raises:
        UserError: The network does not run on such images, or its output has another form.
    """
    with probing(network), torch.set_grad_enabled(with_gradient):
        try:
            output: NetworkOutput = network(black_image(network, in_channels, image_size))
        except Exception as error:  # of networks from anywhere
            images = f"{in_channels}x{image_size}x{image_size}"
            raise UserError(f"the network does not run on images of {images}: {one_line(error)}") from error
    _check_output(output, type(network).__name__)
    return output


def _check_output(output: Any, network: str) -> None:
    """Raise a `UserError` unless this is the output for one image."""
    what = f"{network}.forward must return"
    check(isinstance(output, NetworkOutput), f"{what} a NetworkOutput, not a {type(output).__name__}")
    for name, values, axes in (
        ("logits", [output.logits], "[batch, classes]"),
        ("embedding", [output.embedding], "[batch, features]"),
        ("features", output.features, "[batch, channels, height, width]"),
    ):
        check(isinstance(values, (list, tuple)), f"{what} a list of feature maps, not a {type(values).__name__}")
        for value in values:
            fits = isinstance(value, Tensor) and value.ndim == axes.count(",") + 1 and len(value) == 1
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            check(fits, f"{what} {name} {axes}, but for a batch of one they are {shape}")


def output_shapes(network: nn.Module, in_channels: int, image_size: int) -> Shapes:
    """Return the shapes of `trial_output`, which may raise a `UserError`."""
    return shapes_of(trial_output(network, in_channels, image_size))


def shapes_of(output: NetworkOutput) -> Shapes:
    """Return the shapes of a network's output, without the batch."""
    features = [(feature.shape[1], feature.shape[2], feature.shape[3]) for feature in output.features]
    return Shapes(features, output.embedding.shape[1], output.logits.shape[1])


def parts_behind_the_maps(network: nn.Module, in_channels: int, image_size: int) -> list[nn.Module]:
    """Return the parts whose own parameters do not affect the last feature map; raises as `trial_output`."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    last = trial_output(network, in_channels, image_size, with_gradient=True).features[-1]
    gradients = torch.autograd.grad(last.sum(), parameters, allow_unused=True)
    reached = {id(parameter) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    own = {part: [id(parameter) for parameter in part.parameters(recurse=False)] for part in network.modules()}
    return [part for part, known in own.items() if known and reached.isdisjoint(known)]


def check_ends(num_classes: int, in_channels: int) -> None:
    """Raise a `UserError` unless both numbers are positive."""
    check(num_classes >= 1, f"num_classes is {num_classes}, but must be at least 1")
    check(in_channels >= 1, f"in_channels is {in_channels}, but must be at least 1")


def check_numbers(option: str, numbers: Sequence[int], count: int, meaning: str) -> None:
    """Raise a `UserError` unless the option holds `count` positive numbers."""
    words = {3: "three", 4: "four", 5: "five"}
    valid = len(numbers) == count and min(numbers) >= 1
    check(valid, f"{option} is {list(numbers)}, but must be {words[count]} positive numbers: {meaning}")


def pooled(map_: Tensor) -> Tensor:
    """Return the mean over all positions, [B, C, H, W] to [B, C]."""
    return F.adaptive_avg_pool2d(map_, 1).flatten(1)


def black_image(network: nn.Module, in_channels: int, image_size: int) -> Tensor:
    """Return zeros [1, in_channels, image_size, image_size] on the network's device and in its dtype."""
    parameter = next(network.parameters(), torch.empty(0))
    return torch.zeros(1, in_channels, image_size, image_size, dtype=parameter.dtype, device=parameter.device)


@contextmanager
def probing(network: nn.Module) -> Iterator[None]:
    """Run a network in this context in eval mode and without gradient; restore modes and random generators after it."""
    devices = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    with eval_mode(network), torch.no_grad(), torch.random.fork_rng(devices):
        yield


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode in this context; restore the mode of each part after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def forward_hooks(hooks: Iterable[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    """Call each part's hook in this context, with the part, its inputs and its output."""
    handles = [part.register_forward_hook(hook) for part, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
