"""Handwritten digits that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphkd.binding import flat
from graphkd.data.augment import Augmentation
from graphkd.data.base import DATASETS
from graphkd.data.options import SplitOptionsWithTest
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
        split: Which samples are trained on, and which splits are cut off; shares are of all images.
        padding: Zeros on each side before a random crop, in pixels.
        flip: Whether to flip at random; mirrored digits are no digits, so false by default.
        classes: Which digits to keep; their labels become 0, 1, ... in this order. None keeps all ten.

    Raises:
        UserError: A fraction is out of range or leaves a split empty, or `classes` are not two or more digits.
    """

    @flat
    def __init__(
        self,
        split: SplitOptionsWithTest = SplitOptionsWithTest(val_fraction=0.2, test_fraction=0.2),  # noqa: B008 (immutable)
        padding: int = 1,
        flip: bool = False,
        classes: tuple[int, ...] | None = None,
    ) -> None:
        check(split.test_fraction > 0, f"test_fraction is {split.test_fraction}, but must be above 0 and below 1")
        kept = tuple(_DIGITS) if classes is None else tuple(classes)
        fits = len(kept) >= 2 and len(set(kept)) == len(kept) and set(kept) <= set(_DIGITS)
        check(fits, f"classes is {list(kept)}, but must be two or more of the digits 0 to 9, each once")
        images, labels = _load()
        shares = {name: share for name, share in split.held_out.items() if share}
        *parts, train = stratified_split(labels, list(shares.values()), split.split_seed)
        indices = {"train": train, **dict(zip(shares, parts, strict=True))}
        splits = {name: _keep(Split(images[part], labels[part]), kept) for name, part in indices.items()}
        pool = torch.cat([part.labels for part in splits.values()])
        check_held_out(pool, shares, {name: part.labels for name, part in splits.items()})
        augmentation, names = Augmentation(padding, flip), [str(digit) for digit in kept]
        super().__init__(splits, names, _MEAN, _STD, augmentation, split.train_fraction, split.split_seed)


def _load() -> Split:
    from sklearn.datasets import load_digits  # slow to import, and needed for this data set only

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).mul(255 / _LARGEST).round().to(torch.uint8)
    return Split(images.reshape(-1, 1, 8, 8), torch.from_numpy(labels).long())


def _keep(split: Split, classes: Sequence[int]) -> Split:
    """Return the samples of some digits, in their order, with a label that is the digit's place among them."""
    is_class = split.labels[:, None] == torch.tensor(classes)
    kept = is_class.any(1)
    return Split(split.images[kept], is_class[kept].long().argmax(1))
