"""Random crops, flips, RandAugment and cutout of whole batches, drawn for each sample by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.data.rand_augment import BINS, SIGNED, UNSIGNED, rand_augment
from graphkd.errors import check

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as signed 64-bit integers have it, like the two below
_FACTOR1 = -0x40A7B892E31B1A47
_FACTOR2 = -0x6B2FB644ECCEEE15
_VALUES_AT_ONCE = 2**21  # 8 MB in float32: more fits no cache, less is mostly the cost of calls
_CROP_AND_FLIP, _CUTOUT = 3, 2  # streams of random bits; those of RandAugment follow, one an operation


class Draws(NamedTuple):
    """First row and column of each crop in the padded image, int64 [B], and whether to mirror it, bool [B]."""

    top: Tensor
    left: Tensor
    flip: Tensor


@dataclass(frozen=True)
class Augmentation:
    """Zero padding and a random crop of the old size, a random horizontal flip (p = 1/2), then RandAugment.

    The same distribution as torchvision's `RandomCrop(size, padding)`, `RandomHorizontalFlip()` and
    `RandAugment(rand_augment, rand_magnitude)`. What a sample gets depends on the seed and its index alone: not on
    batch, device or number of workers, but for the rounding of RandAugment's pixels on other devices.

    Args:
        padding: Zeros on each side before the crop, in pixels.
        flip: Whether to flip.
        cutout: Side of the square that `cut_out` blanks, in pixels; 0 for none.
        rand_augment: Number of RandAugment's operations that an image goes through; 0 for none.
        rand_magnitude: Their strength, from 0 to 30.

    Raises:
        UserError: `padding`, `cutout` or `rand_augment` is negative, or `rand_magnitude` out of range.
    """

    padding: int = 0
    flip: bool = False
    cutout: int = 0
    rand_augment: int = 0
    rand_magnitude: int = 9

    def __post_init__(self) -> None:
        for name in ("padding", "cutout", "rand_augment"):
            value = getattr(self, name)
            check(value >= 0, f"{name} is {value}, but must be at least 0")
        magnitude = self.rand_magnitude
        check(0 <= magnitude < BINS, f"rand_magnitude is {magnitude}, but must be at least 0 and at most {BINS - 1}")

    def __call__(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """Return the augmented images, uint8 [B, C, H, W].

        Args:
            images: uint8 [B, C, H, W]; RandAugment is for C = 1 or 3.
            indices: Each sample's position in the data set, int64 [B], on the same device.
            seed: The augmentation seed.

        Raises:
            UserError: RandAugment is on, but C is neither 1 nor 3.
        """
        if self.padding or self.flip:
            images = self._crop_and_flip(images, indices, seed)
        if self.rand_augment:
            channels = images.shape[1]
            check(channels in (1, 3), f"rand_augment is for images of 1 or 3 channels, but these have {channels}")
            images = rand_augment(images, self.operations(indices, seed), self.rand_magnitude)
        return images

    def _crop_and_flip(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """Crop and flip by one gather over the padded images."""
        top, left, flip = self.draws(indices, seed)
        channels, height, width = images.shape[1:]
        padded = F.pad(images, (self.padding, self.padding, self.padding, self.padding))
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        columns = torch.where(flip[:, None], columns.flip(1), columns)
        pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        chosen = pixels.flatten(1)[:, None].expand(-1, channels, -1)
        return padded.flatten(2).gather(2, chosen).view(images.shape)

    def cut_out(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """Return normalised images, float [B, C, H, W], with a random square of each set to zero, the mean colour.

        Cutout as DeVries and Taylor have it (arXiv 1708.04552): the centre is uniform over all pixels, and what of
        the square lies outside the image is lost.

        Args:
            images: Normalised, float [B, C, H, W].
            indices: As in a call.
            seed: As in a call.
        """
        if not self.cutout:
            return images
        height, width = images.shape[2:]
        bits = random_bits(indices, seed, _CROP_AND_FLIP + _CUTOUT)[_CROP_AND_FLIP:]
        rows = self._covered(_below(height, bits[0]), height)
        columns = self._covered(_below(width, bits[1]), width)
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)

    def _covered(self, centre: Tensor, length: int) -> Tensor:
        """Return which of `length` positions the square covers, bool [B, length]."""
        offset = torch.arange(length, device=centre.device) - (centre - self.cutout // 2)[:, None]
        return (offset >= 0) & (offset < self.cutout)

    def draws(self, indices: Tensor, seed: int) -> Draws:
        """Return the choices for samples with the given indices, int64 [B]; no offset or flip where it is off."""
        bits = random_bits(indices, seed, _CROP_AND_FLIP)
        offsets = _below(2 * self.padding + 1, bits[:2])
        return Draws(offsets[0], offsets[1], (bits[2] < 0) & self.flip)

    def operations(self, indices: Tensor, seed: int) -> Tensor:
        """Return the operations for samples with these indices, by position in `rand_augment.operations`, int64 [N, B].

        All 14 alike, those with a direction half of the time in each.
        """
        before = _CROP_AND_FLIP + _CUTOUT
        bits = random_bits(indices, seed, before + self.rand_augment)[before:]
        operation = _below(UNSIGNED + SIGNED, bits)
        negative = (operation >= UNSIGNED) & (bits & 1).bool()  # the lowest bit: `_below` takes the upper ones
        return operation + SIGNED * negative


CROP_AND_FLIP = Augmentation(padding=4, flip=True)
"""The augmentation that is usual for CIFAR."""


def batches_at_once(images: torch.Size) -> int:
    """Return how many batches of images of this shape, [B, C, H, W], are augmented in one call.

    What a sample gets does not depend on its batch, but a call costs as much as the arithmetic of many small images.
    """
    return max(1, _VALUES_AT_ONCE // max(1, images.numel()))  # a process's part of a small batch may be empty


def random_bits(indices: Tensor, seed: int, streams: int = 1) -> Tensor:
    """Return random integers that depend on seed, stream and index alone: a counter-based generator.

    Mixes with the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014), whose results are the same on every device and in every version of torch.

    Args:
        indices: Counters, int64 [B].
        seed: Any integer; taken modulo 2^64.
        streams: How many independent integers each index gets.

    Returns:
        Uniform 64-bit integers, int64 [streams, B].
    """
    starts = torch.arange(1, streams + 1, device=indices.device) * _GOLDEN
    signed_seed = (seed + 2**63) % 2**64 - 2**63
    return _mix(_mix(starts[:, None] + indices) ^ signed_seed)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _FACTOR1
    x = (x ^ _shift_right(x, 27)) * _FACTOR2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, by: int) -> Tensor:
    # torch shifts in copies of the sign bit: clear them
    return torch.bitwise_and(x >> by, 2 ** (64 - by) - 1)


def _below(bound: int, bits: Tensor) -> Tensor:
    """Return uniform integers in 0 .. bound - 1 from the upper 32 bits."""
    return (_shift_right(bits, 32) * bound) >> 32
