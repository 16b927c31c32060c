"""Image files in one folder a class, ImageNet's layout."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from graphkd.binding import flat
from graphkd.data.augment import CROP_AND_FLIP, Augmentation
from graphkd.data.base import DATASETS, Batch, Dataset, DatasetInfo, Device, missing_class_notes
from graphkd.data.cache import cache_folder, cached, keep_hashes
from graphkd.data.content import Contents
from graphkd.data.decoded import Decoded, DecodedDataset, Encoded, decode_splits
from graphkd.data.image_files import ImageFileDataset, evaluation_transform, resized_side
from graphkd.data.images import find_broken, in_batches, note_broken, note_sample
from graphkd.data.listing import Listing, list_splits
from graphkd.data.options import ImageOptions, SplitOptionsWithTest
from graphkd.data.picture import Decoder, as_seen, check_image, colour, open_image, upright
from graphkd.data.tensor import SPLITS, Split, check_has_test
from graphkd.errors import check

_LARGEST_IN_MEMORY = 96


@DATASETS.register("folder")
class Folder(Dataset):
    """Image files in folders `root/<split>/<class>/`, at any depth below; the classes are the folders' names, sorted.

    All that Pillow reads as a picture is an image, by its name's ending. Hidden folders and those that tools leave
    (`.thumbnails`, `@eaDir`, `__MACOSX`, `lost+found`) are left out, links to folders are followed, each once, and
    `notes` counts what was left out. Images are read as a person sees them: turned as their EXIF data say, with what
    is transparent on the `background`, the upper 8 of 16 bits, and the first frame of several.

    What the files hold identifies the data: their content is read once and its hashes are kept in the cache, see
    `graphkd.data.content.Contents`.

    Up to 96 pixels, images are decoded once into memory and cropped and flipped in batches, as CIFAR. Larger ones
    are decoded when needed, in worker processes, as ImageNet: see `ImageFileDataset` for their augmentation.

    Args:
        root: The folder of the splits.
        train: The training split's folder below `root`; "." if `root` itself holds the classes.
        test: The test split's folder (ImageNet: val); None with a `test_fraction`.
        val: The validation split's folder; None for none, or with a `val_fraction`.
        split: Which samples are trained on, and which splits are cut off the training split.
        padding: Zeros on each side before a random crop, in pixels. None: 4 up to 96 pixels; larger images have none.
        augmentation: What training images go through; `cutout` is for images up to 96 pixels.
        images: How images are decoded. Above 96 pixels, `mean` and `std` are ImageNet's by default.
        workers: Number of worker processes for images above 96 pixels; 0 for none.

    Raises:
        UserError: A folder is missing or empty, an image is broken, or a class has images for evaluation but none for
            training.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"root", *SPLITS, "cache", "workers"})
    PATHS: ClassVar[frozenset[str]] = frozenset({"root", "cache"})

    @flat
    def __init__(
        self,
        root: str = "data",
        train: str = "train",
        test: str | None = "test",
        val: str | None = None,
        split: SplitOptionsWithTest = SplitOptionsWithTest(),  # noqa: B008 (immutable)
        padding: int | None = None,
        augmentation: Augmentation = CROP_AND_FLIP,
        images: ImageOptions = ImageOptions(),  # noqa: B008 (immutable)
        workers: int = 2,
    ) -> None:
        check(workers >= 0, f"workers is {workers}, but must be at least 0")
        splits, notes = list_splits(root, {"train": train, "val": val, "test": test})
        check_has_test({*splits, *(name for name, share in split.held_out.items() if share)})
        reader = _Reader(Path(os.path.expanduser(root)), splits, images)
        size = images.image_size
        if size is None:
            _check_small(splits["train"].files[0])
        if size is None or size <= _LARGEST_IN_MEMORY:
            if padding is not None:
                augmentation = replace(augmentation, padding=padding)
            self._hold(DecodedDataset(reader.decode, split, augmentation, images.mean, images.std))
        else:
            for name, given in (("padding", padding), ("cutout", augmentation.cutout)):
                check(not given, f"{name} is {given}, but is for images of at most {_LARGEST_IN_MEMORY} pixels")
            files = {name: listing.files for name, listing in splits.items()}
            self._hold(ImageFileDataset(files, reader.kept(), split, augmentation, images, size, workers))
        told = keep_hashes(reader.contents, (*notes, *self.notes))
        self.notes = tuple(" ".join(note.splitlines()) for note in told)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a hash of each split's classes, files' names and contents."""
        splits, _ = list_splits(options["root"], {name: options[name] for name in SPLITS})
        return _digests(splits, cache_folder(options["cache"], Path(os.path.expanduser(options["root"]))))

    @classmethod
    def test_transform(cls, options: Mapping[str, Any], info: DatasetInfo) -> Callable[[Image.Image], Tensor]:
        """See `Dataset.test_transform`."""
        if info.image_size <= _LARGEST_IN_MEMORY:
            return super().test_transform(options, info)
        transform, background = evaluation_transform(info.image_size), colour(options["background"])
        return lambda image: transform(as_seen(image, info.in_channels, background))

    @classmethod
    def resizing(cls, options: Mapping[str, Any], info: DatasetInfo) -> str:
        """See `Dataset.resizing`."""
        size = info.image_size
        if size <= _LARGEST_IN_MEMORY:
            return super().resizing(options, info)
        side = resized_side(size)
        return f"the shorter side resized to {side} (bilinear, antialiased), then the central {size} x {size}"

    def train_batches(self, order: Tensor, batch_size: int, augmentation_seed: int, device: Device) -> Iterator[Batch]:
        """See `Dataset.train_batches`."""
        return self._samples.train_batches(order, batch_size, augmentation_seed, device)

    def eval_batches(self, split: str, batch_size: int, device: Device) -> Iterator[Batch]:
        """See `Dataset.eval_batches`."""
        return self._samples.eval_batches(split, batch_size, device)

    def with_train_fraction(self, fraction: float) -> Folder:
        """See `Dataset.with_train_fraction`."""
        part = copy.copy(self)
        part._hold(self._samples.with_train_fraction(fraction))
        return part

    def _hold(self, samples: Dataset) -> None:
        self._samples = samples
        for name in Dataset.__annotations__.keys() - {"PATHS"}:
            setattr(self, name, getattr(samples, name))


@dataclass(frozen=True)
class _Reader:
    """Reads the listed files."""

    root: Path
    splits: dict[str, Listing]
    images: ImageOptions

    @property
    def contents(self) -> list[Contents]:
        """The contents of each split's files."""
        return [split.contents(self._folder) for split in self.splits.values()]

    def decode(self) -> Decoded:
        """Return all pixels, from the cache if they are there."""
        images, class_names = self.images, self.splits["train"].class_names
        encoded = {
            name: Encoded(in_batches(split.files), split.files.__getitem__, split.labels)
            for name, split in self.splits.items()
        }
        return self._cached(
            lambda: _with_missing(decode_splits(encoded, class_names, images)),
            size=images.image_size, channels=images.in_channels, skip_broken=images.skip_broken,
            background=images.colour, **images.resampled,
        )  # fmt: skip

    def kept(self) -> Decoded:
        """Return the files' positions instead of pixels, without the broken ones if these are to be left out."""
        if not self.images.skip_broken:
            return self._without({name: {} for name in self.splits})
        return self._cached(
            lambda: self._without({name: find_broken(split.files) for name, split in self.splits.items()}), kept=True
        )

    @property
    def _folder(self) -> Path | None:
        return cache_folder(self.images.cache, self.root)

    def _cached(self, decode: Callable[[], Decoded], **how: Any) -> Decoded:
        folder = self._folder
        names = {name: os.path.relpath(split.folder, self.root) for name, split in self.splits.items()}
        # A folder elsewhere may hold the images of several data sets.
        root = {} if folder in (None, self.root) else {"root": os.path.relpath(self.root, folder)}
        return cached(folder, {"names": names, **root, **how}, lambda: _digests(self.splits, folder), decode)

    def _without(self, broken: Mapping[str, Mapping[int, str]]) -> Decoded:
        splits: dict[str, Split] = {}
        notes: tuple[str, ...] = ()
        for name, split in self.splits.items():
            kept = torch.tensor([index for index in range(len(split.files)) if index not in broken[name]])
            check(len(kept) > 0, f"all {len(split.files)} images below {split.folder} are broken")
            splits[name] = Split(kept, split.labels[kept])
            messages = [f"{split.files[index]}: {reason}" for index, reason in broken[name].items()]
            notes += note_broken(name, len(split.files), messages)
        decoder = Decoder(self.images.in_channels, background=self.images.colour)
        notes += note_sample("train", self.splits["train"].files, decoder)
        class_names, skipped = self.splits["train"].class_names, sum(map(len, broken.values()))
        return _with_missing(Decoded(splits, class_names, skipped, notes))


def _digests(splits: Mapping[str, Listing], cache: Path | None) -> dict[str, str]:
    return {name: split.digest(cache) for name, split in splits.items()}


def _with_missing(decoded: Decoded) -> Decoded:
    """Add the notes of classes that a split has no image of."""
    labels = {name: split.labels for name, split in decoded.splits.items()}
    return replace(decoded, notes=(*missing_class_notes(labels, decoded.class_names), *decoded.notes))


def _check_small(file: str) -> None:
    """Check that images without an image_size fit in memory as they are; the first one tells."""
    try:
        with open_image(file) as image:
            check_image(image)
            size = upright(image).size
    except Exception:  # said better when it is decoded
        return
    check(
        max(size) <= _LARGEST_IN_MEMORY,
        f"{file} is {size[0]} x {size[1]}: images above {_LARGEST_IN_MEMORY} pixels need data.image_size=N, "
        "for example 224",
    )
