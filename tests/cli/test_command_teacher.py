from __future__ import annotations

from pathlib import Path

from commands import Command, students, top


def test_trains_the_teacher_that_a_run_would_train(command: Command, folder: Path, tiny_words: list[str]) -> None:
    code, out, err = command("teacher", *tiny_words)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("teacher resnet8 seed 0: epoch 1/1 train ")
    assert out.splitlines()[1] == "resnet8, seed 0 (resnet8->resnet8)"
    (place,) = (folder / "results" / "teachers").glob("*/*/seed-0")
    assert str(place.relative_to(folder)) in out
    assert students(folder) == {}
    ran = command("run", *tiny_words, "gnn=none").out
    assert "training it first" not in ran
    assert f"from {place.relative_to(folder)}" in ran


def test_a_trained_teacher_says_so(command: Command, folder: Path, tiny_words: list[str]) -> None:
    first = command("teacher", *tiny_words).out
    again = command("teacher", *tiny_words, "objective=ce").out
    assert again.splitlines()[0] == "This teacher is already trained (force=true trains it again)."
    assert again.splitlines()[1:] == first.splitlines()[1:]
    assert "already trained" not in command("teacher", *tiny_words, "force=true").out


def test_its_seed_and_training_are_its_own(command: Command, folder: Path, tiny_words: list[str]) -> None:
    for words in ([], ["teacher.seed=1"], ["teacher_trainer.lr=0.1"], ["trainer.lr=0.2"]):
        assert command("teacher", *tiny_words, *words).code == 0
    places = list((folder / "results" / "teachers").glob("*/*/seed-*"))
    assert len(places) == 3
    assert len({place.parent for place in places}) == 2


def test_a_teacher_from_a_file_is_not_trained(command: Command, folder: Path, tiny_words: list[str]) -> None:
    (folder / "mine.pth").write_bytes(b"")
    code, out, err = command("teacher", *tiny_words, "teacher.checkpoint=mine.pth")
    assert (code, out) == (2, "")
    assert err == "graphkd: teacher.checkpoint is given, so there is no teacher to train\n"
    assert top(folder) == {"mine.pth"}
