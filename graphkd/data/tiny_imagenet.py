"""Tiny-ImageNet."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from graphkd.binding import flat
from graphkd.data.archive import RGB, ArchiveDataset
from graphkd.data.augment import CROP_AND_FLIP, Augmentation
from graphkd.data.base import DATASETS
from graphkd.data.decoded import Decoded
from graphkd.data.download import Archive
from graphkd.data.images import decode_images, in_batches
from graphkd.data.options import SplitOptions
from graphkd.data.picture import Decoder
from graphkd.data.tensor import Split
from graphkd.errors import UserError, one_line

_FOLDER = "tiny-imagenet-200"


@DATASETS.register("tiny_imagenet")
class TinyImageNet(ArchiveDataset):
    """Tiny-ImageNet: 100,000 training images of 64x64 pixels in 200 classes; its 10,000 validation images are the test.

    Le and Yang, "Tiny ImageNet visual recognition challenge", 2015. The labels of its own test images were never
    published. Classes are numbered in the order of their WordNet names, as image folders have it. An `image_size`
    below 64 reduces the images (bilinear, antialiased). Arguments as in `ArchiveDataset`.
    """

    ARCHIVE = Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
        "tiny-imagenet-200.zip",
    )
    SIDE = 64

    @flat
    def __init__(
        self,
        root: str = "data",
        image_size: int = 64,
        split: SplitOptions = SplitOptions(),  # noqa: B008 (immutable)
        augmentation: Augmentation = CROP_AND_FLIP,
        mean: RGB = (0.4802, 0.4481, 0.3975),
        std: RGB = (0.2770, 0.2691, 0.2821),
    ) -> None:
        super().__init__(lambda archive: _read(archive, image_size), root, split, augmentation, mean, std, image_size)


def _read(archive: Path, image_size: int) -> Decoded:
    try:
        with zipfile.ZipFile(archive) as content:
            return _read_zip(content, image_size)
    except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
        raise UserError(f"{archive} is not the archive of Tiny-ImageNet ({one_line(error)})") from error


def _read_zip(content: zipfile.ZipFile, image_size: int) -> Decoded:
    def rows(name: str) -> list[list[str]]:
        return [line.split("\t") for line in content.read(f"{_FOLDER}/{name}").decode().splitlines()]

    classes = sorted(content.read(f"{_FOLDER}/wnids.txt").decode().split())
    label_of = {name: label for label, name in enumerate(classes)}
    train: dict[str, int] = {}
    for name in content.namelist():
        parts = name.split("/")
        if len(parts) == 5 and parts[1] == "train" and parts[4].endswith(".JPEG"):
            train[name] = label_of[parts[2]]
    test = {f"{_FOLDER}/val/images/{row[0]}": label_of[row[1]] for row in rows("val/val_annotations.txt")}
    words = {name: words.split(",")[0] for name, words in rows("words.txt")}
    splits = {"train": _split(content, train, image_size), "test": _split(content, test, image_size)}
    return Decoded(splits, tuple(words.get(name, name) for name in classes))


def _split(content: zipfile.ZipFile, labels: dict[str, int], image_size: int) -> Split:
    files = sorted(labels)
    batches = ([content.read(name) for name in names] for names in in_batches(files))
    images = decode_images(batches, len(files), files.__getitem__, Decoder(3, image_size))
    return Split(images.pixels, torch.tensor([labels[file] for file in files]))
