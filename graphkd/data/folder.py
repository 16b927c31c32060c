"""Image files in one folder a class, ImageNet's layout."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphkd.data.augment import Augmentation
from graphkd.data.base import DATASETS, Batch, Dataset, check_classes
from graphkd.data.cache import cache_folder, cached
from graphkd.data.decoded import Decoded, DecodedDataset
from graphkd.data.image_files import ImageFileDataset
from graphkd.data.images import (
    check_channels,
    decode_images,
    find_broken,
    in_batches,
    note_broken,
    open_image,
)
from graphkd.data.tensor import SPLITS, Split, check_fractions
from graphkd.errors import UserError, check, choices, did_you_mean

_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
_LARGEST_IN_MEMORY = 96
_PADDING = 4
_MEAN, _STD = {1: (0.449,), 3: (0.485, 0.456, 0.406)}, {1: (0.226,), 3: (0.229, 0.224, 0.225)}


@DATASETS.register("folder")
class Folder(Dataset):
    """Image files in folders `root/<split>/<class>/`, at any depth below; the classes are the folders' names, sorted.

    Up to 96 pixels, images are decoded once into memory and cropped and flipped in batches, as CIFAR. Larger ones
    are decoded when needed, in worker processes, as ImageNet: see `ImageFileDataset` for their augmentation.

    Args:
        root: The folder of the splits.
        train: The training split's folder below `root`; "." if `root` itself holds the classes.
        test: The test split's folder (ImageNet: val); None with a `test_fraction`.
        val: The validation split's folder; None for none, or with a `val_fraction`.
        image_size: Height and width of what the network sees, in pixels. None: all images are of one size, at most 96.
        in_channels: 3 for colour, 1 for grey; images are converted.
        train_fraction: Part of the training split to train on, stratified.
        val_fraction: Share of the training images for validation.
        test_fraction: Share of the training images for testing.
        split_seed: Chooses those three.
        padding: Zeros on each side before a random crop, in pixels. None: 4 up to 96 pixels; larger images have none.
        flip: Whether to flip at random.
        cutout: Side of a random square that is blanked, in pixels, up to 96 pixels; 0 for none.
        rand_augment: Number of RandAugment's operations that an image goes through; 0 for none, 2 is usual.
        rand_magnitude: Their strength, from 0 to 30.
        mean: Mean of each channel, for pixel values in 0 .. 1. None: the training images', above 96 pixels ImageNet's.
        std: Standard deviation of each channel, likewise.
        skip_broken: Leaves broken images out instead of stopping; `skipped` counts them.
        cache: Where decoded images are kept: true for in `root`, false for nowhere, or a folder.
        workers: Number of worker processes for images above 96 pixels; 0 for none.

    Raises:
        UserError: A folder is missing or empty, an image is broken, or the splits' classes differ.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"root", *SPLITS, "cache", "workers"})
    PATHS: ClassVar[frozenset[str]] = frozenset({"root", "cache"})

    def __init__(
        self,
        root: str = "data",
        train: str = "train",
        test: str | None = "test",
        val: str | None = None,
        image_size: int | None = None,
        in_channels: int = 3,
        train_fraction: float = 1.0,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        split_seed: int = 0,
        padding: int | None = None,
        flip: bool = True,
        cutout: int = 0,
        rand_augment: int = 0,
        rand_magnitude: int = 9,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        skip_broken: bool = False,
        cache: bool | str = True,
        workers: int = 2,
    ) -> None:
        held_out = {"test": test_fraction, "val": val_fraction}
        check_channels(in_channels)
        check(image_size is None or image_size >= 1, f"image_size is {image_size}, but must be at least 1")
        check(workers >= 0, f"workers is {workers}, but must be at least 0")
        check_fractions(train_fraction, held_out)
        padded = _PADDING if padding is None else padding
        augmentation = Augmentation(padded, flip, cutout, rand_augment, rand_magnitude)
        splits = _list_splits(root, {"train": train, "val": val, "test": test})
        reader = _Reader(Path(root).expanduser(), splits, image_size, in_channels, skip_broken)
        if image_size is None:
            _check_small(splits["train"].files[0])
        if image_size is None or image_size <= _LARGEST_IN_MEMORY:
            decode = functools.partial(reader.decode, cache)
            self._hold(DecodedDataset(decode, augmentation, mean, std, train_fraction, held_out, split_seed))
            return
        for name, given in (("padding", padding), ("cutout", cutout)):
            check(not given, f"{name} is {given}, but is for images of at most {_LARGEST_IN_MEMORY} pixels")
        self._hold(
            ImageFileDataset(
                {name: split.files for name, split in splits.items()}, reader.kept(cache), image_size, in_channels,
                flip, rand_augment, rand_magnitude, mean or _MEAN[in_channels], std or _STD[in_channels], workers,
                train_fraction, held_out, split_seed,
            )
        )  # fmt: skip

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """A hash of the names and sizes of each split's files."""
        splits = _list_splits(options["root"], {name: options[name] for name in SPLITS})
        return {name: split.digest(with_times=False) for name, split in splits.items()}

    def train_batches(
        self, order: Tensor, batch_size: int, augmentation_seed: int, device: torch.device | str
    ) -> Iterator[Batch]:
        """See `Dataset.train_batches`."""
        return self._samples.train_batches(order, batch_size, augmentation_seed, device)

    def eval_batches(self, split: str, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        """See `Dataset.eval_batches`."""
        return self._samples.eval_batches(split, batch_size, device)

    def with_train_fraction(self, fraction: float) -> Folder:
        """See `Dataset.with_train_fraction`."""
        part = copy.copy(self)
        part._hold(self._samples.with_train_fraction(fraction))
        return part

    def _hold(self, samples: Dataset) -> None:
        self._samples = samples
        self.num_classes, self.class_names = samples.num_classes, samples.class_names
        self.in_channels, self.image_size = samples.in_channels, samples.image_size
        self.mean, self.std = samples.mean, samples.std
        self.train_labels, self.splits = samples.train_labels, samples.splits
        self.skipped, self.notes = samples.skipped, samples.notes


@dataclass(frozen=True)
class _Listing:
    """The files of a split, class by class and sorted."""

    folder: Path
    class_names: tuple[str, ...]
    files: list[str]
    labels: Tensor

    def digest(self, with_times: bool) -> str:
        """SHA-256 of the files' names below the folder and sizes, and of when they were changed if asked for."""
        digest = hashlib.sha256()
        start = len(os.path.join(self.folder, ""))
        for file in self.files:
            facts = _facts(file)
            time = facts.st_mtime_ns if with_times else ""
            digest.update(os.fsencode(f"{file[start:]}\0{facts.st_size}\0{time}\n"))
        return digest.hexdigest()


@dataclass(frozen=True)
class _Reader:
    """Reads the listed files."""

    root: Path
    splits: dict[str, _Listing]
    size: int | None
    channels: int
    skip_broken: bool

    def decode(self, cache: bool | str) -> Decoded:
        """All pixels, from the cache if they are there."""
        return cached(
            cache_folder(cache, self.root),
            {"names": self._names(), "size": self.size, "channels": self.channels, "skip_broken": self.skip_broken},
            self._source,
            self._decode,
        )

    def kept(self, cache: bool | str) -> Decoded:
        """The files' positions instead of pixels, without the broken ones if these are to be left out."""
        if not self.skip_broken:
            return self._without({name: {} for name in self.splits})
        return cached(
            cache_folder(cache, self.root), {"names": self._names(), "kept": True}, self._source,
            lambda: self._without({name: find_broken(split.files) for name, split in self.splits.items()}),
        )  # fmt: skip

    def _names(self) -> dict[str, str]:
        return {name: os.path.relpath(split.folder, self.root) for name, split in self.splits.items()}

    def _source(self) -> dict[str, str]:
        return {name: split.digest(with_times=True) for name, split in self.splits.items()}

    def _decode(self) -> Decoded:
        splits: dict[str, Split] = {}
        notes: tuple[str, ...] = ()
        skipped = 0
        for name, split in self.splits.items():
            count = len(split.files)
            images = decode_images(
                in_batches(split.files), count, split.files.__getitem__, self.channels, self.size, self.skip_broken
            )
            splits[name] = Split(images.pixels, split.labels[images.kept])
            notes += note_broken(name, count, images.broken)
            skipped += len(images.broken)
        return Decoded(splits, self.splits["train"].class_names, skipped, notes)

    def _without(self, broken: Mapping[str, Mapping[int, str]]) -> Decoded:
        splits: dict[str, Split] = {}
        notes: tuple[str, ...] = ()
        for name, split in self.splits.items():
            kept = torch.tensor([index for index in range(len(split.files)) if index not in broken[name]])
            check(len(kept) > 0, f"all {len(split.files)} images below {split.folder} are broken")
            splits[name] = Split(kept, split.labels[kept])
            messages = [f"{split.files[index]}: {reason}" for index, reason in broken[name].items()]
            notes += note_broken(name, len(split.files), messages)
        return Decoded(splits, self.splits["train"].class_names, sum(map(len, broken.values())), notes)


def _list_splits(root: str, given: Mapping[str, str | None]) -> dict[str, _Listing]:
    """The files of each split that is given, all of the same classes."""
    folder = Path(root).expanduser()
    check(folder.is_dir(), f"data.root: there is no folder {root}")
    splits = {name: _list_split(folder, name, below) for name, below in given.items() if below is not None}
    train = splits["train"]
    for split in splits.values():
        for one, other in ((split, train), (train, split)):
            only = sorted(set(one.class_names) - set(other.class_names))
            check(
                not only,
                f"the classes differ: {one.folder} has {', '.join(only[:5])}, which {other.folder} lacks "
                f"({len(only)} in all)",
            )
    check_classes(len(train.class_names), str(train.folder))
    return splits


def _list_split(root: Path, name: str, below: str) -> _Listing:
    folder = root / below
    if not folder.is_dir():
        there = [entry.name for entry in root.iterdir() if entry.is_dir()]
        hint = did_you_mean(below, there) or ("" if name == "train" else f"; data.{name}=null for none")
        raise UserError(f"data.{name}: there is no folder {folder}{hint} (folders of {root}: {choices(there)})")
    classes = sorted(name for name in os.listdir(folder) if os.path.isdir(folder / name) and not name.startswith("."))
    check(len(classes) > 0, f"{folder} is empty: images belong in {folder / '<class>'}/")
    files: list[str] = []
    counts: list[int] = []
    for label in classes:
        found = _image_files(folder / label)
        check(len(found) > 0, f"{folder / label} is empty: it has no image ({', '.join(_ENDINGS)})")
        files += found
        counts.append(len(found))
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
    return _Listing(folder, tuple(classes), files, labels)


def _image_files(folder: Path) -> list[str]:
    return sorted(
        os.path.join(path, name)
        for path, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(_ENDINGS) and not name.startswith(".")
    )


def _facts(file: str) -> os.stat_result:
    """Size and times of a file that can be read: no pipe, and no link to nowhere or to itself."""
    try:
        facts = os.stat(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    check(stat.S_ISREG(facts.st_mode), f"{file} is no regular file")
    return facts


def _check_small(file: str) -> None:
    """Without an image_size, images must fit in memory as they are; the first one tells."""
    try:
        with open_image(file) as image:
            size = image.size
    except Exception:  # said better when it is decoded
        return
    check(
        max(size) <= _LARGEST_IN_MEMORY,
        f"{file} is {size[0]} x {size[1]}: images above {_LARGEST_IN_MEMORY} pixels need data.image_size=N, "
        "for example 224",
    )
