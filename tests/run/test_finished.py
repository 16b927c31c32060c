from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import graphkd
from graphkd import DATASETS, UserError
from graphkd.data import DatasetInfo, Split, TensorDataset
from graphkd.engine.evaluate import evaluate
from graphkd.model.complexity import complexity
from graphkd.run import RunResult, parse, parse_teacher, run
from graphkd.run.finished import check_fits, student_complexity

Config = Callable[..., dict[str, Any]]
NAMES = ("cat", "dog", "owl")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Coloured squares in folders, in the working directory."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(NAMES):
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 120, (8, 8, 3)).astype(np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(place / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def finished(tiny_config: Config, photos: Path) -> RunResult:
    """A run on the photos, named by a relative path."""
    data = {"name": "folder", "root": "photos", "cache": False}
    return run(parse(tiny_config({"objective": {"ce": {"name": "ce"}}, "data": data})))


def test_a_run_comes_back_without_its_data_from_anywhere(
    finished: RunResult, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = graphkd.load(finished.folder)
    (batch,) = before.dataset.eval_batches("test", 99, "cpu")
    own = before.dataset.info
    shutil.move(photos, tmp_path / "moved")
    monkeypatch.chdir("/")
    after = graphkd.load(finished.folder)
    assert after.info == own
    assert after.info.class_names == NAMES
    assert (after.info.num_classes, after.info.in_channels, after.info.image_size) == (3, 3, 8)
    with torch.no_grad():
        assert torch.equal(after.student(batch.images).logits, before.student(batch.images).logits)
    with pytest.raises(UserError, match=f"data.root: there is no folder {photos}"):
        _ = after.dataset
    found = graphkd.load(finished.folder, data={"root": str(tmp_path / "moved")})
    assert evaluate(found.student, found.dataset).top1 == finished.record.metrics.test_top1_last


def test_its_data_are_found_from_another_working_directory(
    finished: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    found = graphkd.load(finished.folder)
    assert evaluate(found.student, found.dataset).top1 == finished.record.metrics.test_top1_last
    assert found.dataset is found.dataset


def test_other_images_are_normalised_as_its_own_were(finished: RunResult, photos: Path) -> None:
    for file in photos.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    own, again = (graphkd.load(finished.folder, data=data) for data in (None, {"root": "photos"}))
    assert own.info.mean == own.dataset.mean == again.dataset.mean
    assert DATASETS.build("folder", root="photos", cache=False).mean != own.info.mean
    given = graphkd.load(finished.folder, data={"mean": [0.5, 0.5, 0.5]})
    assert (given.dataset.mean, given.dataset.std) == ((0.5, 0.5, 0.5), own.info.std)


def test_options_change_its_own_data_and_a_name_replaces_them(tiny_config: Config) -> None:
    data = {"name": "digits", "classes": [0, 1, 2], "val_fraction": 0.1}
    result = run(parse(tiny_config({"objective": {"ce": {"name": "ce"}}, "data": data})))
    names = {
        "own": graphkd.load(result.folder).dataset,
        "options": graphkd.load(result.folder, data={"split_seed": 1}).dataset,
        "name": graphkd.load(result.folder, data={"name": "digits", "split_seed": 1}).dataset,
    }
    assert {key: dataset.num_classes for key, dataset in names.items()} == {"own": 3, "options": 3, "name": 10}
    assert not torch.equal(names["own"].train_labels, names["options"].train_labels)
    with pytest.raises(UserError, match="has no option 'split_sed'; did you mean 'split_seed'"):
        graphkd.load(result.folder, data={"split_sed": 1})


def test_a_teachers_folder_keeps_the_same(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(parse_teacher(tiny_config()))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it reads the data")

    monkeypatch.setattr("graphkd.data.digits._load", refuse)
    assert graphkd.load(result.folder).info.class_names == tuple("0123456789")


@pytest.mark.parametrize("folder", [None, "study/pair/variant/0123/seed-0"])
def test_its_teacher_is_found_where_the_results_have_moved_to(
    tiny_config: Config, tmp_path: Path, folder: str | None
) -> None:
    place = None if folder is None else str(tmp_path / "results" / folder)
    result = run(parse(tiny_config({"run_dir": place})))
    moved = (tmp_path / "results").rename(tmp_path / "elsewhere")
    loaded = graphkd.load(moved / result.folder.relative_to(tmp_path / "results"))
    assert loaded.teacher is not None
    assert loaded.record.teacher is not None
    assert evaluate(loaded.teacher, loaded.dataset).top1 == loaded.record.teacher.accuracy


def test_its_teacher_is_found_from_any_folder_where_the_run_lies_elsewhere(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    result = run(parse(tiny_config({"results": "results", "run_dir": str(tmp_path / "scratch" / "run")})))
    monkeypatch.chdir(tmp_path)
    assert graphkd.load(result.folder).teacher is not None


def test_another_teacher_in_the_same_file_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    for seed in (0, 1):
        trained = run(parse_teacher(tiny_config({"teacher.seed": seed})))
        shutil.copy(trained.folder / file.name, file)
        if seed == 0:
            result = run(parse(tiny_config({"teacher.checkpoint": str(file)})))
            assert graphkd.load(result.folder).teacher is not None
    with pytest.raises(UserError, match=r"teacher\.safetensors holds another teacher than the run's$"):
        _ = graphkd.load(result.folder).teacher


def test_a_folder_of_an_older_graphkd_stays_readable(finished: RunResult) -> None:
    kept = graphkd.load(finished.folder).info
    (finished.folder / "data.json").unlink()
    old = graphkd.load(finished.folder)
    assert old.info == kept
    assert old.dataset.info == kept


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"class_names": 3}', "[" * 100_000, '{"class_names": ["a"]}'])
def test_what_was_altered_is_told(finished: RunResult, content: str) -> None:
    (finished.folder / "data.json").write_text(content)
    with pytest.raises(UserError, match=r"data\.json cannot be read"):
        graphkd.load(finished.folder)


def test_later_fields_are_ignored(finished: RunResult) -> None:
    path = finished.folder / "data.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue"}))
    assert graphkd.load(finished.folder).info.class_names == NAMES


def images(names: tuple[str, ...], channels: int = 3, size: int = 8) -> TensorDataset:
    count = len(names)
    split = Split(torch.zeros(count, channels, size, size, dtype=torch.uint8), torch.arange(count))
    return TensorDataset({"train": split, "test": split}, names, [0.5] * channels, [0.5] * channels)


def test_a_students_cost_needs_neither_its_data_nor_its_weights(finished: RunResult, photos: Path) -> None:
    expected = complexity(graphkd.load(finished.folder).student, 3, 8)
    shutil.rmtree(photos)
    (finished.folder / "student.safetensors").unlink()
    assert student_complexity(finished.folder) == expected
    (finished.folder / "data.json").unlink()
    with pytest.raises(UserError, match=r"has no data\.json"):
        student_complexity(finished.folder)


def test_what_does_not_fit_its_network_is_told(finished: RunResult) -> None:
    loaded = graphkd.load(finished.folder)
    assert check_fits(loaded, images(NAMES), "R") is None
    assert check_fits(loaded, images(NAMES, size=16), "R") is None
    note = check_fits(loaded, images(("cat", "hound", "owl")), "R")
    assert note == (
        "the classes have other names: class 1 is 'dog' to the network in R, but 'hound' in the data;"
        " they are matched by position"
    )
    for data, message in (
        (images(NAMES, channels=1), "the network in R takes images of 3 channels, but the data has 1"),
        (images((*NAMES, "yak")), "the network in R has 3 classes, but the data has 4"),
        (images(("owl", "dog", "cat")), "in another order: class 0 is 'cat' to the network in R, but 'owl' in the"),
    ):
        with pytest.raises(UserError, match=message):
            check_fits(loaded, data, "R")


def test_a_data_set_that_does_not_say_how_it_normalises_is_kept_so() -> None:
    info = DatasetInfo(("a", "b"), 1, 8)
    assert (info.mean, info.std, info.num_classes) == (None, None, 2)
