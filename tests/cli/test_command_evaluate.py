from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import Answer, Command, students

import graphkd
from graphkd.engine.evaluate import evaluate

STUDENT = "student={name: resnet8, widths: [2, 2, 4, 4]}"
TEACHER = "teacher={name: resnet8, widths: [2, 2, 4, 4]}"
AGREEMENT = "agreement with the teacher (%)"


def figures(answer: Answer) -> dict[str, float]:
    """The numbers in a printed table."""
    assert (answer.code, answer.err) == (0, "")
    return {name.strip(): float(value) for name, value in re.findall(r"│ (.+?) │ ([\d.]+) ", answer.out)}


def without_teacher(answer: Answer) -> dict[str, float]:
    """The figures but for the agreement, which only a run's folder has by itself."""
    return {name: value for name, value in figures(answer).items() if name != AGREEMENT}


@pytest.fixture
def run_folder(command: Command, folder: Path, tiny_words: list[str]) -> Path:
    assert command("run", *tiny_words, "objective=kd", "trainer.epochs=3").code == 0
    (place,) = students(folder)
    return place


@pytest.fixture
def teacher_file(run_folder: Path, folder: Path) -> Path:
    (weights,) = (folder / "results" / "teachers").rglob("teacher.safetensors")
    return weights


def test_a_runs_figures_are_those_of_its_record(command: Command, folder: Path, run_folder: Path) -> None:
    metrics = students(folder)[run_folder].metrics
    answer = command("evaluate", str(run_folder))
    assert figures(answer) == pytest.approx(
        {
            "top-1 (%)": metrics.test_top1_last,
            "top-5 (%)": metrics.test_top5_last,
            "negative log-likelihood": metrics.test_nll_last,
            AGREEMENT: metrics.agreement_last,
        },
        abs=6e-3,
    )
    assert answer.out.splitlines()[0] == f"{run_folder} on test (359 samples)"


def test_a_run_whose_teacher_is_gone_is_not_compared(command: Command, run_folder: Path, teacher_file: Path) -> None:
    before = without_teacher(command("evaluate", str(run_folder)))
    teacher_file.unlink()
    answer = command("evaluate", str(run_folder))
    assert "the run's teacher is no longer in" in " ".join(answer.out.split())
    assert figures(answer) == before


def test_a_file_of_weights_has_the_same_figures(command: Command, run_folder: Path) -> None:
    weights = str(run_folder / "student.safetensors")
    assert figures(command("evaluate", weights, STUDENT)) == without_teacher(command("evaluate", str(run_folder)))
    assert figures(command("evaluate", STUDENT, "--split", "test", weights)) == figures(
        command("evaluate", weights, STUDENT)
    )


def test_a_file_of_the_benchmark_can_be_checked(command: Command, folder: Path, teacher_file: Path) -> None:
    state = safetensors.torch.load_file(teacher_file)
    torch.save({"epoch": 240, "model": state, "accuracy": 1.0, "optimizer": {}}, folder / "ckpt_epoch_240.pth")
    found = figures(command("evaluate", "ckpt_epoch_240.pth", STUDENT))
    assert found == figures(command("evaluate", str(teacher_file.parent)))


def test_agreement_with_a_teacher(command: Command, folder: Path, run_folder: Path, teacher_file: Path) -> None:
    teacher = [TEACHER, f"teacher.checkpoint={teacher_file}"]
    found = figures(command("evaluate", str(run_folder), *teacher))
    expected = students(folder)[run_folder].metrics.agreement_last
    assert found["agreement with the teacher (%)"] == pytest.approx(expected, abs=6e-3)
    alone = figures(command("evaluate", str(teacher_file), STUDENT, *teacher))
    assert alone["agreement with the teacher (%)"] == 100


def test_other_splits_and_other_data(command: Command, run_folder: Path) -> None:
    train = command("evaluate", str(run_folder), "--split", "train").out
    assert "on train (109 samples)" in train
    other = figures(command("evaluate", str(run_folder), "data.split_seed=1"))
    assert other != figures(command("evaluate", str(run_folder)))


def test_a_runs_folder_from_within(command: Command, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_folder)
    assert figures(command("evaluate", "."))


def test_changes_nothing(command: Command, folder: Path, run_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    figures(command("evaluate", str(run_folder)))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# On top of the run's own config


def test_an_option_of_data_changes_the_runs_own_data(command: Command, folder: Path, tiny_words: list[str]) -> None:
    words = ["objective=ce", "data.classes=[3,4]", "trainer.epochs=3", "data.val_fraction=0"]
    assert command("run", *tiny_words, *words).code == 0
    (place,) = students(folder)
    own, other = (figures(command("evaluate", str(place), *data)) for data in ([], ["data.split_seed=1"]))
    assert own["top-1 (%)"] == pytest.approx(students(folder)[place].metrics.test_top1_last, abs=6e-3)
    assert other != own
    loaded = graphkd.load(place, data={"split_seed": 1})
    assert other["top-1 (%)"] == pytest.approx(evaluate(loaded.student, loaded.dataset).top1, abs=6e-3)
    noted = command("evaluate", str(place), "data.classes=[4,9]")
    assert noted.out.startswith("the classes have other names: class 0 is '3' to the network")
    for words, message in (
        (["data=digits"], "has 2 classes, but the data has 10"),
        (["data.classes=[4,3]"], "the classes are in another order: class 0 is '3' to the network"),
        (["data.split_sed=1"], "did you mean 'split_seed'"),
        (["trainer.lr=1"], "a run has its own trainer"),
    ):
        answer = command("evaluate", str(place), *words)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert message in answer.err


def test_the_teacher_is_the_runs_own_unless_another_is_named(
    command: Command, folder: Path, run_folder: Path, teacher_file: Path
) -> None:
    named = figures(command("evaluate", str(run_folder), TEACHER, f"teacher.checkpoint={teacher_file}"))
    for place in (teacher_file, teacher_file.parent):  # a run's folder is a checkpoint too
        assert figures(command("evaluate", str(run_folder), f"teacher.checkpoint={place}")) == named
    itself = figures(command("evaluate", str(run_folder), f"teacher.checkpoint={run_folder}"))
    assert itself["agreement with the teacher (%)"] == 100


def test_what_is_left_out_of_a_files_names_is_shown(command: Command, folder: Path, run_folder: Path) -> None:
    state = safetensors.torch.load_file(run_folder / "student.safetensors")
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, folder / "lightning.ckpt")
    answer = command("evaluate", "lightning.ckpt", STUDENT)
    assert answer.out.startswith("lightning.ckpt: the prefix 'model.' of the tensor names was removed\n")
    assert figures(answer) == without_teacher(command("evaluate", str(run_folder)))
