"""The digits: real images, stratified splits without overlap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from graphkd.data import DATASETS, Batch, Dataset
from graphkd.errors import UserError


def digits(**options: Any) -> Dataset:
    return DATASETS.build("digits", **options)


def whole(data: Dataset, split: str) -> Batch:
    return next(data.eval_batches(split, 2000, "cpu"))


def test_splits_hold_every_image_once() -> None:
    data = digits()
    assert data.splits == ("train", "val", "test")
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 8)
    batches = [whole(data, split) for split in data.splits]
    assert [len(batch.labels) for batch in batches] == [1078, 360, 359]
    pixels, labels = load_digits(return_X_y=True)
    expected = [(*image, label) for image, label in zip(pixels.tolist(), labels.tolist(), strict=True)]
    seen = [(*image, label) for batch in batches for image, label in _in_pixels(batch)]
    assert sorted(seen) == sorted(expected)


def _in_pixels(batch: Batch) -> zip[tuple[Any, Any]]:
    """Images as scikit-learn gives them, 64 values in 0 .. 16, with their labels."""
    values = ((batch.images * 0.376 + 0.305) * 16).round().flatten(1)
    return zip(values.tolist(), batch.labels.tolist(), strict=True)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_splits_are_stratified(split: str) -> None:
    batch = whole(digits(), split)
    counts = batch.labels.bincount(minlength=10)
    share = len(batch.labels) / 1797
    expected = torch.from_numpy(load_digits(return_X_y=True)[1]).bincount() * share
    assert (counts - expected).abs().max() <= 1


def test_images_are_normalised() -> None:
    images = whole(digits(), "train").images
    assert images.mean().abs() < 0.02
    assert (images.std() - 1).abs() < 0.02


def same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def test_test_split_depends_on_its_own_options_only() -> None:
    test = whole(digits(), "test").images
    for options in ({"val_fraction": 0.0}, {"val_fraction": 0.5}, {"train_fraction": 0.1}, {"padding": 0}):
        assert same(whole(digits(**options), "test").images, test)
    assert not same(whole(digits(split_seed=1), "test").images, test)
    assert not same(whole(digits(test_fraction=0.3), "test").images, test)


def test_no_validation_split() -> None:
    data = digits(val_fraction=0.0)
    assert data.splits == ("train", "test")
    assert len(data.train_labels) + len(whole(data, "test").labels) == 1797


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_some_digits_are_those_of_the_whole_set_renumbered(split: str) -> None:
    data, every = digits(classes=[7, 2, 9]), whole(digits(), split)
    assert (data.num_classes, data.class_names) == (3, ("7", "2", "9"))
    batch = whole(data, split)
    kept = torch.tensor([label in (7, 2, 9) for label in every.labels.tolist()])
    assert same(batch.images, every.images[kept])
    assert same(torch.tensor([7, 2, 9])[batch.labels], every.labels[kept])


def test_all_digits_named_are_the_whole_set() -> None:
    named, plain = whole(digits(classes=list(range(10))), "train"), whole(digits(), "train")
    assert same(named.images, plain.images)
    assert same(named.labels, plain.labels)


def test_the_class_takes_its_options_by_name_too() -> None:
    named = DATASETS.factory("digits")(train_fraction=0.1, val_fraction=0.0, padding=0)
    other = digits(train_fraction=0.1, val_fraction=0.0, padding=0)
    assert named.splits == other.splits == ("train", "test")
    assert same(whole(named, "train").images, whole(other, "train").images)


def test_train_fraction_is_the_same_from_both_sides() -> None:
    data = digits(train_fraction=0.1)
    assert len(data.train_labels) == pytest.approx(108, abs=5)
    assert data.train_labels.bincount(minlength=10).min() >= 10
    assert same(whole(data, "train").images, whole(digits().with_train_fraction(0.1), "train").images)
    assert sorted(digits(train_fraction=1e-9).train_labels.tolist()) == list(range(10))


def test_crops_but_does_not_flip_by_default() -> None:
    data = digits()
    plain = whole(data, "train").images
    order = torch.arange(len(plain))
    cropped = next(data.train_batches(order, len(order), 0, "cpu")).images
    unmoved = (cropped == plain).flatten(1).all(1).float().mean()
    assert unmoved == pytest.approx(1 / 9, abs=0.05)
    uncropped = digits(padding=0).train_batches(order, len(order), 0, "cpu")
    assert same(next(uncropped).images, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 0.0}, "test_fraction is 0.0"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
        ({"val_fraction": -0.1}, "val_fraction is -0.1"),
        ({"val_fraction": 0.8}, "leave nothing to train on"),
        (
            {"val_fraction": 1e-6},
            "val_fraction=1e-06 of 1797 images gives no sample, but val_fraction=0.00055 gives one",
        ),
        (
            {"classes": [0, 1], "test_fraction": 0.001},
            "test_fraction=0.001 of 360 images gives no sample, but test_fraction=0.0028 gives one",
        ),
        ({"train_fraction": 0.0}, "train_fraction is 0.0"),
        ({"padding": -1}, "padding is -1"),
        ({"classes": []}, r"classes is \[\], but must be two or more"),
        ({"classes": [3]}, r"classes is \[3\]"),
        ({"classes": [3, 3]}, r"classes is \[3, 3\]"),
        ({"classes": [3, 10]}, r"classes is \[3, 10\]"),
        ({"classes": ["3", 4]}, "option 'classes'"),
        ({"val_fration": 0.1}, "did you mean 'val_fraction'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        digits(**options)
