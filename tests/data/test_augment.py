"""Batched augmentation against a loop over samples, and its draws against their distribution."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from graphkd.data.augment import Augmentation, random_bits
from graphkd.data.rand_augment import operations, rand_augment
from graphkd.errors import UserError

MASK = 2**64 - 1
seeds = st.integers(-(2**70), 2**70)
int64s = st.integers(-(2**63), 2**63 - 1)


def mix(x: int) -> int:
    """The finaliser of SplitMix64 on Python's integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def naive_bits(index: int, seed: int, stream: int) -> int:
    counter = (index + (stream + 1) * 0x9E3779B97F4A7C15) & MASK
    return mix(mix(counter) ^ (seed & MASK))


def naive_sample(image: np.ndarray, index: int, seed: int, padding: int, flip: bool) -> np.ndarray:
    """Pads, crops and flips one image [C, H, W]."""
    height, width = image.shape[1:]
    top, left = ((naive_bits(index, seed, s) >> 32) * (2 * padding + 1) >> 32 for s in (0, 1))
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    crop = padded[:, top : top + height, left : left + width]
    return crop[:, :, ::-1] if flip and naive_bits(index, seed, 2) >> 63 else crop


def uniform_p_value(*values: torch.Tensor, bounds: tuple[int, ...]) -> float:
    """Chi-square p-value that the joint values are uniform on all combinations of 0 .. bound - 1."""
    cells = np.ravel_multi_index([value.long().numpy() for value in values], bounds)
    return float(stats.chisquare(np.bincount(cells, minlength=int(np.prod(bounds)))).pvalue)


@given(st.lists(int64s, min_size=1, max_size=4), seeds)
def test_random_bits_equal_pythons_integers(indices: list[int], seed: int) -> None:
    bits = random_bits(torch.tensor(indices), seed, streams=3)
    expected = [[naive_bits(index, seed, stream) for index in indices] for stream in range(3)]
    assert [[value & MASK for value in row] for row in bits.tolist()] == expected


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    padding=st.integers(0, 7),
    flip=st.booleans(),
    seed=seeds,
    first=st.integers(0, 2**40),
)
def test_equals_a_loop_over_samples(
    shape: tuple[int, int, int, int], padding: int, flip: bool, seed: int, first: int
) -> None:
    images = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    indices = torch.arange(first, first + shape[0])
    actual = Augmentation(padding, flip)(torch.from_numpy(images), indices, seed)
    samples = zip(images, indices.tolist(), strict=True)
    expected = [naive_sample(image, index, seed, padding, flip) for image, index in samples]
    assert actual.dtype == torch.uint8
    assert np.array_equal(actual.numpy(), np.stack(expected))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    augmentation = Augmentation(padding=4, flip=True)
    images = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8)
    order = torch.randperm(50)
    whole = augmentation(images, torch.arange(50), seed=3)
    assert torch.equal(augmentation(images[order], order, seed=3), whole[order])
    assert torch.equal(augmentation(images[7:8], torch.tensor([7]), seed=3), whole[7:8])
    assert not torch.equal(augmentation(images, torch.arange(50), seed=4), whole)


@pytest.mark.parametrize("seed", [0, 1, 2**63, -5])
def test_offsets_and_flips_are_uniform_and_independent_over_samples(seed: int) -> None:
    top, left, flip = Augmentation(padding=4, flip=True).draws(torch.arange(50_000), seed)
    assert uniform_p_value(top, left, flip, bounds=(9, 9, 2)) > 1e-3
    assert uniform_p_value(top[:-1], top[1:], bounds=(9, 9)) > 1e-3


def test_offsets_and_flips_are_uniform_and_independent_over_epochs() -> None:
    augmentation = Augmentation(padding=1, flip=True)
    epochs = [augmentation.draws(torch.tensor([11, 12]), seed) for seed in range(6000)]
    top, left, flip = (torch.stack(values) for values in zip(*epochs, strict=True))
    for sample in (0, 1):
        assert uniform_p_value(top[:, sample], left[:, sample], flip[:, sample], bounds=(3, 3, 2)) > 1e-3
    assert uniform_p_value(top[:, 0], top[:, 1], bounds=(3, 3)) > 1e-3
    assert uniform_p_value(top[:-1, 0], top[1:, 0], bounds=(3, 3)) > 1e-3
    assert uniform_p_value(flip[:-1, 0], flip[1:, 0], bounds=(2, 2)) > 1e-3


def test_without_flip_nothing_is_mirrored() -> None:
    assert not Augmentation(padding=2).draws(torch.arange(1000), seed=0).flip.any()


def test_never_looks_at_values_on_the_host() -> None:
    """Meta tensors have no values: whatever needs one on the host raises."""
    images = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    indices = torch.empty(4, dtype=torch.int64, device="meta")
    augmentation = Augmentation(padding=2, flip=True, cutout=4)
    assert augmentation(images, indices, seed=1).shape == images.shape
    assert augmentation.cut_out(images.float(), indices, seed=1).shape == images.shape


def test_equals_torchvisions_transforms_in_distribution() -> None:
    """Each pixel tells where it was, so that one pixel of a result tells offsets and flip."""
    from torchvision.transforms import v2

    side, padding, samples = 6, 2, 4000
    image = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, side, side)
    theirs = v2.Compose([v2.RandomCrop(side, padding=padding), v2.RandomHorizontalFlip()])
    torch.manual_seed(0)
    per_image = torch.stack([theirs(image) for _ in range(samples)])
    images = image.expand(samples, 1, side, side)
    batched = Augmentation(padding, flip=True)(images, torch.arange(samples), seed=0)
    kinds = torch.cat([per_image, batched]).flatten(1).unique(dim=0, return_inverse=True)[1]
    table = torch.stack([part.bincount(minlength=50) for part in kinds.split(samples)])
    assert table.shape == (2, 2 * (2 * padding + 1) ** 2)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-3


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    side=st.integers(0, 12),
    seed=seeds,
)
def test_cutout_equals_a_loop_over_samples(shape: tuple[int, int, int, int], side: int, seed: int) -> None:
    images = torch.rand(shape) + 1
    actual = Augmentation(cutout=side).cut_out(images, torch.arange(shape[0]), seed)
    expected = images.clone()
    for index in range(shape[0]):
        centre = [(naive_bits(index, seed, stream) >> 32) * shape[stream - 1] >> 32 for stream in (3, 4)]
        first = [max(0, position - side // 2) for position in centre]
        last = [max(0, position - side // 2 + side) for position in centre]
        expected[index, :, first[0] : last[0], first[1] : last[1]] = 0
    assert torch.equal(actual, expected)


def test_cutout_has_its_centre_on_every_pixel_alike_and_leaves_the_other_draws() -> None:
    images, indices = torch.ones(50_000, 1, 5, 7), torch.arange(50_000)
    centre = (Augmentation(cutout=1).cut_out(images, indices, 3) == 0).flatten(1)
    assert (centre.sum(1) == 1).all()
    assert uniform_p_value(centre.long().argmax(1), bounds=(35,)) > 1e-3
    plain, cut = (Augmentation(2, True, cutout).draws(indices, 3) for cutout in (0, 4))
    assert all(torch.equal(one, other) for one, other in zip(plain, cut, strict=True))
    joint = (*plain, centre.long().argmax(1))
    assert uniform_p_value(*joint, bounds=(5, 5, 2, 35)) > 1e-3


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_equal_torchvisions_functions_on_single_images(channels: int, magnitude: int) -> None:
    from torchvision.transforms.v2 import functional as v2

    height, width = 18, 17  # equalising takes more than 255 pixels
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(40, 216, (3, channels, height, width), dtype=torch.uint8, generator=generator)
    tops = (0.3, 0.9, 30, 150 / 331 * width, 150 / 331 * height)
    shear, factor, angle, right, down = (float(torch.linspace(0, top, 31)[magnitude]) for top in tops)
    shear, right, down = math.degrees(math.atan(shear)), int(right), int(down)
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    expected = [
        lambda image: image,
        partial(v2.posterize, bits={0: 8, 9: 7, 30: 4}[magnitude]),
        partial(v2.solarize, threshold=255 * float(torch.linspace(1, 0, 31)[magnitude])),
        v2.autocontrast,
        v2.equalize,
    ]
    for sign in (1, -1):
        expected += [
            partial(v2.affine, **still | {"shear": [sign * shear, 0.0], "center": [0, 0]}),
            partial(v2.affine, **still | {"shear": [0.0, sign * shear], "center": [0, 0]}),
            partial(v2.affine, **still | {"translate": [sign * right, 0]}),
            partial(v2.affine, **still | {"translate": [0, sign * down]}),
            partial(v2.rotate, angle=sign * angle),
            partial(v2.adjust_brightness, brightness_factor=1 + sign * factor),
            partial(v2.adjust_saturation, saturation_factor=1 + sign * factor),
            partial(v2.adjust_contrast, contrast_factor=1 + sign * factor),
            partial(v2.adjust_sharpness, sharpness_factor=1 + sign * factor),
        ]
    assert len(operations(magnitude, height, width)) == len(expected)
    for position, alone in enumerate(expected):
        batched = rand_augment(images, torch.full((1, 3), position), magnitude)
        assert batched.dtype == torch.uint8
        assert torch.equal(batched, torch.stack([alone(image) for image in images]))


@pytest.mark.parametrize("magnitude", [9, 20])
def test_rand_augment_equals_torchvisions_in_distribution(magnitude: int) -> None:
    """One operation gives one image a few results, by which it is known."""
    from torchvision.transforms import v2

    samples = 1500
    image = torch.randint(20, 200, (3, 18, 18), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    theirs = v2.RandAugment(1, magnitude)
    torch.manual_seed(0)
    per_image = torch.stack([theirs(image) for _ in range(samples)])
    augmentation = Augmentation(rand_augment=1, rand_magnitude=magnitude)
    batched = augmentation(image.expand(samples, -1, -1, -1), torch.arange(samples), seed=0)
    kinds = torch.cat([per_image, batched]).flatten(1).unique(dim=0, return_inverse=True)[1]
    table = torch.stack([part.bincount(minlength=int(kinds.max()) + 1) for part in kinds.split(samples)])
    assert table.shape == (2, 23)
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-3


def test_operations_are_uniform_and_independent_of_one_another_and_the_other_draws() -> None:
    augmentation = Augmentation(padding=1, flip=True, cutout=1, rand_augment=2)
    indices = torch.arange(100_000)
    first, second = augmentation.operations(indices, seed=3)
    shares = np.array([2] * 5 + [1] * 18) / 28
    table = np.zeros((23, 23))
    np.add.at(table, (first.numpy(), second.numpy()), 1)
    assert stats.chisquare(table.ravel(), np.outer(shares, shares).ravel() * len(indices)).pvalue > 1e-3
    images = torch.ones(len(indices), 1, 3, 3)
    centre = (augmentation.cut_out(images, indices, 3) == 0).flatten(1).long().argmax(1)
    for other, kinds in zip((*augmentation.draws(indices, 3), centre), (3, 3, 2, 9), strict=True):
        table = np.zeros((23, kinds))
        np.add.at(table, (first.numpy(), other.long().numpy()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3
    epochs = torch.cat([augmentation.operations(torch.tensor([11]), seed) for seed in range(3000)], 1)
    for row in epochs:
        assert stats.chisquare(row.bincount(minlength=23).numpy(), shares * 3000).pvalue > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_comes_after_crop_and_flip_and_does_not_depend_on_the_batch(channels: int) -> None:
    images = torch.randint(256, (60, channels, 18, 18), dtype=torch.uint8)
    indices, order = torch.arange(60), torch.randperm(60)
    augmentation = Augmentation(2, True, rand_augment=2, rand_magnitude=15)
    whole = augmentation(images, indices, seed=3)
    cropped, kernels = Augmentation(2, True)(images, indices, seed=3), operations(15, 18, 18)
    for sample, (first, second) in enumerate(augmentation.operations(indices, 3).T.tolist()):
        image = cropped[sample : sample + 1]
        assert torch.equal(kernels[second](kernels[first](image)), whole[sample : sample + 1])
    parts = [augmentation(images[part], part, seed=3) for part in order.split(7)]
    assert torch.equal(torch.cat(parts), whole[order])
    assert not torch.equal(augmentation(images, indices, seed=4), whole)


def test_rand_augment_leaves_the_other_draws() -> None:
    images, indices = torch.ones(500, 1, 6, 6), torch.arange(500)
    plain, other = Augmentation(2, True, 3), Augmentation(2, True, 3, rand_augment=3)
    assert all(torch.equal(*pair) for pair in zip(plain.draws(indices, 5), other.draws(indices, 5), strict=True))
    assert torch.equal(plain.cut_out(images, indices, 5), other.cut_out(images, indices, 5))
    fewer = Augmentation(rand_augment=2, rand_magnitude=1)
    assert torch.equal(fewer.operations(indices, 5), other.operations(indices, 5)[:2])


def test_what_an_image_gets_stays_the_same_over_versions() -> None:
    images = (torch.arange(8 * 3 * 6 * 6) * 7919 % 251).to(torch.uint8).view(8, 3, 6, 6)
    indices = torch.arange(8) * 1000
    augmentation = Augmentation(2, True, 3, rand_augment=2)
    weights = torch.arange(images.numel()).view(images.shape) % 1009
    cropped = Augmentation(2, True)(images, indices, seed=7)
    cut = augmentation.cut_out(torch.ones(images.shape), indices, seed=7)
    assert int((cropped * weights).sum()) == 28690390
    assert int((cut * weights).sum()) == 300861
    assert augmentation.operations(indices, seed=7).tolist() == [
        [1, 0, 15, 4, 18, 18, 3, 0],
        [4, 18, 21, 19, 3, 15, 3, 2],
    ]


@pytest.mark.parametrize(
    ("option", "value"),
    [("padding", -1), ("cutout", -1), ("rand_augment", -1), ("rand_magnitude", -1), ("rand_magnitude", 31)],
)
def test_options_out_of_range(option: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{option} is {value}, but must be at least 0"):
        Augmentation(**{option: value})


def test_rand_augment_of_images_with_two_channels() -> None:
    with pytest.raises(UserError, match="rand_augment is for images of 1 or 3 channels, but these have 2"):
        Augmentation(rand_augment=1)(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), torch.arange(1), seed=0)
