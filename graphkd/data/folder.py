"""Image files in one folder a class, ImageNet's layout."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphkd.data.augment import Augmentation
from graphkd.data.base import DATASETS, Batch, Dataset, check_classes, missing_class_notes
from graphkd.data.cache import cache_folder, cached, keep_hashes
from graphkd.data.content import Contents
from graphkd.data.decoded import Decoded, DecodedDataset, check_has_test
from graphkd.data.image_files import ImageFileDataset
from graphkd.data.images import (
    Colour,
    Decoder,
    check_channels,
    check_image,
    colour,
    decode_images,
    find_broken,
    image_endings,
    in_batches,
    note_broken,
    note_images,
    note_sample,
    open_image,
    upright,
)
from graphkd.data.tensor import SPLITS, Split, check_fractions
from graphkd.errors import UserError, check, choices, did_you_mean

_LEFT_BY_TOOLS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "__macosx", "__pycache__", "lost+found", "$recycle.bin", "thumbs.db",
     "desktop.ini", "system volume information"}
)  # fmt: skip
"""Names in lower case that count as hidden, as those do that begin with a dot."""
_LARGEST_IN_MEMORY = 96
_PADDING = 4
_MEAN, _STD = {1: (0.449,), 3: (0.485, 0.456, 0.406)}, {1: (0.226,), 3: (0.229, 0.224, 0.225)}


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
        cache: Where hashes of the files and decoded images are kept: true for in `root`, false for nowhere, or a
            folder.
        workers: Number of worker processes for images above 96 pixels; 0 for none.
        background: What transparent images are drawn on: a colour's name, `#rrggbb`, or red, green and blue from 0
            to 255.

    Raises:
        UserError: A folder is missing or empty, an image is broken, or a class has images for evaluation but none for
            training.
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
        background: str | Sequence[int] = "white",
    ) -> None:
        held_out = {"test": test_fraction, "val": val_fraction}
        check_channels(in_channels)
        check(image_size is None or image_size >= 1, f"image_size is {image_size}, but must be at least 1")
        check(workers >= 0, f"workers is {workers}, but must be at least 0")
        check_fractions(train_fraction, held_out)
        padded = _PADDING if padding is None else padding
        augmentation = Augmentation(padded, flip, cutout, rand_augment, rand_magnitude)
        drawn_on = colour(background)
        splits, notes = _list_splits(root, {"train": train, "val": val, "test": test})
        check_has_test({**splits, **{name: share for name, share in held_out.items() if share}})
        reader = _Reader(Path(os.path.expanduser(root)), cache, splits, image_size, in_channels, skip_broken, drawn_on)
        if image_size is None:
            _check_small(splits["train"].files[0])
        if image_size is None or image_size <= _LARGEST_IN_MEMORY:
            self._hold(DecodedDataset(reader.decode, augmentation, mean, std, train_fraction, held_out, split_seed))
        else:
            for name, given in (("padding", padding), ("cutout", cutout)):
                check(not given, f"{name} is {given}, but is for images of at most {_LARGEST_IN_MEMORY} pixels")
            self._hold(
                ImageFileDataset(
                    {name: split.files for name, split in splits.items()}, reader.kept(), image_size, in_channels,
                    flip, rand_augment, rand_magnitude, mean or _MEAN[in_channels], std or _STD[in_channels], workers,
                    train_fraction, held_out, split_seed, drawn_on,
                )
            )  # fmt: skip
        told = keep_hashes(reader.contents, (*notes, *self.notes))
        self.notes = tuple(" ".join(note.splitlines()) for note in told)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a hash of each split's classes, files' names and contents."""
        splits, _ = _list_splits(options["root"], {name: options[name] for name in SPLITS})
        cache = cache_folder(options["cache"], Path(os.path.expanduser(options["root"])))
        return {name: split.digest(cache) for name, split in splits.items()}

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

    def contents(self, cache: Path | None) -> Contents:
        """What the files hold."""
        return Contents(self.files, self.folder, cache)

    def digest(self, cache: Path | None) -> str:
        """SHA-256 of the classes' names, and of the files' names below the folder and contents."""
        digest = hashlib.sha256(os.fsencode("".join(f"{name}\0" for name in self.class_names)))
        prefix = os.path.join(self.folder, "")
        for file, content in zip(self.files, self.contents(cache).hashes(), strict=True):
            digest.update(os.fsencode(file.removeprefix(prefix)) + b"\0" + content)
        return digest.hexdigest()


@dataclass(frozen=True)
class _Reader:
    """Reads the listed files."""

    root: Path
    cache: bool | str
    splits: dict[str, _Listing]
    size: int | None
    channels: int
    skip_broken: bool
    background: Colour

    @property
    def contents(self) -> list[Contents]:
        """What the files of each split hold."""
        return [split.contents(self._folder) for split in self.splits.values()]

    def decode(self) -> Decoded:
        """All pixels, from the cache if they are there."""
        how = {name: getattr(self, name) for name in ("size", "channels", "skip_broken", "background")}
        return cached(self._folder, {"names": self._names(), **how}, self._source, self._decode)

    def kept(self) -> Decoded:
        """The files' positions instead of pixels, without the broken ones if these are to be left out."""
        if not self.skip_broken:
            return self._without({name: {} for name in self.splits})
        return cached(
            self._folder, {"names": self._names(), "kept": True}, self._source,
            lambda: self._without({name: find_broken(split.files) for name, split in self.splits.items()}),
        )  # fmt: skip

    @property
    def _folder(self) -> Path | None:
        return cache_folder(self.cache, self.root)

    def _names(self) -> dict[str, str]:
        return {name: os.path.relpath(split.folder, self.root) for name, split in self.splits.items()}

    def _source(self) -> dict[str, str]:
        return {name: split.digest(self._folder) for name, split in self.splits.items()}

    def _decode(self) -> Decoded:
        splits: dict[str, Split] = {}
        notes: tuple[str, ...] = ()
        skipped = 0
        for name, split in self.splits.items():
            count = len(split.files)
            images = decode_images(
                in_batches(split.files), count, split.files.__getitem__, self.channels, self.size, self.skip_broken,
                self.background,
            )  # fmt: skip
            splits[name] = Split(images.pixels, split.labels[images.kept])
            notes += note_images(name, count, images)
            skipped += len(images.broken)
        return self._decoded(splits, skipped, notes)

    def _decoded(self, splits: dict[str, Split], skipped: int, notes: tuple[str, ...]) -> Decoded:
        class_names = self.splits["train"].class_names
        labels = {name: split.labels for name, split in splits.items()}
        return Decoded(splits, class_names, skipped, (*missing_class_notes(labels, class_names), *notes))

    def _without(self, broken: Mapping[str, Mapping[int, str]]) -> Decoded:
        splits: dict[str, Split] = {}
        notes: tuple[str, ...] = ()
        for name, split in self.splits.items():
            kept = torch.tensor([index for index in range(len(split.files)) if index not in broken[name]])
            check(len(kept) > 0, f"all {len(split.files)} images below {split.folder} are broken")
            splits[name] = Split(kept, split.labels[kept])
            messages = [f"{split.files[index]}: {reason}" for index, reason in broken[name].items()]
            notes += note_broken(name, len(split.files), messages)
        decoder = Decoder(self.channels, background=self.background)
        notes += note_sample("train", self.splits["train"].files, decoder)
        return self._decoded(splits, sum(map(len, broken.values())), notes)


@dataclass
class _LeftOut:
    """Counts what is no image of a class."""

    folders: int = 0
    hidden: int = 0
    links: int = 0
    outside: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def note(self) -> tuple[str, ...]:
        """The line that tells of them; none where there are none."""
        kinds = ", ".join(f"{ending} {count}" for ending, count in self.others.most_common(5))
        parts = [
            _counted(self.folders, "hidden folder"),
            _counted(self.hidden, "hidden file"),
            _counted(self.links, "link", " to folders that were read already"),
            _counted(self.outside, "image", " outside the folders of the classes"),
            _counted(self.others.total(), "file", f" of other kinds ({kinds})"),
        ]
        told = [part for part in parts if part]
        return (f"left out {', '.join(told)}",) if told else ()


def _counted(count: int, what: str, more: str = "") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}{more}" if count else ""


def _list_splits(root: str, given: Mapping[str, str | None]) -> tuple[dict[str, _Listing], tuple[str, ...]]:
    """The files of each split that is given, labelled by the training split's classes, and what to tell of them."""
    folder = Path(os.path.expanduser(root))
    check(folder.is_dir(), f"data.root: there is no folder {root}")
    left_out = _LeftOut()
    found = {name: _list_split(folder, name, below, left_out) for name, below in given.items() if below is not None}
    places = {name: folder / below for name, below in given.items() if below is not None}
    train = found["train"]
    taught = [name for name, files in train.items() if files]
    for name, classes in found.items():
        told = "; ".join(("", *left_out.note()))
        check(any(classes.values()), f"{places[name]} is empty: no image in {', '.join(list(classes)[:5])}{told}")
        strange = [label for label, files in classes.items() if files and label not in taught]
        check(
            not strange,
            f"the classes differ: {places[name]} has {', '.join(strange[:5])}, which {places['train']} lacks or has "
            f"no image of ({len(strange)} in all)",
        )
    check_classes(len(taught), str(places["train"]))
    listings: dict[str, _Listing] = {}
    for name, classes in found.items():
        counts = torch.tensor([len(classes.get(label, ())) for label in train])
        files = [file for label in train for file in classes.get(label, ())]
        labels = torch.arange(len(train)).repeat_interleave(counts)
        listings[name] = _Listing(places[name], tuple(train), files, labels)
    return listings, left_out.note()


def _list_split(root: Path, name: str, below: str, left_out: _LeftOut) -> dict[str, list[str]]:
    """The files of each class, both sorted."""
    folder = root / below
    if not folder.is_dir():
        there = [entry.name for entry in root.iterdir() if entry.is_dir()]
        hint = did_you_mean(below, there) or ("" if name == "train" else f"; data.{name}=null for none")
        raise UserError(f"data.{name}: there is no folder {folder}{hint} (folders of {root}: {choices(there)})")
    _, folders, files = next(os.walk(folder, onerror=_unreadable))
    left_out.outside += sum(not _is_hidden(file) and _ending(file) in image_endings() for file in files)
    classes = sorted(name for name in folders if not _is_hidden(name))
    left_out.folders += len(folders) - len(classes)
    check(len(classes) > 0, f"{folder} is empty: images belong in {folder / '<class>'}/")
    return {label: _image_files(folder / label, left_out) for label in classes}


def _image_files(folder: Path, left_out: _LeftOut) -> list[str]:
    """The image files below a class's folder, sorted; each real folder is read once, and none that holds this one."""
    seen = {_inode(path) for path in (folder.parent, *folder.resolve().parents)}
    images: list[str] = []
    for path, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
        inode = _inode(path)
        if inode in seen:
            folders.clear()
            left_out.links += 1
            continue
        seen.add(inode)
        shown = [name for name in folders if not _is_hidden(name)]
        left_out.folders += len(folders) - len(shown)
        folders[:] = sorted(shown, key=lambda name: (os.path.islink(os.path.join(path, name)), name))
        for name in files:
            if _is_hidden(name):
                left_out.hidden += 1
            elif _ending(name) in image_endings():
                images.append(os.path.join(path, name))
            else:
                left_out.others[_ending(name) or "no ending"] += 1
    return sorted(images)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_TOOLS


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _inode(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _unreadable(error: OSError) -> None:
    raise UserError(f"the folder {error.filename} cannot be read ({error.strerror})") from error


def _check_small(file: str) -> None:
    """Without an image_size, images must fit in memory as they are; the first one tells."""
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
