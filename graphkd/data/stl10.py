"""STL-10, labelled images only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.data.augment import Augmentation
from graphkd.data.base import DATASETS
from graphkd.data.cache import cached
from graphkd.data.decoded import Decoded, DecodedDataset
from graphkd.data.download import Archive, fetch, read_tar
from graphkd.data.tensor import Split
from graphkd.errors import check

_FOLDER = "stl10_binary"
_SIDE = 96


@DATASETS.register("stl10")
class STL10(DecodedDataset):
    """STL-10: 5,000 training and 8,000 test images of 96x96 pixels in ten classes; its unlabelled images are left out.

    Coates, Ng and Lee, "An analysis of single-layer networks in unsupervised feature learning", 2011. Reduced to
    32x32 by default (bilinear, antialiased), as transfer from CIFAR has it; there, `mean` and `std` should be those
    that the student was trained with.

    Args:
        root: Folder of the archive and of the decoded images.
        image_size: Height and width of the images, in pixels.
        train_fraction: Part of the training split to train on, stratified.
        val_fraction: Share of the training images for validation; 0 for no validation split.
        split_seed: Chooses both.
        padding: Zeros on each side before a random crop, in pixels.
        flip: Whether to flip at random.
        cutout: Side of a random square that is blanked, in pixels; 0 for none.
        rand_augment: Number of RandAugment's operations that an image goes through; 0 for none, 2 is usual.
        rand_magnitude: Their strength, from 0 to 30.
        mean: Mean of each channel, for pixel values in 0 .. 1.
        std: Standard deviation of each channel, likewise.

    Raises:
        UserError: The archive is neither there nor to be had, or an option is out of range.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"root"})
    PATHS: ClassVar[frozenset[str]] = NOT_IDENTITY
    ARCHIVE: ClassVar[Archive] = Archive(
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        "91f7769df0f17e558f3565bffb0c7dfb",
        "stl10_binary.tar.gz",
    )

    def __init__(
        self,
        root: str = "data",
        image_size: int = 32,
        train_fraction: float = 1.0,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        padding: int = 4,
        flip: bool = True,
        cutout: int = 0,
        rand_augment: int = 0,
        rand_magnitude: int = 9,
        mean: tuple[float, float, float] = (0.4467, 0.4398, 0.4066),
        std: tuple[float, float, float] = (0.2603, 0.2566, 0.2713),
    ) -> None:
        check(1 <= image_size <= _SIDE, f"image_size is {image_size}, but must be at least 1 and at most {_SIDE}")
        folder, archive = Path(os.path.expanduser(root)), self.ARCHIVE
        options = {"archive": archive.name, "image_size": image_size}
        super().__init__(
            lambda: cached(folder, options, lambda: archive.md5, lambda: _read(fetch(archive, folder), image_size)),
            Augmentation(padding, flip, cutout, rand_augment, rand_magnitude), mean, std, train_fraction,
            {"val": val_fraction}, split_seed,
        )  # fmt: skip


def _read(archive: Path, image_size: int) -> Decoded:
    files = [f"{_FOLDER}/{split}_{part}.bin" for split in ("train", "test") for part in ("X", "y")]
    names = f"{_FOLDER}/class_names.txt"
    content = read_tar(archive, [*files, names])
    train_images, train_labels, test_images, test_labels = (np.frombuffer(content[file], np.uint8) for file in files)
    splits = {
        "train": Split(_images(train_images, image_size), _labels(train_labels)),
        "test": Split(_images(test_images, image_size), _labels(test_labels)),
    }
    return Decoded(splits, tuple(content[names].decode().split()))


def _images(values: np.ndarray, image_size: int) -> Tensor:
    """The file has each colour's columns one after the other."""
    check(len(values) % (3 * _SIDE * _SIDE) == 0, f"{STL10.ARCHIVE.name} holds images of other than 96 x 96 pixels")
    images = torch.from_numpy(values.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 1, 3, 2).copy())
    if image_size == _SIDE:
        return images
    return F.interpolate(images, size=(image_size, image_size), mode="bilinear", antialias=True)


def _labels(values: np.ndarray) -> Tensor:
    """The file counts classes from 1."""
    return torch.from_numpy(values.astype(np.int64)) - 1
