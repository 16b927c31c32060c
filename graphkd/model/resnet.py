"""The CIFAR ResNets of the CRD benchmark."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import check
from graphkd.model.base import MODELS, Network, check_ends, check_numbers, pooled
from graphkd.model.blocks import blocks_of, initialise_by_fan_out, projection, through_stages

_WIDTHS = (16, 16, 32, 64)
_WIDTHS_X4 = (32, 64, 128, 256)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum *before* its ReLU."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(in_width, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Take a map, float [B, in_width, H, W], to float [B, width, H / stride, W / stride]."""
        residual: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut: Tensor = self.downsample(x)
        return residual + shortcut


class CifarResNet(Network):
    """ResNet for small images: a 3x3 stem, three stages (full, half and quarter resolution), a linear head.

    He et al., "Deep residual learning for image recognition" (arXiv 1512.03385), section 4.2, with projection
    shortcuts; tensor names as in the published checkpoints of the CRD benchmark (arXiv 1910.10699).

    Args:
        num_classes: Width of the logits.
        depth: Number of layers, 6n + 2 for n blocks a stage.
        widths: Channels of the stem and of the three stages.
        in_channels: Channels of the images.

    Raises:
        UserError: The depth is not 6n + 2, or a width or count is not positive.
    """

    def __init__(
        self, num_classes: int, depth: int, widths: tuple[int, int, int, int] = _WIDTHS, in_channels: int = 3
    ) -> None:
        super().__init__()
        check(depth >= 8 and depth % 6 == 2, f"depth is {depth}, but must be 6n + 2: 8, 14, 20, ...")
        check_numbers("widths", widths, 4, "of the stem and of three stages")
        check_ends(num_classes, in_channels)
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = blocks_of(BasicBlock, widths[0], widths[1], blocks, stride=1)
        self.layer2 = blocks_of(BasicBlock, widths[1], widths[2], blocks, stride=2)
        self.layer3 = blocks_of(BasicBlock, widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        initialise_by_fan_out(self)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, in_channels, H, W]: four maps, of the stem and of each stage."""
        stages = (self.layer1, self.layer2, self.layer3)
        preactivations, features = through_stages(self.bn1(self.conv1(images)), stages)
        embedding = pooled(features[-1])
        return NetworkOutput(self.fc(embedding), features, embedding, preactivations)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.register(f"resnet{_depth}", depth=_depth)(CifarResNet)
for _depth in (8, 32):
    MODELS.register(f"resnet{_depth}x4", depth=_depth, widths=_WIDTHS_X4)(CifarResNet)
