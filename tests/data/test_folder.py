"""Image folders, small ones in memory and large ones by worker processes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphkd.data import DATASETS, Batch, Dataset, content, image_files
from graphkd.data.images import decode_images
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


def empty(*folders: Path) -> None:
    """Removes the files of folders."""
    for path in folders:
        for file in path.iterdir():
            file.unlink()


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


def test_data_sets_can_share_a_cache(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counting(*arguments: Any) -> Any:
        made.append(arguments)
        return decode_images(*arguments)

    monkeypatch.setattr("graphkd.data.decoded.decode_images", counting)
    roots = [
        make_folder(tmp_path / name, {"train": {name: 3, "else": 2}, "test": {name: 1, "else": 1}})
        for name in ("cats", "dogs")
    ]
    for root in roots * 3:
        assert folder(root, cache=str(tmp_path / "cache")).class_names == (root.name, "else")
    assert len(made) == 4  # each split of both, once


def fingerprint(root: Path, **options: Any) -> dict[str, Any]:
    given = {"root": str(root), "train": "train", "test": "test", "val": None, "cache": True}
    return DATASETS.factory("folder").fingerprint({**given, **options})


def rewrite(files: Iterable[Path], change: Callable[[bytes], bytes]) -> None:
    """Puts other content into files, with their modification times kept."""
    for file in files:
        times = file.stat()
        file.write_bytes(change(file.read_bytes()))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def bitmaps(root: Path, value: int = 0) -> Path:
    """Images of one size in bytes, whatever they show."""
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                shown = Image.new("RGB", (8, 8), (value, 100 * label, index))
                shown.save(root / split / name / f"{index}.bmp")
    return root


def inverted(bitmap: bytes) -> bytes:
    """Of a bitmap with a header of 54 bytes."""
    return bitmap[:54] + bytes(255 - value for value in bitmap[54:])


@pytest.mark.parametrize("image_size", [None, 100])
def test_other_images_of_the_same_names_sizes_and_times_are_seen(tmp_path: Path, image_size: int | None) -> None:
    root = bitmaps(tmp_path / "root")
    options: dict[str, Any] = {"image_size": image_size, "workers": 0, **PLAIN}
    before, first = whole(folder(root, **options), "test").images, fingerprint(root)
    assert fingerprint(root) == first
    rewrite(root.rglob("*.bmp"), inverted)
    after = whole(folder(root, **options), "test").images
    assert torch.allclose(after, 1 - before, atol=1e-6)
    assert fingerprint(root) != first
    rewrite(root.rglob("*.bmp"), inverted)
    assert fingerprint(root) == first
    assert torch.equal(whole(folder(root, **options), "test").images, before)


def test_swapped_labels_are_seen(tmp_path: Path) -> None:
    root = bitmaps(tmp_path / "root")
    first, before = fingerprint(root), whole(folder(root, **PLAIN), "test").images
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "spare")
        (root / split / "dog").rename(root / split / "cat")
        (root / split / "spare").rename(root / split / "dog")
    assert fingerprint(root) != first
    assert torch.equal(whole(folder(root, **PLAIN), "test").images, before[[2, 3, 0, 1]])


@pytest.mark.parametrize("cache", [True, False])
def test_hashes_are_kept_with_the_data_or_made_each_time(root: Path, cache: bool) -> None:
    first = fingerprint(root, cache=cache)
    assert not list(root.glob("graphkd*"))
    folder(root, image_size=100, workers=0, cache=cache)
    assert len(list(root.glob("*.hashes.npy"))) == (2 if cache else 0)
    assert not list(root.glob(".graphkd*"))
    content._read.clear()
    assert fingerprint(root, cache=cache) == first


def test_an_empty_class_counts_in_the_fingerprint(root: Path) -> None:
    first = fingerprint(root)
    (root / "train" / "ant").mkdir()
    assert fingerprint(root) != first


def test_fingerprint_follows_names_not_place(root: Path) -> None:
    factory = DATASETS.factory("folder")
    options = {"root": str(root), "train": "train", "test": "test", "val": None, "cache": True}
    first = factory.fingerprint(options)
    moved = root.rename(root.parent / "moved")
    (moved / "train").rename(moved / "training")
    options = {**options, "root": str(moved), "train": "training"}
    assert factory.fingerprint(options) == first
    (moved / "training" / "cat" / "0.png").rename(moved / "training" / "dog" / "10.png")
    assert factory.fingerprint(options) != first
    assert {"root", "train", "test", "val", "cache", "workers"} == factory.NOT_IDENTITY


def test_what_tools_leave_is_left_out_and_counted(root: Path) -> None:
    cat = root / "train" / "cat"
    (cat / "deep").mkdir()
    (cat / "3.png").rename(cat / "deep" / "3.PNG")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails", "deep/.Trash"):
        (cat / name).mkdir()
        (cat / name / "0.png").write_bytes((cat / "0.png").read_bytes())
    for name in (".hidden", "lost+found", "@eaDir"):
        (root / "train" / name).mkdir()
        (root / "train" / name / "0.png").write_bytes((cat / "0.png").read_bytes())
    for name in ("notes.txt", "more.TXT", "._0.png", "Thumbs.db", ".DS_Store", "README"):
        (cat / name).touch()
    (root / "train" / "9.png").write_bytes((cat / "0.png").read_bytes())
    data = folder(root)
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0] * 4 + [1] * 6
    assert data.notes == (
        "left out 8 hidden folders, 3 hidden files, 1 image outside the folders of the classes, "
        "3 files of other kinds (.txt 2, no ending 1)",
    )
    assert folder(root).notes == data.notes  # from the cache


def test_all_that_pillow_reads_is_read(root: Path) -> None:
    for name in ("a.jfif", "b.gif", "c.WEBP", "d.pgm", "e.tif"):
        kind = {"a": "JPEG", "b": "GIF", "c": "WEBP", "d": "PPM", "e": "TIFF"}[name[0]]
        Image.linear_gradient("L").resize((8, 8)).save(root / "train" / "cat" / name, kind)
    assert folder(root).train_labels.tolist() == [0] * 9 + [1] * 6


def test_linked_folders_are_followed_each_once(root: Path, tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    elsewhere = make_folder(tmp_path / "more", {"x": {"y": 5}}) / "x" / "y"
    cat = root / "train" / "cat"
    (cat / "linked").symlink_to(elsewhere)
    (cat / "twice").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(elsewhere)
    (cat / "up").symlink_to("..")  # would make dogs cats
    (cat / "self").symlink_to(".")
    data = folder(root)
    assert data.train_labels.tolist() == [0] * 9 + [1] * 6
    assert data.notes == ("left out 4 links to folders that were read already",)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read all folders")
def test_a_folder_that_cannot_be_read_is_told(root: Path) -> None:
    (root / "train" / "cat" / "deep").mkdir(mode=0)
    with pytest.raises(UserError, match="deep cannot be read"):
        folder(root)


@pytest.mark.parametrize("image_size", [8, 100])
def test_turned_and_transparent_pictures_on_both_paths(root: Path, image_size: int) -> None:
    """What is stored turned, and with the picture in the alpha channel alone, is seen as it was."""
    options: dict[str, Any] = {"image_size": image_size, "workers": 0, **PLAIN}
    upright = whole(folder(root, **options), "test").images
    turned = Image.Exif()
    turned[0x0112] = 6
    for file in (root / "test").rglob("*.png"):
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file, exif=turned)
    assert torch.equal(whole(folder(root, **options), "test").images, upright)
    for file in root.rglob("*.png"):
        grey = Image.open(file).convert("L")
        Image.merge("LA", [Image.new("L", grey.size), grey]).save(file)
    black = folder(root, **options, background="black")
    white = folder(root, **options)
    assert ["of one colour" in note for note in black.notes] == [True] * (len(black.notes) or 1)
    assert len(black.notes) == (2 if image_size == 8 else 1)
    assert white.notes == ()
    assert float(whole(black, "test").images.abs().max()) == 0
    assert float(whole(white, "test").images.std()) > 0.01


def test_a_turned_photo_has_the_size_that_is_seen(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 8
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.linear_gradient("L").resize((4, 3)).save(tmp_path / split / name / "0.png", exif=turned)
    with pytest.raises(UserError, match=r"0.png is 3 x 4, but images must be square"):
        folder(tmp_path)
    Image.new("L", (97, 3)).save(tmp_path / "train" / "a" / "0.png", exif=turned)
    with pytest.raises(UserError, match=r"0.png is 3 x 97: images above 96 pixels"):
        folder(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_absurd_shape_is_refused_before_memory_goes(large: Path, workers: int) -> None:
    file = large / "test" / "cat" / "0.png"
    Image.new("1", (40_000, 1)).save(file)
    with pytest.raises(UserError, match=r"cat/0.png: it is 40000 x 1: one side is more than 100 times the other"):
        whole(folder(large, image_size=224, workers=workers), "test")
    with pytest.raises(UserError, match=r"cat/0.png: it is 40000 x 1: one side is more than 100 times the other"):
        folder(large, image_size=32)


def test_batches_of_workers_take_no_shared_memory(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", full)
    data = folder(large, image_size=100, workers=2)
    assert joined(data.train_batches(torch.arange(10), 4, 0, "cpu")).images.shape == (10, 3, 100, 100)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch tidies what it did not make
def test_workers_that_cannot_be_started_are_told_in_one_line(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.multiprocessing, "Queue", full)
    with pytest.raises(UserError, match=r"can be started \(OSError: .*No space left on device\): data.workers=0"):
        whole(folder(large, image_size=100, workers=1), "test")


@pytest.mark.skipif(sys.platform == "win32", reason="kills processes")
@pytest.mark.parametrize("when", ["waiting", "working"])
def test_a_worker_that_dies_is_told_in_one_line(large: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """While the main process waits for a batch, and while it does something else."""
    own = os.getpid()

    def dies(self: Any, index: int) -> Any:
        if os.getpid() != own and (when == "waiting" or index >= 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, index)

    original = image_files._Samples.__getitem__
    monkeypatch.setattr(image_files._Samples, "__getitem__", dies)
    batches = folder(large, image_size=100, workers=1).train_batches(torch.arange(10), 2, 0, "cpu")
    with pytest.raises(UserError, match=r"a process that decodes images died .*data.workers=0") as caught:
        [time.sleep(5) for _ in batches]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda root: (root / "train").rename(root / "trian"), {}, "no folder .*train; did you mean 'trian'"),
        (lambda root: (root / "test" / "dog").rename(root / "test" / "dgo"), {}, "test has dgo, which .*train lacks"),
        (
            lambda root: shutil.rmtree(root / "train" / "cat"),
            {},
            "test has cat, which .*train lacks or has no image of",
        ),
        (lambda root: empty(root / "train" / "cat"), {}, "test has cat, which .*train lacks or has no image of"),
        (lambda root: empty(root / "test" / "cat", root / "test" / "dog"), {}, "test is empty: no image in cat, dog"),
        (lambda root: empty(*root.glob("*/cat")), {}, "there is one class in .*train"),
        (lambda root: None, {"background": "nocolour"}, "background is 'nocolour', but must be a colour"),
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


@pytest.mark.parametrize("image_size", [8, 100])
@pytest.mark.parametrize("gone", [True, False])
def test_a_class_that_the_test_split_lacks_is_told(root: Path, image_size: int, gone: bool) -> None:
    empty(root / "test" / "dog")
    if gone:
        (root / "test" / "dog").rmdir()
    (root / "train" / "ant").mkdir()
    data = folder(root, image_size=image_size, workers=0)
    assert data.class_names == ("ant", "cat", "dog")
    assert data.train_labels.tolist() == [1] * 4 + [2] * 6
    assert whole(data, "test").labels.tolist() == [1, 1]
    assert data.notes == (
        "1 of 3 classes have no train image: ant",
        "1 of 3 classes have no test image: dog",
    )


@pytest.mark.parametrize("image_size", [None, 8, 100])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_refused_config_leaves_nothing_beside_the_data(root: Path, image_size: int | None, elsewhere: bool) -> None:
    (root / "test" / "dog" / "1.png").write_bytes(b"broken")
    before = sorted(root.parent.rglob("*"))
    cache = str(root.parent / "caches" / "deep") if elsewhere else True
    wrong: list[dict[str, Any]] = [{"test": None}, {"in_channels": 4}, {"mean": [0.5]}, {"background": "x"}]
    if image_size != 100:  # whose images are read later
        wrong.append({})
    for options in wrong:
        with pytest.raises(UserError):
            folder(root, cache=cache, **{"image_size": image_size, "workers": 0, **options})
    assert sorted(root.parent.rglob("*")) == before


def test_a_broken_image(root: Path) -> None:
    (root / "test" / "dog" / "1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken image: .*test/dog/1.png: it is not an image .*data.skip_broken"):
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
