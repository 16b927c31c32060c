"""What every data set offers: batches of normalised images with labels and dataset indices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphkd.errors import check
from graphkd.registry import Registry


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


class Dataset(ABC):
    """Images in up to three splits.

    Attributes:
        num_classes: Number of classes; labels are 0 .. num_classes - 1.
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        class_names: The name of each class.
        train_labels: Class of each training sample, int64 [N], on the CPU.
        splits: Which of "train", "val" and "test" there are; "val" may be missing.
        skipped: How many broken images were left out.
        notes: What the user should know about the data, a line each.
    """

    num_classes: int
    in_channels: int
    image_size: int
    class_names: tuple[str, ...]
    train_labels: Tensor
    splits: tuple[str, ...]
    skipped: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def fingerprint(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """What identifies the content of files that the options name, of plain values; empty where nothing does.

        Takes the place of their paths in a run's identity, so it must be quick to find.

        Args:
            options: The constructor's options, all of them.

        Raises:
            UserError: A file is missing.
        """
        return {}

    @abstractmethod
    def train_batches(
        self, order: Tensor, batch_size: int, augmentation_seed: int, device: torch.device | str
    ) -> Iterator[Batch]:
        """Augmented training batches in the given order; the last, smaller one is kept.

        Args:
            order: Training indices, int64 [n]; a permutation of all of them for one epoch.
            batch_size: Samples a batch.
            augmentation_seed: All that a sample's augmentation depends on beside its index; one an epoch.
            device: Where the batches are to lie.

        Raises:
            UserError: `batch_size` is below 1.
        """

    @abstractmethod
    def eval_batches(self, split: str, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        """A split in its order, without augmentation; the last, smaller batch is kept.

        Raises:
            UserError: There is no such split, or `batch_size` is below 1.
        """

    @abstractmethod
    def with_train_fraction(self, fraction: float) -> Dataset:
        """The same data with a stratified part of the training samples, renumbered 0 .. n - 1.

        Each class keeps at least one sample; a smaller fraction's samples are among those of a larger one.

        Raises:
            UserError: `fraction` is not in (0, 1].
        """

    def num_train_batches(self, batch_size: int) -> int:
        """Batches in an epoch, the last, smaller one included.

        Raises:
            UserError: `batch_size` is below 1.
        """
        check(batch_size >= 1, f"batch_size is {batch_size}, but must be at least 1")
        return -(-len(self.train_labels) // batch_size)


def check_classes(count: int, where: str) -> None:
    """Raises `UserError` where there are too few classes to tell apart; `where` is the training split's place."""
    check(count >= 2, f"there is one class in {where}, but training needs at least 2")


def missing_class_notes(split_labels: Mapping[str, Tensor], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each split that lacks images of some classes, with the classes named.

    Args:
        split_labels: The labels of each split, int64 [N].
        class_names: The name of each class.
    """
    notes = []
    for split, labels in split_labels.items():
        counts = labels.bincount(minlength=len(class_names))
        missing = [name for name, count in zip(class_names, counts.tolist(), strict=True) if count == 0]
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        if missing:
            named = f"{', '.join(missing[:5])}{more}"
            notes.append(f"{len(missing)} of {len(class_names)} classes have no {split} image: {named}")
    return tuple(notes)


DATASETS: Registry[Dataset] = Registry("data set", "graphkd.data")
