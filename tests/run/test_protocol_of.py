"""The protocol of a run is read off its resolved config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from graphkd.run import parse
from graphkd.run.parse import parse_teacher
from graphkd.run.records import protocol_of
from graphkd_cli.compose import compose


def protocol(*words: str, views: Sequence[str] = ("weak",)) -> str:
    return str(protocol_of(parse(compose(words).config), views))


@pytest.mark.parametrize(
    ("words", "views", "expected"),
    [
        (["trainer=digits"], "weak", "150 epochs, batch 64, 1 view, crop, own teacher, last epoch"),
        (["experiment=table1"], "weak", "240 epochs, batch 64, 1 view, crop+flip, own teacher, last epoch"),
        (["experiment=strong", "objective=kd"], "weak",
         "480 epochs, batch 64, 1 view, crop+flip, own teacher, last epoch"),
        (["objective=ce", "trainer.batch_size=32", "trainer.epochs=1", "data.padding=0"], "weak",
         "1 epoch, batch 32, 1 view, no augmentation, no teacher, last epoch"),
        (["experiment=strong", "objective=kd_views"], "weak strong",
         "480 epochs, batch 64, 2 views, crop+flip, strong view RandAugment(2, 10), own teacher, last epoch"),
        (["experiment=table1", "objective=hkd", "builder=virtual"], "weak strong",
         "240 epochs, batch 64, 2 views, crop+flip, strong view RandAugment(2, 10), own teacher, last epoch"),
        (["objective=sskd", "trainer=digits"], "weak rotated_90 rotated_180 rotated_270",
         "150 epochs, batch 64, 4 views, crop, own teacher, last epoch"),
        (["experiment=table1", "trainer.samples_per_class=8"], "weak",
         "240 epochs, batch 64, in groups of 8 of a class, 1 view, crop+flip, own teacher, last epoch"),
        (["experiment=table1", "data.rand_augment=2", "data.cutout=8"], "weak",
         "240 epochs, batch 64, 1 view, crop+flip+RandAugment(2, 9)+cutout, own teacher, last epoch"),
    ],
)  # fmt: skip
def test_a_students(words: Sequence[str], views: str, expected: str) -> None:
    assert protocol(*words, views=views.split()) == expected


def test_a_teacher_from_a_file_is_not_graphkds_own_but_one_from_a_run_is(tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    torch.save({}, file)
    assert "teacher from a file" in protocol(f"teacher.checkpoint={file}")
    (tmp_path / "record.json").write_text("{}")
    assert "own teacher" in protocol(f"teacher.checkpoint={file}")


def test_a_teachers_own_has_none() -> None:
    found = protocol_of(parse_teacher(compose(["experiment=table1"]).config), ["weak"])
    assert str(found) == "240 epochs, batch 64, 1 view, crop+flip, no teacher, last epoch"


def test_the_strong_protocol_has_the_teachers_of_table_1_and_spares_slow_learners() -> None:
    strong, table1 = (
        parse(compose([f"experiment={name}", "pair=resnet32x4_ShuffleV2"]).config) for name in ("strong", "table1")
    )
    assert strong.teacher is not None
    assert table1.teacher is not None
    assert strong.teacher.identity == table1.teacher.identity
    assert (strong.trainer.epochs, strong.trainer.lr) == (480, 0.01)
    usual = parse(compose(["experiment=strong", "pair=vgg13_vgg8"]).config)
    assert (usual.trainer.epochs, usual.trainer.lr) == (480, 0.025)
