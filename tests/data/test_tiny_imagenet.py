"""Tiny-ImageNet from a small archive in its layout."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphkd.data import DATASETS
from graphkd.data.tiny_imagenet import TinyImageNet
from graphkd.errors import UserError

CLASSES = ["n02", "n01", "n03"]
FOLDER = "tiny-imagenet-200"


@pytest.fixture
def files(server: Any, monkeypatch: pytest.MonkeyPatch, picture: Callable[..., bytes]) -> dict[str, bytes]:
    """The archive's content; one image is grey, as some there are."""
    files = {
        "wnids.txt": "\n".join(CLASSES).encode(),
        "words.txt": b"n01\tgoldfish, Carassius auratus\nn02\ttench\nn03\tbullfrog\nn04\tother",
        "val/val_annotations.txt": b"val_0.JPEG\tn03\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n",
        "val/images/val_0.JPEG": picture(100, 64, 64, "JPEG"),
        "val/images/val_1.JPEG": picture(101, 64, 64, "JPEG"),
        "test/images/test_0.JPEG": b"has no label",
    }
    for seed, name in enumerate(CLASSES * 2):
        files[f"train/{name}/images/{name}_{seed}.JPEG"] = picture(seed, 64, 64, "JPEG")
        files[f"train/{name}/{name}_boxes.txt"] = b"no image"
    grey = io.BytesIO()
    Image.open(io.BytesIO(picture(7, 64, 64))).convert("L").save(grey, "JPEG")
    files["train/n01/images/n01_9.JPEG"] = grey.getvalue()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{FOLDER}/{name}", data)
    monkeypatch.setattr(TinyImageNet, "ARCHIVE", server.add("tiny-imagenet-200.zip", content.getvalue()))
    return files


def test_images_and_labels(files: dict[str, bytes], tmp_path: Path) -> None:
    data = DATASETS.build("tiny_imagenet", root=str(tmp_path), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert (data.num_classes, data.image_size, data.splits) == (3, 64, ("train", "test"))
    assert data.class_names == ("goldfish", "tench", "bullfrog")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    test = next(data.eval_batches("test", 9, "cpu"))
    assert test.labels.tolist() == [2, 0]
    train = next(data.eval_batches("train", 9, "cpu"))
    for image, name in ((test.images[0], "val/images/val_0.JPEG"), (train.images[2], "train/n01/images/n01_9.JPEG")):
        expected = np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB"))
        assert torch.equal((image.permute(1, 2, 0) * 255).round().byte(), torch.from_numpy(expected.copy()))


def test_reduced_for_transfer(files: dict[str, bytes], tmp_path: Path) -> None:
    assert DATASETS.build("tiny_imagenet", root=str(tmp_path), image_size=32).image_size == 32
    with pytest.raises(UserError, match="image_size is 65"):
        DATASETS.build("tiny_imagenet", root=str(tmp_path), image_size=65)


def test_another_archive(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("readme.txt", "other")
    for data in (content.getvalue(), b"no zip"):
        monkeypatch.setattr(TinyImageNet, "ARCHIVE", server.add(f"{len(data)}.zip", data))
        with pytest.raises(UserError, match=r"\.zip is not the archive of Tiny-ImageNet"):
            DATASETS.build("tiny_imagenet", root=str(tmp_path))
