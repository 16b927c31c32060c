"""Data sets in one archive that is downloaded at the first use."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from graphkd.data.augment import Augmentation
from graphkd.data.base import DatasetInfo
from graphkd.data.cache import cached
from graphkd.data.decoded import Decoded, DecodedDataset
from graphkd.data.download import Archive, fetch
from graphkd.data.options import SplitOptions
from graphkd.errors import check

RGB = tuple[float, float, float]
"""A value for each of three channels."""


class ArchiveDataset(DecodedDataset):
    """Images of an archive from its authors' site, decoded once; no validation split by default.

    Args:
        read: Gives the samples of the archive at a path.
        root: Folder of the archive and of the decoded images.
        split, augmentation, mean, std: As in `DecodedDataset`.
        image_size: Height and width that `read` gives images of, in pixels; None where it has no choice.

    Raises:
        UserError: The archive is not there and cannot be downloaded, or an option is out of range.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"root"})
    PATHS: ClassVar[frozenset[str]] = NOT_IDENTITY
    ARCHIVE: ClassVar[Archive]
    SIDE: ClassVar[int]
    """Height and width of the images in the archive, in pixels."""

    def __init__(
        self,
        read: Callable[[Path], Decoded],
        root: str,
        split: SplitOptions,
        augmentation: Augmentation,
        mean: RGB,
        std: RGB,
        image_size: int | None = None,
    ) -> None:
        folder, archive = Path(os.path.expanduser(root)), self.ARCHIVE
        options: dict[str, str | int] = {"archive": archive.name}
        if image_size is not None:
            fits = 1 <= image_size <= self.SIDE
            check(fits, f"image_size is {image_size}, but must be at least 1 and at most {self.SIDE}")
            options["image_size"] = image_size
        super().__init__(
            lambda: cached(folder, options, lambda: archive.md5, lambda: read(fetch(archive, folder))),
            split, augmentation, mean, std,
        )  # fmt: skip


class RawArchiveDataset(ArchiveDataset):
    """An archive of uncompressed images, all of one size; a smaller `image_size` reduces those of a split at once."""

    REDUCED: ClassVar[str]
    """Describes in words how `reduce` makes images of `{size}` pixels."""

    @staticmethod
    @abstractmethod
    def reduce(images: Tensor, size: int) -> Tensor:
        """Return smaller images, uint8 [N, C, size, size]."""

    @classmethod
    def sized(cls, images: Tensor, size: int) -> Tensor:
        """Return images of that height and width, uint8 [N, C, size, size]."""
        return images if size == images.shape[-1] else cls.reduce(images, size)

    @classmethod
    def test_transform(cls, options: Mapping[str, Any], info: DatasetInfo) -> Callable[[Image.Image], Tensor]:
        """See `Dataset.test_transform`; images are made as large as the archive's first."""
        whole = super().test_transform(options, replace(info, image_size=cls.SIDE))
        return lambda image: cls.sized(whole(image)[None], info.image_size)[0]

    @classmethod
    def resizing(cls, options: Mapping[str, Any], info: DatasetInfo) -> str:
        """See `Dataset.resizing`."""
        whole, size = super().resizing(options, replace(info, image_size=cls.SIDE)), info.image_size
        return whole if size == cls.SIDE else f"{whole}, then {cls.REDUCED.format(size=size)}"
