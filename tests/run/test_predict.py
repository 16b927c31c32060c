"""Images from anywhere reach a network as those of the run's test split do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import graphkd
from graphkd import DATASETS, UserError
from graphkd.data import Dataset, DatasetInfo
from graphkd.data.cifar import Cifar
from graphkd.data.stl10 import STL10
from graphkd.model import Network
from graphkd.run import RunResult, parse, parse_teacher, run
from graphkd.run.predict import Predictions, Preprocessing

Config = Callable[..., dict[str, Any]]
NAMES = ("cat", "dog", "owl")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images in folders: of all sizes, some grey, some half transparent, one turned by its EXIF data."""
    shapes = [(8, 8, 3), (31, 17, 3), (12, 40, 4), (20, 20)]
    for split, count in (("train", 4), ("test", 4)):
        for label, name in enumerate(NAMES):
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(noise(*shapes[index], seed=10 * label + index + (split == "test") * 100))
                exif = Image.Exif()
                exif[0x0112] = 6 if index == 1 else 1
                image.save(place / f"{index}.png", exif=exif)
    return tmp_path / "photos"


def files(photos: Path) -> list[Path]:
    return sorted((photos / "test").rglob("*.png"))


def preprocessing(name: str, dataset: Dataset, options: dict[str, Any]) -> Preprocessing:
    given = DATASETS.bind(name, options).all
    return Preprocessing.of(DATASETS.factory(name), given, dataset.info)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 8},
        {"image_size": 16, "resample": "area", "background": "black"},
        {"image_size": 12, "in_channels": 1},
        {"image_size": 100, "background": [9, 0, 200]},
        {"image_size": 97, "in_channels": 1, "mean": [0.3], "std": [0.2]},
    ],
)
def test_files_are_read_as_those_of_the_test_split(photos: Path, options: dict[str, Any]) -> None:
    options = {**options, "root": str(photos), "cache": False, "workers": 0}
    dataset = DATASETS.build("folder", **options)
    (expected,) = dataset.eval_batches("test", 99, "cpu")
    (found,) = preprocessing("folder", dataset, options).batches(files(photos), 99)
    assert torch.equal(found, expected.images)


def test_images_without_a_size_are_those_of_the_test_split(tmp_path: Path, photos: Path) -> None:
    for file in photos.rglob("*.png"):
        Image.fromarray(noise(9, 9, 3, seed=len(str(file)))).save(file)
    options = {"root": str(photos), "cache": False}
    dataset = DATASETS.build("folder", **options)
    (expected,) = dataset.eval_batches("test", 99, "cpu")
    (found,) = preprocessing("folder", dataset, options).batches(files(photos), 99)
    assert torch.equal(found, expected.images)


@pytest.mark.parametrize(("name", "side", "reduce"), [("cifar10", 32, Cifar.sized), ("stl10", 96, STL10.sized)])
@pytest.mark.parametrize("size", [16, 21, None])
def test_images_of_an_archive_are_reduced_as_in_its_test_split(
    name: str, side: int, reduce: Callable[[Tensor, int], Tensor], size: int | None
) -> None:
    pixels, size = noise(side, side, 3), size or side
    info = DatasetInfo(NAMES, 3, size, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    found = Preprocessing.of(DATASETS.factory(name), DATASETS.bind(name, {}).all, info).pixels(pixels)
    assert torch.equal(found, reduce(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(), size)[0])


@pytest.mark.parametrize(
    ("name", "size", "options", "words"),
    [
        ("cifar100", 32, {}, "the central square, resized to 32 x 32 (bilinear, antialiased)"),
        (
            "cifar100", 16, {},
            "the central square, resized to 32 x 32 (bilinear, antialiased), then averaged over areas to 16 x 16",
        ),
        (
            "stl10", 64, {},
            "the central square, resized to 96 x 96 (bilinear, antialiased), then to 64 x 64 (bilinear, antialiased)",
        ),
        ("folder", 16, {"resample": "area"}, "the central square, resized to 16 x 16 (averaged over areas)"),
        (
            "folder", 224, {},
            "the shorter side resized to 256 (bilinear, antialiased), then the central 224 x 224",
        ),
    ],
)  # fmt: skip
def test_the_resizing_is_said_in_words(name: str, size: int, options: dict[str, Any], words: str) -> None:
    given = {"root": "photos", "image_size": size, **options} if name == "folder" else options
    bound = DATASETS.bind(name, given).all
    assert Preprocessing.of(DATASETS.factory(name), bound, DatasetInfo(NAMES, 3, size)).resizing == words


# A run's own


@pytest.fixture
def finished(tiny_config: Config, photos: Path) -> RunResult:
    """A run on the photos."""
    data = {"name": "folder", "root": str(photos), "cache": False, "image_size": 8}
    return run(parse(tiny_config({"objective": {"ce": {"name": "ce"}}, "data": data})))


def test_a_run_predicts_as_it_is_evaluated(finished: RunResult, photos: Path) -> None:
    loaded = graphkd.load(finished.folder)
    assert loaded.classes == NAMES
    (batch,) = loaded.dataset.eval_batches("test", 99, "cpu")
    with torch.inference_mode():
        expected = loaded.student(batch.images).logits
    paths = files(photos)
    found = loaded.predict(paths)
    assert isinstance(found, Predictions)
    assert torch.equal(found.logits, expected)
    assert found.classes == [NAMES[label] for label in expected.argmax(1).tolist()]
    top1 = 100 * sum(name == path.parent.name for name, path in zip(found.classes, paths, strict=True)) / len(found)
    assert top1 == pytest.approx(finished.record.metrics.test_top1_last)
    torch.testing.assert_close(loaded.predict(paths, batch_size=5).logits, expected)


def test_every_kind_of_image_is_taken(finished: RunResult) -> None:
    loaded = graphkd.load(finished.folder)
    array = noise(30, 20, 3)
    image = Image.fromarray(array)
    pixels = loaded.preprocessing.pixels(array)
    assert pixels.shape == (3, 8, 8)
    one = loaded.predict(array).logits
    assert one.shape == (1, 3)
    for same in (image, [image], [array], array[None], pixels, pixels[None], [pixels]):
        assert torch.equal(loaded.predict(same).logits, one)
    grey = loaded.predict([noise(8, 8), noise(8, 8, 1)[..., 0], noise(8, 8, 1), noise(8, 8, 4)])
    assert len(grey) == 4
    assert torch.equal(grey.logits[1], grey.logits[2])
    assert loaded.predict([]).logits.shape == (0, 3)


def test_the_highest_probabilities_come_first(finished: RunResult) -> None:
    found = graphkd.load(finished.folder).predict(noise(5, 8, 8, 3))
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(5))
    for row, shown in enumerate(found.top(2)):
        values = sorted(found.probabilities[row].tolist(), reverse=True)
        assert [value for _, value in shown] == values[:2]
        assert shown[0][0] == found.classes[row]
    assert [len(shown) for shown in found.top(99)] == [3] * 5
    with pytest.raises(UserError, match="number of classes to show is 0"):
        found.top(0)


def test_a_digit_from_a_file_is_that_of_the_test_split(tiny_config: Config, tmp_path: Path) -> None:
    loaded = graphkd.load(run(parse_teacher(tiny_config())).folder)
    (batch,) = loaded.dataset.eval_batches("test", 999, "cpu")
    scale, shift = loaded.preprocessing.normalisation
    pixels = ((batch.images - shift) / scale).round().to(torch.uint8)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for image, path in zip(pixels, paths, strict=False):
        Image.fromarray(image[0].numpy()).save(path)
    with torch.inference_mode():
        expected = loaded.student(batch.images).logits
    assert torch.equal(loaded.predict(pixels, batch_size=999).logits, expected)
    torch.testing.assert_close(loaded.predict(paths).logits, expected[:3])
    assert [torch.equal(loaded.preprocessing.pixels(path), image) for path, image in zip(paths, pixels, strict=False)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "^there is no image nowhere.png$"),
        (__file__, r"test_predict\.py cannot be read: it is not an image"),
        (noise(8, 8, 2), r"an array of uint8 \(8, 8, 2\) is no image"),
        (noise(8, 8, 3) / 255, "an array of float64"),
        (torch.zeros(3, 8, 8), r"a tensor of torch.float32 \[3, 8, 8\] is no image of this network"),
        (torch.zeros(3, 9, 9, dtype=torch.uint8), r"takes uint8 \[3, 8, 8\]"),
        (Image.fromarray(noise(8, 8).astype(np.float32)), "an image cannot be read: its values are floating-point"),
    ],
)
def test_what_is_no_image_is_told(finished: RunResult, image: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        graphkd.load(finished.folder).predict(image)


def test_data_without_a_normalisation_say_so(finished: RunResult) -> None:
    info = DatasetInfo(NAMES, 3, 8)
    with pytest.raises(UserError, match="does not say by what mean and std"):
        _ = Preprocessing(lambda image: torch.zeros(3, 8, 8), "black", info).normalisation


def test_the_student_stays_as_it_is(finished: RunResult) -> None:
    student: Network = graphkd.load(finished.folder).student
    assert not student.training
