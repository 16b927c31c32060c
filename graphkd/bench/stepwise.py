"""The engine's own training, a step at a time, and where its time goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack

from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.data import Batch, Dataset
from graphkd.engine.callback import Callback
from graphkd.engine.clock import Clock
from graphkd.engine.interrupts import Interrupts
from graphkd.engine.loop import Position, TrainingLoop
from graphkd.engine.matmul import matmul_precision
from graphkd.engine.trainer import Trainer
from graphkd.model import Network
from graphkd.objective import Losses, WeightedSum
from graphkd.objective.weighted_sum import Section

OF_OBJECTIVE = "backward of the objective"
"""This section lies within `backward`."""


class Stepwise(TrainingLoop):
    """A training of which others take the steps."""

    def __init__(
        self, trainer: Trainer, student: Network, objective: WeightedSum, dataset: Dataset, teacher: Network, seed: int
    ) -> None:
        """Create a training, as `Trainer.fit` begins it."""
        super().__init__(
            trainer, trainer.fabric(), student, objective, dataset, teacher, seed, Callback(), "student", None,
            Interrupts(),
        )  # fmt: skip
        phase = self._phase(len(self.stages))
        self.optimizer = self.fabric.setup_optimizers(trainer.make_optimizer(phase.groups, phase.lr))
        self.student.train()

        def timed(batch: DistillationBatch, section: Section) -> Losses:
            losses: Losses = phase.loss(batch, section)
            time_objectives_backward(batch.student, self.clock)
            return losses

        self._own = dataclasses.replace(phase, loss=timed)
        self._endless = self._epochs()

    def step(self) -> None:
        """Take a step."""
        with matmul_precision(self.options.matmul_precision):
            self._step(self._own, next(self._endless))
        self.position.batch += 1

    def _epochs(self) -> Iterator[Batch]:
        while True:
            yield from self.clock.each(self._batches(self._own), "data")
            self.position = Position(self.position.phase, self.position.epoch + 1)


def time_objectives_backward(student: NetworkOutput, clock: Clock) -> None:
    """Count from now until the gradient of the student's embedding is there (that of its classifier with it)."""
    running = ExitStack()
    running.enter_context(clock.section(OF_OBJECTIVE))

    def done(gradient: Tensor) -> None:
        running.close()

    student.embedding.register_hook(done)  # type: ignore[no-untyped-call]


def shares(clock: Clock) -> str:
    """Return the sections of a training in percent of their sum, and the objective's, forward and backward."""
    seconds = clock.read()
    backward = seconds.pop(OF_OBJECTIVE)
    total = sum(seconds.values())
    terms = seconds["ce"] + seconds["hkd"] + backward
    shown = {**seconds, "objective with its backward": terms}
    return ", ".join(f"{name} {100 * part / total:.2g} %" for name, part in shown.items())
