"""STL-10, labelled images only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.binding import flat
from graphkd.data.archive import RGB, RawArchiveDataset
from graphkd.data.augment import CROP_AND_FLIP, Augmentation
from graphkd.data.base import DATASETS
from graphkd.data.decoded import Decoded
from graphkd.data.download import Archive, read_tar
from graphkd.data.options import SplitOptions
from graphkd.data.tensor import Split
from graphkd.errors import check


@DATASETS.register("stl10")
class STL10(RawArchiveDataset):
    """STL-10: 5,000 training and 8,000 test images of 96x96 pixels in ten classes; its unlabelled images are left out.

    Coates, Ng and Lee, "An analysis of single-layer networks in unsupervised feature learning", 2011. Reduced to
    32x32 by default (bilinear, antialiased), as transfer from CIFAR has it; there, `mean` and `std` should be those
    that the student was trained with. Arguments as in `ArchiveDataset`.
    """

    ARCHIVE = Archive(
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        "91f7769df0f17e558f3565bffb0c7dfb",
        "stl10_binary.tar.gz",
    )
    SIDE = 96
    REDUCED = "to {size} x {size} (bilinear, antialiased)"

    @flat
    def __init__(
        self,
        root: str = "data",
        image_size: int = 32,
        split: SplitOptions = SplitOptions(),  # noqa: B008 (immutable)
        augmentation: Augmentation = CROP_AND_FLIP,
        mean: RGB = (0.4467, 0.4398, 0.4066),
        std: RGB = (0.2603, 0.2566, 0.2713),
    ) -> None:
        super().__init__(lambda archive: _read(archive, image_size), root, split, augmentation, mean, std, image_size)

    @staticmethod
    def reduce(images: Tensor, size: int) -> Tensor:
        """See `RawArchiveDataset.reduce`."""
        return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def _read(archive: Path, image_size: int) -> Decoded:
    folder = "stl10_binary"
    files = [f"{folder}/{split}_{part}.bin" for split in ("train", "test") for part in ("X", "y")]
    content = read_tar(archive, [*files, f"{folder}/class_names.txt"])
    images, labels, test_images, test_labels = (np.frombuffer(content[file], np.uint8) for file in files)
    splits = {
        "train": Split(_images(images, image_size), _labels(labels)),
        "test": Split(_images(test_images, image_size), _labels(test_labels)),
    }
    return Decoded(splits, tuple(content[f"{folder}/class_names.txt"].decode().split()))


def _images(values: np.ndarray, image_size: int) -> Tensor:
    """Return the images of a file, which has each colour's columns one after the other."""
    side = STL10.SIDE
    check(len(values) % (3 * side**2) == 0, f"{STL10.ARCHIVE.name} holds images of other than {side} x {side} pixels")
    images = torch.from_numpy(values.reshape(-1, 3, side, side).transpose(0, 1, 3, 2).copy())
    return STL10.sized(images, image_size)


def _labels(values: np.ndarray) -> Tensor:
    """Return the labels of a file, which counts classes from 1."""
    return torch.from_numpy(values.astype(np.int64)) - 1
