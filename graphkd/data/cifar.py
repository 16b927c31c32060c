"""What CIFAR-10 and CIFAR-100 have in common: the layout of their binary archives, and the benchmark's protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from graphkd.data.augment import Augmentation
from graphkd.data.cache import cached
from graphkd.data.decoded import Decoded, DecodedDataset
from graphkd.data.download import Archive, fetch, read_tar
from graphkd.data.tensor import Split
from graphkd.errors import check

_SHAPE = (3, 32, 32)


class Cifar(DecodedDataset):
    """60,000 colour images of 32x32 pixels, a sixth of them for testing, downloaded at the first use.

    The binary archives are read, which need no pickle: records of one or two label bytes, the last of which is the
    class, and the planes of red, green and blue. No validation split by default, as in the benchmark.

    Args:
        root: Folder of the archive and of the decoded images.
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
    ARCHIVE: ClassVar[Archive]
    FOLDER: ClassVar[str]
    TRAIN: ClassVar[tuple[str, ...]]
    TEST: ClassVar[str]
    CLASS_NAMES: ClassVar[str]
    LABEL_BYTES: ClassVar[int]

    def __init__(
        self,
        root: str,
        train_fraction: float,
        val_fraction: float,
        split_seed: int,
        padding: int,
        flip: bool,
        cutout: int,
        rand_augment: int,
        rand_magnitude: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        folder, archive = Path(os.path.expanduser(root)), self.ARCHIVE
        super().__init__(
            lambda: cached(folder, {"archive": archive.name}, lambda: archive.md5, lambda: self._read(folder)),
            Augmentation(padding, flip, cutout, rand_augment, rand_magnitude), mean, std, train_fraction,
            {"val": val_fraction}, split_seed,
        )  # fmt: skip

    @classmethod
    def _read(cls, folder: Path) -> Decoded:
        members = {name: f"{cls.FOLDER}/{name}" for name in (*cls.TRAIN, cls.TEST, cls.CLASS_NAMES)}
        content = read_tar(fetch(cls.ARCHIVE, folder), members.values())
        train = b"".join(content[members[name]] for name in cls.TRAIN)
        splits = {"train": cls._split(train), "test": cls._split(content[members[cls.TEST]])}
        return Decoded(splits, tuple(content[members[cls.CLASS_NAMES]].decode().split()))

    @classmethod
    def _split(cls, content: bytes) -> Split:
        width = cls.LABEL_BYTES + int(np.prod(_SHAPE))
        check(len(content) % width == 0, f"{cls.ARCHIVE.name} holds a record of other than {width} bytes")
        records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, width).copy())
        images = records[:, cls.LABEL_BYTES :].reshape(-1, *_SHAPE).contiguous()
        return Split(images, records[:, cls.LABEL_BYTES - 1].long())
