"""CIFAR-10 and CIFAR-100 from small archives in their layout."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphkd.data import DATASETS, Batch, Dataset
from graphkd.errors import UserError

FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
TRAIN = {"cifar10": [f"data_batch_{batch}.bin" for batch in range(1, 6)], "cifar100": ["train.bin"]}
TEST = {"cifar10": "test_batch.bin", "cifar100": "test.bin"}
CLASSES = {"cifar10": 10, "cifar100": 100}
names = pytest.mark.parametrize("name", ["cifar10", "cifar100"])


def records(name: str, labels: list[int], seed: int) -> tuple[bytes, np.ndarray]:
    """A file's content, and its images, uint8 [N, 3, 32, 32]."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    coarse = b"\7" if name == "cifar100" else b""
    return b"".join(coarse + bytes([y]) + image.tobytes() for y, image in zip(labels, images, strict=True)), images


def archive(name: str) -> tuple[bytes, dict[str, tuple[np.ndarray, list[int]]]]:
    """An archive of two samples a class (one for testing), and what is in its splits."""
    classes = CLASSES[name]
    labels = [(7 * index) % classes for index in range(2 * classes)]
    per_file = len(labels) // len(TRAIN[name])
    files, images = {}, []
    for number, file in enumerate(TRAIN[name]):
        files[file], some = records(name, labels[number * per_file : (number + 1) * per_file], number)
        images.append(some)
    files[TEST[name]], test_images = records(name, list(range(classes)), 99)
    text = "".join(f"class_{label}\n" for label in range(classes)) + "\n"
    files["batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"] = text.encode()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for file, data in files.items():
            info = tarfile.TarInfo(f"{FOLDERS[name]}/{file}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    splits = {"train": (np.concatenate(images), labels), "test": (test_images, list(range(classes)))}
    return content.getvalue(), splits


@pytest.fixture
def served(server: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, tuple[np.ndarray, list[int]]]]:
    """Both data sets come from small archives; what is in them."""
    expected = {}
    for name in FOLDERS:
        content, expected[name] = archive(name)
        monkeypatch.setattr(DATASETS.factory(name), "ARCHIVE", server.add(DATASETS.factory(name).ARCHIVE.name, content))
    return expected


def whole(data: Dataset, split: str) -> Batch:
    return next(data.eval_batches(split, 1000, "cpu"))


@names
def test_holds_the_archives_images(name: str, served: Any, server: Any, tmp_path: Path) -> None:
    data = DATASETS.build(name, root=str(tmp_path / "data"))
    assert (data.num_classes, data.in_channels, data.image_size) == (CLASSES[name], 3, 32)
    assert data.class_names == tuple(f"class_{label}" for label in range(CLASSES[name]))
    assert data.splits == ("train", "test")
    mean, std = (DATASETS.options(name)[option].default for option in ("mean", "std"))
    for split, (images, labels) in served[name].items():
        batch = whole(data, split)
        expected = torch.from_numpy(images) / 255 - torch.tensor(mean)[:, None, None]
        torch.testing.assert_close(batch.images, expected / torch.tensor(std)[:, None, None], rtol=1e-5, atol=1e-5)
        assert batch.labels.tolist() == labels
    again = DATASETS.build(name, root=str(tmp_path / "data"))
    assert torch.equal(whole(again, "train").images, whole(data, "train").images)
    assert len(server.ranges) == 1


@names
def test_the_decoded_images_outlive_the_archive(name: str, served: Any, server: Any, tmp_path: Path) -> None:
    first = DATASETS.build(name, root=str(tmp_path))
    (tmp_path / DATASETS.factory(name).ARCHIVE.name).unlink()
    second = DATASETS.build(name, root=str(tmp_path))
    assert torch.equal(whole(first, "train").images, whole(second, "train").images)
    assert len(server.ranges) == 1


def test_options(served: Any, tmp_path: Path) -> None:
    data = DATASETS.build("cifar10", root=str(tmp_path), val_fraction=0.5, train_fraction=1.0, cutout=8)
    assert data.splits == ("train", "val", "test")
    assert data.train_labels.bincount().tolist() == whole(data, "val").labels.bincount().tolist() == [1] * 10
    batch = next(data.train_batches(torch.arange(10), 10, 0, "cpu"))
    assert batch.images.shape == (10, 3, 32, 32)
    assert (batch.images == 0).all(1).flatten(1).any(1).all()
    strong = DATASETS.build("cifar10", root=str(tmp_path), rand_augment=2, rand_magnitude=20)
    plain = DATASETS.build("cifar10", root=str(tmp_path))
    one, other = (next(each.train_batches(torch.arange(10), 10, 0, "cpu")).images for each in (strong, plain))
    assert not torch.equal(one, other)


@names
def test_is_identified_without_its_folder(name: str) -> None:
    factory = DATASETS.factory(name)
    assert {"root"} == factory.NOT_IDENTITY
    assert factory.fingerprint({}) == {}


def test_options_are_checked_before_a_download(server: Any, served: Any, tmp_path: Path) -> None:
    wrong = ({"padding": -1}, {"val_fraction": 1.0}, {"train_fraction": 0.0}, {"cutout": -1}, {"rand_augment": -1})
    for options in wrong:
        with pytest.raises(UserError, match=next(iter(options))):
            DATASETS.build("cifar100", root=str(tmp_path), **options)
    assert server.ranges == []


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, server: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(DATASETS.factory("cifar100"), "ARCHIVE", server.add("gone.tar.gz", b""))
    server.files.clear()
    with pytest.raises(UserError, match=r"put the file at .*gone.tar.gz by hand"):
        DATASETS.build("cifar100", root=str(tmp_path))
