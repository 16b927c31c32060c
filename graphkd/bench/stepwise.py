"""The engine's own training, a step at a time, and where its time goes."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

from torch import Tensor

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.data import Dataset
from graphkd.engine.clock import Clock
from graphkd.engine.feed import Feed
from graphkd.engine.loop import Phase, TrainingLoop
from graphkd.engine.matmul import matmul_precision
from graphkd.engine.trainer import Trainer
from graphkd.model import Network
from graphkd.objective import Losses, WeightedSum
from graphkd.objective.weighted_sum import Section

OF_OBJECTIVE = "backward of the objective"
"""This section lies within `backward`."""
ENDLESS = 1_000_000
"""Epochs, more than a benchmark takes."""


class Stepwise:
    """A training of which others take the steps."""

    def __init__(
        self, trainer: Trainer, student: Network, objective: WeightedSum, dataset: Dataset, teacher: Network, seed: int
    ) -> None:
        """Begin a training, as `Trainer.fit` does."""
        trainer = dataclasses.replace(trainer, epochs=ENDLESS, eval_every=ENDLESS)
        fabric = trainer.fabric()
        self._feed = Feed(trainer, fabric, dataset, teacher, seed)
        loop = _TimedLoop(trainer, fabric, student, objective, dataset, teacher=teacher, seed=seed)
        self._precision = trainer.matmul_precision
        self._running = loop.run()
        self._request = next(self._running)
        self.clock = loop.clock  # the student's own phase made it

    def step(self) -> None:
        """Take a step."""
        with matmul_precision(self._precision):
            self._request = self._running.send(self._feed.get(self._request, [self._request]))


class _TimedLoop(TrainingLoop):
    """A training loop that measures the backward pass of the objective by itself."""

    def _phase(self, number: int) -> Phase:
        phase = super()._phase(number)

        def timed(batch: DistillationBatch, section: Section) -> Losses:
            losses: Losses = phase.loss(batch, section)
            time_objectives_backward(batch.student, self.clock)
            return losses

        return dataclasses.replace(phase, loss=timed)


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
