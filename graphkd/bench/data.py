"""Cases of the data path: batches of augmented, normalised images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from graphkd.bench import published
from graphkd.bench.case import Case, Settings, Sides
from graphkd.contrast import FullBank, build_sampler
from graphkd.data import Augmentation, Split, TensorDataset

BATCHES = 16
IMAGE_SIZE = 32
NORMALISATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def data_cases(settings: Settings) -> list[Case]:
    """Return images alone and with their negatives, against a loader without and with worker processes."""
    note = "crop, flip and normalisation of each image by itself through Pillow and torchvision in the baseline"
    return [
        Case("data", partial(data, settings, negatives=False, workers=0), note, memory="never", steps=BATCHES),
        Case("data", partial(data, settings, negatives=True, workers=0), note, memory="never", steps=BATCHES),
        Case("data", partial(data, settings, negatives=True, workers=2), note, False, "never", steps=BATCHES),
    ]


def data(settings: Settings, negatives: bool, workers: int) -> Sides:
    """Return a pass of random batches: images on the device, labels and indices.

    `negatives` says whether each sample's negatives are drawn too (by the sampler `shared` on our side), `workers` how
    many processes the baseline's loader has.
    """
    ours, loaded = batched(settings), per_image(settings, BATCHES, workers, negatives)
    sampler = build_sampler("shared", FullBank(settings.training_labels(), dim=1), settings.negatives)

    def load() -> None:
        for batch in islice(loaded, BATCHES):
            for part in batch:
                part.to(settings.device)

    def cut() -> None:
        order = torch.randperm(settings.samples)[: BATCHES * settings.batch]
        for batch in ours.train_batches(order, settings.batch, settings.seed, settings.device):
            if negatives:
                sampler.select(batch.labels)

    name = "images and negatives" if negatives else "images"
    return Sides(load, {f"{name}, {workers} workers in the baseline" if workers else name: cut})


def batched(settings: Settings) -> TensorDataset:
    """Return random images, augmented in batches on the device."""
    names = [str(label) for label in range(settings.classes)]
    return TensorDataset({"train": _split(settings)}, names, *NORMALISATION, Augmentation(published.PADDING, flip=True))


def per_image(settings: Settings, batches: int, workers: int, negatives: bool = True) -> Iterator[list[Tensor]]:
    """Return the same in the published way: endless passes of some batches each, with negatives or without."""
    images, labels = _split(settings)
    sampler = published.Sampler(labels, settings.negatives, settings.seed) if negatives else None
    dataset = published.PerImage(images, labels, NORMALISATION, sampler)
    return published.load(dataset, settings.batch, batches, workers)


def _split(settings: Settings) -> Split:
    shape = settings.samples, 3, IMAGE_SIZE, IMAGE_SIZE
    random = torch.Generator().manual_seed(settings.seed)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=random)
    return Split(images, settings.training_labels().cpu())
