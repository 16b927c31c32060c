"""The ShuffleNetV2 of the CRD benchmark, of size 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import check
from graphkd.model.base import MODELS, Network, check_ends, check_numbers, pooled
from graphkd.model.blocks import through_stages
from graphkd.model.shufflenetv1 import shuffle_channels

_STEM_WIDTH = 24
_WIDTHS = (116, 232, 464, 1024)
_BLOCKS = (4, 8, 4)


class SplitUnit(nn.Module):
    """Half of the channels pass, the others go through 1x1, depthwise 3x3 and 1x1 convolutions; then a shuffle.

    Returns the map *before* its ReLU; the passing half has been through one already.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Take a map, float [B, width, H, W], to one of the same shape."""
        passing, x = x.chunk(2, dim=1)
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return shuffle_channels(torch.cat([passing, self.bn3(self.conv3(x))], 1), 2)


class DownUnit(nn.Module):
    """Two branches of depthwise stride 2, each with half of the channels; then a shuffle.

    Returns the map *before* its ReLU.
    """

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(in_width, in_width, 3, 2, padding=1, groups=in_width, bias=False)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Take a map, float [B, in_width, H, W], to float [B, width, H / 2, W / 2]."""
        short = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        long = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        return shuffle_channels(torch.cat([short, self.bn5(self.conv5(long))], 1), 2)


@MODELS.register("ShuffleV2")
class ShuffleNetV2(Network):
    """ShuffleNetV2 for small images: a 1x1 stem of 24 channels, three stages, a 1x1 convolution, a linear head.

    Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design" (arXiv 1807.11164), table 5;
    tensor names, the stem and the initialisation (PyTorch's own) as in the CRD benchmark (arXiv 1910.10699).

    Pre-activations have the channel order of the maps; the benchmark's are the same values unshuffled. This is
    harmless, since losses on them sum over the channels or begin with a convolution.

    Args:
        num_classes: Width of the logits.
        widths: Channels of each stage, each halving the map, and of the last convolution.
        blocks: Units of each stage, the first of which halves the map.
        in_channels: Channels of the images.

    Raises:
        UserError: A stage's width is odd, a number is not positive, or too many or few are given.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, int, int, int] = _WIDTHS,
        blocks: tuple[int, int, int] = _BLOCKS,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check(
            len(widths) == 4 and min(widths) >= 1 and all(width % 2 == 0 for width in widths[:3]),
            f"widths is {list(widths)}, but must be four positive numbers: of three stages, even, and the last",
        )
        check_numbers("blocks", blocks, 3, "one for each stage")
        check_ends(num_classes, in_channels)
        self.conv1 = nn.Conv2d(in_channels, _STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM_WIDTH)
        self.layer1 = _stage(_STEM_WIDTH, widths[0], blocks[0])
        self.layer2 = _stage(widths[0], widths[1], blocks[1])
        self.layer3 = _stage(widths[1], widths[2], blocks[2])
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.linear = nn.Linear(widths[3], num_classes)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, in_channels, H, W]: four maps, of the stem and of each stage."""
        stages = (self.layer1, self.layer2, self.layer3)
        preactivations, features = through_stages(self.bn1(self.conv1(images)), stages)
        embedding = pooled(F.relu(self.bn2(self.conv2(features[-1]))))
        return NetworkOutput(self.linear(embedding), features, embedding, preactivations)


def _stage(in_width: int, width: int, blocks: int) -> nn.ModuleList:
    return nn.ModuleList([DownUnit(in_width, width), *(SplitUnit(width) for _ in range(blocks - 1))])
