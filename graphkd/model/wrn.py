"""The wide residual networks of the CRD benchmark."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import check
from graphkd.model.base import MODELS, Network, check_ends, pooled
from graphkd.model.blocks import blocks_of, initialise_by_fan_out


class PreactivationBlock(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice, and a shortcut, which is a convolution where the width changes.

    Also returns its first norm's output: the pre-activation of the input map.
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = None if in_width == width else nn.Conv2d(in_width, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take a map, float [B, in_width, H, W], to float [B, width, H / stride, W / stride]."""
        preactivation: Tensor = self.bn1(x)
        active = F.relu(preactivation)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        shortcut: Tensor = x if self.convShortcut is None else self.convShortcut(active)
        return residual + shortcut, preactivation


class Stage(nn.Module):
    """Blocks of one width, the first of which has the stride."""

    def __init__(self, in_width: int, width: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = blocks_of(PreactivationBlock, in_width, width, blocks, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take a map as a block does; the pre-activation is the input map's."""
        first, *others = self.layer
        x, preactivation = first(x)
        for block in others:
            x, _ = block(x)
        return x, preactivation


class WideResNet(Network):
    """Pre-activation ResNet for small images: a 3x3 stem, three stages, a last norm and ReLU, a linear head.

    Zagoruyko and Komodakis, "Wide residual networks" (arXiv 1605.07146), section 3; tensor names and initialisation
    (convolutions normal by fan-out, biases 0) as in the CRD benchmark (arXiv 1910.10699).

    The maps are the sums of each stage, which the *next* norm and ReLU activate: `preactivations` holds them after that
    norm, as in the benchmark, and `embedding` is the last one after norm, ReLU and pooling.

    Args:
        num_classes: Width of the logits.
        depth: Number of layers, 6n + 4 for n blocks a stage.
        widen: Factor to the channels of the stages, 16, 32 and 64.
        in_channels: Channels of the images.

    Raises:
        UserError: The depth is not 6n + 4, or another number is not positive.
    """

    def __init__(self, num_classes: int, depth: int, widen: int = 1, in_channels: int = 3) -> None:
        super().__init__()
        check(depth >= 10 and depth % 6 == 4, f"depth is {depth}, but must be 6n + 4: 10, 16, 22, ...")
        check(widen >= 1, f"widen is {widen}, but must be at least 1")
        check_ends(num_classes, in_channels)
        blocks = (depth - 4) // 6
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, widths[0], blocks, stride=1)
        self.block2 = Stage(widths[0], widths[1], blocks, stride=2)
        self.block3 = Stage(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        initialise_by_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, in_channels, H, W]: four maps, of the stem and of each stage."""
        features: list[Tensor] = [self.conv1(images)]
        preactivations: list[Tensor] = []
        for stage in (self.block1, self.block2, self.block3):
            x, preactivation = stage(features[-1])
            features.append(x)
            preactivations.append(preactivation)
        preactivations.append(self.bn1(features[-1]))
        embedding = pooled(F.relu(preactivations[-1]))
        return NetworkOutput(self.fc(embedding), features, embedding, preactivations)


for _depth in (16, 40):
    for _widen in (1, 2):
        MODELS.register(f"wrn_{_depth}_{_widen}", depth=_depth, widen=_widen)(WideResNet)
