"""The VGG networks of the CRD benchmark, with batch norm."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import NetworkOutput
from graphkd.errors import check
from graphkd.model.base import MODELS, Network, check_ends, check_numbers, pooled
from graphkd.model.blocks import initialise_by_fan_out

_WIDTHS = (64, 128, 256, 512, 512)
_LARGEST_SMALL_IMAGE = 32
"""Above this height, in pixels, maps are pooled once more."""


class Vgg(Network):
    """VGG for small images: five blocks of 3x3 convolutions with max pooling after the first three, a linear head.

    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (arXiv 1409.1556),
    table 1; tensor names and initialisation (convolutions normal by fan-out, the head normal with standard deviation
    0.01, biases 0) as in the CRD benchmark (arXiv 1910.10699). As there, images higher than 32 pixels are pooled before
    the last block too.

    Args:
        num_classes: Width of the logits.
        layers: Number of convolutions in each block.
        widths: Channels of each block.
        in_channels: Channels of the images.

    Raises:
        UserError: A number is not positive or too many or few are given; later, images are smaller than 8 pixels.
    """

    def __init__(
        self,
        num_classes: int,
        layers: tuple[int, int, int, int, int],
        widths: tuple[int, int, int, int, int] = _WIDTHS,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_numbers("layers", layers, 5, "one for each block")
        check_numbers("widths", widths, 5, "one for each block")
        check_ends(num_classes, in_channels)
        self.block0 = _block(in_channels, widths[0], layers[0])
        self.block1 = _block(widths[0], widths[1], layers[1])
        self.block2 = _block(widths[1], widths[2], layers[2])
        self.block3 = _block(widths[2], widths[3], layers[3])
        self.block4 = _block(widths[3], widths[4], layers[4])
        self.classifier = nn.Linear(widths[4], num_classes)
        initialise_by_fan_out(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Return the output for images, float [B, in_channels, H, W]: five maps, of each block before its pooling."""
        height, width = images.shape[2:]
        check(min(height, width) >= 8, f"the images are {height}x{width} pixels, but vgg needs at least 8x8")
        poolings = 4 if height > _LARGEST_SMALL_IMAGE else 3
        features: list[Tensor] = []
        preactivations: list[Tensor] = []
        x = images
        for number, block in enumerate((self.block0, self.block1, self.block2, self.block3, self.block4)):
            preactivations.append(block(x))
            features.append(F.relu(preactivations[-1]))
            x = F.max_pool2d(features[-1], 2) if number < poolings else features[-1]
        embedding = pooled(x)
        return NetworkOutput(self.classifier(embedding), features, embedding, preactivations)


def _block(in_width: int, width: int, layers: int) -> nn.Sequential:
    """Return convolutions with norm and ReLU, but for the last ReLU."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        convolution = nn.Conv2d(width if layer else in_width, width, 3, padding=1)
        parts += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


for _depth, _layers in {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}.items():
    MODELS.register(f"vgg{_depth}", layers=_layers)(Vgg)
