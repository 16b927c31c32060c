"""Data sets in memory: batches, normalisation, stratified parts and checks of their input."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphkd.data import Augmentation, Batch, Split, TensorDataset, stratified_split, stratified_subset
from graphkd.data.tensor import channel_statistics, hold_out
from graphkd.errors import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
label_lists = st.lists(st.sampled_from([0, 1, 4]), min_size=1, max_size=60)
fractions = st.floats(0.01, 1)


def split(size: int, seed: int, classes: int = 4) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (size, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(size) % classes)


def dataset(**options: Any) -> TensorDataset:
    splits = {"train": split(23, 0), "test": split(11, 1)}
    return TensorDataset(**{"splits": splits, "class_names": "abcd", "mean": MEAN, "std": STD, **options})


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (images / 255 - mean) / std


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def test_says_what_it_holds() -> None:
    data = dataset()
    assert (data.num_classes, data.in_channels, data.image_size) == (4, 3, 6)
    assert data.class_names == ("a", "b", "c", "d")
    assert data.splits == ("train", "test")
    assert torch.equal(data.train_labels, torch.arange(23) % 4)


def test_train_batches_follow_the_order_and_keep_the_last() -> None:
    order = torch.randperm(23)
    batches = list(dataset().train_batches(order, 5, augmentation_seed=0, device="cpu"))
    assert [len(batch.labels) for batch in batches] == [5, 5, 5, 5, 3]
    assert dataset().num_train_batches(5) == len(batches)
    assert dataset().num_train_batches(23) == 1
    images, labels, indices = joined(batches)
    assert torch.equal(indices, order)
    assert torch.equal(labels, order % 4)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, normalised(split(23, 0).images[order]), rtol=1e-5, atol=1e-6)


def test_training_images_are_augmented_before_normalisation() -> None:
    augmentation = Augmentation(padding=2, flip=True)
    order = torch.randperm(23)
    batches = dataset(augmentation=augmentation).train_batches(order, 7, augmentation_seed=5, device="cpu")
    expected = augmentation(split(23, 0).images[order], order, seed=5)
    torch.testing.assert_close(joined(list(batches)).images, normalised(expected), rtol=1e-5, atol=1e-6)


def test_cutout_leaves_the_mean_colour() -> None:
    augmentation = Augmentation(padding=2, flip=True, cutout=3)
    order = torch.randperm(23)
    batch = joined(list(dataset(augmentation=augmentation).train_batches(order, 7, 5, device="cpu")))
    uncut = joined(list(dataset(augmentation=Augmentation(2, True)).train_batches(order, 7, 5, device="cpu")))
    cut = (batch.images == 0).all(1)
    assert ((cut.flatten(1).sum(1) >= 4) & (cut.flatten(1).sum(1) <= 9)).all()
    assert torch.equal(batch.images, uncut.images.masked_fill(cut[:, None], 0))


def test_eval_batches_are_in_order_and_plain() -> None:
    data = dataset(augmentation=Augmentation(padding=2, flip=True))
    batches = list(data.eval_batches("test", 4, "cpu"))
    assert [len(batch.labels) for batch in batches] == [4, 4, 3]
    images, labels, indices = joined(batches)
    assert torch.equal(indices, torch.arange(11))
    assert torch.equal(labels, torch.arange(11) % 4)
    torch.testing.assert_close(images, normalised(split(11, 1).images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("together", [1, 2, 100])
def test_batches_do_not_depend_on_how_many_are_augmented_at_once(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation, order = Augmentation(padding=2, flip=True, cutout=3, rand_augment=1), torch.randperm(23)
    data = dataset(augmentation=augmentation)
    whole = data.train_batches(order, 23, 5, "cpu")
    monkeypatch.setattr("graphkd.data.augment._VALUES_AT_ONCE", together * 5 * split(1, 0).images.numel())
    batches = list(data.train_batches(order, 5, 5, "cpu"))
    assert [len(some.labels) for some in batches] == [5, 5, 5, 5, 3]
    assert all(map(torch.equal, joined(batches), next(whole)))


@pytest.mark.gpu
def test_train_batches_on_a_gpu_do_not_wait_for_it() -> None:
    data = dataset(augmentation=Augmentation(padding=2, flip=True))
    order = torch.randperm(23)
    batches = data.train_batches(order, 5, augmentation_seed=5, device="cuda")
    first = next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rest = list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    images = joined([first, *rest]).images.cpu()
    expected = joined(list(data.train_batches(order, 5, augmentation_seed=5, device="cpu")))
    torch.testing.assert_close(images, expected.images)


def test_train_fraction_keeps_the_samples_with_their_labels() -> None:
    whole, part = dataset(split_seed=3), dataset(split_seed=3).with_train_fraction(0.4)
    chosen = stratified_subset(whole.train_labels, 0.4, seed=3)
    assert part.num_train_batches(1) == len(chosen) == 2 + 2 + 2 + 2
    batch = joined(list(part.train_batches(torch.arange(len(chosen)), 3, 0, "cpu")))
    assert torch.equal(batch.indices, torch.arange(len(chosen)))
    assert torch.equal(batch.labels, whole.train_labels[chosen])
    expected = normalised(split(23, 0).images[chosen])
    torch.testing.assert_close(batch.images, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(dataset(split_seed=3, train_fraction=0.4).train_labels, part.train_labels)
    assert len(whole.train_labels) == 23
    assert len(joined(list(part.eval_batches("test", 4, "cpu"))).labels) == 11
    assert len(dataset().with_train_fraction(1.0).train_labels) == 23


@given(label_lists, fractions, fractions, st.integers(0, 5))
def test_subsets_are_stratified_and_nested(labels: list[int], one: float, other: float, seed: int) -> None:
    classes = torch.tensor(labels)
    small = stratified_subset(classes, min(one, other), seed)
    large = stratified_subset(classes, max(one, other), seed)
    assert set(small.tolist()) <= set(large.tolist())
    assert small.tolist() == sorted(set(small.tolist()))
    for label, size in zip(*classes.unique(return_counts=True), strict=True):
        kept = int((classes[small] == label).sum())
        assert kept >= 1
        assert abs(kept - min(one, other) * int(size)) <= 1
    assert len(stratified_subset(classes, 1.0, seed)) == len(labels)


@given(label_lists, st.lists(st.floats(0, 0.45), max_size=2), st.integers(0, 5))
def test_splits_are_a_stratified_partition(labels: list[int], shares: list[float], seed: int) -> None:
    classes = torch.tensor(labels)
    parts = stratified_split(classes, shares, seed)
    assert len(parts) == len(shares) + 1
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    assert set(classes[parts[-1]].tolist()) == set(labels)
    for part, share in zip(parts, shares, strict=False):
        for label, size in zip(*classes.unique(return_counts=True), strict=True):
            assert abs(int((classes[part] == label).sum()) - share * int(size)) <= 1
    assert torch.equal(stratified_split(classes, shares[:1], seed)[0], parts[0])


def test_a_part_is_the_same_on_every_machine() -> None:
    labels = torch.arange(20) % 2
    assert stratified_subset(labels, 0.3, seed=0).tolist() == [3, 5, 8, 12, 14, 15]
    assert stratified_subset(labels, 0.3, seed=1).tolist() == [0, 4, 5, 10, 15, 19]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": {"test": split(4, 0)}}, "needs a train split"),
        ({"splits": {"train": split(4, 0), "valid": split(4, 0)}}, "no split 'valid'"),
        ({"splits": {"train": split(0, 0)}}, "train split is empty"),
        ({"splits": {"train": split(9, 0, classes=5)}}, "train labels run from 0 to 4"),
        ({"splits": {"train": Split(split(3, 0).images, torch.tensor([0, -1, 1]))}}, "run from -1 to 1"),
        ({"splits": {"train": Split(split(3, 0).images, torch.arange(4))}}, r"must be int64 \[3\]"),
        ({"splits": {"train": Split(split(3, 0).images, torch.ones(3))}}, "train labels are torch.float32"),
        ({"splits": {"train": Split(split(3, 0).images.float(), torch.arange(3))}}, "images are torch.float"),
        ({"splits": {"train": Split(split(3, 0).images[..., 1:], torch.arange(3))}}, r"must be uint8"),
        (
            {"splits": {"train": split(4, 0), "test": Split(split(4, 0).images[:, :1], torch.arange(4))}},
            r"test images have shape \(1, 6, 6\)",
        ),
        ({"mean": (0.5,)}, "mean has 1 value,"),
        ({"std": (0.5,)}, "std has 1 value,"),
        ({"std": (0.5, 0.0, 0.5)}, "must be above 0"),
        ({"train_fraction": 0.0}, "train_fraction is 0.0"),
        ({"train_fraction": 1.5}, "train_fraction is 1.5"),
        ({"train_fraction": float("nan")}, "train_fraction is nan"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataset(**options)


def test_bad_requests() -> None:
    data = dataset()
    with pytest.raises(UserError, match="no split 'val'"):
        next(data.eval_batches("val", 4, "cpu"))
    with pytest.raises(UserError, match="batch_size is 0"):
        next(data.eval_batches("test", 0, "cpu"))
    with pytest.raises(UserError, match="batch_size is 0"):
        next(data.train_batches(torch.arange(23), 0, 0, "cpu"))
    with pytest.raises(UserError, match="batch_size is 0"):
        data.num_train_batches(0)


@given(label_lists, st.sampled_from([0.0, 0.1, 0.5]), st.floats(1e-6, 0.1))
def test_a_share_without_a_sample_is_refused_with_the_smallest_that_gives_one(
    labels: list[int], test: float, val: float
) -> None:
    classes = torch.tensor(labels)
    train = {"train": Split(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), classes)}
    message = ""
    try:
        splits = hold_out(train, {"test": test, "val": val}, seed=0)
    except UserError as error:
        message, splits = str(error), {}
    assert all(len(split.labels) > 0 for split in splits.values())
    if splits:
        return
    name, share, before = ("test", test, ()) if message.startswith("test") else ("val", val, (test,))
    told, _, fix = message.partition(", ")
    assert told == f"{name}_fraction={share:g} of {len(labels)} images gives no sample"

    def gives_one(share: float) -> bool:
        return len(stratified_split(classes, (*before, share), 0)[-2]) > 0

    found = re.fullmatch(rf"but {name}_fraction=(\S+) gives one", fix)
    if found is None:
        assert fix == "nor does any other share: each class keeps an image to train on"
        assert not gives_one(0.999 - sum(before))
    else:
        least = float(found[1])
        assert gives_one(least)
        assert not gives_one(least - 10.0 ** (math.floor(math.log10(least)) - 1) - 1e-9)


def test_held_out_splits_are_those_of_stratified_split() -> None:
    train = split(40, 0)
    splits = hold_out({"train": train}, {"test": 0.25, "val": 0.25}, seed=2)
    test, val, rest = stratified_split(train.labels, (0.25, 0.25), 2)
    for name, indices in {"train": rest, "val": val, "test": test}.items():
        assert torch.equal(splits[name].images, train.images[indices])
        assert torch.equal(splits[name].labels, train.labels[indices])
    assert hold_out({"train": train}, {"test": 0.0}, seed=2) == {"train": train}


def test_channel_statistics_are_exact() -> None:
    images = split(50, 0).images
    images[:, 2] = 51
    mean, std = channel_statistics(images)
    values = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean), values.mean((0, 2, 3)).float())
    torch.testing.assert_close(torch.tensor(std[:2]), values.std((0, 2, 3), unbiased=False)[:2].float())
    assert (mean[2], std[2]) == (pytest.approx(0.2), 1.0)
