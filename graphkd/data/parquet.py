"""Images and labels in Parquet files, as the Hugging Face hub keeps them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from graphkd.binding import flat
from graphkd.data.augment import CROP_AND_FLIP, Augmentation
from graphkd.data.base import DATASETS, first_few, missing_class_notes
from graphkd.data.cache import cache_folder, cached, keep_hashes
from graphkd.data.content import Contents
from graphkd.data.decoded import Decoded, DecodedDataset, Encoded, decode_splits
from graphkd.data.labels import number_labels
from graphkd.data.options import ImageOptions, SplitOptionsWithTest
from graphkd.data.parquet_file import ParquetFile
from graphkd.data.picture import Source
from graphkd.data.tensor import SPLITS, Split
from graphkd.errors import brief, check

Paths = str | Sequence[str] | None
_MOST_CLASSES = 10_000_000


@DATASETS.register("parquet")
class Parquet(DecodedDataset):
    """Parquet files with a column of encoded images and one of labels, decoded once into memory.

    The image column holds encoded images (PNG, JPEG, ...), paths of such files, or structs of `bytes` and `path` as on
    the Hugging Face hub, whose paths count if the first row has no bytes; the label column integers, texts or booleans.
    The classes are those that the hub's metadata in the training files name, else the texts of the training split in
    alphabetical order, else 0 to `num_classes` - 1. Labels of all files are matched by these names; see
    `number_labels`. Rows count from 0.

    Args:
        train: The training split: a file, a pattern (`data/train-*.parquet`), or a list of those.
        test: The test split, likewise; None with a `test_fraction`.
        val: The validation split, likewise; None for none, or with a `val_fraction`.
        image_column: The column of the images.
        label_column: The column of the labels.
        root: The folder that paths of images are relative to. None: that of their Parquet file.
        num_classes: How many classes there are. None: as many as the files name, or as the training labels show.
        relabel: Whether the classes are only those of the training labels, numbered anew in their order: for labels
            that start at 1 or have gaps.
        split: Which samples are trained on, and which splits are cut off the training split.
        augmentation: What training images go through.
        images: How images are decoded.

    Raises:
        UserError: A file, column, image or label is missing or wrong; the message names file and row.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({*SPLITS, "root", "cache"})
    PATHS: ClassVar[frozenset[str]] = NOT_IDENTITY

    @flat
    def __init__(
        self,
        train: Paths = None,
        test: Paths = None,
        val: Paths = None,
        image_column: str = "image",
        label_column: str = "label",
        root: str | None = None,
        num_classes: int | None = None,
        relabel: bool = False,
        split: SplitOptionsWithTest = SplitOptionsWithTest(),  # noqa: B008 (immutable)
        augmentation: Augmentation = CROP_AND_FLIP,
        images: ImageOptions = ImageOptions(),  # noqa: B008 (immutable)
    ) -> None:
        fits = num_classes is None or 2 <= num_classes <= _MOST_CLASSES
        check(fits, f"num_classes is {num_classes}, but must be at least 2 and at most {_MOST_CLASSES}")
        files = _split_files({"train": train, "val": val, "test": test})
        reader = _Reader(files, image_column, label_column, root, num_classes, relabel, images)
        contents = _contents(files, images.cache, image_column, root)
        super().__init__(
            lambda: cached(contents["train"].cache, reader.options, lambda: _hashes(contents), reader.read),
            split, augmentation, images.mean, images.std,
        )  # fmt: skip
        self.notes = keep_hashes(contents.values(), self.notes)

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the SHA-256 of each file and of each image that it names, by split, and how labels are matched.

        Labels are matched by name where files differ in the names; runs that took such labels for numbers are others.
        """
        files = _split_files({name: options[name] for name in SPLITS})
        found = _hashes(_contents(files, options["cache"], options["image_column"], options["root"]))
        names = {ParquetFile.of(file).names(options["label_column"]) for split in files.values() for file in split}
        return {**found, "labels": "by name"} if len(names - {None}) > 1 else {**found}


def _contents(
    files: Mapping[str, Sequence[Path]], cache: bool | str, image_column: str, root: str | None
) -> dict[str, Contents]:
    """Return the contents of each split's files and of the images that they name; hashes lie beside decoded images."""
    base = files["train"][0].parent
    folder = cache_folder(cache, base)
    return {
        name: Contents(
            [str(path) for file in split for path in (file, *ParquetFile.of(file).named_images(image_column, root))],
            base, folder, "\n".join(os.path.relpath(file, base) for file in split),
        )
        for name, split in files.items()
    }  # fmt: skip


def _hashes(contents: Mapping[str, Contents]) -> dict[str, Any]:
    return {name: [content.hex() for content in split.hashes()] for name, split in contents.items()}


@dataclass(frozen=True)
class _Reader:
    """Reads and checks the files of all splits."""

    files: dict[str, list[Path]]
    image_column: str
    label_column: str
    root: str | None
    num_classes: int | None
    relabel: bool
    images: ImageOptions

    @property
    def options(self) -> dict[str, Any]:
        """Everything that the decoded images depend on besides the files' content."""
        images = self.images
        return {
            "labels": "by name",
            **{name: [[file.name, file.stat().st_size] for file in split] for name, split in self.files.items()},
            **{name: getattr(self, name) for name in ("image_column", "label_column", "num_classes", "relabel")},
            "image_size": images.image_size,
            "channels": images.in_channels,
            "skip_broken": images.skip_broken,
            "background": images.colour,
            **images.resampled,
        }

    def read(self) -> Decoded:
        """Return the samples of all files."""
        opened = {name: [ParquetFile.of(file) for file in split] for name, split in self.files.items()}
        for split in opened.values():
            for file in split:
                file.check_columns(self.image_column, self.label_column)
        labels = {name: [file.labels(self.label_column) for file in split] for name, split in opened.items()}
        for name, parts in labels.items():
            check(any(len(part.values) for part in parts), f"the {name} split has no rows ({parts[0].file})")
        numbered = number_labels(labels, self.label_column, self.num_classes, self.relabel)
        encoded = {
            name: Encoded(self._sources(split), _row_namer(split), numbered.labels[name])
            for name, split in opened.items()
        }
        decoded = decode_splits(encoded, numbered.class_names, self.images)
        notes = (*_given_twice(self.files), *numbered.notes, *decoded.notes)
        return replace(decoded, notes=notes + self._missing(decoded.splits, decoded.class_names))

    def _sources(self, split: Sequence[ParquetFile]) -> Iterator[list[Source]]:
        for file in split:
            row = 0
            for sources in file.images(self.image_column, self.root):
                for at, source in enumerate(sources):
                    if isinstance(source, str) and not os.path.isfile(source):
                        where = f"row {row + at} of {file.path}"
                        check(
                            self.images.skip_broken,
                            f"broken image: {where}: there is no file {brief(source)} (data.root=FOLDER says where "
                            "paths begin, data.skip_broken=true leaves such images out)",
                        )
                        sources[at] = None
                row += len(sources)
                yield sources

    def _missing(self, splits: Mapping[str, Split], class_names: Sequence[str]) -> tuple[str, ...]:
        """Return notes on classes without images, and on how to leave out those that cannot be learnt."""
        notes = missing_class_notes({name: split.labels for name, split in splits.items()}, class_names)
        shown = [class_names[label] for label in np.unique(splits["train"].labels.numpy())]
        if len(shown) < len(class_names) and self.num_classes is None:  # the training split's note is the first
            fix = f"data.relabel=true numbers the {len(shown)} that have some ({first_few(shown)}) from 0"
            notes = (f"{notes[0]}; {fix}", *notes[1:])
        return notes


def _given_twice(files: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    """Return a note on files that are given more than once."""
    places: dict[Path, list[str]] = {}
    for name, split in files.items():
        for file in split:
            places.setdefault(file.resolve(), []).append(f"data.{name}")
    twice = [f"{file.name} (in {' and '.join(where)})" for file, where in places.items() if len(where) > 1]
    return (f"files are given more than once: {first_few(twice)}",) if twice else ()


def _row_namer(split: Sequence[ParquetFile]) -> Callable[[int], str]:
    """Return a function that names the row at a position of a split, for messages."""
    starts = np.cumsum([0, *(file.parquet.metadata.num_rows for file in split)])

    def name(index: int) -> str:
        file = int(np.searchsorted(starts, index, side="right")) - 1
        return f"row {index - starts[file]} of {split[file].path}"

    return name


def _split_files(given: Mapping[str, Paths]) -> dict[str, list[Path]]:
    """Return the files of each split that is given, sorted within each pattern."""
    check(given["train"] is not None, "data set 'parquet' needs data.train=FILE, its training split")
    files: dict[str, list[Path]] = {}
    for name, paths in given.items():
        if paths is None:
            continue
        files[name] = []
        for pattern in [paths] if isinstance(paths, str) else paths:
            path = Path(os.path.expanduser(pattern))
            found = [path] if path.is_file() else sorted(filter(Path.is_file, map(Path, glob.glob(str(path)))))
            check(len(found) > 0, f"data.{name}: there is no file {pattern}")
            files[name] += found
        check(len(files[name]) > 0, f"data.{name} is an empty list")
    return files
