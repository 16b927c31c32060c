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
from graphkd.data import Augmentation, Batch, Split, TensorDataset
from graphkd.data.views import with_views

BATCHES = 16
IMAGE_SIZE = 32
NORMALISATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def data_cases(settings: Settings) -> list[Case]:
    """Return images alone, in two views and with their negatives, against a loader without and with workers."""
    note = "each image is augmented and normalised by itself through Pillow and torchvision in the baseline"
    return [
        Case("data", partial(data, settings, negatives=False, workers=0), note, memory="never", steps=BATCHES),
        Case("data", partial(two_views, settings), note, memory="never", steps=BATCHES),
        Case("data", partial(data, settings, negatives=True, workers=0), note, memory="never", steps=BATCHES),
        Case("data", partial(data, settings, negatives=True, workers=2), note, False, "never", steps=BATCHES),
    ]


def data(settings: Settings, negatives: bool, workers: int) -> Sides:
    """Return a pass of random batches: images on the device, labels and indices.

    `negatives` says whether each sample's negatives are drawn too (by the sampler `shared` on our side), `workers` how
    many processes the baseline's loader has.
    """
    loaded = per_image(settings, BATCHES, workers, negatives)
    sampler = build_sampler("shared", FullBank(settings.training_labels(), dim=1), settings.negatives)
    ours = batched(settings)

    def cut() -> None:
        for batch in _random_batches(ours, settings):
            if negatives:
                sampler.select(batch.labels)

    name = "images and negatives" if negatives else "images"
    title = f"{name}, {workers} workers in the baseline" if workers else name
    return Sides(partial(_load, loaded, settings.device), {title: cut})


def two_views(settings: Settings) -> Sides:
    """Return a pass of random batches in two views, weak and strong, on the device."""
    dataset = published.PerImage(*_split(settings), NORMALISATION, sampler=None, strong=True)
    loaded = published.load(dataset, settings.batch, BATCHES, workers=0)
    ours = batched(settings)

    def cut() -> None:
        for _, views in with_views(_random_batches(ours, settings), ours.info, lambda view: settings.seed):
            views(("weak", "strong"))

    return Sides(partial(_load, loaded, settings.device), {"images in two views": cut})


def _load(loaded: Iterator[list[Tensor]], device: str) -> None:
    for batch in islice(loaded, BATCHES):
        for part in batch:
            part.to(device)


def _random_batches(data: TensorDataset, settings: Settings) -> Iterator[Batch]:
    order = torch.randperm(settings.samples)[: BATCHES * settings.batch]
    return data.train_batches(order, settings.batch, settings.seed, settings.device)


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
