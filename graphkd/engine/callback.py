"""History of a training, and the callbacks that follow it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphkd.engine.evaluate import Evaluation  # loads torch


@dataclass(frozen=True)
class EpochResult:
    """Result of one epoch.

    Attributes:
        epoch: Counted from 1.
        lr: Learning rate in this epoch.
        total: Mean loss over the epoch's samples.
        terms: Mean "raw" and "weighted" loss of each term, over the samples of the batches that had it.
        train_top1: Accuracy on the augmented training batches, in percent; None in a stage without the student.
        val: Results on the validation split, if there is one.
        test: Results on the test split.
        seconds: Time of the epoch's training, without evaluation.
        stage: The objective's stage that it belongs to; None for the student's own training.
        diagnostics: Means of what explains the terms, such as the homophily of graphs, by name.
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
    diagnostics: dict[str, float] = field(default_factory=dict)


@dataclass
class History:
    """History of a training, finished or so far.

    Attributes:
        epochs: Results of the epochs of the student's own training.
        stages: Results of the epochs of the objective's pre-training stages.
        steps: Optimizer steps of the student's own training.
        seconds: Time of these steps, without evaluation.
        elapsed: Total time, in seconds.
        phases: Seconds spent on data, student, teacher, each term, backward and optimizer, by name.
        peak_memory_mib: See `graphkd.engine.memory`.
    """

    epochs: list[EpochResult] = field(default_factory=list)
    stages: list[EpochResult] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step, in seconds."""
        return self.seconds / self.steps


class Callback:
    """Base class for training callbacks; every hook does nothing by default.

    Attributes:
        quiet: Whether it shows nothing; the processes of a run on several devices then show nothing either.
    """

    quiet = True

    def note(self, message: str) -> None:
        """Handle a message for the user, in one line."""

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        """Handle the start of a training, or of a stage of one.

        Args:
            name: Name of the training.
            epochs: Number of epochs.
            steps: Number of steps in each epoch.
            done: Number of steps already done before a checkpoint.
        """

    def resume(self, history: History) -> None:
        """Handle a training that resumes from a checkpoint, with the history up to there."""

    def step(self) -> None:
        """Handle the end of a step."""

    def epoch(self, epoch: EpochResult) -> None:
        """Handle the end of an epoch."""


class ForwardingCallback(Callback):
    """Pass all events on to another callback; subclasses add what they do with some of them."""

    def __init__(self, callback: Callback) -> None:
        """Forward to this callback."""
        self._callback = callback

    def note(self, message: str) -> None:
        """See `Callback`."""
        self._callback.note(message)

    def start(self, name: str, epochs: int, steps: int, done: int = 0) -> None:
        """See `Callback`."""
        self._callback.start(name, epochs, steps, done)

    def resume(self, history: History) -> None:
        """See `Callback`."""
        self._callback.resume(history)

    def step(self) -> None:
        """See `Callback`."""
        self._callback.step()

    def epoch(self, epoch: EpochResult) -> None:
        """See `Callback`."""
        self._callback.epoch(epoch)
