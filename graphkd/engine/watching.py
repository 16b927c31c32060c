"""What a training tells about itself while it runs and when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphkd.engine.evaluate import Evaluation


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        epoch: Counted from 1.
        lr: Learning rate in this epoch.
        total: Mean loss over the epoch's samples.
        terms: Mean "raw" and "weighted" loss of each term, over the samples of the batches that had it.
        train_top1: Accuracy on the augmented training batches, in percent; None in a stage without the student.
        val: Figures on the validation split, where there is one.
        test: Figures on the test split.
        seconds: Time of the epoch's training, without evaluation.
        stage: Which of the objective's stages it belongs to; None for the student's own training.
    """

    epoch: int
    lr: float
    total: float
    terms: dict[str, dict[str, float]]
    train_top1: float | None
    val: Evaluation | None
    test: Evaluation | None
    seconds: float
    stage: str | None = None


@dataclass
class Fit:
    """A training, finished or so far.

    Attributes:
        epochs: What every epoch of the student's own training came to.
        stages: The same for the epochs of the objective's stages, which came before.
        steps: Optimizer steps of the student's own training.
        seconds: Time of these steps, without evaluation.
        elapsed: Time of everything, in seconds.
        phases: Seconds by what they were spent on: data, student, teacher, each term, backward, optimizer.
        peak_memory_mib: See `graphkd.engine.memory`.
    """

    epochs: list[Epoch] = field(default_factory=list)
    stages: list[Epoch] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step, in seconds."""
        return self.seconds / self.steps


class Watcher:
    """Is told how a training goes; this one does nothing with it."""

    def note(self, message: str) -> None:
        """Something that the user should know, in one line."""

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        """A training (or a stage of one) of `epochs` epochs with `steps` steps each begins, `done` steps of it done."""

    def resume(self, fit: Fit) -> None:
        """A training goes on that came to `fit` before."""

    def step(self) -> None:
        """A step was taken."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch ended."""
