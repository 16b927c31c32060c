"""Data sets in memory whose samples are decoded from files first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from graphkd.data.augment import Augmentation
from graphkd.data.images import decode_images, note_images
from graphkd.data.options import ImageOptions, SplitOptions
from graphkd.data.picture import Source
from graphkd.data.tensor import Split, TensorDataset, channel_statistics, check_has_test, hold_out


@dataclass(frozen=True)
class Decoded:
    """The samples of a data set.

    Attributes:
        splits: Samples by split.
        class_names: The name of each class.
        skipped: How many broken images were left out.
        notes: What the user should know, a line each.
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...]
    skipped: int = 0
    notes: tuple[str, ...] = ()


class Encoded(NamedTuple):
    """The images of a split in batches, the name of each for messages, by its index, and the classes, int64 [N]."""

    batches: Iterable[Sequence[Source]]
    where: Callable[[int], str]
    labels: Tensor


def decode_splits(encoded: Mapping[str, Encoded], class_names: tuple[str, ...], options: ImageOptions) -> Decoded:
    """Decode the images of each split; the notes tell of those that are broken or strange.

    Raises:
        UserError: As in `decode_images`.
    """
    splits: dict[str, Split] = {}
    notes: tuple[str, ...] = ()
    skipped = 0
    for name, (batches, where, labels) in encoded.items():
        images = decode_images(batches, len(labels), where, options.decoder, options.skip_broken)
        splits[name] = Split(images.pixels, labels[images.kept])
        notes += note_images(name, len(labels), images)
        skipped += len(images.broken)
    return Decoded(splits, class_names, skipped, notes)


class DecodedDataset(TensorDataset):
    """Decoded samples, with splits cut off the training split and statistics computed where they are asked for.

    Args:
        decode: Gives the samples.
        split: Which samples are trained on, and which splits are cut off.
        augmentation: What training batches go through.
        mean: Mean of each channel; None computes it from the training split.
        std: Standard deviation of each channel, likewise.

    Raises:
        UserError: There is no test split, or as in `TensorDataset`.
    """

    def __init__(
        self,
        decode: Callable[[], Decoded],
        split: SplitOptions,
        augmentation: Augmentation,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        decoded = decode()
        splits = hold_out(decoded.splits, split.held_out, split.split_seed)
        check_has_test(splits)
        if mean is None or std is None:
            own_mean, own_std = channel_statistics(splits["train"].images)
            mean, std = mean or own_mean, std or own_std
        names = decoded.class_names
        super().__init__(splits, names, mean, std, augmentation, split.train_fraction, split.split_seed)
        self.skipped, self.notes = decoded.skipped, decoded.notes
