from __future__ import annotations

import csv
from pathlib import Path

import pytest
from commands import Command, students, top
from PIL import Image

import graphkd


@pytest.fixture
def run_folder(command: Command, folder: Path, tiny_words: list[str]) -> str:
    assert command("run", *tiny_words, "objective=ce", "data.classes=[3,7,9]").code == 0
    (place,) = students(folder)
    return str(place.relative_to(folder))


@pytest.fixture
def images(folder: Path) -> list[str]:
    """Image files, and files that are none, in the order in which they are read."""
    (folder / "photos" / "more").mkdir(parents=True)
    names = ["photos/=a.png", "photos/b.jpg", "photos/more/c.png"]
    for shade, name in enumerate(names):
        Image.new("RGB", (20 + shade, 10), (80 * shade, 9, 200)).save(folder / name)
    (folder / "photos" / "notes.txt").write_text("no image")
    (folder / "photos" / ".hidden.png").write_text("no image")
    return names


def test_classes_of_files_and_folders_are_printed(command: Command, run_folder: str, images: list[str]) -> None:
    answer = command("predict", run_folder, "photos", images[1], "--top", "2")
    assert (answer.code, answer.err) == (0, "")
    rows = [line.split("│")[1:-1] for line in answer.out.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == [*images, images[1]]
    expected = graphkd.load(run_folder).predict([*images, images[1]])
    for row, shown in zip(rows, expected.top(2), strict=True):
        assert [cell.strip() for cell in row[1:]] == [f"{name} ({100 * value:.1f} %)" for name, value in shown]
    assert len(command("predict", run_folder, images[0]).out.splitlines()[3].split("│")) == 2 + 1 + 3


def test_a_file_holds_them_all(command: Command, folder: Path, run_folder: str, images: list[str]) -> None:
    words = ["predict", "--csv", "out/classes.csv", run_folder, "photos", "--top", "9"]
    answer = command(*words)
    assert (answer.code, answer.out, answer.err) == (0, "3 images: out/classes.csv\n", "")
    with (folder / "out" / "classes.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", *(f"{what}_{place}" for place in (1, 2, 3) for what in ("class", "probability"))]
    assert [row[0] for row in rows] == images
    expected = graphkd.load(run_folder).predict(images)
    assert [row[1] for row in rows] == expected.classes
    assert {name for row in rows for name in row[1::2]} == {"3", "7", "9"}
    for row in rows:
        assert sum(map(float, row[2::2])) == pytest.approx(1, abs=1e-5)
    assert command(*words).code == 2
    assert command(*words, "--force").code == 0
    assert top(folder / "out") == {"classes.csv"}


def test_broken_images_are_left_out_when_asked_to(
    command: Command, folder: Path, run_folder: str, images: list[str]
) -> None:
    (folder / images[1]).write_text("no image")
    answer = command("predict", run_folder, "photos", "--skip-broken", "--csv", "out.csv")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == ["2 images: out.csv", f"left out: {images[1]}: it is not an image"]
    with (folder / "out.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["image", images[0], images[2]]
    answer = command("predict", run_folder, images[1], "--skip-broken")
    assert (answer.code, answer.err) == (2, "graphkd: predict: the image is broken\n")


def test_what_is_wrong_is_one_line(command: Command, folder: Path, run_folder: str, images: list[str]) -> None:
    (folder / "empty").mkdir()
    before = top(folder)
    for words, message in (
        ([], "predict: which run, and which images?"),
        ([run_folder], "predict: which run, and which images?"),
        (["photos", "photos"], "photos holds no run"),
        ([run_folder, "nowhere.png"], "there is no image or folder nowhere.png"),
        ([run_folder, "empty"], "there is no image below empty"),
        ([run_folder, "photos/notes.txt"], "photos/notes.txt cannot be read: it is not an image"),
        ([run_folder, "photos", "--top", "0"], "--top is 0"),
        ([run_folder, "photos", "--csv", "empty"], "empty is a folder"),
        ([run_folder, "photos/notes.txt", "--csv", "out/x.csv"], "it is not an image"),
    ):
        answer = command("predict", *words)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), words
        assert message in answer.err
        assert top(folder) == before
