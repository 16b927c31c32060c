"""The MobileNetV2 of the CRD benchmark, of half width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import check
from graphkd.model.base import MODELS, Network, check_ends, pooled
from graphkd.model.blocks import initialise_by_fan_out

_STEM_WIDTH = 32
_STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""Channels at full width, number of blocks, and stride of the first."""
_SHOWN = (1, 2, 4, 6)
"""The last stage of each resolution; their maps are the features."""
_LAST_WIDTH = 1280


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two of 1x1, the last without ReLU; a shortcut where the shape stays."""

    def __init__(self, in_width: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_width * expansion
        self.has_shortcut = stride == 1 and in_width == width
        self.conv = nn.Sequential(
            nn.Conv2d(in_width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Take a map, float [B, in_width, H, W], to float [B, width, H / stride, W / stride]."""
        residual: Tensor = self.conv(x)
        return x + residual if self.has_shortcut else residual


@MODELS.register("MobileNetV2")
class MobileNetV2(Network):
    """MobileNetV2 for small images: a 3x3 stem of stride 2, seven stages, a 1x1 convolution, a linear head.

    Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks" (arXiv 1801.04381), table 2, with stride 1
    in the second stage; that, tensor names and initialisation (convolutions normal by fan-out, the head normal with
    standard deviation 0.01, biases 0) as in the CRD benchmark (arXiv 1910.10699).

    Stages end without a ReLU, so `preactivations` differ from `features` in the stem only.

    Args:
        num_classes: Width of the logits.
        width: Factor of the channels; the last convolution has at least 1280.
        expansion: Factor from a block's input to its inner channels (the first stage's is 1).
        in_channels: Channels of the images.

    Raises:
        UserError: The width leaves a stage without channels, or another number is not positive.
    """

    def __init__(self, num_classes: int, width: float = 0.5, expansion: int = 6, in_channels: int = 3) -> None:
        super().__init__()
        check(width >= 1 / 16, f"width is {width}, but must be at least 0.0625: one channel in the first stage")
        check(expansion >= 1, f"expansion is {expansion}, but must be at least 1")
        check_ends(num_classes, in_channels)
        channels = int(_STEM_WIDTH * width)
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, 2, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.blocks = nn.ModuleList()
        for number, (full_width, blocks, stride) in enumerate(_STAGES):
            out_channels = int(full_width * width)
            self.blocks.append(_stage(channels, out_channels, blocks, stride, expansion if number else 1))
            channels = out_channels
        last = int(_LAST_WIDTH * max(width, 1.0))
        self.conv2 = nn.Sequential(nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last))
        head = nn.Linear(last, num_classes)
        self.classifier = nn.Sequential(head)
        initialise_by_fan_out(self)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, in_channels, H, W]: five maps, of the stem and of each resolution."""
        stem: Tensor = self.conv1(images)
        x = F.relu(stem)
        features = [x]
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in _SHOWN:
                features.append(x)
        embedding = pooled(F.relu(self.conv2(x)))
        return NetworkOutput(self.classifier(embedding), features, embedding, [stem, *features[1:]])


def _stage(in_width: int, width: int, blocks: int, stride: int, expansion: int) -> nn.Sequential:
    first = InvertedResidual(in_width, width, stride, expansion)
    return nn.Sequential(first, *(InvertedResidual(width, width, 1, expansion) for _ in range(blocks - 1)))
