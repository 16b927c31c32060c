"""Distillation from Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphkd.data import Dataset
from graphkd.engine.callback import Callback, History
from graphkd.engine.evaluate import Evaluation
from graphkd.engine.trainer import Trainer
from graphkd.errors import check
from graphkd.model import Network, output_shapes
from graphkd.objective import Objective, WeightedSum
from graphkd.objective.base import Setting
from graphkd.objective.weighted_sum import Weight


@dataclass(frozen=True)
class Result:
    """A distilled student.

    Attributes:
        student: The network with its last weights, in eval mode, on the training device.
        history: Figures of every epoch.
        test: Figures on the test split after the last epoch.
    """

    student: Network
    history: History
    test: Evaluation


def distill(
    teacher: Network | None, student: Network, data: Dataset,
    objective: Objective | WeightedSum | Mapping[str, tuple[Objective, Weight]], *,
    trainer: Trainer | None = None, seed: int = 0, callback: Callback | None = None,
) -> Result:  # fmt: skip
    """Distil a trained teacher into a student, with the trainer of the commands.

    Args:
        teacher: A trained network, which is frozen; None if the objective needs none.
        student: The network to train, in place, from its present weights.
        data: Data to train and test on.
        objective: One objective (weight 1), or several with weights by name.
        trainer: Epochs, learning rate and so on; by default the CRD benchmark's 240 epochs.
        seed: Seed of the sample order, augmentation and the objective's draws.
        callback: Callback of the training.

    Raises:
        UserError: The objective needs a teacher and there is none, it does not fit the data or the batch size, the
            student is frozen or does not fit the data, or the device is missing.
    """
    if isinstance(objective, Objective):
        objective = {objective.name or type(objective).__name__.lower(): (objective, 1.0)}
    if not isinstance(objective, WeightedSum):
        objective = WeightedSum(objective)
    classes = output_shapes(student, data.in_channels, data.image_size).num_classes
    check(classes == data.num_classes, f"the student has {classes} classes, but the data have {data.num_classes}")
    trainer, callback = trainer or Trainer(), callback or Callback()
    setting = Setting(data.train_labels, data.num_classes, trainer.batch_size, trainer.processes)
    objective.check(setting)
    for note in objective.notes(setting):
        callback.note(note)
    history = trainer.fit(student, objective, data, teacher=teacher, seed=seed, callback=callback)
    test = history.epochs[-1].test
    assert test is not None, "the last epoch is always evaluated"
    return Result(student, history, test)
