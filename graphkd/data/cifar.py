"""What CIFAR-10 and CIFAR-100 have in common: the layout of their binary archives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from graphkd.data.archive import RGB, ArchiveDataset
from graphkd.data.augment import Augmentation
from graphkd.data.base import DatasetInfo
from graphkd.data.decoded import Decoded
from graphkd.data.download import read_tar
from graphkd.data.options import SplitOptions
from graphkd.data.tensor import Split
from graphkd.errors import check


class Cifar(ArchiveDataset):
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

    def __init__(
        self, root: str, image_size: int, split: SplitOptions, augmentation: Augmentation, mean: RGB, std: RGB
    ) -> None:
        reduced = None if image_size == self.SIDE else image_size
        super().__init__(lambda archive: self._read(archive, image_size), root, split, augmentation, mean, std, reduced)

    @classmethod
    def test_transform(cls, options: Mapping[str, Any], info: DatasetInfo) -> Callable[[Image.Image], Tensor]:
        """See `Dataset.test_transform`; images are made as large as the archive's first."""
        whole = super().test_transform(options, replace(info, image_size=cls.SIDE))
        return lambda image: _reduced(whole(image)[None], info.image_size)[0]

    @classmethod
    def resizing(cls, options: Mapping[str, Any], info: DatasetInfo) -> str:
        """See `Dataset.resizing`."""
        whole = super().resizing(options, replace(info, image_size=cls.SIDE))
        size = info.image_size
        return whole if size == cls.SIDE else f"{whole}, then averaged over areas to {size} x {size}"

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
        return Split(_reduced(images, image_size), records[:, cls.LABEL_BYTES - 1].long())


def _reduced(images: Tensor, image_size: int) -> Tensor:
    if image_size == images.shape[-1]:
        return images
    return F.interpolate(images.float(), (image_size, image_size), mode="area").round().to(torch.uint8)
