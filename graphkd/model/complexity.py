"""What a network costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from graphkd.model.base import black_image, probing


class Complexity(NamedTuple):
    """What a network costs.

    Attributes:
        parameters: Number of parameters, frozen ones included.
        multiply_adds: Multiply-adds of one forward pass on one image, of convolutions and matrix products alone.
    """

    parameters: int
    multiply_adds: int


def complexity(network: nn.Module, in_channels: int, image_size: int) -> Complexity:
    """Count what a network costs by running it once on zeros.

    Neither the network (device, state, train or eval mode of each part) nor the random generators change.

    Args:
        network: Takes images, float [1, in_channels, image_size, image_size].
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
    """
    # With gradient, for without it torch may take a fused path through attention that it has no formula for.
    image = black_image(network, in_channels, image_size).requires_grad_()
    with probing(network), torch.enable_grad(), _Counter() as counter:
        network(image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Complexity(parameters, counter.flops // 2)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up floating-point operations by torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's FlopCounterMode skips it, for which it first loads all of torch._dynamo: seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        formula: Any = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=output)
        return output
