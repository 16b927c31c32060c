"""The layout of the binary archives that CIFAR-10 and CIFAR-100 share."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.data.archive import RGB, RawArchiveDataset
from graphkd.data.augment import Augmentation
from graphkd.data.decoded import Decoded
from graphkd.data.download import read_tar
from graphkd.data.options import SplitOptions
from graphkd.data.tensor import Split
from graphkd.errors import check


class Cifar(RawArchiveDataset):
    """60,000 colour images of 32x32 pixels, a sixth of them for testing; arguments as in `ArchiveDataset`.

    An `image_size` below 32 reduces the images: each pixel is the mean of the area that it covers.

    The binary archives are read, which need no pickle: records of one or two label bytes, the last of which is the
    class, and the planes of red, green and blue.
    """

    FOLDER: ClassVar[str]
    TRAIN: ClassVar[tuple[str, ...]]
    TEST: ClassVar[str]
    CLASS_NAMES: ClassVar[str]
    LABEL_BYTES: ClassVar[int]
    SIDE = 32
    REDUCED = "averaged over areas to {size} x {size}"

    def __init__(
        self, root: str, image_size: int, split: SplitOptions, augmentation: Augmentation, mean: RGB, std: RGB
    ) -> None:
        reduced = None if image_size == self.SIDE else image_size
        super().__init__(lambda archive: self._read(archive, image_size), root, split, augmentation, mean, std, reduced)

    @staticmethod
    def reduce(images: Tensor, size: int) -> Tensor:
        """See `RawArchiveDataset.reduce`."""
        return F.interpolate(images.float(), (size, size), mode="area").round().to(torch.uint8)

    @classmethod
    def _read(cls, archive: Path, image_size: int) -> Decoded:
        *train, test, names = [f"{cls.FOLDER}/{name}" for name in (*cls.TRAIN, cls.TEST, cls.CLASS_NAMES)]
        content = read_tar(archive, [*train, test, names])
        parts = {"train": b"".join(content[name] for name in train), "test": content[test]}
        splits = {name: cls._split(part, image_size) for name, part in parts.items()}
        return Decoded(splits, tuple(content[names].decode().split()))

    @classmethod
    def _split(cls, content: bytes, image_size: int) -> Split:
        shape = (3, cls.SIDE, cls.SIDE)
        width = cls.LABEL_BYTES + int(np.prod(shape))
        check(len(content) % width == 0, f"{cls.ARCHIVE.name} holds a record of other than {width} bytes")
        records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, width).copy())
        images = records[:, cls.LABEL_BYTES :].reshape(-1, *shape).contiguous()
        return Split(cls.sized(images, image_size), records[:, cls.LABEL_BYTES - 1].long())
