"""The ResNet-50 of the CRD benchmark: the ImageNet network with a stem for small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import check
from graphkd.model.base import MODELS, Network, check_ends, initialise_by_fan_out, pooled, through_stages

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, the last of which widens by four, and a shortcut.

    Returns the sum *before* its ReLU.
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        out_width = _EXPANSION * width
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_width != out_width:
            shortcut = nn.Conv2d(in_width, out_width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(out_width))

    def forward(self, x: Tensor) -> Tensor:
        """Take a map, float [B, in_width, H, W], to float [B, 4 x width, H / stride, W / stride]."""
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
        self,
        num_classes: int,
        blocks: tuple[int, int, int, int] = _BLOCKS,
        width: int = 64,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check(
            len(blocks) == 4 and min(blocks) >= 1,
            f"blocks is {list(blocks)}, but must be four positive numbers: one for each stage",
        )
        check(width >= 1, f"width is {width}, but must be at least 1")
        check_ends(num_classes, in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks[0], stride=1)
        self.layer2 = _stage(_EXPANSION * width, 2 * width, blocks[1], stride=2)
        self.layer3 = _stage(_EXPANSION * 2 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = _stage(_EXPANSION * 4 * width, 8 * width, blocks[3], stride=2)
        self.linear = nn.Linear(_EXPANSION * 8 * width, num_classes)
        initialise_by_fan_out(self)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, in_channels, H, W]: five maps, of the stem and of each stage."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        preactivations, features = through_stages(self.bn1(self.conv1(images)), stages)
        embedding = pooled(features[-1])
        return NetworkOutput(self.linear(embedding), features, embedding, preactivations)


def _stage(in_width: int, width: int, blocks: int, stride: int) -> nn.ModuleList:
    first = Bottleneck(in_width, width, stride)
    others = (Bottleneck(_EXPANSION * width, width, 1) for _ in range(blocks - 1))
    return nn.ModuleList([first, *others])
