"""Images too large to lie in memory: decoded and augmented by worker processes, one at a time."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from graphkd.data.augment import random_bits
from graphkd.data.base import Batch, Dataset
from graphkd.data.decoded import Decoded, check_has_test
from graphkd.data.images import Colour, as_seen, explain, open_image
from graphkd.data.tensor import SPLITS, Normalisation, Split, cut, hold_out, stratified_subset
from graphkd.errors import UserError, check, choices, one_line

if TYPE_CHECKING:
    from PIL import Image

_RESIZE = 256 / 224  # what evaluation resizes the shorter side to, over the size of the crop
_PREFETCH = 2  # batches ahead for each worker


class ImageFileDataset(Dataset):
    """Image files, decoded when they are needed and transformed by torchvision in worker processes.

    Training images go through `RandomResizedCrop` and, if asked for, `RandomHorizontalFlip` and `RandAugment`;
    evaluation takes the central crop after a resize of the shorter side to 256/224 of it. What a sample gets depends
    on the augmentation seed and its index alone, not on the number of workers. A batch travels as uint8 and is
    normalised where it is used.

    Args:
        files: The image files of each split.
        kept: The samples of each split, with the positions of their files in place of images (int64 [N]).
        image_size: Height and width of what the network sees, in pixels.
        in_channels: 3 for colour, 1 for grey.
        flip: Whether to flip at random.
        rand_augment: Number of RandAugment's operations that an image goes through; 0 for none, 2 is usual.
        rand_magnitude: Their strength, from 0 to 30.
        mean: Mean of each channel, for pixel values in 0 .. 1.
        std: Standard deviation of each channel, likewise.
        workers: Number of worker processes; 0 decodes in this one.
        train_fraction: Part of the training samples to keep.
        held_out: Share of the training split for each split that is cut off it.
        split_seed: Chooses the samples of those parts.
        background: What transparent images are drawn on.

    Raises:
        UserError: An option is out of range, or there is no test split. Iterating raises it at a broken image, and
            where a worker process dies.
    """

    def __init__(
        self,
        files: Mapping[str, Sequence[str]],
        kept: Decoded,
        image_size: int,
        in_channels: int,
        flip: bool,
        rand_augment: int,
        rand_magnitude: int,
        mean: Sequence[float],
        std: Sequence[float],
        workers: int,
        train_fraction: float,
        held_out: Mapping[str, float],
        split_seed: int,
        background: Colour,
    ) -> None:
        self._samples = hold_out(kept.splits, held_out, split_seed)
        check_has_test(self._samples)
        self._files = {name: _packed(files[name if name in files else "train"]) for name in self._samples}
        self.num_classes, self.class_names = len(kept.class_names), kept.class_names
        self.skipped, self.notes = kept.skipped, kept.notes
        self.in_channels, self.image_size = in_channels, image_size
        self.splits = tuple(name for name in SPLITS if name in self._samples)
        self._normalisation = Normalisation.of(mean, std, in_channels)
        self.mean, self.std = tuple(mean), tuple(std)
        self._flip, self._rand_augment, self._rand_magnitude = flip, rand_augment, rand_magnitude
        self._workers, self._split_seed, self._background = workers, split_seed, background
        self._keep_train_fraction(train_fraction)

    def train_batches(
        self, order: Tensor, batch_size: int, augmentation_seed: int, device: torch.device | str
    ) -> Iterator[Batch]:
        """See `Dataset.train_batches`."""
        operations = (self._rand_augment, self._rand_magnitude)
        transform = _TrainTransform(self.image_size, self._flip, operations, augmentation_seed)
        return self._batches("train", order.cpu(), batch_size, transform, device)

    def eval_batches(self, split: str, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
        """See `Dataset.eval_batches`."""
        check(split in self._samples, f"there is no split '{split}' (choices: {choices(self._samples)})")
        order = torch.arange(len(self._samples[split].labels))
        return self._batches(split, order, batch_size, _EvalTransform(self.image_size), device)

    def with_train_fraction(self, fraction: float) -> ImageFileDataset:
        """See `Dataset.with_train_fraction`."""
        part = copy.copy(self)
        part._samples = dict(self._samples)
        part._keep_train_fraction(fraction)
        return part

    def _keep_train_fraction(self, fraction: float) -> None:
        positions, labels = self._samples["train"]
        chosen = stratified_subset(labels, fraction, self._split_seed)
        self._samples["train"] = Split(positions[chosen], labels[chosen])
        self.train_labels = labels[chosen]

    def _batches(
        self, split: str, order: Tensor, batch_size: int, transform: _Transform, device: torch.device | str
    ) -> Iterator[Batch]:
        positions, labels = self._samples[split]
        samples = _Samples(self._files[split], positions, transform, self.in_channels, self._background)
        to_gpu = torch.device(device).type == "cuda"
        loader = DataLoader(
            samples,
            batch_sampler=[indices.tolist() for indices in cut(order, batch_size)],
            collate_fn=_collate,
            num_workers=self._workers,
            prefetch_factor=_PREFETCH if self._workers else None,
            pin_memory=to_gpu,
            generator=torch.Generator(),  # its seeds are not used, and the global generator is left alone
        )
        normalised = self._normalisation.to(device)
        for indices, batch in zip(cut(order, batch_size), _loaded(loader), strict=True):
            if isinstance(batch, str):  # an exception would lose its one line on the way from a worker
                raise UserError(f"broken image: {batch} (data.skip_broken=true leaves such out)")
            images = batch if isinstance(batch, Tensor) else torch.from_numpy(batch.images)
            images = images.to(device, non_blocking=to_gpu)
            yield Batch(normalised(images), labels[indices].to(device), indices.to(device))


def _loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader.

    Raises:
        UserError: A worker process cannot be started, or died.
    """
    try:
        batches = iter(loader)
    except OSError as error:
        message = f"no process that decodes images can be started ({one_line(error)}): data.workers=0 does without"
        raise UserError(message) from error
    try:
        if loader.num_workers:
            _explain_deaths()
        yield from batches
    except RuntimeError as error:
        raise _explained(error) from error


def _explain_deaths() -> None:
    """Have torch's handler of the signal that a worker died, which interrupts the main thread anywhere, explain it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if not callable(handler) or hasattr(handler, "explains"):
        return

    def explaining(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except RuntimeError as error:
            raise _explained(error) from error

    explaining.explains = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, explaining)


def _explained(error: RuntimeError) -> Exception:
    message = one_line(error).removeprefix("RuntimeError: ")
    if not message.startswith("DataLoader worker"):
        return error
    return UserError(
        f"a process that decodes images died ({message.rstrip('.')}): if memory ran out, fewer data.workers take less; "
        "data.workers=0 does without"
    )


class _Samples(TorchDataset[Any]):
    """Maps an index of a split to its transformed image, uint8 [C, H, W], or to what is broken about it."""

    def __init__(
        self, files: np.ndarray, positions: Tensor, transform: _Transform, channels: int, background: Colour
    ) -> None:
        self.files, self.positions, self.transform = files, positions, transform
        self.channels, self.background = channels, background

    def __getitem__(self, index: int) -> Tensor | str:
        file = os.fsdecode(self.files[int(self.positions[index])])
        try:
            with open_image(file) as image:
                return self.transform(as_seen(image, self.channels, self.background), index)
        except Exception as error:  # as in Decoder
            return f"{file}: {explain(error)}"


def _packed(files: Sequence[str]) -> np.ndarray:
    """Paths without a Python object each: workers would copy the memory of those as they touch them."""
    return np.array([os.fsencode(file) for file in files])


class _Pixels:
    """A batch, uint8 [B, C, H, W], that travels through a pipe: a tensor takes shared memory, scarce in containers."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def pin_memory(self) -> Tensor:
        """See `torch.utils.data.DataLoader`."""
        return torch.from_numpy(self.images).pin_memory()


def _collate(samples: list[Tensor | str]) -> _Pixels | str:
    images: list[np.ndarray] = []
    for sample in samples:
        if isinstance(sample, str):
            return sample
        images.append(sample.numpy())
    return _Pixels(np.stack(images))


class _Transform:
    """torchvision's transforms, made in the process that uses them."""

    def __init__(self, size: int) -> None:
        self.size = size

    @cached_property
    def compose(self) -> Callable[[Any], Tensor]:
        raise NotImplementedError

    def __call__(self, image: Image.Image, index: int) -> Tensor:
        """The image as uint8 [C, size, size]."""
        return self.compose(image)


class _TrainTransform(_Transform):
    def __init__(self, size: int, flip: bool, operations: tuple[int, int], seed: int) -> None:
        super().__init__(size)
        self.flip, self.operations, self.seed = flip, operations, seed

    @cached_property
    def compose(self) -> Callable[[Any], Tensor]:
        from torchvision.transforms import v2

        flip = [v2.RandomHorizontalFlip()] if self.flip else []
        crop = v2.RandomResizedCrop(self.size, antialias=True)
        operations = v2.RandAugment(*self.operations)
        compose: Callable[[Any], Tensor] = v2.Compose([crop, *flip, operations, v2.PILToTensor()])
        return compose

    def __call__(self, image: Image.Image, index: int) -> Tensor:
        """As above; draws from torch's generator, seeded for the sample and put back afterwards."""
        seed = int(random_bits(torch.tensor([index]), self.seed)[0])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.compose(image)


class _EvalTransform(_Transform):
    @cached_property
    def compose(self) -> Callable[[Any], Tensor]:
        from torchvision.transforms import v2

        resize = v2.Resize(round(self.size * _RESIZE), antialias=True)
        compose: Callable[[Any], Tensor] = v2.Compose([resize, v2.CenterCrop(self.size), v2.PILToTensor()])
        return compose
