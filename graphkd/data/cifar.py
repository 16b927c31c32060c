"""What CIFAR-10 and CIFAR-100 have in common: the layout of their binary archives."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from graphkd.data.archive import ArchiveDataset
from graphkd.data.decoded import Decoded
from graphkd.data.download import read_tar
from graphkd.data.tensor import Split
from graphkd.errors import check


class Cifar(ArchiveDataset):
    """60,000 colour images of 32x32 pixels, a sixth of them for testing; arguments as in `ArchiveDataset`.

    The binary archives are read, which need no pickle: records of one or two label bytes, the last of which is the
    class, and the planes of red, green and blue.
    """

    FOLDER: ClassVar[str]
    TRAIN: ClassVar[tuple[str, ...]]
    TEST: ClassVar[str]
    CLASS_NAMES: ClassVar[str]
    LABEL_BYTES: ClassVar[int]
    SIDE = 32

    @classmethod
    def read(cls, archive: Path) -> Decoded:
        """Return the samples of the archive at a path."""
        *train, test, names = [f"{cls.FOLDER}/{name}" for name in (*cls.TRAIN, cls.TEST, cls.CLASS_NAMES)]
        content = read_tar(archive, [*train, test, names])
        splits = {"train": cls._split(b"".join(content[name] for name in train)), "test": cls._split(content[test])}
        return Decoded(splits, tuple(content[names].decode().split()))

    @classmethod
    def _split(cls, content: bytes) -> Split:
        shape = (3, cls.SIDE, cls.SIDE)
        width = cls.LABEL_BYTES + int(np.prod(shape))
        check(len(content) % width == 0, f"{cls.ARCHIVE.name} holds a record of other than {width} bytes")
        records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, width).copy())
        images = records[:, cls.LABEL_BYTES :].reshape(-1, *shape).contiguous()
        return Split(images, records[:, cls.LABEL_BYTES - 1].long())
