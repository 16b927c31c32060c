"""Predictions for images from anywhere, preprocessed like those of a run's test split."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graphkd.data import Dataset, DatasetInfo
from graphkd.data.images import decoding_threads, in_batches
from graphkd.data.picture import explain, open_image
from graphkd.data.tensor import Normalisation
from graphkd.errors import UserError, brief, check

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file, an image of Pillow, an array uint8 [H, W] or [H, W, C], or pixels uint8 [C, size, size]."""


@dataclass(frozen=True)
class Predictions:
    """A network's predictions for images.

    Attributes:
        logits: Class scores, float32 [B, C], on the CPU.
        class_names: The name of each class.
    """

    logits: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, float32 [B, C]."""
        return self.logits.softmax(dim=1)

    @property
    def classes(self) -> list[str]:
        """The most probable class of each image."""
        return [self.class_names[label] for label in self.logits.argmax(dim=1).tolist()]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Return the most probable classes of each image with their probabilities, the highest first.

        Raises:
            UserError: `count` is below 1.
        """
        check(count >= 1, f"the number of classes to show is {count}, but must be at least 1")
        values, labels = self.probabilities.topk(min(count, len(self.class_names)), dim=1)
        return [
            [(self.class_names[label], value) for label, value in zip(*row, strict=True)]
            for row in zip(labels.tolist(), values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images from anywhere for a network.

    Attributes:
        transform: Maps an opened image to its pixels, uint8 [C, size, size].
        resizing: How it resizes, in words.
        info: Facts about the network's data.
    """

    transform: Callable[[Image.Image], Tensor]
    resizing: str
    info: DatasetInfo

    @classmethod
    def of(cls, data_type: type[Dataset], options: Mapping[str, Any], info: DatasetInfo) -> Preprocessing:
        """Return the preprocessing of a data set's test split.

        Args:
            data_type: The kind of data set.
            options: Its constructor's options, all of them.
            info: Facts about the network's data.
        """
        return cls(data_type.test_transform(options, info), data_type.resizing(options, info), info)

    @functools.cached_property
    def normalisation(self) -> Normalisation:
        """How the run's images were normalised.

        Raises:
            UserError: Its data set does not say.
        """
        mean, std = self.info.mean, self.info.std
        if mean is None or std is None:
            raise UserError("the run's data set does not say by what mean and std its images are normalised")
        return Normalisation.of(mean, std, self.info.in_channels)

    def batches(self, images: ImageLike | Sequence[ImageLike], batch_size: int) -> Iterator[Tensor]:
        """Yield the network's input, float32 [B, C, size, size]; the last, smaller batch is kept.

        Raises:
            UserError: An image cannot be read, or is of a wrong type or shape; or `batch_size` is below 1.
        """
        check(batch_size >= 1, f"batch_size is {batch_size}, but must be at least 1")
        with decoding_threads() as pool:
            for part in in_batches(_listed(images), batch_size):
                yield self.normalisation(torch.stack(pool.map(self.pixels, part)))

    def pixels(self, image: ImageLike) -> Tensor:
        """Return the pixels that the network sees of an image, uint8 [C, size, size].

        Raises:
            UserError: The image cannot be read, or is of a wrong type or shape.
        """
        if isinstance(image, Tensor):
            return self._checked(image)
        what = f"{image}" if isinstance(image, (str, Path)) else "an image"
        try:
            if isinstance(image, (str, Path)):
                with open_image(str(image)) as opened:
                    return self.transform(opened)
            return self.transform(_from_array(image) if isinstance(image, np.ndarray) else image)
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError(f"there is no image {image}") from error
        except Exception as error:  # Pillow's readers raise nearly anything on broken data
            raise UserError(f"{what} cannot be read: {explain(error)}") from error

    def _checked(self, image: Tensor) -> Tensor:
        shape = (self.info.in_channels, self.info.image_size, self.info.image_size)
        check(
            image.dtype == torch.uint8 and image.shape == shape,
            f"a tensor of {image.dtype} {list(image.shape)} is no image of this network, which takes uint8 "
            f"{list(shape)}; images of Pillow and NumPy may have any size",
        )
        return image.cpu()


@torch.inference_mode()
def predict(
    network: torch.nn.Module,
    preprocessing: Preprocessing,
    images: ImageLike | Sequence[ImageLike],
    batch_size: int = 256,
) -> Predictions:
    """Return a network's predictions for images; the network stays on its device and in its mode.

    Raises:
        UserError: As in `Preprocessing.batches`.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    logits = [network(batch.to(device)).logits.float().cpu() for batch in preprocessing.batches(images, batch_size)]
    names = preprocessing.info.class_names
    return Predictions(torch.cat([torch.empty(0, len(names)), *logits]), names)


def _listed(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    """Return images one by one: one alone is a list of one, and arrays and tensors of four dimensions are batches."""
    if isinstance(images, (np.ndarray, Tensor)):
        return list(images) if images.ndim == 4 else [images]
    return [images] if isinstance(images, (str, Path, Image.Image)) else images


def _from_array(image: np.ndarray) -> Image.Image:
    is_image = image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4)))
    check(is_image, f"an array of {image.dtype} {brief(image.shape)} is no image: those are uint8 [H, W] or [H, W, C]")
    return Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
