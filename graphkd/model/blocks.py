"""Building blocks that several networks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch.nn.functional as F
from torch import Tensor, nn


def initialise_by_fan_out(network: nn.Module) -> None:
    """Draw the weights of all convolutions as in the CRD benchmark: normal, by fan-out, for ReLU; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def projection(in_width: int, width: int, stride: int) -> nn.Module:
    """Return a residual block's shortcut: a 1x1 convolution with norm where the shape changes, else the identity."""
    if stride == 1 and in_width == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def blocks_of(
    block: Callable[[int, int, int], nn.Module], in_width: int, width: int, count: int, stride: int
) -> nn.ModuleList:
    """Return the blocks of a stage, made by `block(in_width, width, stride)`; the first has the stride."""
    return nn.ModuleList([block(in_width, width, stride), *(block(width, width, 1) for _ in range(count - 1))])


def through_stages(stem: Tensor, stages: Iterable[nn.ModuleList]) -> tuple[list[Tensor], list[Tensor]]:
    """Run stages of blocks that return their sum before its ReLU.

    Args:
        stem: The stem's output before its ReLU, float [B, C, H, W].
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
