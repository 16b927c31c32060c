"""Images and labels in Parquet files, as the Hugging Face hub keeps them."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphkd.data.augment import Augmentation
from graphkd.data.base import DATASETS, check_classes
from graphkd.data.cache import cache_folder, cached, describe_files, same_files, sampled_hash
from graphkd.data.decoded import Decoded, DecodedDataset
from graphkd.data.images import Source, check_channels, decode_images, note_broken
from graphkd.data.tensor import SPLITS, Split
from graphkd.errors import UserError, check, choices, did_you_mean, one_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Paths = str | Sequence[str] | None
_ROWS = 2048  # rows in memory at a time
_MOST_CLASSES = 10_000_000


@DATASETS.register("parquet")
class Parquet(DecodedDataset):
    """Parquet files with a column of encoded images and one of labels, decoded once into memory.

    The image column holds PNG or JPEG bytes, or structs of `bytes` and `path` as on the Hugging Face hub; the label
    column integers or texts. The classes are those that the hub's metadata name, else the texts of the training
    split in alphabetical order, else 0 to `num_classes` - 1. Rows count from 0.

    Args:
        train: The training split: a file, a pattern (`data/train-*.parquet`), or a list of those.
        test: The test split, likewise; None with a `test_fraction`.
        val: The validation split, likewise; None for none, or with a `val_fraction`.
        image_column: The column of the images.
        label_column: The column of the labels.
        image_size: Height and width in pixels of the central square that images are resized to (bilinear,
            antialiased). None: all images have one size.
        in_channels: 3 for colour, 1 for grey; images are converted.
        num_classes: How many classes there are. None: as many as the files name, or as the training labels show.
        train_fraction: Part of the training split to train on, stratified.
        val_fraction: Share of the training images for validation.
        test_fraction: Share of the training images for testing.
        split_seed: Chooses those three.
        padding: Zeros on each side before a random crop, in pixels.
        flip: Whether to flip at random.
        cutout: Side of a random square that is blanked, in pixels; 0 for none.
        rand_augment: Number of RandAugment's operations that an image goes through; 0 for none, 2 is usual.
        rand_magnitude: Their strength, from 0 to 30.
        mean: Mean of each channel, for pixel values in 0 .. 1. None: the training images'.
        std: Standard deviation of each channel, likewise.
        skip_broken: Leaves broken images out instead of stopping; `skipped` counts them.
        cache: Where the decoded images are kept: true for beside the training file, false for nowhere, or a folder.

    Raises:
        UserError: A file, column, image or label is missing or wrong; the message names file and row.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({*SPLITS, "cache"})
    PATHS: ClassVar[frozenset[str]] = NOT_IDENTITY

    def __init__(
        self,
        train: Paths = None,
        test: Paths = None,
        val: Paths = None,
        image_column: str = "image",
        label_column: str = "label",
        image_size: int | None = None,
        in_channels: int = 3,
        num_classes: int | None = None,
        train_fraction: float = 1.0,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        split_seed: int = 0,
        padding: int = 4,
        flip: bool = True,
        cutout: int = 0,
        rand_augment: int = 0,
        rand_magnitude: int = 9,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        skip_broken: bool = False,
        cache: bool | str = True,
    ) -> None:
        check_channels(in_channels)
        check(image_size is None or image_size >= 1, f"image_size is {image_size}, but must be at least 1")
        fits = num_classes is None or 2 <= num_classes <= _MOST_CLASSES
        check(fits, f"num_classes is {num_classes}, but must be at least 2 and at most {_MOST_CLASSES}")
        files = _split_files({"train": train, "val": val, "test": test})
        reader = _Reader(files, image_column, label_column, image_size, in_channels, num_classes, skip_broken)
        every = [file for split in files.values() for file in split]
        super().__init__(
            lambda: cached(
                folder=cache_folder(cache, every[0].parent),
                options=reader.options,
                source=lambda: describe_files(every),
                decode=reader.read,
                same=lambda stored: same_files(every, stored),
            ),
            Augmentation(padding, flip, cutout, rand_augment, rand_magnitude), mean, std, train_fraction,
            {"test": test_fraction, "val": val_fraction}, split_seed,
        )  # fmt: skip

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """A hash of each file's size and of a sample of its content, by split."""
        files = _split_files({name: options[name] for name in SPLITS})
        return {name: [sampled_hash(file) for file in split] for name, split in files.items()}


@dataclass(frozen=True)
class _Labels:
    """One split's labels as the files have them: numbers or texts, and the names that the files give to numbers."""

    values: np.ndarray
    names: tuple[str, ...] | None

    @property
    def are_texts(self) -> bool:
        return self.values.dtype == object


@dataclass(frozen=True)
class _Reader:
    """Reads and checks the files of all splits."""

    files: dict[str, list[Path]]
    image_column: str
    label_column: str
    image_size: int | None
    channels: int
    num_classes: int | None
    skip_broken: bool

    @property
    def options(self) -> dict[str, Any]:
        """What the decoded images depend on beside the files' content."""
        return {
            **{name: [[file.name, file.stat().st_size] for file in split] for name, split in self.files.items()},
            **{name: getattr(self, name) for name in ("image_column", "label_column", "image_size", "channels")},
            **{name: getattr(self, name) for name in ("num_classes", "skip_broken")},
        }

    def read(self) -> Decoded:
        opened = {name: [_Open.of(file) for file in split] for name, split in self.files.items()}
        for split in opened.values():
            for file in split:
                file.check_columns(self.image_column, self.label_column)
        labels = {name: self._labels(split) for name, split in opened.items()}
        class_names, numbers = self._classes(labels, opened)
        splits: dict[str, Split] = {}
        notes: tuple[str, ...] = ()
        skipped = 0
        for name, split in opened.items():
            rows = len(numbers[name])
            images = decode_images(
                self._sources(split), rows, _row_namer(split), self.channels, self.image_size, self.skip_broken
            )
            splits[name] = Split(images.pixels, numbers[name][images.kept])
            notes += note_broken(name, rows, images.broken)
            skipped += len(images.broken)
        return Decoded(splits, class_names, skipped, notes)

    def _sources(self, split: Sequence[_Open]) -> Iterator[list[Source]]:
        for file in split:
            for column in file.parts(self.image_column):
                yield (column.field("bytes") if file.has_structs(self.image_column) else column).to_pylist()

    def _labels(self, split: Sequence[_Open]) -> _Labels:
        parts = [file.labels(self.label_column) for file in split]
        for file, part in zip(split, parts, strict=True):
            check(
                part.are_texts == parts[0].are_texts,
                f"column '{self.label_column}' is of another type in {file.path} than in {split[0].path}",
            )
        return _Labels(np.concatenate([part.values for part in parts]), parts[0].names)

    def _classes(
        self, labels: Mapping[str, _Labels], opened: Mapping[str, Sequence[_Open]]
    ) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """The names of the classes, and the labels of each split as their positions, int64 [N]."""
        train = labels["train"]
        for name, split in labels.items():
            check(len(split.values) > 0, f"the {name} split has no rows ({opened[name][0].path})")
            check(
                split.are_texts == train.are_texts,
                f"column '{self.label_column}' is of another type in {opened[name][0].path} "
                f"than in {opened['train'][0].path}",
            )
        if train.are_texts:
            names = tuple(sorted(set(train.values)))
            known = range(len(names)) if self.num_classes is None else range(self.num_classes)
            check(len(names) == len(known), f"num_classes is {len(known)}, but the training labels are {len(names)}")
            check_classes(len(names), str(opened["train"][0].path))
            numbers = {name: self._text_numbers(split, names, opened[name]) for name, split in labels.items()}
            return names, numbers
        count = self.num_classes or (len(train.names) if train.names else self._count(train, opened["train"]))
        check_classes(count, str(opened["train"][0].path))
        names = train.names or tuple(str(label) for label in range(count))
        check(len(names) == count, f"num_classes is {count}, but {opened['train'][0].path} names {len(names)} classes")
        for name, split in labels.items():
            wrong = np.flatnonzero((split.values < 0) | (split.values >= count))
            self._check_rows(wrong, split, opened[name], f"but labels must lie in 0 .. {count - 1}")
            strange = np.flatnonzero(~np.isin(split.values, train.values))
            self._check_rows(strange, split, opened[name], "a class that the training split lacks")
        return names, {name: torch.from_numpy(split.values) for name, split in labels.items()}

    def _count(self, train: _Labels, opened: Sequence[_Open]) -> int:
        """How many classes the training labels show; a column of other numbers (times, identifiers) shows too many."""
        count, rows = int(train.values.max()) + 1, len(train.values)
        check(
            count <= rows,
            f"column '{self.label_column}' of {opened[0].path} goes up to {count - 1} in {rows} training rows: "
            "data.num_classes=N if there are so many classes, else another data.label_column",
        )
        return count

    def _text_numbers(self, split: _Labels, names: Sequence[str], opened: Sequence[_Open]) -> Tensor:
        position = {name: number for number, name in enumerate(names)}
        numbers = np.array([position.get(value, -1) for value in split.values], dtype=np.int64)
        self._check_rows(np.flatnonzero(numbers < 0), split, opened, "a class that the training split lacks")
        return torch.from_numpy(numbers)

    def _check_rows(self, wrong: np.ndarray, split: _Labels, opened: Sequence[_Open], why: str) -> None:
        if len(wrong):
            row = int(wrong[0])
            raise UserError(
                f"{_row_namer(opened)(row)}: column '{self.label_column}' is {split.values[row]!s}, {why} "
                f"({len(wrong)} such rows)"
            )


@dataclass(frozen=True)
class _Open:
    """A Parquet file whose footer is read."""

    path: Path
    parquet: pq.ParquetFile
    schema: pa.Schema

    @classmethod
    def of(cls, path: Path) -> _Open:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            parquet = pq.ParquetFile(path)
            return cls(path, parquet, parquet.schema_arrow)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is no readable Parquet file ({one_line(error)})") from error

    def check_columns(self, image_column: str, label_column: str) -> None:
        """Both are there and of a type that can be read."""
        from pyarrow import types

        names = self.schema.names
        for option, column in (("image_column", image_column), ("label_column", label_column)):
            hint = did_you_mean(column, names)
            check(
                column in names,
                f"{self.path} has no column '{column}'{hint} (data.{option}; its columns: {choices(names)})",
            )
        kind = self.schema.field(image_column).type
        if types.is_struct(kind):
            kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
        check(
            types.is_binary(kind) or types.is_large_binary(kind),
            f"column '{image_column}' of {self.path} is {kind}, but must hold encoded images (data.image_column)",
        )
        kind = self._label_type(label_column)
        check(
            types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind),
            f"column '{label_column}' of {self.path} is {kind}, but must hold integers or texts (data.label_column)",
        )

    def has_structs(self, column: str) -> bool:
        from pyarrow import types

        return bool(types.is_struct(self.schema.field(column).type))

    def labels(self, column: str) -> _Labels:
        """One column's values; each row must have one."""
        from pyarrow import types

        values = self._read(column)
        if values.null_count:
            row = values.is_null().to_pylist().index(True)
            raise UserError(f"row {row} of {self.path}: column '{column}' is empty")
        if types.is_integer(self._label_type(column)):
            numbers = values.to_pylist()
            check(max(numbers, default=0) < 2**63, f"column '{column}' of {self.path} goes beyond 64-bit integers")
            return _Labels(np.array(numbers, dtype=np.int64), self._names(column))
        return _Labels(np.array(values.to_pylist(), dtype=object), None)

    def parts(self, column: str) -> Iterator[pa.Array]:
        """One column's values, some rows at a time."""
        with self._reading(column):
            for batch in self.parquet.iter_batches(_ROWS, columns=[column]):
                yield batch.column(0)

    def _read(self, column: str) -> pa.ChunkedArray:
        with self._reading(column):
            return self.parquet.read(columns=[column]).column(0)

    @contextmanager
    def _reading(self, column: str) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"column '{column}' of {self.path} cannot be read ({one_line(error)})") from error

    def _label_type(self, column: str) -> pa.DataType:
        from pyarrow import types

        kind = self.schema.field(column).type
        return kind.value_type if types.is_dictionary(kind) else kind

    def _names(self, column: str) -> tuple[str, ...] | None:
        """The class names in the metadata that the Hugging Face hub's files have."""
        try:
            metadata = json.loads((self.schema.metadata or {})[b"huggingface"])
            names = metadata["info"]["features"][column]["names"]
        except (KeyError, ValueError, TypeError):
            return None
        return tuple(str(name) for name in names)


def _row_namer(split: Sequence[_Open]) -> Callable[[int], str]:
    """What messages call the row at a position of a split."""
    lengths = [file.parquet.metadata.num_rows for file in split]

    def name(index: int) -> str:
        for file, length in zip(split, lengths, strict=True):
            if index < length:
                return f"row {index} of {file.path}"
            index -= length
        raise IndexError(index)

    return name


def _split_files(given: Mapping[str, Paths]) -> dict[str, list[Path]]:
    """The files of each split that is given, sorted within each pattern."""
    check(given["train"] is not None, "data set 'parquet' needs data.train=FILE, its training split")
    files: dict[str, list[Path]] = {}
    for name, paths in given.items():
        if paths is not None:
            patterns = [paths] if isinstance(paths, str) else paths
            files[name] = [file for pattern in patterns for file in _matching(pattern, f"data.{name}")]
            check(len(files[name]) > 0, f"data.{name} is an empty list")
    return files


def _matching(pattern: str, option: str) -> list[Path]:
    path = Path(pattern).expanduser()
    found = [path] if path.is_file() else sorted(Path(file) for file in glob.glob(str(path)) if Path(file).is_file())
    check(len(found) > 0, f"{option}: there is no file {pattern}")
    return found
