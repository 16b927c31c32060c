"""Tiny-ImageNet."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch

from graphkd.data.augment import Augmentation
from graphkd.data.base import DATASETS
from graphkd.data.cache import cached
from graphkd.data.decoded import Decoded, DecodedDataset
from graphkd.data.download import Archive, fetch
from graphkd.data.images import decode_images, in_batches
from graphkd.data.tensor import Split
from graphkd.errors import UserError, check, one_line

_FOLDER = "tiny-imagenet-200"


@DATASETS.register("tiny_imagenet")
class TinyImageNet(DecodedDataset):
    """Tiny-ImageNet: 100,000 training images of 64x64 pixels in 200 classes; its 10,000 validation images are the test.

    Le and Yang, "Tiny ImageNet visual recognition challenge", 2015. The labels of its own test images were never
    published. Classes are numbered in the order of their WordNet names, as image folders have it.

    Args:
        root: Folder of the archive and of the decoded images.
        image_size: Height and width of the images, in pixels; smaller than 64 reduces them (bilinear, antialiased).
        train_fraction: Part of the training split to train on, stratified.
        val_fraction: Share of the training images for validation; 0 for no validation split.
        split_seed: Chooses both.
        padding: Zeros on each side before a random crop, in pixels.
        flip: Whether to flip at random.
        cutout: Side of a random square that is blanked, in pixels; 0 for none.
        rand_augment: Number of RandAugment's operations that an image goes through; 0 for none, 2 is usual.
        rand_magnitude: Their strength, from 0 to 30.
        mean: Mean of each channel, for pixel values in 0 .. 1.
        std: Standard deviation of each channel, likewise.

    Raises:
        UserError: The archive is neither there nor to be had, or an option is out of range.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"root"})
    PATHS: ClassVar[frozenset[str]] = NOT_IDENTITY
    ARCHIVE: ClassVar[Archive] = Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
        "tiny-imagenet-200.zip",
    )

    def __init__(
        self,
        root: str = "data",
        image_size: int = 64,
        train_fraction: float = 1.0,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        padding: int = 4,
        flip: bool = True,
        cutout: int = 0,
        rand_augment: int = 0,
        rand_magnitude: int = 9,
        mean: tuple[float, float, float] = (0.4802, 0.4481, 0.3975),
        std: tuple[float, float, float] = (0.2770, 0.2691, 0.2821),
    ) -> None:
        check(1 <= image_size <= 64, f"image_size is {image_size}, but must be at least 1 and at most 64")
        folder, archive = Path(root).expanduser(), self.ARCHIVE
        options = {"archive": archive.name, "image_size": image_size}
        super().__init__(
            lambda: cached(folder, options, lambda: archive.md5, lambda: _read(fetch(archive, folder), image_size)),
            Augmentation(padding, flip, cutout, rand_augment, rand_magnitude), mean, std, train_fraction,
            {"val": val_fraction}, split_seed,
        )  # fmt: skip


def _read(archive: Path, image_size: int) -> Decoded:
    try:
        with zipfile.ZipFile(archive) as content:
            return _read_zip(content, image_size)
    except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
        raise UserError(f"{archive} is not the archive of Tiny-ImageNet ({one_line(error)})") from error


def _read_zip(content: zipfile.ZipFile, image_size: int) -> Decoded:
    classes = sorted(_text(content, "wnids.txt").split())
    label_of = {name: label for label, name in enumerate(classes)}
    train: dict[str, int] = {}
    for name in content.namelist():
        parts = name.split("/")
        if len(parts) == 5 and parts[1] == "train" and parts[4].endswith(".JPEG"):
            train[name] = label_of[parts[2]]
    lines = [line.split("\t") for line in _text(content, "val/val_annotations.txt").splitlines()]
    test = {f"{_FOLDER}/val/images/{line[0]}": label_of[line[1]] for line in lines}
    words = dict(line.split("\t") for line in _text(content, "words.txt").splitlines())
    return Decoded(
        {"train": _split(content, train, image_size), "test": _split(content, test, image_size)},
        tuple(words.get(name, name).split(",")[0] for name in classes),
    )


def _text(content: zipfile.ZipFile, name: str) -> str:
    return content.read(f"{_FOLDER}/{name}").decode()


def _split(content: zipfile.ZipFile, labels: dict[str, int], image_size: int) -> Split:
    files = sorted(labels)
    images = decode_images(_batches(content, files), len(files), files.__getitem__, 3, image_size, skip_broken=False)
    return Split(images.pixels, torch.tensor([labels[file] for file in files]))


def _batches(content: zipfile.ZipFile, files: Sequence[str]) -> Iterator[list[bytes]]:
    for names in in_batches(files):
        yield [content.read(name) for name in names]
