"""The operations of RandAugment on whole batches, the samples of each in one call."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Operation = Callable[[Tensor], Tensor]
BINS = 31
"""Magnitudes count from 0 to one below."""
UNSIGNED, SIGNED = 5, 9
"""Numbers of operations without a direction, and of those with one."""


def rand_augment(images: Tensor, choices: Tensor, magnitude: int) -> Tensor:
    """Augment like Cubuk et al. (arXiv 1909.13719), by torchvision's kernels: nearest pixels, zeros outside.

    Args:
        images: uint8 [B, C, H, W] with C = 1 or 3.
        choices: Positions in `operations` of what each sample goes through, row after row, int64 [N, B].
        magnitude: Strength of the operations, from 0 to 30.

    Returns:
        uint8 [B, C, H, W].
    """
    kernels = operations(magnitude, *images.shape[2:])
    members = choices[:, :, None] == torch.arange(len(kernels), device=choices.device)
    sizes = members.sum(1).tolist()  # the only look at values on the host
    for order, groups in zip(choices.argsort(1), sizes, strict=True):
        parts = zip(kernels, torch.split(images[order], groups), strict=True)
        results = [kernel(part) for kernel, part in parts if len(part)]
        images = torch.cat(results)[order.argsort()] if results else images
    return images


def operations(magnitude: int, height: int, width: int) -> list[Operation]:
    """Return the operations of torchvision's `RandAugment`, each for uint8 [B, C, H, W].

    Args:
        magnitude: Their strength, from 0 to 30.
        height: Height of the images in pixels.
        width: Width of them.

    Returns:
        The 5 without a direction, the 9 with one in the positive direction, and these in the negative one.
    """
    from torchvision.transforms.v2 import functional as v2

    def level(start: float, end: float) -> float:
        return float(torch.linspace(start, end, BINS)[magnitude])

    def signed(sign: int) -> list[Operation]:
        affine = partial(v2.affine, angle=0.0, scale=1.0)
        degrees = math.degrees(math.atan(sign * level(0.0, 0.3)))
        right, down = (int(sign * level(0.0, 150 / 331 * side)) for side in (width, height))
        factor = 1 + sign * level(0.0, 0.9)
        return [
            partial(affine, translate=[0, 0], shear=[degrees, 0.0], center=[0, 0]),
            partial(affine, translate=[0, 0], shear=[0.0, degrees], center=[0, 0]),
            partial(affine, translate=[right, 0], shear=[0.0, 0.0]),
            partial(affine, translate=[0, down], shear=[0.0, 0.0]),
            partial(v2.rotate, angle=sign * level(0.0, 30.0)),
            partial(v2.adjust_brightness, brightness_factor=factor),
            partial(v2.adjust_saturation, saturation_factor=factor),
            partial(v2.adjust_contrast, contrast_factor=factor),
            partial(v2.adjust_sharpness, sharpness_factor=factor),
        ]

    unsigned: list[Operation] = [
        lambda images: images,
        partial(v2.posterize, bits=round(8 - magnitude * 4 / (BINS - 1))),
        partial(v2.solarize, threshold=255 * level(1.0, 0.0)),
        v2.autocontrast,
        v2.equalize,
    ]
    return [*unsigned, *signed(1), *signed(-1)]
