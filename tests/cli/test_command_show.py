from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import Command, students, top

from graphkd.run import parse, run
from graphkd_cli.compose import compose

PICTURES = {f"{name}.{kind}" for name in ("graphs", "relations", "embeddings", "training") for kind in ("png", "svg")}


@pytest.fixture(scope="module")
def made(tiny_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one student, for the tests to copy."""
    words = [*tiny_words, "objective=hkd_kd", "objective.hkd.builder=label_aware", "trainer.epochs=3"]
    results = tmp_path_factory.mktemp("made") / "results"
    run(parse({**compose(words).config, "results": str(results)}))
    return results.rename(results.with_name("moved"))  # so that each copy's teacher is its own


@pytest.fixture
def run_folder(made: Path, folder: Path) -> Path:
    shutil.copytree(made, folder / "results")
    (place,) = students(folder)
    return place


def test_a_run_is_told_and_drawn(command: Command, run_folder: Path) -> None:
    answer = command("show", str(run_folder))
    assert (answer.code, answer.err) == (0, "")
    assert "1.0 ce + 1.0 kd + 3.0 hkd" in answer.out
    assert "│ label_aware" in answer.out, "the builder of the term"
    assert "knn (k=8" not in answer.out
    for curve in ("train top-1 (%)", "test top-1 (%)", "hkd.holistic", "hkd.teacher_homophily"):
        assert f"│ {curve} " in answer.out
    assert top(run_folder / "pictures") == PICTURES


def test_the_teacher_data_and_options_are_the_users(command: Command, run_folder: Path, folder: Path) -> None:
    answer = command("show", "data.train_fraction=0.5", str(run_folder), "--classes", "3", "--out", "here")
    assert answer.code == 0
    assert top(folder / "here") == PICTURES
    shutil.rmtree(folder / "results" / "teachers")
    answer = command("show", str(run_folder))
    assert answer.code == 2
    assert "the run's teacher is no longer in" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which run? Name one folder"),
        (["a", "b"], "which run? Name one folder"),
        (["nowhere"], "nowhere holds no run"),
        (["nowhere", "--clases", "3"], "unrecognized arguments: --clases 3; did you mean '--classes'?"),
        (["nowhere", "builder=knn"], "a run has its own builder; override only data"),
        (["nowhere", "--out", ""], "--out is ''"),
    ],
)
def test_what_cannot_be_is_told(command: Command, words: list[str], message: str) -> None:
    answer = command("show", *words)
    assert answer.code == 2
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_folder_of_runs_is_refused_with_the_newest(command: Command, run_folder: Path) -> None:
    above = run_folder.parent
    answer = command("show", str(above))
    assert answer.code == 2
    assert f"{above} holds no run (it has no record.json); the newest below it is {run_folder}" in answer.err


def test_a_teachers_run_and_one_class_are_refused(command: Command, run_folder: Path, folder: Path) -> None:
    (teacher,) = (folder / "results" / "teachers").rglob("seed-*")
    answer = command("show", str(teacher))
    assert (answer.code, answer.out) == (2, "")
    assert "give the folder of a student's" in answer.err
    answer = command("show", str(run_folder), "--classes", "1")
    assert (answer.code, answer.out) == (2, "")
    assert "--classes is 1, but must be at least 2" in answer.err


def test_metrics_that_are_broken_are_named(command: Command, run_folder: Path) -> None:
    (run_folder / "metrics.jsonl").write_text("{")
    answer = command("show", str(run_folder))
    assert (answer.code, answer.out) == (2, "")
    assert "metrics.jsonl cannot be read" in answer.err
