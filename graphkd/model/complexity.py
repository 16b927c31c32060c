"""Number of parameters and multiply-adds of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from graphkd.model.base import black_image, probing


class Complexity(NamedTuple):
    """Cost of a network.

    Attributes:
        parameters: Number of parameters, frozen ones included.
        multiply_adds: Multiply-adds of convolutions and matrix products in a forward pass on one image.
    """

    parameters: int
    multiply_adds: int


def complexity(network: nn.Module, in_channels: int, image_size: int) -> Complexity:
    """Count the cost of a network on one image of zeros; the network and random generators stay as they are.

    Args:
        network: Takes images, float [1, in_channels, image_size, image_size].
        in_channels: Channels of the image.
        image_size: Height and width of the image, in pixels.
    """
    # With gradient: without it, torch may run attention as a fused operation for which it has no formula.
    image = black_image(network, in_channels, image_size).requires_grad_()
    with probing(network), torch.enable_grad(), _Counter() as counter:
        network(image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Complexity(parameters, counter.flops // 2)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums floating-point operations by torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, as in torch's FlopCounterMode, would load torch._dynamo, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        formula: Any = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=output)
        return output
