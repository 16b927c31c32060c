"""STL-10 from a small archive in its layout."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphkd.data import DATASETS
from graphkd.data.stl10 import STL10
from graphkd.errors import UserError


@pytest.fixture
def images(server: Any, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What the archive holds, uint8 [20, 96, 96, 3]: 12 for training, then 8."""
    smooth = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
    images = smooth.repeat(8, axis=1).repeat(8, axis=2)
    stored = images.transpose(0, 3, 2, 1)  # columns first
    labels = np.arange(20, dtype=np.uint8) % 4 + 1
    files = {
        "train_X.bin": stored[:12].tobytes(), "train_y.bin": labels[:12].tobytes(),
        "unlabeled_X.bin": b"", "test_X.bin": stored[12:].tobytes(), "test_y.bin": labels[12:].tobytes(),
        "class_names.txt": b"airplane\nbird\ncar\ncat\n",
    }  # fmt: skip
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"stl10_binary/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    monkeypatch.setattr(STL10, "ARCHIVE", server.add("stl10_binary.tar.gz", content.getvalue()))
    return images


PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize("size", [32, 96])
def test_images_and_labels(images: np.ndarray, tmp_path: Path, size: int) -> None:
    data = DATASETS.build("stl10", root=str(tmp_path), image_size=size, **PLAIN)
    assert (data.num_classes, data.image_size, data.splits) == (4, size, ("train", "test"))
    assert data.class_names == ("airplane", "bird", "car", "cat")
    for split, expected in (("train", images[:12]), ("test", images[12:])):
        batch = next(data.eval_batches(split, 20, "cpu"))
        assert batch.labels.tolist() == [index % 4 for index in range(len(expected))]
        resized = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in expected]
        difference = batch.images.permute(0, 2, 3, 1) * 255 - torch.from_numpy(np.stack(resized)).float()
        assert difference.abs().max() <= 1.01


def test_is_32_pixels_by_default(images: np.ndarray, tmp_path: Path) -> None:
    assert DATASETS.build("stl10", root=str(tmp_path)).image_size == 32
    with pytest.raises(UserError, match="image_size is 97"):
        DATASETS.build("stl10", root=str(tmp_path), image_size=97)
