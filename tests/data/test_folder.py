"""Image folders, small ones in memory and large ones by worker processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphkd.data import DATASETS, Batch, Dataset
from graphkd.errors import UserError

PLAIN: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3}
SPLITS = {"train": {"cat": 4, "dog": 6}, "test": {"cat": 2, "dog": 3}}


@pytest.fixture
def root(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """Ten training and five test images of 8x8 pixels."""
    return make_folder(tmp_path / "root", SPLITS)


@pytest.fixture
def large(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """The same of 120x120 pixels."""
    return make_folder(tmp_path / "large", SPLITS, 120)


def folder(root: Path, **options: Any) -> Dataset:
    return DATASETS.build("folder", root=str(root), **options)


def whole(data: Dataset, split: str) -> Batch:
    return joined(data.eval_batches(split, 4, "cpu"))


def joined(batches: Any) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def pixels(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255


@pytest.mark.parametrize("cache", [True, False])
def test_small_images_lie_in_memory(root: Path, cache: bool) -> None:
    for _ in range(2):
        data = folder(root, cache=cache, **PLAIN)
        assert data.splits == ("train", "test")
        assert (data.num_classes, data.in_channels, data.image_size) == (2, 3, 8)
        assert data.class_names == ("cat", "dog")
        assert data.train_labels.tolist() == [0] * 4 + [1] * 6
        test = whole(data, "test")
        assert test.labels.tolist() == [0, 0, 1, 1, 1]
        torch.testing.assert_close(test.images[1], pixels(root / "test" / "cat" / "1.png"))
        torch.testing.assert_close(test.images[2], pixels(root / "test" / "dog" / "0.png"))
        assert joined(data.train_batches(torch.arange(10), 4, 0, "cpu")).images.shape == (10, 3, 8, 8)
    assert len(list(root.glob("*.safetensors"))) == cache


def test_splits_by_other_names_or_cut_off(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    root = make_folder(tmp_path / "imagenet", {"train": {"a": 8, "b": 8}, "val": {"a": 2, "b": 2}})
    with pytest.raises(UserError, match=r"data.test: there is no folder .*test.*null for none \(.*train, val\)"):
        folder(root)
    data = folder(root, test="val", val_fraction=0.25)
    assert data.splits == ("train", "val", "test")
    assert [len(whole(data, name).labels) for name in data.splits] == [12, 4, 4]
    alone = folder(root / "train", train=".", test=None, test_fraction=0.25)
    assert [len(whole(alone, name).labels) for name in alone.splits] == [12, 4]
    assert len(alone.with_train_fraction(0.5).train_labels) == 6
    assert len(alone.train_labels) == 12


def test_cache_follows_the_files(root: Path) -> None:
    folder(root)
    Image.new("RGB", (8, 8)).save(root / "train" / "cat" / "9.png")
    assert folder(root).train_labels.tolist() == [0] * 5 + [1] * 6


def test_fingerprint_follows_names_and_sizes_not_place(root: Path) -> None:
    factory = DATASETS.factory("folder")
    options = {"root": str(root), "train": "train", "test": "test", "val": None}
    first = factory.fingerprint(options)
    moved = root.rename(root.parent / "moved")
    (moved / "train").rename(moved / "training")
    options = {**options, "root": str(moved), "train": "training"}
    assert factory.fingerprint(options) == first
    (moved / "training" / "cat" / "0.png").rename(moved / "training" / "dog" / "10.png")
    assert factory.fingerprint(options) != first
    assert {"root", "train", "test", "val", "cache", "workers"} == factory.NOT_IDENTITY


def test_files_below_and_others(root: Path) -> None:
    (root / "train" / "cat" / "deep").mkdir()
    (root / "train" / "cat" / "3.png").rename(root / "train" / "cat" / "deep" / "3.PNG")
    (root / "train" / "cat" / "notes.txt").touch()
    (root / "train" / "cat" / "._0.png").touch()
    (root / "train" / ".hidden").mkdir()
    assert folder(root).train_labels.tolist() == [0] * 4 + [1] * 6


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda root: (root / "train").rename(root / "trian"), {}, "no folder .*train; did you mean 'trian'"),
        (lambda root: (root / "test" / "dog").rename(root / "test" / "dgo"), {}, "test has dgo, which .*train lacks"),
        (lambda root: (root / "train" / "cow").mkdir(), {}, "cow is empty: it has no image"),
        (lambda root: root.rename(root.parent / "gone"), {}, "data.root: there is no folder"),
        (lambda root: (root / "none").mkdir(), {"test": "none"}, "none is empty: images belong in .*<class>"),
        (lambda root: None, {"test": None}, "there is no test split"),
        (lambda root: None, {"test_fraction": 0.5}, "there is a test split already"),
        (lambda root: None, {"in_channels": 4}, "in_channels is 4"),
        (lambda root: None, {"workers": -1}, "workers is -1"),
        (lambda root: None, {"padding": -1}, "padding is -1"),
        (lambda root: None, {"image_size": 120, "rand_augment": 2, "rand_magnitude": 31}, "rand_magnitude is 31"),
        (lambda root: None, {"image_size": 120, "padding": 4}, "padding is 4, but is for images of at most 96"),
        (lambda root: None, {"image_size": 120, "cutout": 8}, "cutout is 8, but is for images of at most 96"),
    ],
)
def test_wrong_folders_and_options(root: Path, spoil: Any, options: dict[str, Any], message: str) -> None:
    spoil(root)
    with pytest.raises(UserError, match=message) as caught:
        folder(root, **options)
    assert "\n" not in str(caught.value)


def test_a_class_that_the_test_split_lacks(root: Path) -> None:
    for file in (root / "test" / "dog").iterdir():
        file.unlink()
    (root / "test" / "dog").rmdir()
    with pytest.raises(UserError, match=r"train has dog, which .*test lacks"):
        folder(root)


def test_a_broken_image(root: Path) -> None:
    (root / "test" / "dog" / "1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken image: .*test/dog/1.png: it is no image .*data.skip_broken"):
        folder(root)
    data = folder(root, skip_broken=True)
    assert data.skipped == 1
    assert "1 of 5 test images are broken and left out: " in data.notes[0]
    assert whole(data, "test").labels.tolist() == [0, 0, 1, 1]


def test_images_of_several_sizes(root: Path, large: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "train" / "dog" / "9.png")
    with pytest.raises(UserError, match=r"dog/9.png: it is 9 x 9 where the first image is 8 x 8: data.image_size=N"):
        folder(root)
    assert folder(root, image_size=6).image_size == 6
    with pytest.raises(UserError, match=r"cat/0.png is 120 x 120: images above 96 pixels need data.image_size=N"):
        folder(large)
    assert folder(large, image_size=16).image_size == 16


def test_large_images_are_cropped_for_training_and_evaluation(large: Path) -> None:
    data = folder(large, image_size=105, workers=0, **PLAIN)
    assert (data.image_size, data.num_classes, data.splits) == (105, 2, ("train", "test"))
    test = whole(data, "test")
    assert test.images.shape == (5, 3, 105, 105)
    assert test.labels.tolist() == [0, 0, 1, 1, 1]
    assert test.indices.tolist() == [0, 1, 2, 3, 4]
    # 105 * 256 / 224 = 120: no resize, the central crop
    torch.testing.assert_close(test.images[4], pixels(large / "test" / "dog" / "2.png")[:, 8:113, 8:113])
    order = torch.randperm(10)
    batches = list(data.train_batches(order, 4, 0, "cpu"))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    train = joined(batches)
    assert torch.equal(train.indices, order)
    assert torch.equal(train.labels, data.train_labels[order])
    assert train.images.shape == (10, 3, 105, 105)


def test_large_images_do_not_depend_on_workers_or_batches(large: Path) -> None:
    order = torch.arange(10).flip(0)
    one = joined(folder(large, image_size=100, workers=0).train_batches(order, 10, 7, "cpu")).images
    two = joined(folder(large, image_size=100, workers=2).train_batches(order, 3, 7, "cpu")).images
    assert torch.equal(one, two)
    state = torch.get_rng_state()
    other = joined(folder(large, image_size=100, workers=0).train_batches(order, 10, 8, "cpu")).images
    assert torch.equal(torch.get_rng_state(), state)
    assert not (one == other).flatten(1).all(1).any()


def test_large_images_are_flipped_half_of_the_time_and_only_if_asked_for(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 120, dtype=np.uint8)[None, :, None], (120, 1, 3))
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(50):
                Image.fromarray(ramp).save(tmp_path / split / name / f"{index}.png")
    for flip, bounds in ((True, (30, 70)), (False, (0, 0))):
        data = folder(tmp_path, image_size=97, workers=0, flip=flip)
        images = joined(data.train_batches(torch.arange(100), 50, 1, "cpu")).images
        falling = images[..., 0] > images[..., -1]
        assert bounds[0] <= int(falling.flatten(1).all(1).sum()) <= bounds[1]


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("image_size", [16, 100])
def test_rand_augment_of_small_and_large_images(large: Path, image_size: int, in_channels: int) -> None:
    options = {"image_size": image_size, "in_channels": in_channels, "workers": 0, "mean": None, "std": None}
    order = torch.arange(10)
    plain = joined(folder(large, **options).train_batches(order, 10, 7, "cpu")).images
    data = folder(large, **options, rand_augment=2, rand_magnitude=20)
    whole = joined(data.train_batches(order, 10, 7, "cpu")).images
    assert int((whole != plain).flatten(1).any(1).sum()) >= 5
    assert torch.equal(joined(data.train_batches(order.flip(0), 3, 7, "cpu")).images.flip(0), whole)


@pytest.mark.parametrize("image_size", [96, 100])
def test_a_share_without_an_image_is_told(large: Path, image_size: int) -> None:
    told = "val_fraction=0.01 of 10 images gives no sample, but val_fraction=0.084 gives one"
    with pytest.raises(UserError, match=told):
        folder(large, image_size=image_size, val_fraction=0.01, cache=False)
    assert "val" in folder(large, image_size=image_size, val_fraction=0.084, cache=False).splits


def test_large_subsets_keep_their_files(large: Path) -> None:
    data = folder(large, image_size=105, workers=0, val_fraction=0.5, **PLAIN)
    assert data.splits == ("train", "val", "test")
    assert [len(whole(data, name).labels) for name in data.splits] == [5, 5, 5]
    files = sorted((large / "train").rglob("*.png"))
    every = torch.stack([pixels(file)[:, 8:113, 8:113] for file in files])
    seen = torch.cat([whole(data, "train").images, whole(data, "val").images])
    matches = (seen[:, None] - every[None]).abs().flatten(2).amax(2) < 1e-3
    assert matches.sum(0).tolist() == matches.sum(1).tolist() == [1] * 10
    part = data.with_train_fraction(0.4)
    assert part.train_labels.tolist() == [0, 1]
    first = (whole(part, "train").images[0] - every).abs().flatten(1).amax(1).argmin()
    assert files[int(first)].parent.name == "cat"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_large_image_is_named_in_one_line(large: Path, workers: int) -> None:
    file = large / "train" / "dog" / "3.png"
    file.write_bytes(file.read_bytes()[:1000])
    data = folder(large, image_size=100, workers=workers)
    with pytest.raises(UserError, match=r"broken image: .*dog/3.png: .*data.skip_broken=true") as caught:
        list(data.train_batches(torch.arange(10), 4, 0, "cpu"))
    assert "\n" not in str(caught.value)
    for _ in range(2):  # the second time from the cache
        skipping = folder(large, image_size=100, workers=workers, skip_broken=True)
        assert skipping.skipped == 1
        assert "dog/3.png" in skipping.notes[0]
        assert skipping.train_labels.tolist() == [0] * 4 + [1] * 5
        assert len(joined(skipping.train_batches(torch.arange(9), 4, 0, "cpu")).labels) == 9


def test_large_requests_that_are_wrong(large: Path) -> None:
    data = folder(large, image_size=100, workers=0)
    with pytest.raises(UserError, match="no split 'val'"):
        data.eval_batches("val", 4, "cpu")
    with pytest.raises(UserError, match="batch_size is 0"):
        list(data.eval_batches("test", 0, "cpu"))
