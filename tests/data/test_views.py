from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from samples import seeded
from torch import Tensor

from graphkd import DATASETS, UserError
from graphkd.batch import ViewName
from graphkd.data import Augmentation, Batch, Dataset, DatasetInfo, Split, TensorDataset
from graphkd.data.views import STRONG, VIEWS, check_views, in_order, make_views, with_views

INFO = DatasetInfo(("a", "b"), 3, 8, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))


def seed(view: str) -> int:
    return {"strong": 5}.get(view, 0)


def pixels(count: int, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randint(256, (count, channels, size, size), generator=seeded(0), dtype=torch.uint8)


def normalised(images: Tensor, info: DatasetInfo = INFO) -> Tensor:
    assert info.mean is not None
    assert info.std is not None
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    return (images / 255 - mean) / std


def batch(images: Tensor, info: DatasetInfo = INFO) -> Batch:
    return Batch(normalised(images, info), torch.zeros(len(images)).long(), 10 + torch.arange(len(images)))


def test_options_of_objectives_name_the_same_views() -> None:
    assert get_args(ViewName) == tuple(VIEWS)


def test_rotated_views_are_the_weak_one_turned_by_quarters() -> None:
    some = batch(pixels(3))
    seen = make_views(["weak", "rotated_90", "rotated_180", "rotated_270"], some, INFO, seed)
    assert seen.shape == (12, 3, 8, 8)
    for turn in range(4):
        for sample in range(3):
            back = seen[3 * turn + sample]
            for _ in range(turn):
                back = back.transpose(1, 2).flip(2)  # a quarter clockwise
            assert torch.equal(back, some.images[sample])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_strong_view_is_rand_augment_of_the_weak_ones_pixels(channels: int) -> None:
    info = replace(
        INFO, in_channels=channels, mean=INFO.mean and INFO.mean[:channels], std=INFO.std and INFO.std[:channels]
    )
    images = pixels(40, channels)
    some = batch(images, info)
    weak, strong = make_views(["weak", "strong"], some, info, seed).split(40)
    expected = normalised(STRONG(images, some.indices, 5), info)
    torch.testing.assert_close(strong, expected, rtol=0, atol=1e-5)
    assert torch.equal(weak, some.images)
    assert not torch.equal(strong, weak)
    assert (STRONG.rand_augment, STRONG.rand_magnitude, STRONG.padding, STRONG.flip) == (2, 10, 0, False)


def test_every_pixel_is_found_again_behind_the_normalisation() -> None:
    info = DatasetInfo(("a", "b"), 1, 16, mean=(0.999,), std=(0.001,))
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(200, 1, 1, 1)
    some = batch(images, info)
    strong = make_views(["strong"], some, info, seed)
    unchanged = (STRONG(images, some.indices, 5) == images).flatten(1).all(1)
    assert unchanged.any()
    torch.testing.assert_close(strong[unchanged], some.images[unchanged], rtol=1e-6, atol=1e-3)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    some = batch(pixels(20))
    whole = make_views(["strong"], some, INFO, seed)
    for rows in (torch.tensor([3]), torch.tensor([19, 0, 7])):
        part = make_views(["strong"], Batch(*(tensor[rows] for tensor in some)), INFO, seed)
        assert torch.equal(part, whole[rows])
    assert not torch.equal(make_views(["strong"], some, INFO, lambda view: 6), whole)


@pytest.mark.parametrize("together", [1, 2, 3, 100])
def test_views_do_not_depend_on_how_many_batches_they_are_made_of(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batch(pixels(30))
    monkeypatch.setattr("graphkd.data.augment._VALUES_AT_ONCE", together * whole.images[:5].numel())
    batches = [Batch(*parts) for parts in zip(*(tensor.split(5) for tensor in whole), strict=True)]
    batches.append(Batch(*(tensor[:0] for tensor in whole)))  # a process's part of a last batch may be empty
    viewed = list(with_views(iter(batches), INFO, seed))
    for place, (some, views) in enumerate(viewed):
        assert some is batches[place]
        names = (("weak", "strong"), ("strong", "rotated_90"), ("weak",))[place % 3]
        assert torch.equal(views(names), make_views(names, some, INFO, seed))
    assert len(viewed) == 7


def test_views_have_one_order() -> None:
    assert in_order({"rotated_180", "strong", "weak"}) == ("weak", "strong", "rotated_180")
    with pytest.raises(UserError, match="no view 'wek'"):
        in_order(["wek"])


@pytest.mark.parametrize(
    ("info", "said"),
    [(replace(INFO, mean=None), "needs the mean and std"), (replace(INFO, in_channels=4), "1 or 3 channels.*have 4")],
)
def test_data_without_a_strong_view_are_told(info: DatasetInfo, said: str) -> None:
    check_views(["weak", "rotated_90"], info)
    with pytest.raises(UserError, match=f"'strong'.*{said}.*choose views of weak, rotated_90"):
        check_views(["weak", "strong"], info)


def in_memory() -> Dataset:
    split = Split(pixels(30), torch.arange(30) % 2)
    augmentation = Augmentation(padding=1, flip=True, cutout=2, rand_augment=1)
    return TensorDataset({"train": split, "test": split}, ["a", "b"], (0.5,) * 3, (0.2,) * 3, augmentation)


def folder(root: Path, **options: Any) -> Dataset:
    for split in ("train", "test"):
        for index in range(12):
            file = root / split / "ab"[index % 2] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(file)
    return DATASETS.build("folder", root=str(root), cache=False, **options)


KINDS: dict[str, Callable[[Path], Dataset]] = {
    "digits": lambda root: DATASETS.build("digits", train_fraction=0.05),
    "in memory": lambda root: in_memory(),
    "decoded": lambda root: folder(root, image_size=16),
    "decoded when needed": lambda root: folder(root, image_size=128, workers=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_set_has_every_view(kind: str, tmp_path: Path) -> None:
    data = KINDS[kind](tmp_path)
    check_views(VIEWS, data.info)
    for some in data.train_batches(torch.arange(len(data.train_labels)), 8, 3, "cpu"):
        made = make_views(tuple(VIEWS), some, data.info, seed).split(len(some.labels))
        assert torch.equal(made[0], some.images)
        assert all(view.shape == some.images.shape and view.isfinite().all() for view in made)
        assert len({view.sum().item() for view in made}) >= 2
        assert not any(torch.equal(made[0], view) for view in made[1:])


def test_views_of_images_decoded_when_needed_do_not_depend_on_workers(tmp_path: Path) -> None:
    made = []
    for workers in (0, 2):
        data = folder(tmp_path, image_size=128, workers=workers)
        batches = data.train_batches(torch.arange(8), 4, 3, "cpu")
        made.append(torch.cat([make_views(["weak", "strong"], some, data.info, seed) for some in batches]))
    assert torch.equal(*made)
