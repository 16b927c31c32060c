from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import graphkd
from graphkd import MODELS, OBJECTIVES, Trainer, UserError, WeightedSum
from graphkd.data import Dataset
from graphkd.data.tensor import Split, TensorDataset
from graphkd.engine.evaluate import evaluate
from graphkd.model import Network, output_shapes
from graphkd.objective import Objective
from graphkd.objective.base import Setting
from graphkd.objective.ce import CrossEntropy

MakeNetwork = Callable[..., Network]
MakeTrainer = Callable[..., Trainer]


@pytest.mark.parametrize("form", ["alone", "mapping", "sum"])
def test_takes_an_objective_in_each_form(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, form: str
) -> None:
    kd = OBJECTIVES.build("kd", temperature=2)
    forms: dict[str, Any] = {"alone": kd, "mapping": {"kd": (kd, 1.0)}, "sum": WeightedSum({"kd": (kd, 1.0)})}
    teacher, student = network(1), network(0)
    result = graphkd.distill(teacher, student, digits, forms[form], trainer=trainer(), seed=5)
    expected = network(0)
    trainer().fit(expected, WeightedSum({"kd": (kd, 1.0)}), digits, teacher=network(1), seed=5)
    assert result.student is student
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), expected.parameters(), strict=True))
    assert result.history.epochs[-1].terms.keys() == {"kd"}
    assert result.test == evaluate(student, digits, teacher=teacher)


def test_several_terms_have_weights_of_their_own(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    objective: dict[str, tuple[Objective, float]] = {
        "ce": (OBJECTIVES.build("ce"), 0.1), "soft": (OBJECTIVES.build("kd"), 0.9),
    }  # fmt: skip
    last = graphkd.distill(network(1), network(), digits, objective, trainer=trainer()).history.epochs[-1]
    assert last.terms.keys() == {"ce", "soft"}
    assert last.total == pytest.approx(sum(term["weighted"] for term in last.terms.values()), rel=1e-5)


def test_without_a_teacher_where_none_is_needed(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    result = graphkd.distill(None, network(), digits, OBJECTIVES.build("ce"), trainer=trainer())
    assert result.test.agreement is None


def test_an_objective_that_needs_a_teacher_gets_one_or_says_so(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer
) -> None:
    with pytest.raises(UserError, match="needs a teacher"):
        graphkd.distill(None, network(), digits, OBJECTIVES.build("kd"), trainer=trainer())


@pytest.mark.parametrize("name", ["kd", "dkd", "mlkd", "skd", "wttm"])
def test_a_teacher_of_other_classes_is_refused_where_logits_are_compared(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer, name: str
) -> None:
    teacher, objective = MODELS.build("resnet8", num_classes=7, in_channels=1), OBJECTIVES.build(name)
    expected = (
        rf"objective.{name}: {type(objective).__name__} cannot compare a teacher of 7 classes with a student of 10 "
    )
    with pytest.raises(UserError, match=expected):
        graphkd.distill(teacher, network(), digits, objective, trainer=trainer())


def test_a_teacher_of_other_classes_can_teach_what_is_not_logits(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer
) -> None:
    teacher = MODELS.build("resnet8", num_classes=7, in_channels=1)
    result = graphkd.distill(teacher, network(), digits, OBJECTIVES.build("sp"), trainer=trainer(epochs=1))
    assert result.history.epochs[-1].terms["sp"]["raw"] > 0


def test_a_frozen_student_is_refused(digits: Dataset, network: MakeNetwork, trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match="the student has no parameter to train: all are frozen"):
        graphkd.distill(None, network().requires_grad_(False), digits, OBJECTIVES.build("ce"), trainer=trainer())


@pytest.mark.parametrize("views", [["weak"], ["weak", "strong"]])
def test_a_stage_of_one_view_cannot_train_on_a_single_sample(views: list[str], trainer: MakeTrainer) -> None:
    """33 samples in batches of 16: the last one has a single sample, with two views everywhere but in AB's stage."""
    images = torch.zeros(33, 1, 4, 4, dtype=torch.uint8)
    labels = torch.arange(33) % 3
    data = TensorDataset({split: Split(images, labels) for split in ("train", "test")}, "abc", [0.5], [0.5])
    student, teacher = (MODELS.build("resnet8", num_classes=3, in_channels=1, widths=[2, 2, 4, 4]) for _ in range(2))
    shapes = output_shapes(student, 1, 4).features
    ab = OBJECTIVES.build("ab", student_shapes=shapes, teacher_shapes=shapes, stage_epochs=1)
    objective = {"ce": (OBJECTIVES.build("ce", views=views), 1.0), "ab": (ab, 1.0)}
    with pytest.raises(UserError, match="one has a single sample"):
        graphkd.distill(teacher, student, data, objective, trainer=trainer(batch_size=16))


def test_an_objective_that_cannot_run_in_the_setting_says_so(
    digits: Dataset, network: MakeNetwork, trainer: MakeTrainer
) -> None:
    class Demanding(CrossEntropy):
        def check(self, setting: Setting) -> None:
            raise UserError(f"a batch of {setting.batch_size} is too small")

    with pytest.raises(UserError, match="a batch of 64 is too small"):
        graphkd.distill(None, network(), digits, Demanding(), trainer=trainer(batch_size=64))
