"""Rehearse a run's first step, so that what fails there does not wait for the training of a teacher."""

from __future__ import annotations

import dataclasses

from graphkd.data import Dataset
from graphkd.engine.callback import Callback, History
from graphkd.engine.feed import Feed
from graphkd.engine.loop import TrainingLoop
from graphkd.engine.together import train_together
from graphkd.run.folder import is_done
from graphkd.run.spec import RunSpec


class _Rehearsed(Exception):  # noqa: N818
    """The first step is done."""


class _OneStep(Callback):
    def step(self) -> None:
        raise _Rehearsed


def waits_for_teacher(spec: RunSpec) -> bool:
    """Return whether a teacher is trained before this run."""
    teacher = spec.teacher
    if teacher is None or teacher.checkpoint is not None:
        return False
    return not is_done(teacher.folder, teacher.identity, teacher.seed)


def rehearse(spec: RunSpec, dataset: Dataset) -> None:
    """Take the first step of a run beside its untrained teacher, on parts that are then thrown away.

    A builder, encoder or objective of the user's own may fail only when it sees a batch. One device takes the step,
    without compiling.

    Raises:
        UserError: Parts do not fit together. Whatever else a part raises is raised too.
    """
    trainer = dataclasses.replace(spec.trainer, devices=1, nodes=1, compile=False)
    built = spec.build(dataset)
    data = spec.training_data(dataset, built)
    fabric = trainer.fabric()
    loop = TrainingLoop(
        trainer, fabric, built.network, built.objective, data, teacher=built.teacher, seed=spec.seed,
        callback=_OneStep(),
    )  # fmt: skip
    outcomes: list[History | Exception] = []
    feed = Feed(trainer, fabric, data, built.teacher, spec.seed)
    train_together([loop], feed, lambda _, outcome: outcomes.append(outcome))
    (outcome,) = outcomes
    if isinstance(outcome, Exception) and not isinstance(outcome, _Rehearsed):
        raise outcome
