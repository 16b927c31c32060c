"""A network's own input: the size and normalisation of the images that it was trained on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.errors import UserError, check, counted
from graphkd.model.base import Network


@dataclass(frozen=True)
class OwnInput:
    """Size and normalisation of the images that a network was trained on; None where they are the data's.

    Attributes:
        size: Height and width, in pixels.
        mean: Mean that is subtracted from each channel of pixel values in 0 .. 1.
        std: Standard deviation by which each channel is then divided.
    """

    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def adapt_input(
    network: Network, own: OwnInput, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> None:
    """Make a network resize (bilinear, antialiased) and renormalise its input before the forward pass.

    Args:
        network: Changed in place; its state dict stays as it is.
        own: The images that it takes.
        mean: Mean of the data's normalisation; None if unknown.
        std: Standard deviation of the data's normalisation; None if unknown.

    Raises:
        UserError: A value is out of range, or the data's normalisation is needed and unknown.
    """
    check(own.size is None or own.size >= 1, f"input.size is {own.size}, but must be at least 1")
    scale, shift = torch.ones(1), torch.zeros(1)
    if own.mean is not None or own.std is not None:
        if mean is None or std is None:
            raise UserError("input.mean and input.std need data that says by what its images are normalised")
        means, stds = own.mean or mean, own.std or std
        fits = len(means) == len(stds) == len(mean)
        given = f"{counted(len(means), 'mean')} and {counted(len(stds), 'std')}"
        check(fits, f"input has {given}, but the images have {counted(len(mean), 'channel')}")
        check(all(value > 0 for value in stds), f"input.std is {list(stds)}, but its values must be above 0")
        old_mean, old_std, new_mean, new_std = (torch.tensor(row).double() for row in (mean, std, means, stds))
        scale, shift = (old_std / new_std).float(), ((old_mean - new_mean) / new_std).float()
    network.register_buffer("_input_scale", scale[:, None, None], persistent=False)
    network.register_buffer("_input_shift", shift[:, None, None], persistent=False)
    network.register_forward_pre_hook(functools.partial(_take_as, own.size))


def _take_as(size: int | None, network: Any, inputs: tuple[Tensor]) -> Tensor:
    images: Tensor = inputs[0] * network._input_scale + network._input_shift
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
