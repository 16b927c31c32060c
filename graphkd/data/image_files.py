"""Images too large to lie in memory: decoded and augmented by worker processes, one at a time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from graphkd.data.augment import Augmentation, random_bits
from graphkd.data.base import Batch, Device
from graphkd.data.decoded import Decoded
from graphkd.data.options import ImageOptions, SplitOptions
from graphkd.data.picture import Colour, as_seen, explain, open_image
from graphkd.data.tensor import SplitDataset, check_has_test, hold_out, split_in_batches
from graphkd.errors import UserError, one_line, one_of

_RESIZE = 256 / 224  # what evaluation resizes the shorter side to, over the size of the crop
_MEAN, _STD = {1: (0.449,), 3: (0.485, 0.456, 0.406)}, {1: (0.226,), 3: (0.229, 0.224, 0.225)}
_PREFETCH = 2  # batches ahead for each worker


def resized_side(size: int) -> int:
    """Return the length that the shorter side is resized to before the central crop of a size."""
    return round(size * _RESIZE)


def evaluation_transform(size: int) -> Callable[[Image.Image], Tensor]:
    """Return torchvision's transforms for evaluation: a resize of the shorter side and the central crop, as uint8."""
    from torchvision.transforms import v2

    steps = [v2.Resize(resized_side(size), antialias=True), v2.CenterCrop(size), v2.PILToTensor()]
    transform: Callable[[Image.Image], Tensor] = v2.Compose(steps)
    return transform


class ImageFileDataset(SplitDataset):
    """Image files, decoded when they are needed and transformed by torchvision in worker processes.

    Training images go through `RandomResizedCrop` and, if asked for, `RandomHorizontalFlip` and `RandAugment`;
    evaluation takes the central crop after a resize of the shorter side to 256/224 of it. What a sample gets depends
    on the augmentation seed and its index alone, not on the number of workers. A batch travels as uint8 and is
    normalised where it is used.

    Args:
        files: The image files of each split.
        kept: The samples of each split, with the positions of their files in place of images (int64 [N]).
        split: Which samples are trained on, and which splits are cut off.
        augmentation: `flip` and RandAugment's options; the others are not for such images.
        images: How images are decoded; `mean` and `std` are ImageNet's by default.
        image_size: Height and width of the images that the network gets, in pixels.
        workers: Number of worker processes; 0 decodes in this one.

    Raises:
        UserError: There is no test split. Iterating raises it at a broken image, and where a worker process dies.
    """

    def __init__(
        self,
        files: Mapping[str, Sequence[str]],
        kept: Decoded,
        split: SplitOptions,
        augmentation: Augmentation,
        images: ImageOptions,
        image_size: int,
        workers: int,
    ) -> None:
        splits = hold_out(kept.splits, split.held_out, split.split_seed)
        check_has_test(splits)
        channels = images.in_channels
        mean, std = images.mean or _MEAN[channels], images.std or _STD[channels]
        super().__init__(
            splits, kept.class_names, image_size, channels, mean, std, split.train_fraction, split.split_seed
        )
        self.skipped, self.notes = kept.skipped, kept.notes
        # Without a Python object for each path: workers would copy the memory of those as they touch them.
        packed = {name: np.array([os.fsencode(file) for file in split]) for name, split in files.items()}
        self._files = {name: packed[name if name in packed else "train"] for name in splits}
        self._augmentation, self._workers, self._background = augmentation, workers, images.colour

    def train_batches(self, order: Tensor, batch_size: int, augmentation_seed: int, device: Device) -> Iterator[Batch]:
        """See `Dataset.train_batches`."""
        return self._batches("train", order.cpu(), batch_size, device, self._augmentation, augmentation_seed)

    def eval_batches(self, split: str, batch_size: int, device: Device) -> Iterator[Batch]:
        """See `Dataset.eval_batches`."""
        labels = self._data[one_of(split, self._data, "there is no split")].labels
        return self._batches(split, torch.arange(len(labels)), batch_size, device)

    def _batches(
        self,
        split: str,
        order: Tensor,
        batch_size: int,
        device: Device,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> Iterator[Batch]:
        positions, labels = self._data[split]
        samples = _Samples(
            self._files[split], positions, self.in_channels, self.image_size, self._background, augmentation, seed
        )
        to_gpu = torch.device(device).type == "cuda"
        loader = DataLoader(
            samples,
            batch_sampler=[indices.tolist() for indices in split_in_batches(order, batch_size)],
            collate_fn=_collate,
            num_workers=self._workers,
            prefetch_factor=_PREFETCH if self._workers else None,
            pin_memory=to_gpu,
            generator=torch.Generator(),  # its seeds are not used, and the global generator is left alone
        )
        normalised = self._normalisation.to(device)
        for indices, batch in zip(split_in_batches(order, batch_size), _loaded(loader), strict=True):
            if isinstance(batch, str):  # an exception would lose its one line on the way from a worker
                raise UserError(f"broken image: {batch} (data.skip_broken=true leaves such out)")
            images = batch if isinstance(batch, Tensor) else torch.from_numpy(batch.images)
            images = images.to(device, non_blocking=to_gpu)
            yield Batch(normalised(images), labels[indices].to(device), indices.to(device))


def _loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return the batches of a loader.

    Raises:
        UserError: A worker process cannot be started, or died.
    """
    try:
        batches = iter(loader)
    except OSError as error:
        raise UserError(
            f"no process that decodes images can be started ({one_line(error)}): "
            "data.workers=0 decodes in the main process"
        ) from error
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
        f"a process that decodes images died ({message.rstrip('.')}): if memory ran out, lower data.workers; "
        "data.workers=0 decodes in the main process"
    )


@dataclass(eq=False)
class _Samples(TorchDataset[Any]):
    """Map an index of a split to its transformed image, uint8 [C, size, size], or to the reason why it is broken."""

    files: np.ndarray
    positions: Tensor
    channels: int
    size: int
    background: Colour
    augmentation: Augmentation | None
    seed: int

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """The transforms of torchvision, made in the process that uses them."""
        if self.augmentation is None:
            return evaluation_transform(self.size)
        from torchvision.transforms import v2

        flip = [v2.RandomHorizontalFlip()] if self.augmentation.flip else []
        operations = v2.RandAugment(self.augmentation.rand_augment, self.augmentation.rand_magnitude)
        steps = [v2.RandomResizedCrop(self.size, antialias=True), *flip, operations, v2.PILToTensor()]
        compose: Callable[[Image.Image], Tensor] = v2.Compose(steps)
        return compose

    def __getitem__(self, index: int) -> Tensor | str:
        """Draw from torch's generator, seeded for the sample and put back afterwards."""
        file = os.fsdecode(self.files[int(self.positions[index])])
        try:
            with open_image(file) as image, torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(random_bits(torch.tensor([index]), self.seed)[0]))
                return self.transform(as_seen(image, self.channels, self.background))
        except Exception as error:  # as in Decoder
            return f"{file}: {explain(error)}"


@dataclass(eq=False)
class _Pixels:
    """A batch, uint8 [B, C, H, W], that travels through a pipe: a tensor takes shared memory, scarce in containers."""

    images: np.ndarray

    def pin_memory(self) -> Tensor:
        """See `torch.utils.data.DataLoader`."""
        return torch.from_numpy(self.images).pin_memory()


def _collate(samples: list[Tensor | str]) -> _Pixels | str:
    broken = next((sample for sample in samples if isinstance(sample, str)), None)
    return broken or _Pixels(np.stack([sample.numpy() for sample in samples if isinstance(sample, Tensor)]))
