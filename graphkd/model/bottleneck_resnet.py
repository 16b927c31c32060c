"""The ResNet-50 of the CRD benchmark: the ImageNet network with a stem for small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import check
from graphkd.model.base import MODELS, Network, check_ends, check_numbers, pooled
from graphkd.model.blocks import blocks_of, initialise_by_fan_out, projection, through_stages

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, the last of which widens by four, and a shortcut.

    Returns the sum *before* its ReLU.
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width // _EXPANSION
        self.conv1 = nn.Conv2d(in_width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.shortcut = projection(in_width, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Take a map, float [B, in_width, H, W], to float [B, width, H / stride, W / stride]."""
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        residual: Tensor = self.bn3(self.conv3(inner))
        shortcut: Tensor = self.shortcut(x)
        return residual + shortcut


@MODELS.register("ResNet50")
class BottleneckResNet(Network):
    """ResNet of bottlenecks for small images: a 3x3 stem, four stages (full to an eighth of the size), a linear head.

    He et al., "Deep residual learning for image recognition" (arXiv 1512.03385), table 1, without the first pooling;
    tensor names and initialisation (convolutions normal by fan-out) as in the CRD benchmark (arXiv 1910.10699).

    Args:
        num_classes: Width of the logits.
        blocks: Bottlenecks of each stage.
        width: Channels of the stem and of the first stage's inner convolutions; each further stage doubles them.
        in_channels: Channels of the images.

    Raises:
        UserError: A number is not positive, or not four are given for the stages.
    """

    def __init__(
        self, num_classes: int, blocks: tuple[int, int, int, int] = _BLOCKS, width: int = 64, in_channels: int = 3
    ) -> None:
        super().__init__()
        check_numbers("blocks", blocks, 4, "one for each stage")
        check(width >= 1, f"width is {width}, but must be at least 1")
        check_ends(num_classes, in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        wide = _EXPANSION * width
        self.layer1 = blocks_of(Bottleneck, width, wide, blocks[0], stride=1)
        self.layer2 = blocks_of(Bottleneck, wide, 2 * wide, blocks[1], stride=2)
        self.layer3 = blocks_of(Bottleneck, 2 * wide, 4 * wide, blocks[2], stride=2)
        self.layer4 = blocks_of(Bottleneck, 4 * wide, 8 * wide, blocks[3], stride=2)
        self.linear = nn.Linear(8 * wide, num_classes)
        initialise_by_fan_out(self)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, in_channels, H, W]: five maps, of the stem and of each stage."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        preactivations, features = through_stages(self.bn1(self.conv1(images)), stages)
        embedding = pooled(features[-1])
        return NetworkOutput(self.linear(embedding), features, embedding, preactivations)
