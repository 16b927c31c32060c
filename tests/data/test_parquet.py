"""Parquet files: what is read, and what is wrong with them in one line that names the row."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from graphkd.data import DATASETS, Dataset
from graphkd.data.images import decode_images
from graphkd.errors import UserError

PLAIN: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3}
CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


def write(
    path: Path, images: Sequence[bytes | None], labels: Sequence[Any], image: str = "image", label: str = "label",
    structs: bool = True, metadata: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """A Parquet file in the hub's layout, in several row groups."""
    column = pa.array(images, pa.binary())
    if structs:
        paths = pa.array([f"{index}.png" for index in range(len(images))])
        column = pa.StructArray.from_arrays([column, paths], ["bytes", "path"])
    table = pa.table({image: column, label: pa.array(labels)})
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, path, row_group_size=3)
    return str(path)


@pytest.fixture
def pictures(picture: Callable[..., bytes]) -> list[bytes]:
    return [picture(seed) for seed in range(12)]


@pytest.fixture
def files(tmp_path: Path, pictures: list[bytes]) -> dict[str, str]:
    """Eight training and four test images of 8x8 pixels in two classes."""
    return {
        "train": write(tmp_path / "train.parquet", pictures[:8], [0, 1] * 4),
        "test": write(tmp_path / "test.parquet", pictures[8:], [1, 0, 0, 1]),
    }


def parquet(files: dict[str, Any], **options: Any) -> Dataset:
    return DATASETS.build("parquet", **files, **options)


def pixels(data: Dataset, split: str) -> torch.Tensor:
    """A split's images as uint8 [N, C, H, W], where it was built with PLAIN."""
    return (next(data.eval_batches(split, 10_000, "cpu")).images * 255).round().byte()


def decoded(images: Sequence[bytes], mode: str = "RGB") -> torch.Tensor:
    arrays = [np.atleast_3d(np.asarray(Image.open(io.BytesIO(image)).convert(mode))) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("structs", [True, False])
@pytest.mark.parametrize("cache", [True, False])
def test_reads_images_and_labels(tmp_path: Path, pictures: list[bytes], structs: bool, cache: bool) -> None:
    files = {
        "train": write(tmp_path / "a.parquet", pictures[:8], [0, 1] * 4, "img", "fine", structs),
        "val": write(tmp_path / "b.parquet", pictures[8:10], [1, 0], "img", "fine", structs),
        "test": write(tmp_path / "c.parquet", pictures[10:], [0, 1], "img", "fine", structs),
    }
    options = {"image_column": "img", "label_column": "fine", "cache": cache, **PLAIN}
    for _ in range(2):
        data = parquet(files, **options)
        assert data.splits == ("train", "val", "test")
        assert (data.num_classes, data.in_channels, data.image_size) == (2, 3, 8)
        assert data.class_names == ("0", "1")
        assert data.train_labels.tolist() == [0, 1] * 4
        assert (data.skipped, data.notes) == (0, ())
        assert torch.equal(pixels(data, "train"), decoded(pictures[:8]))
        assert torch.equal(pixels(data, "val"), decoded(pictures[8:10]))
        assert torch.equal(pixels(data, "test"), decoded(pictures[10:]))
    assert len(list(tmp_path.glob("*.safetensors"))) == cache


def test_several_files_and_patterns(tmp_path: Path, pictures: list[bytes]) -> None:
    for part in range(3):
        write(tmp_path / f"train-{part}.parquet", pictures[3 * part : 3 * part + 3], [0, 1, 2])
    test = write(tmp_path / "test.parquet", pictures[9:], [2, 1, 0])
    pattern = str(tmp_path / "train-*.parquet")
    whole = parquet({"train": pattern, "test": test}, **PLAIN)
    assert torch.equal(pixels(whole, "train"), decoded(pictures[:9]))
    listed = parquet({"train": [str(tmp_path / f"train-{part}.parquet") for part in (2, 0)], "test": test}, **PLAIN)
    assert torch.equal(pixels(listed, "train"), decoded([*pictures[6:9], *pictures[:3]]))


def test_texts_are_classes_in_alphabetical_order(tmp_path: Path, pictures: list[bytes]) -> None:
    names = pa.array(["dog", "cat", "dog", "eel"]).dictionary_encode()
    train = write(tmp_path / "train.parquet", pictures[:4], names)
    test = write(tmp_path / "test.parquet", pictures[4:7], ["eel", "cat", "dog"])
    data = parquet({"train": train, "test": test})
    assert data.class_names == ("cat", "dog", "eel")
    assert data.train_labels.tolist() == [1, 0, 1, 2]
    assert next(data.eval_batches("test", 9, "cpu")).labels.tolist() == [2, 0, 1]


def test_class_names_of_the_hub(tmp_path: Path, pictures: list[bytes], files: dict[str, str]) -> None:
    names = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}
    train = write(tmp_path / "named.parquet", pictures[:4], [0, 1, 1, 2], metadata=names)
    assert parquet({**files, "train": train}).class_names == ("cat", "dog", "eel")
    with pytest.raises(UserError, match=r"num_classes is 4, but .*named.parquet names 3 classes"):
        parquet({**files, "train": train}, num_classes=4)


def test_splits_are_cut_off_the_training_split(files: dict[str, str]) -> None:
    data = parquet({"train": files["train"]}, test_fraction=0.25, val_fraction=0.25)
    sizes = {name: len(next(data.eval_batches(name, 9, "cpu")).labels) for name in data.splits}
    assert sizes == {"train": 4, "val": 2, "test": 2}
    assert len(parquet(files, train_fraction=0.5).train_labels) == 4
    with pytest.raises(UserError, match=r"test_fraction is 0.25, but there is a test split already"):
        parquet(files, test_fraction=0.25)
    with pytest.raises(UserError, match=r"no test split: name it by data.test"):
        parquet({"train": files["train"]})


def test_statistics_are_the_training_images(files: dict[str, str], pictures: list[bytes]) -> None:
    data = parquet(files)
    images = next(data.eval_batches("train", 10, "cpu")).images.double()
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.std((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-5
    half = parquet(files, std=[0.5] * 3)
    ratio = next(half.eval_batches("train", 10, "cpu")).images.double().std((0, 2, 3), unbiased=False) * 0.5
    expected = (decoded(pictures[:8]).double() / 255).std((0, 2, 3), unbiased=False)
    torch.testing.assert_close(ratio, expected, rtol=1e-5, atol=0)


def test_grey_and_resized(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    images = [picture(0, 48, 32), picture(1, 8, 9), picture(2, 16, 16, "JPEG")]
    train = write(tmp_path / "train.parquet", images, [0, 1, 1])
    data = parquet({"train": train, "test": train}, image_size=16, in_channels=1, mean=[0.0], std=[1.0])
    assert (data.in_channels, data.image_size) == (1, 16)
    first = Image.open(io.BytesIO(images[0])).convert("L").resize((24, 16), Image.Resampling.BILINEAR)
    first = first.crop((4, 0, 20, 16))
    assert torch.equal(pixels(data, "train")[0, 0], torch.from_numpy(np.array(first)))
    assert torch.equal(pixels(data, "train")[2], decoded(images[2:], "L")[0])


def test_cache_is_made_anew_for_other_content_or_options(
    tmp_path: Path, files: dict[str, str], pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counting(*arguments: Any) -> Any:
        calls.append(arguments)
        return decode_images(*arguments)

    monkeypatch.setattr("graphkd.data.decoded.decode_images", counting)
    parquet(files)
    os.utime(files["train"], (1, 1))
    parquet(files, padding=0, flip=False, train_fraction=0.5, val_fraction=0.25, **PLAIN)
    assert len(calls) == 2  # one for each split, once
    parquet(files, image_size=4)
    assert len(calls) == 4
    write(Path(files["train"]), pictures[:8], [1, 0] * 4)
    assert parquet(files).train_labels.tolist() == [1, 0] * 4
    cache = next(path for path in tmp_path.glob("*.safetensors"))
    cache.write_bytes(cache.read_bytes()[:500])
    assert parquet(files, image_size=4).image_size == 4
    assert parquet(files).image_size == 8


def test_a_cache_elsewhere_or_nowhere(tmp_path: Path, files: dict[str, str]) -> None:
    parquet(files, cache=str(tmp_path / "deep" / "cache"))
    assert len(list((tmp_path / "deep" / "cache").glob("*.safetensors"))) == 1
    (tmp_path / "file").touch()
    data = parquet(files, cache=str(tmp_path / "file" / "cache"))
    assert len(data.train_labels) == 8
    assert len(data.notes) == 1
    assert "not cached in" in data.notes[0]


def test_hashes_of_files_of_one_name_are_kept_apart(tmp_path: Path, pictures: list[bytes]) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    files = {
        "train": write(tmp_path / "train" / "0000.parquet", pictures[:8], [0, 1] * 4),
        "test": write(tmp_path / "test" / "0000.parquet", pictures[8:], [1, 0, 0, 1]),
    }
    parquet(files, cache=str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").glob("*.hashes.npy"))) == 2


def test_fingerprint_follows_content_not_place(tmp_path: Path, files: dict[str, str], pictures: list[bytes]) -> None:
    factory = DATASETS.factory("parquet")
    options = {"val": None, "cache": True, "image_column": "image", "label_column": "label", "root": None, **files}
    first = factory.fingerprint(options)
    moved = tmp_path / "moved.parquet"
    moved.write_bytes(Path(files["train"]).read_bytes())
    assert factory.fingerprint({**options, "train": [str(moved)]}) == first
    write(moved, pictures[:8], [1, 0] * 4)
    assert factory.fingerprint({**options, "train": str(moved)}) != first
    assert {"train", "val", "test", "root", "cache"} == factory.NOT_IDENTITY


def test_other_content_of_the_same_size_and_time_is_seen(
    tmp_path: Path, files: dict[str, str], pictures: list[bytes]
) -> None:
    factory, train = DATASETS.factory("parquet"), Path(files["train"])
    options = {"val": None, "cache": True, "image_column": "image", "label_column": "label", "root": None, **files}
    before, times = factory.fingerprint(options), train.stat()
    assert parquet(files).train_labels.tolist() == [0, 1] * 4
    write(train, pictures[:8], [1, 0] * 4)
    os.utime(train, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert train.stat().st_size == times.st_size
    assert factory.fingerprint(options) != before
    assert parquet(files).train_labels.tolist() == [1, 0] * 4


def test_turned_and_transparent_images_are_read_as_they_are_seen(
    tmp_path: Path, files: dict[str, str], pictures: list[bytes]
) -> None:
    upright = pixels(parquet(files, **PLAIN), "test")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, glyphs = [], []
    for content in pictures[8:]:
        image = Image.open(io.BytesIO(content))
        for kept, images, facts in (
            (image.transpose(Image.Transpose.ROTATE_90), turned, {"exif": exif}),
            (Image.merge("LA", [Image.new("L", (8, 8)), image.convert("L")]), glyphs, {}),
        ):
            file = io.BytesIO()
            kept.save(file, "PNG", **facts)
            images.append(file.getvalue())
    test = write(tmp_path / "turned.parquet", turned, [1, 0, 0, 1])
    assert torch.equal(pixels(parquet({**files, "test": test}, **PLAIN), "test"), upright)
    test = write(tmp_path / "glyphs.parquet", glyphs, [1, 0, 0, 1])
    white = parquet({**files, "test": test}, **PLAIN)
    assert torch.equal(pixels(white, "test"), 255 - decoded(pictures[8:], "L").expand(-1, 3, -1, -1))
    black = parquet({**files, "test": test}, **PLAIN, background=[0, 0, 0])
    assert int(pixels(black, "test").max()) == 0
    assert "4 of 4 test images are of one colour throughout" in black.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "imge"}, r"train.parquet has no column 'imge'; did you mean 'image'\? .*image, label"),
        ({"label_column": "y"}, r"train.parquet has no column 'y' \(data.label_column; its columns: image, label\)"),
        ({"image_column": "label"}, "column 'label' of .*train.parquet is int64, but must hold encoded images"),
        (
            {"label_column": "image"},
            "column 'image' of .*train.parquet is struct.*must hold integers, texts or booleans",
        ),
        ({"train": None}, "needs data.train=FILE"),
        ({"train": "nowhere/*.parquet"}, r"data.train: there is no file nowhere/\*.parquet"),
        ({"test": []}, "data.test is an empty list"),
        ({"in_channels": 2}, "in_channels is 2"),
        ({"image_size": 0}, "image_size is 0"),
        ({"num_classes": 1}, "num_classes is 1"),
        ({"image_size": 2_000_000}, "8 images of 2000000 x 2000000 pixels take .*choose a smaller data.image_size"),
        ({"mean": [0.5]}, "mean has 1 value,"),
    ],
)
def test_bad_options(files: dict[str, str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parquet({**files, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1, 2, 0], {}, "row 2 of .*test.parquet: column 'label' is 2, but labels must lie in 0 .. 1"),
        ([0, 1, -1, -1], {}, r"row 2 of .*test.parquet: column 'label' is -1, but .*\(2 such rows\)"),
        ([0, 2, 1, 0], {"num_classes": 3}, "row 1 of .*: column 'label' is 2, a class that the training split lacks"),
        ([0, None, 1, 0], {}, "row 1 of .*test.parquet: column 'label' is empty"),
        (["a", "b", "a", "a"], {}, "column 'label' is of another type in .*test.parquet than in .*train.parquet"),
        ([0.5, 1.0, 1.0, 0.0], {}, "column 'label' of .*test.parquet is double"),
    ],
)
def test_bad_labels(
    tmp_path: Path, files: dict[str, str], pictures: list[bytes], labels: list[Any], options: Any, message: str
) -> None:
    write(tmp_path / "test.parquet", pictures[8:], labels)
    with pytest.raises(UserError, match=message):
        parquet(files, **options)


def test_texts_that_only_the_test_split_has(tmp_path: Path, pictures: list[bytes]) -> None:
    train = write(tmp_path / "train.parquet", pictures[:2], ["cat", "dog"])
    test = write(tmp_path / "test.parquet", pictures[2:4], ["cat", "cow"])
    with pytest.raises(UserError, match=r"row 1 of .*test.parquet: column 'label' is cow, a class that the training"):
        parquet({"train": train, "test": test})


def broken_ones(picture: Callable[..., bytes]) -> dict[str, tuple[bytes | None, str]]:
    jpeg = picture(50, 8, 8, "JPEG")
    floats = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(floats, "TIFF")
    return {
        "no image": (b"not an image", "it is not an image"),
        "truncated": (jpeg[: len(jpeg) // 2], "[Tt]runcated"),
        "missing": (None, "there is no image"),
        "other size": (picture(51, 9, 8), "it is 9 x 8 where the first image is 8 x 8"),
        "floats": (floats.getvalue(), "floating-point numbers"),
    }


@pytest.mark.parametrize("kind", ["no image", "truncated", "missing", "other size", "floats"])
def test_a_broken_image(
    tmp_path: Path, files: dict[str, str], pictures: list[bytes], picture: Callable[..., bytes], kind: str
) -> None:
    image, reason = broken_ones(picture)[kind]
    images = [*pictures[:5], image, *pictures[6:8]]
    train = write(tmp_path / "train.parquet", images, [0, 1] * 4)
    with pytest.raises(UserError, match=f"broken image: row 5 of .*train.parquet: .*{reason}") as caught:
        parquet({**files, "train": train})
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)
    for _ in range(2):  # the second time from the cache
        data = parquet({**files, "train": train}, skip_broken=True, **PLAIN)
        assert data.skipped == 1
        assert len(data.notes) == 1
        assert "1 of 8 train images are broken and left out: row 5 of" in data.notes[0]
        assert data.train_labels.tolist() == [0, 1, 0, 1, 0, 0, 1]
        assert torch.equal(pixels(data, "train"), decoded([*pictures[:5], *pictures[6:8]]))


def test_the_first_images_may_be_broken(tmp_path: Path, files: dict[str, str], pictures: list[bytes]) -> None:
    train = write(tmp_path / "train.parquet", [b"", *pictures[1:8]], [0, 1] * 4)
    assert len(parquet({**files, "train": train}, skip_broken=True).train_labels) == 7
    all_broken = write(tmp_path / "train.parquet", [b""] * 8, [0, 1] * 4)
    with pytest.raises(UserError, match="all 8 images are broken, the first is row 0 of"):
        parquet({**files, "train": all_broken}, skip_broken=True)


def test_a_decompression_bomb(
    tmp_path: Path, files: dict[str, str], picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for side in (25, 40):  # Pillow warns of the one, and raises at the other
        train = write(tmp_path / "train.parquet", [picture(0), picture(1, side, side)], [0, 1])
        with pytest.raises(UserError, match=r"broken image: row 1 of .*(pixels|decompression bomb)"):
            parquet({**files, "train": train}, image_size=8)


def test_not_square(tmp_path: Path, files: dict[str, str], picture: Callable[..., bytes]) -> None:
    train = write(tmp_path / "train.parquet", [picture(0, 12, 8), picture(1, 12, 8)], [0, 1])
    with pytest.raises(UserError, match=r"row 0 of .* is 12 x 8, but images must be square: data.image_size=N"):
        parquet({**files, "train": train})


def test_files_that_are_none(tmp_path: Path, files: dict[str, str], pictures: list[bytes]) -> None:
    (tmp_path / "train.parquet").write_bytes(b"no Parquet")
    with pytest.raises(UserError, match=r"train.parquet is no readable Parquet file"):
        parquet(files)
    write(tmp_path / "train.parquet", [], pa.array([], pa.int64()))
    with pytest.raises(UserError, match="the train split has no rows"):
        parquet(files)


NAMES = ["cat", "dog", "eel"]


def named(names: Any) -> dict[str, Any]:
    """The hub's metadata for a column of class labels."""
    return {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}


def labels_of(data: Dataset, split: str) -> list[int]:
    return next(data.eval_batches(split, 99, "cpu")).labels.tolist()


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array([2, 0, 1, 2]), ["dog", "eel", "cat"]),
        (pa.array([1, 2, 3, 1]), ["unused", "cat", "dog", "eel"]),
        (pa.array(["cat", "dog", "eel", "cat"]), None),
        (pa.array(["cat", "dog", "eel", "cat"]).dictionary_encode(), None),
        (pa.array(["cat", "dog", "eel", "cat"], pa.string_view()), None),
        (pa.array(["cat", "dog", "eel", "cat"], pa.large_string()), None),
    ],
)
@pytest.mark.parametrize("train_as", ["numbers", "texts"])
def test_labels_of_all_files_are_matched_by_name(
    tmp_path: Path, pictures: list[bytes], labels: pa.Array, names: list[str] | None, train_as: str
) -> None:
    train = ([0, 1, 2], named(NAMES)) if train_as == "numbers" else (NAMES, None)
    files: dict[str, Any] = {"train": write(tmp_path / "a.parquet", pictures[:3], train[0], metadata=train[1])}
    for split in ("val", "test"):
        other = named(names) if names else None
        files[split] = write(tmp_path / f"{split}.parquet", pictures[3:7], labels, metadata=other)
    if train_as == "numbers":  # else the names of the second training file would be the classes
        files["train"] = [files["train"], files["val"]]
    data = parquet(files)
    assert data.class_names == ("cat", "dog", "eel")
    assert data.train_labels.tolist() == [0, 1, 2, 0, 1, 2, 0][: len(data.train_labels)]
    assert labels_of(data, "val") == labels_of(data, "test") == [0, 1, 2, 0]


def test_names_that_do_not_match_up(tmp_path: Path, pictures: list[bytes]) -> None:
    train = write(tmp_path / "a.parquet", pictures[:3], [0, 1, 2], metadata=named(NAMES))
    test = write(tmp_path / "b.parquet", pictures[3:5], [0, 1], metadata=named(["cat", "Dog"]))
    with pytest.raises(
        UserError, match=r"row 1 of .*b.parquet: .* is 1 \(Dog\), a class .*a.parquet has cat, dog, eel"
    ):
        parquet({"train": train, "test": test})
    test = write(tmp_path / "b.parquet", pictures[3:5], [0, 2], metadata=named(["cat", "dog"]))
    with pytest.raises(UserError, match=r"row 1 of .*b.parquet: column 'label' is 2, but labels must lie in 0 .. 1"):
        parquet({"train": train, "test": test})
    test = write(tmp_path / "b.parquet", pictures[3:5], [0, 1], metadata=named(["cat", "cat", "eel"]))
    with pytest.raises(UserError, match=r"two classes are named 'cat', so .*b.parquet cannot be matched by name"):
        parquet({"train": train, "test": test})
    train = write(tmp_path / "a.parquet", pictures[:3], [0, 1, 2], metadata=named(["crane", "crane", "eel"]))
    assert parquet({"train": train, "test": train}, cache=False).class_names == ("crane", "crane", "eel")


@pytest.mark.parametrize("with_names", ["train", "test"])
def test_numbers_without_names_count_as_in_the_file_with_names(
    tmp_path: Path, pictures: list[bytes], with_names: str
) -> None:
    files = {
        split: write(tmp_path / f"{split}.parquet", pictures[:3], [2, 1, 0], metadata=known)
        for split in ("train", "test")
        for known in [named(NAMES) if split == with_names else None]
    }
    data = parquet(files)
    assert data.class_names == ("cat", "dog", "eel")
    assert data.train_labels.tolist() == labels_of(data, "test") == [2, 1, 0]
    other = "test" if with_names == "train" else "train"
    (note,) = data.notes
    assert f"{other}.parquet does not name its classes: its labels count as in" in note
    assert note.endswith(f"{with_names}.parquet, 0 is cat, 1 is dog, 2 is eel")


def test_labels_matched_by_name_are_another_run(tmp_path: Path, pictures: list[bytes]) -> None:
    factory = DATASETS.factory("parquet")
    options = {"val": None, "cache": False, "image_column": "image", "label_column": "label", "root": None}
    train = write(tmp_path / "a.parquet", pictures[:3], [0, 1, 2], metadata=named(NAMES))
    same = write(tmp_path / "b.parquet", pictures[:3], [0, 1, 2], metadata=named(NAMES))
    other = write(tmp_path / "c.parquet", pictures[:3], [0, 1, 2], metadata=named(NAMES[::-1]))
    assert set(factory.fingerprint({**options, "train": train, "test": same})) == {"train", "test"}
    assert factory.fingerprint({**options, "train": train, "test": other})["labels"] == "by name"


def test_labels_with_gaps_are_told_and_can_be_numbered_anew(tmp_path: Path, pictures: list[bytes]) -> None:
    train = write(tmp_path / "a.parquet", pictures * 2, [0, 3, 8, 9, 17, 17] * 4)
    test = write(tmp_path / "b.parquet", pictures[:4], [17, 9, 0, 3])
    data = parquet({"train": train, "test": test})
    assert data.num_classes == 18
    assert data.notes == (
        "13 of 18 classes have no train image: 1, 2, 4, 5, 6 and 8 more; data.relabel=true numbers the 5 that have "
        "some (0, 3, 8, 9, 17) from 0",
        "1 of 18 classes have no test image: 8",
    )
    data = parquet({"train": train, "test": test}, relabel=True)
    assert data.class_names == ("0", "3", "8", "9", "17")
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4, 4] * 4
    assert labels_of(data, "test") == [4, 3, 0, 1]
    with pytest.raises(UserError, match="num_classes is 18, but the training labels are 5 classes"):
        parquet({"train": train, "test": test}, relabel=True, num_classes=18)
    write(tmp_path / "b.parquet", pictures[:2], [0, 4])
    with pytest.raises(UserError, match=r"row 1 of .*: column 'label' is 4, a class .* has 0, 3, 8, 9, 17 \(1 such"):
        parquet({"train": train, "test": test}, relabel=True)


@pytest.mark.parametrize(
    ("labels", "metadata", "names", "numbers"),
    [
        ([1, 2, 3, 1], None, ("1", "2", "3"), [0, 1, 2, 0]),
        ([10, -1, 10, 9], None, ("-1", "9", "10"), [2, 0, 2, 1]),
        ([2**62, 5, 5, 5], None, ("5", str(2**62)), [1, 0, 0, 0]),
        ([2, 2, 0, 0], named(NAMES), ("cat", "eel"), [1, 1, 0, 0]),
        (["b", "a", "b", "a"], None, ("a", "b"), [1, 0, 1, 0]),
    ],
)
def test_relabel(
    tmp_path: Path, pictures: list[bytes], labels: list[Any], metadata: Any, names: tuple[str, ...], numbers: list[int]
) -> None:
    file = write(tmp_path / "a.parquet", pictures[:4], labels, metadata=metadata)
    data = parquet({"train": file}, test_fraction=0.5, relabel=True)
    assert (data.class_names, data.notes) == (names, ())
    data = parquet({"train": file, "test": file}, relabel=True)
    assert data.train_labels.tolist() == labels_of(data, "test") == numbers


def test_labels_from_one_and_classes_without_images_are_told(tmp_path: Path, pictures: list[bytes]) -> None:
    train = write(tmp_path / "a.parquet", pictures[:4], [1, 2, 3, 3])
    test = write(tmp_path / "b.parquet", pictures[4:6], [1, 3])
    assert parquet({"train": train, "test": test}).notes == (
        "1 of 4 classes have no train image: 0; data.relabel=true numbers the 3 that have some (1, 2, 3) from 0",
        "1 of 4 classes have no test image: 2",
    )
    assert parquet({"train": train, "test": test}, num_classes=5).notes[0] == "2 of 5 classes have no train image: 0, 4"


def test_boolean_labels(tmp_path: Path, pictures: list[bytes]) -> None:
    train = write(tmp_path / "a.parquet", pictures[:3], [True, False, True])
    data = parquet({"train": train, "test": write(tmp_path / "b.parquet", pictures[3:5], [False, True])})
    assert data.class_names == ("False", "True")
    assert data.train_labels.tolist() == [1, 0, 1]
    assert labels_of(data, "test") == [0, 1]


def as_type(images: list[bytes], kind: str) -> pa.Array:
    """A column of images in one of the types that files come with."""
    if kind == "struct of dictionaries":
        paths = pa.array(["x"] * len(images)).dictionary_encode()
        return pa.StructArray.from_arrays([pa.array(images).dictionary_encode(), paths], ["bytes", "path"])
    if kind == "struct without paths":
        return pa.StructArray.from_arrays([pa.array(images), pa.nulls(len(images))], ["bytes", "path"])
    if kind == "dictionary":
        return pa.array(images).dictionary_encode()
    numbers = [list(image) for image in images]
    if kind == "int8":
        return pa.array(np.array(row, np.uint8).astype(np.int8) for row in numbers)
    lists = {"uint8": pa.list_(pa.uint8()), "int64": pa.large_list(pa.int64())}
    if kind in lists:
        return pa.array(numbers, lists[kind])
    return pa.array(images, getattr(pa, kind)())


@pytest.mark.parametrize(
    "kind",
    [
        "large_binary", "binary_view", "dictionary", "struct of dictionaries", "struct without paths", "uint8", "int8",
        "int64",
    ],
)  # fmt: skip
def test_types_of_the_image_column(tmp_path: Path, pictures: list[bytes], kind: str) -> None:
    images = [*pictures[:5], pictures[0]]
    table = pa.table({"image": as_type(images, kind), "label": [0, 1] * 3})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    data = parquet({"train": str(tmp_path / "a.parquet")}, test_fraction=0.5, cache=False, **PLAIN)
    both = torch.cat([pixels(data, "train"), pixels(data, "test")])
    assert sorted(both.flatten(1).tolist()) == sorted(decoded(images).flatten(1).tolist())


@pytest.fixture
def paths(tmp_path: Path, pictures: list[bytes]) -> Callable[..., dict[str, str]]:
    """Makes training and test files that name their images, as texts or as structs without bytes."""

    def make(structs: bool, folder: Path = tmp_path) -> dict[str, str]:
        (folder / "pics").mkdir(parents=True, exist_ok=True)
        files = {}
        for split, part in (("train", pictures[:8]), ("test", pictures[8:])):
            names = [f"pics/{split}-{index}.png" for index in range(len(part))]
            for name, image in zip(names, part, strict=True):
                (folder / name).write_bytes(image)
            column = pa.array(names)
            if structs:
                column = pa.StructArray.from_arrays([pa.nulls(len(part), pa.binary()), column], ["bytes", "path"])
            file = tmp_path / f"{split}.parquet"
            pq.write_table(pa.table({"image": column, "label": [0, 1] * (len(part) // 2)}), file, row_group_size=3)
            files[split] = str(file)
        return files

    return make


@pytest.mark.parametrize("structs", [True, False])
def test_paths_of_images(
    tmp_path: Path, pictures: list[bytes], paths: Callable[..., dict[str, str]], structs: bool
) -> None:
    data = parquet(paths(structs), **PLAIN)
    assert torch.equal(pixels(data, "train"), decoded(pictures[:8]))
    assert torch.equal(pixels(data, "test"), decoded(pictures[8:]))
    elsewhere = paths(structs, tmp_path / "elsewhere")
    (tmp_path / "pics" / "train-3.png").unlink()
    with pytest.raises(UserError, match=r"row 3 of .*train.parquet: there is no file .*pics/train-3.png. \(data.root"):
        parquet(elsewhere)
    assert len(parquet(elsewhere, skip_broken=True).train_labels) == 7
    assert torch.equal(
        pixels(parquet(elsewhere, root=str(tmp_path / "elsewhere"), **PLAIN), "train"), decoded(pictures[:8])
    )


def test_images_that_are_named_count_as_content(
    tmp_path: Path, pictures: list[bytes], picture: Callable[..., bytes], paths: Callable[..., dict[str, str]]
) -> None:
    files = paths(structs=True)
    factory = DATASETS.factory("parquet")
    options = {"val": None, "cache": False, "image_column": "image", "label_column": "label", "root": None, **files}
    before = factory.fingerprint(options)
    parquet(files)
    (tmp_path / "pics" / "test-2.png").write_bytes(picture(99))
    after = factory.fingerprint(options)
    assert (before["train"], before["test"][0]) == (after["train"], after["test"][0])
    assert before["test"] != after["test"]
    expected = decoded([*pictures[8:10], picture(99), pictures[11]])
    assert torch.equal(pixels(parquet(files, **PLAIN), "test"), expected)


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(
    tmp_path: Path, paths: Callable[..., dict[str, str]]
) -> None:
    files = paths(structs=False)
    (tmp_path / "pics" / "train-3.png").unlink()
    os.mkfifo(tmp_path / "pics" / "train-3.png")
    assert parquet(files, skip_broken=True).skipped == 1


def test_columns_of_one_name_and_names_with_dots(tmp_path: Path, pictures: list[bytes]) -> None:
    column, file = pa.array(pictures[:4]), str(tmp_path / "a.parquet")
    pq.write_table(pa.table([column, pa.array([0, 1] * 2), pa.array([1, 1] * 2)], ["image", "label", "label"]), file)
    with pytest.raises(UserError, match=r"a.parquet has 2 columns 'label' \(data.label_column\)"):
        parquet({"train": file, "test": file})
    with pytest.raises(UserError, match=r"a.parquet has no column 'labl'; did you mean 'label'"):
        parquet({"train": file, "test": file}, label_column="labl")
    names = ["label.fine", "image", "label", "x", "x"]
    fine, label = pa.array([1, 1, 0, 0]), pa.array([0, 1, 0, 1])
    pq.write_table(pa.table([fine, column, label, label, fine], names), file)
    assert parquet({"train": file, "test": file}).train_labels.tolist() == [0, 1, 0, 1]
    assert parquet({"train": file, "test": file}, label_column="label.fine").train_labels.tolist() == [1, 1, 0, 0]


def test_files_given_more_than_once_are_told(files: dict[str, str]) -> None:
    (note,) = parquet({"train": [files["train"], files["train"]], "test": files["train"]}, cache=False).notes
    assert note == "files are given more than once: train.parquet (in data.train and data.train and data.test)"


def test_one_of_several_files_is_wrong(tmp_path: Path, files: dict[str, str], pictures: list[bytes]) -> None:
    write(tmp_path / "train-2.parquet", pictures[:2], [0, 1], label="y")
    pattern = {**files, "train": str(tmp_path / "train*.parquet")}
    with pytest.raises(UserError, match=r"train-2.parquet has no column 'label'"):
        parquet(pattern)
    write(tmp_path / "train-2.parquet", pictures[:2], ["a", "b"])
    with pytest.raises(
        UserError, match=r"column 'label' is of another type in .*train-2.parquet than in .*train.parquet"
    ):
        parquet(pattern)
    write(tmp_path / "train-2.parquet", pictures[:4], [0, 1, None, 1])
    with pytest.raises(UserError, match=r"row 2 of .*train-2.parquet: column 'label' is empty"):
        parquet(pattern)
    write(tmp_path / "train-2.parquet", [], pa.array([], pa.int64()), structs=False)
    assert len(parquet(pattern).train_labels) == 8


def test_texts_that_are_not_utf8(tmp_path: Path, files: dict[str, str], pictures: list[bytes]) -> None:
    bad = pa.array([b"\xff\xfe", b"a"])
    texts = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
    write(tmp_path / "train.parquet", pictures[:2], texts)
    with pytest.raises(UserError, match=r"column 'label' of .*train.parquet cannot be read \(UnicodeDecodeError"):
        parquet(files)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["info", "label", "names"]), inner),
    max_leaves=8,
)
any_metadata = st.one_of(
    st.binary(),
    json_values.map(json.dumps),
    json_values.map(lambda value: json.dumps({"info": value})),
    json_values.map(lambda value: json.dumps({"info": {"features": value}})),
    json_values.map(lambda value: json.dumps({"info": {"features": {"label": value}}})),
    json_values.map(lambda value: json.dumps(named(value))),
    st.lists(st.text(), max_size=4).map(lambda value: json.dumps(named(value))),
)


@example(["[" * 100_000, '{"info": ' + "9" * 5_000 + "}"])
@example([json.dumps(named(None)), json.dumps(named(["\ud800", "\n"]))])
@given(st.lists(any_metadata, min_size=2, max_size=2))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_metadata(tmp_path: Path, pictures: list[bytes], metadata: list[Any]) -> None:
    files = {}
    for split, known in zip(("train", "test"), metadata, strict=True):
        table = pa.table({"image": pictures[:2], "label": [0, 1]}).replace_schema_metadata({"huggingface": known})
        files[split] = str(tmp_path / f"{split}.parquet")
        pq.write_table(table, files[split])
    try:
        data = parquet(files, cache=False)
    except UserError as error:
        message = str(error)
    else:
        message = "".join(data.notes)
        assert data.train_labels.tolist() == [0, 1]
    assert "\n" not in message
    message.encode()


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason="needs CIFAR-10 as Parquet beside the project")
def test_cifar10(tmp_path: Path) -> None:
    files = {split: str(CIFAR / f"{split}.parquet") for split in ("train", "test")}
    data = parquet(files, image_column="img", cache=str(tmp_path))
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert (data.image_size, data.splits) == (32, ("train", "test"))
    images = next(data.eval_batches("test", 10_000, "cpu")).images
    assert images.mean((0, 2, 3)).abs().max() < 0.02
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.02
