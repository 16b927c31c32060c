"""Data sets small enough to lie in memory as one tensor a split."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from graphkd.data.augment import Augmentation, batches_at_once, random_bits
from graphkd.data.base import Batch, Dataset, Device
from graphkd.errors import UserError, check, choices, counted, one_of

if TYPE_CHECKING:
    from typing_extensions import Self

SPLITS = ("train", "val", "test")
_STATISTICS_BATCH = 2048  # images counted at a time


class Split(NamedTuple):
    """All samples of a split.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: Classes, int64 [N].
    """

    images: Tensor
    labels: Tensor


class Normalisation(NamedTuple):
    """Maps uint8 [B, C, H, W] to normalised float32, by scale and shift, float32 [C, 1, 1]."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], channels: int) -> Normalisation:
        """Return the normalisation by `mean` and `std` of each channel, both for pixel values in 0 .. 1.

        Raises:
            UserError: They have not one value a channel, or a `std` is not positive.
        """
        for name, values in (("mean", mean), ("std", std)):
            images = f"but the images have {counted(channels, 'channel')}"
            check(len(values) == channels, f"{name} has {counted(len(values), 'value')}, {images}")
        check(all(value > 0 for value in std), f"std is {list(std)}, but its values must be above 0")
        means, stds = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        scale, shift = 1 / (255 * stds), -means / stds
        return cls(scale.float()[:, None, None], shift.float()[:, None, None])

    def to(self, device: Device) -> Normalisation:
        """Return it on a device."""
        return Normalisation(self.scale.to(device), self.shift.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift

    def pixels(self, images: Tensor) -> Tensor:
        """Return the uint8 pixels of normalised images, which float32 holds exactly."""
        return ((images - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)


class SplitDataset(Dataset):
    """Labelled samples of each split, of which training may use a part; a subclass makes batches of them.

    Arguments as in `TensorDataset`, with the facts of `Dataset`. Instead of pixels, the splits may have
    references to them, such as the positions of files.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        class_names: Sequence[str],
        image_size: int,
        in_channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        train_fraction: float,
        split_seed: int,
    ) -> None:
        self.num_classes, self.class_names = len(class_names), tuple(class_names)
        self.in_channels, self.image_size = in_channels, image_size
        self.splits = tuple(name for name in SPLITS if name in splits)
        self.mean, self.std = tuple(mean), tuple(std)
        self._normalisation = Normalisation.of(mean, std, in_channels)
        self._data = dict(splits)
        self._split_seed = split_seed
        self._keep_train_fraction(train_fraction)

    def with_train_fraction(self, fraction: float) -> Self:
        """See `Dataset.with_train_fraction`."""
        part = copy.copy(self)
        part._data = dict(self._data)
        part._keep_train_fraction(fraction)
        return part

    def _keep_train_fraction(self, fraction: float) -> None:
        images, labels = self._data["train"]
        chosen = stratified_subset(labels.cpu(), fraction, self._split_seed).to(labels.device)
        if len(chosen) < len(labels):
            self._data["train"] = Split(images[chosen], labels[chosen])
        self.train_labels = self._data["train"].labels.cpu()


class TensorDataset(SplitDataset):
    """Whole splits as uint8 tensors, augmented and normalised in batches on the device where they are used.

    A split moves to the device at its first use and stays there, so no worker processes are needed.

    Args:
        splits: Samples by split: "train" and any of "val" and "test".
        class_names: The name of each class.
        mean: Mean of each channel, for pixel values in 0 .. 1.
        std: Standard deviation of each channel, likewise.
        augmentation: What training batches go through; nothing by default.
        train_fraction: Part of the training samples to keep, as in `with_train_fraction`.
        split_seed: Chooses that part.

    Raises:
        UserError: A split is empty, of wrong type, shape or name, or has labels without a class.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None = None,
        train_fraction: float = 1.0,
        split_seed: int = 0,
    ) -> None:
        _check_splits(splits, len(class_names))
        _, channels, size, _ = splits["train"].images.shape
        self._augmentation = augmentation or Augmentation()
        padding = self._augmentation.padding
        check(padding <= size, f"padding is {padding}, but the images have {size} pixels a side")
        super().__init__(splits, class_names, size, channels, mean, std, train_fraction, split_seed)

    def train_batches(self, order: Tensor, batch_size: int, augmentation_seed: int, device: Device) -> Iterator[Batch]:
        """See `Dataset.train_batches`."""
        images, labels = self._placed("train", device)
        normalised = self._normalisation.to(device)
        batches = split_in_batches(order.to(device), batch_size)
        together = batches_at_once(batches[0].shape + images.shape[1:])
        for several in (batches[start : start + together] for start in range(0, len(batches), together)):
            indices = torch.cat(several)
            augmented = normalised(self._augmentation(images[indices], indices, augmentation_seed))
            augmented = self._augmentation.cut_out(augmented, indices, augmentation_seed)
            parts = (torch.split(tensor, batch_size) for tensor in (augmented, labels[indices]))
            yield from map(Batch, *parts, several)

    def eval_batches(self, split: str, batch_size: int, device: Device) -> Iterator[Batch]:
        """See `Dataset.eval_batches`."""
        images, labels = self._placed(split, device)
        normalised = self._normalisation.to(device)
        for indices in split_in_batches(torch.arange(len(labels), device=device), batch_size):
            yield Batch(normalised(images[indices]), labels[indices], indices)

    def _placed(self, name: str, device: Device) -> Split:
        images, labels = self._data[one_of(name, self._data, "there is no split")]
        self._data[name] = Split(images.to(device), labels.to(device))
        return self._data[name]


def stratified_split(labels: Tensor, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Cut samples, each class alike, into a part for each fraction and one with the rest, of all classes.

    A part depends on the fractions up to its own only.

    Args:
        labels: Classes, int64 [N], on the CPU.
        fractions: Share of each class for each part; below 1 in all.
        seed: Chooses the samples; the same on every machine.

    Returns:
        The sorted indices of each part, int64 [n].
    """
    ranks, sizes = _class_ranks(labels, seed)
    shares = torch.tensor(fractions, dtype=torch.float64).cumsum(0)
    parts = (ranks[:, None] >= _bounds(sizes[:, None], shares)).sum(1)
    return [(parts == part).nonzero().flatten() for part in range(len(fractions) + 1)]


def stratified_subset(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return the sorted indices, int64 [n], of a part of the samples, at least one of each class.

    Of two fractions under one seed, the smaller one's samples are among the larger one's.

    Args:
        labels: Classes, int64 [N], on the CPU.
        fraction: Share of each class.
        seed: Chooses the samples; the same on every machine.

    Raises:
        UserError: `fraction` is not in (0, 1].
    """
    check_fractions(fraction, {})
    ranks, sizes = _class_ranks(labels, seed)
    return (ranks < (sizes * fraction).round().clamp(min=1)).nonzero().flatten()


def check_held_out(labels: Tensor, shares: Mapping[str, float], parts: Mapping[str, Tensor]) -> None:
    """Check that each part that was cut off by `stratified_split` has a sample.

    Args:
        labels: Classes of the samples that were cut, int64 [N], on the CPU.
        shares: Share of each part, in the order of the cut.
        parts: The samples of each part, of any kind that has a length.

    Raises:
        UserError: A part is empty; the message names its option and the smallest share that gives a sample.
    """
    sizes, before = labels.bincount().double(), 0.0
    for name, share in shares.items():
        if len(parts[name]) == 0:
            least = _least_share(sizes[sizes > 0], before)
            none = "nor does any other share: each class keeps an image to train on"
            fix = none if least is None else f"but {name}_fraction={least:g} gives one"
            raise UserError(f"{name}_fraction={share:g} of {len(labels)} images gives no sample, {fix}")
        before += share


def check_fractions(train_fraction: float, held_out: Mapping[str, float]) -> None:
    """Check a training fraction, and the shares that `hold_out` is to cut off.

    Raises:
        UserError: One is out of range, or nothing is left to train on.
    """
    check(0 < train_fraction <= 1, f"train_fraction is {train_fraction}, but must be above 0 and at most 1")
    for name, share in held_out.items():
        check(0 <= share < 1, f"{name}_fraction is {share}, but must be at least 0 and below 1")
    described = " and ".join(f"{name}_fraction {share}" for name, share in held_out.items())
    check(sum(held_out.values()) < 1, f"{described} leave nothing to train on")


def hold_out(splits: Mapping[str, Split], shares: Mapping[str, float], seed: int) -> dict[str, Split]:
    """Cut further splits off the training split, stratified.

    Args:
        splits: The existing splits.
        shares: Share of the training split for each new one; 0 for none.
        seed: Chooses the samples.

    Raises:
        UserError: There is such a split already, or a new one has no sample.
    """
    wanted = {name: share for name, share in shares.items() if share}
    for name, share in wanted.items():
        check(name not in splits, f"{name}_fraction is {share}, but there is a {name} split already")
    if not wanted:
        return dict(splits)
    images, labels = splits["train"]
    *parts, rest = stratified_split(labels, list(wanted.values()), seed)
    indices = {"train": rest, **dict(zip(wanted, parts, strict=True))}
    check_held_out(labels, wanted, indices)
    return {**splits, **{name: Split(images[index], labels[index]) for name, index in indices.items()}}


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel for pixel values in 0 .. 1, exact by counting each value.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        C values each; a channel of one value has a standard deviation of 1.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in torch.split(images, _STATISTICS_BATCH):  # bincount takes eight bytes a value
        counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in part.unbind(1)])
    shares = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    std = (shares * (values - mean[:, None]).square()).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(std.where(std > 0, 1).tolist())


def _class_ranks(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return each sample's place in a random order of its class int64 [N], and that class's size, float64 [N]."""
    order = random_bits(torch.arange(len(labels)), seed)[0].argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount()
    starts = sizes.cumsum(0) - sizes
    ranks = torch.empty_like(labels)
    ranks[order] = torch.arange(len(labels)) - starts[labels[order]]
    return ranks, sizes[labels].double()


def _bounds(sizes: Tensor, shares: Tensor | float) -> Tensor:
    """Return how many samples of classes of these sizes lie in the parts up to these shares; one at least is left."""
    return (sizes * shares).round().minimum(sizes - 1)


def _least_share(sizes: Tensor, before: float) -> float | None:
    """Return the least share, in two digits, that takes a sample of a class after the share `before`; None for none."""
    taken = _bounds(sizes, before)
    limits = ((taken + 0.5) / sizes - before)[taken + 1 < sizes]  # a share above its limit rounds up to a sample
    if len(limits) == 0:
        return None
    limit = max(float(limits.min()), 1e-9)
    unit = 10.0 ** (math.floor(math.log10(limit)) - 1)
    return (math.floor(limit / unit + 1e-6) + 1) * unit


def split_in_batches(indices: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Return the indices in batches, the last, smaller one kept.

    Raises:
        UserError: `batch_size` is below 1.
    """
    check(batch_size >= 1, f"batch_size is {batch_size}, but must be at least 1")
    return torch.split(indices, batch_size)


def check_has_test(splits: Collection[str]) -> None:
    """Raise `UserError` without a test split."""
    check("test" in splits, "there is no test split: name it by data.test, or cut one off by data.test_fraction=0.2")


def _check_splits(splits: Mapping[str, Split], num_classes: int) -> None:
    check("train" in splits, f"a data set needs a train split (it has: {choices(splits)})")
    expected = splits["train"].images.shape[1:]
    for name, (images, labels) in splits.items():
        one_of(name, SPLITS, "there is no split")
        check(
            images.dtype == torch.uint8 and images.ndim == 4 and images.shape[2] == images.shape[3],
            f"{name} images are {images.dtype} of shape {tuple(images.shape)}, but must be uint8 [N, C, H, H]",
        )
        check(
            labels.dtype == torch.int64 and labels.shape == images.shape[:1],
            f"{name} labels are {labels.dtype} of shape {tuple(labels.shape)}, but must be int64 [{len(images)}]",
        )
        check(images.numel() > 0, f"the {name} split is empty")
        low, high, most = int(labels.min()), int(labels.max()), num_classes - 1
        check(low >= 0 and high <= most, f"{name} labels run from {low} to {high}, but must lie in 0 .. {most}")
        shape = images.shape[1:]
        check(shape == expected, f"{name} images have shape {tuple(shape)}, but train images {tuple(expected)}")
