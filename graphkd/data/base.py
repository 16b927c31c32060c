"""The base class of data sets: batches of normalised images with labels and indices, and facts about the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from graphkd.data.picture import Decoder, as_seen, colour
from graphkd.errors import check
from graphkd.registry import Registry

Device = torch.device | str


class Batch(NamedTuple):
    """Samples of one split.

    Attributes:
        images: Normalised, float32 [B, C, H, W].
        labels: Classes, int64 [B].
        indices: Positions in the split, int64 [B].
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a data set that its networks depend on; enough to predict without the data.

    Attributes:
        class_names: The name of each class.
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        mean: Mean that was subtracted from each channel of pixel values in 0 .. 1; None where it is unknown.
        std: Standard deviation by which each channel was then divided; None likewise.
    """

    class_names: tuple[str, ...]
    in_channels: int
    image_size: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


class Dataset(ABC):
    """Images in up to three splits.

    Attributes:
        num_classes: Number of classes; labels are 0 .. num_classes - 1.
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        class_names: The name of each class.
        train_labels: Class of each training sample, int64 [N], on the CPU.
        splits: Which of "train", "val" and "test" there are; "val" may be missing.
        mean: Mean that is subtracted from each channel of pixel values in 0 .. 1, where the data set knows it.
        std: Standard deviation by which each channel is then divided, likewise.
        skipped: How many broken images were left out.
        notes: What the user should know about the data, a line each.
    """

    PATHS: ClassVar[frozenset[str]] = frozenset()
    """Options that name files or folders (a run's folder keeps them as absolute paths)."""

    num_classes: int
    in_channels: int
    image_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    train_labels: Tensor
    splits: tuple[str, ...]
    skipped: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return plain values that identify the content of the files that the options name; empty where there are none.

        They replace the paths in a run's identity, so they must be quick to compute.

        Args:
            options: The constructor's options, all of them.

        Raises:
            UserError: A file is missing.
        """
        return {}

    @classmethod
    def test_transform(cls, options: Mapping[str, Any], info: DatasetInfo) -> Callable[[Image.Image], Tensor]:
        """Return the transform from an opened image to its pixels in the test split, uint8 [C, H, W], not normalised.

        By default the central square, resized as the options `resample` and `background` say. A subclass that
        overrides this overrides `resizing` too.

        Args:
            options: The constructor's options, all of them.
            info: The facts about the data that networks depend on.
        """
        background, resample = colour(options.get("background", "white")), options.get("resample", "bilinear")
        decoder = Decoder(info.in_channels, info.image_size, background=background, resample=resample)
        return lambda image: torch.tensor(decoder.pixels(as_seen(image, info.in_channels, background)))

    @classmethod
    def resizing(cls, options: Mapping[str, Any], info: DatasetInfo) -> str:
        """Describe in words how `test_transform` resizes an image."""
        how = "averaged over areas" if options.get("resample") == "area" else "bilinear, antialiased"
        return f"the central square, resized to {info.image_size} x {info.image_size} ({how})"

    @property
    def info(self) -> DatasetInfo:
        """The facts about the data that its networks depend on."""
        return DatasetInfo(self.class_names, self.in_channels, self.image_size, self.mean, self.std)

    @abstractmethod
    def train_batches(self, order: Tensor, batch_size: int, augmentation_seed: int, device: Device) -> Iterator[Batch]:
        """Yield augmented training batches in the given order; the last, smaller one is kept.

        Args:
            order: Training indices, int64 [n]; a permutation of all of them for one epoch.
            batch_size: Samples a batch.
            augmentation_seed: Seed of an epoch; a sample's augmentation depends on it and on the sample's index alone.
            device: Device of the batches.

        Raises:
            UserError: `batch_size` is below 1.
        """

    @abstractmethod
    def eval_batches(self, split: str, batch_size: int, device: Device) -> Iterator[Batch]:
        """Yield batches of a split in its order, without augmentation; the last, smaller one is kept.

        Raises:
            UserError: There is no such split, or `batch_size` is below 1.
        """

    @abstractmethod
    def with_train_fraction(self, fraction: float) -> Dataset:
        """Return the same data with a stratified part of the training samples, renumbered 0 .. n - 1.

        Each class keeps at least one sample; a smaller fraction's samples are among those of a larger one.

        Raises:
            UserError: `fraction` is not in (0, 1].
        """

    def num_train_batches(self, batch_size: int) -> int:
        """Return the number of batches in an epoch, the last, smaller one included.

        Raises:
            UserError: `batch_size` is below 1.
        """
        check(batch_size >= 1, f"batch_size is {batch_size}, but must be at least 1")
        return -(-len(self.train_labels) // batch_size)


def check_classes(count: int, where: str) -> None:
    """Raise `UserError` where there are too few classes to tell apart; `where` is the training split's place."""
    check(count >= 2, f"there is one class in {where}, but training needs at least 2")


def missing_class_notes(split_labels: Mapping[str, Tensor], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each split that lacks images of some classes, with these classes named.

    Args:
        split_labels: Classes of each split's samples, int64 [N]. Of the classes that "train" lacks, only its own
            line tells.
        class_names: The name of each class.
    """
    present = {split: labels.bincount(minlength=len(class_names)) > 0 for split, labels in split_labels.items()}
    notes = []
    for split, has in present.items():
        lacks = ~has if split == "train" else ~has & present.get("train", torch.tensor(True))
        missing = [class_names[label] for label in lacks.nonzero().flatten().tolist()]
        if missing:
            notes.append(f"{len(missing)} of {len(class_names)} classes have no {split} image: {first_few(missing)}")
    return tuple(notes)


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Return the first names on one line, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(" ".join(name.split()) for name in names[:most]) + more


DATASETS: Registry[Dataset] = Registry("data set", "graphkd.data")
