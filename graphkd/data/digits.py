"""Handwritten digits that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphkd.data.augment import Augmentation
from graphkd.data.base import DATASETS
from graphkd.data.tensor import Split, TensorDataset, check_held_out, stratified_split
from graphkd.errors import check

_MEAN, _STD = (0.305,), (0.376,)
_LARGEST = 16  # the images count set pixels in 4x4 cells
_DIGITS = range(10)


@DATASETS.register("digits")
class Digits(TensorDataset):
    """1797 real handwritten digits of 8x8 pixels, ten classes, one channel; nothing to download.

    Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, UCI repository, 1998; its test set), as
    scikit-learn ships it. The splits are stratified; the test split depends only on `test_fraction` and
    `split_seed`, so that it holds the same images of a digit whichever digits are kept.

    Args:
        train_fraction: Part of the training split to train on, stratified.
        val_fraction: Share of all images for validation; 0 for no validation split.
        test_fraction: Share of all images for the test split.
        split_seed: Chooses the splits.
        padding: Zeros on each side before a random crop, in pixels.
        flip: Whether to flip at random; mirrored digits are no digits, so false by default.
        classes: Which digits to keep; their labels become 0, 1, ... in this order. None keeps all ten.

    Raises:
        UserError: A fraction is out of range or leaves a split empty, or `classes` are not two or more digits.
    """

    def __init__(
        self,
        train_fraction: float = 1.0,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        padding: int = 1,
        flip: bool = False,
        classes: tuple[int, ...] | None = None,
    ) -> None:
        check(0 < test_fraction < 1, f"test_fraction is {test_fraction}, but must be above 0 and below 1")
        check(0 <= val_fraction < 1, f"val_fraction is {val_fraction}, but must be at least 0 and below 1")
        check(
            val_fraction + test_fraction < 1,
            f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train on",
        )
        kept = tuple(_DIGITS) if classes is None else tuple(classes)
        _check_classes(kept)
        images, labels = _load()
        test, val, train = stratified_split(labels, (test_fraction, val_fraction), split_seed)
        parts = {"train": train, "val": val, "test": test}
        shares = {"test": test_fraction, "val": val_fraction}
        if val_fraction == 0:
            del parts["val"], shares["val"]
        splits = {name: _keep(Split(images[part], labels[part]), kept) for name, part in parts.items()}
        pool = torch.cat([split.labels for split in splits.values()])
        check_held_out(pool, shares, {name: split.labels for name, split in splits.items()})
        super().__init__(
            splits,
            class_names=[str(digit) for digit in kept],
            mean=_MEAN,
            std=_STD,
            augmentation=Augmentation(padding, flip),
            train_fraction=train_fraction,
            split_seed=split_seed,
        )


def _load() -> Split:
    from sklearn.datasets import load_digits  # slow to import, and needed for this data set only

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).mul(255 / _LARGEST).round().to(torch.uint8)
    return Split(images.reshape(-1, 1, 8, 8), torch.from_numpy(labels).long())


def _check_classes(classes: Sequence[int]) -> None:
    fits = len(classes) >= 2 and len(set(classes)) == len(classes) and set(classes) <= set(_DIGITS)
    check(fits, f"classes is {list(classes)}, but must be two or more of the digits 0 to 9, each once")


def _keep(split: Split, classes: Sequence[int]) -> Split:
    """The samples of some digits, in their order, with a label that is the digit's place among them."""
    is_class = split.labels[:, None] == torch.tensor(classes)
    kept = is_class.any(1)
    return Split(split.images[kept], is_class[kept].long().argmax(1))
