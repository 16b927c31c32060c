"""Data sets in one archive that is downloaded at the first use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from graphkd.data.augment import Augmentation
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
        UserError: The archive is neither there nor to be had, or an option is out of range.
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
