"""The ShuffleNet (v1) of the CRD benchmark."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import check
from graphkd.model.base import MODELS, Network, check_ends, check_numbers, pooled
from graphkd.model.blocks import through_stages

_STEM_WIDTH = 24
_WIDTHS = (240, 480, 960)
_BLOCKS = (4, 8, 4)


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Shuffle the channels of a map, [B, C, H, W]: the first channel of each group, then the second of each, ..."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, groups, channels // groups, height, width).transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolutions, with the channels shuffled after the first.

    With stride 2 the pooled input is concatenated with the result, both together of the given width; otherwise the
    input is added. Returns the map *before* its ReLU.
    """

    def __init__(self, in_width: int, width: int, stride: int, in_groups: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.in_groups = in_groups
        out = width - in_width if stride == 2 else width
        inner = out // 4
        self.conv1 = nn.Conv2d(in_width, inner, 1, groups=in_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Take a map, float [B, in_width, H, W], to float [B, width, H / stride, W / stride]."""
        inner = shuffle_channels(F.relu(self.bn1(self.conv1(x))), self.in_groups)
        inner = F.relu(self.bn2(self.conv2(inner)))
        residual: Tensor = self.bn3(self.conv3(inner))
        if self.stride == 2:
            return torch.cat([residual, F.avg_pool2d(x, 3, 2, padding=1)], 1)
        return x + residual


@MODELS.register("ShuffleV1")
class ShuffleNetV1(Network):
    """ShuffleNet for small images: a 1x1 stem of 24 channels, three stages that halve the map, a linear head.

    Zhang et al., "ShuffleNet: an extremely efficient convolutional neural network for mobile devices"
    (arXiv 1707.01083), table 1; tensor names, the stem, the ReLU after the depthwise convolution and the initialisation
    (PyTorch's own) as in the CRD benchmark (arXiv 1910.10699).

    Args:
        num_classes: Width of the logits.
        groups: Groups of the 1x1 convolutions (the very first unit's input has one).
        widths: Channels of each stage.
        blocks: Units of each stage.
        in_channels: Channels of the images.

    Raises:
        UserError: The groups do not divide the channels, or a number is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        groups: int = 3,
        widths: tuple[int, int, int] = _WIDTHS,
        blocks: tuple[int, int, int] = _BLOCKS,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check(groups in (1, 2, 3, 6), f"groups is {groups}, but must be 1, 2, 3 or 6: 4 x groups divides the stem's 24")
        check(
            len(widths) == 3
            and all(width % (4 * groups) == 0 for width in widths)
            and _STEM_WIDTH < widths[0] < widths[1] < widths[2],
            f"widths is {list(widths)}, but must be three growing multiples of {4 * groups} above {_STEM_WIDTH}",
        )
        check_numbers("blocks", blocks, 3, "one for each stage")
        check_ends(num_classes, in_channels)
        self.conv1 = nn.Conv2d(in_channels, _STEM_WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM_WIDTH)
        self.layer1 = _stage(_STEM_WIDTH, widths[0], blocks[0], 1, groups)
        self.layer2 = _stage(widths[0], widths[1], blocks[1], groups, groups)
        self.layer3 = _stage(widths[1], widths[2], blocks[2], groups, groups)
        self.linear = nn.Linear(widths[2], num_classes)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, in_channels, H, W]: four maps, of the stem and of each stage."""
        stages = (self.layer1, self.layer2, self.layer3)
        preactivations, features = through_stages(self.bn1(self.conv1(images)), stages)
        embedding = pooled(features[-1])
        return NetworkOutput(self.linear(embedding), features, embedding, preactivations)


def _stage(in_width: int, width: int, blocks: int, in_groups: int, groups: int) -> nn.ModuleList:
    first = ShuffleUnit(in_width, width, 2, in_groups, groups)
    return nn.ModuleList([first, *(ShuffleUnit(width, width, 1, groups, groups) for _ in range(blocks - 1))])
