"""Data sets in memory whose samples are decoded from files first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graphkd.data.augment import Augmentation
from graphkd.data.tensor import Split, TensorDataset, channel_statistics, check_fractions, hold_out
from graphkd.errors import check


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


class DecodedDataset(TensorDataset):
    """Decoded samples, with splits cut off the training split and statistics computed where they are asked for.

    Args:
        decode: Gives the samples; called once, after the other arguments are checked.
        augmentation: What training batches go through.
        mean: Mean of each channel; None computes it from the training split.
        std: Standard deviation of each channel, likewise.
        train_fraction: Part of the training samples to keep.
        held_out: Share of the training split for each split that is cut off it.
        split_seed: Chooses the samples of those parts.

    Raises:
        UserError: A fraction is out of range, there is no test split, or as in `TensorDataset`.
    """

    def __init__(
        self,
        decode: Callable[[], Decoded],
        augmentation: Augmentation,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        train_fraction: float,
        held_out: Mapping[str, float],
        split_seed: int,
    ) -> None:
        check_fractions(train_fraction, held_out)
        decoded = decode()
        splits = hold_out(decoded.splits, held_out, split_seed)
        check_has_test(splits)
        if mean is None or std is None:
            own_mean, own_std = channel_statistics(splits["train"].images)
            mean, std = mean or own_mean, std or own_std
        super().__init__(
            splits, decoded.class_names, mean, std, augmentation, train_fraction=train_fraction, split_seed=split_seed
        )
        self.skipped, self.notes = decoded.skipped, decoded.notes


def check_has_test(splits: Mapping[str, object]) -> None:
    """Raises `UserError` without a test split."""
    check("test" in splits, "there is no test split: name it by data.test, or cut one off by data.test_fraction=0.2")
