"""A training that an objective needs before the student's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from graphkd.batch import DistillationBatch


@dataclass(frozen=True)
class Stage:
    """A pre-training stage, run by the trainer on the training data before the student's training.

    Attributes:
        name: Its name within the objective, for progress and checkpoints.
        epochs: Passes over the training data.
        loss: The scalar that it minimises. The batch has all views, of which the first is the untouched one.
        modules: The objective's own modules that it trains.
        trains_student: Whether it also trains those of the student's parameters that the loss reaches. Otherwise the
            student stands in eval mode and gets no gradient.
        up_to_maps: Whether it trains the student up to its last feature map only; the parts behind that stand in eval
            mode then, as in the CRD benchmark (a loss on pre-activations may reach a norm there).
        lr: Learning rate at the start; None for the trainer's.
        decay_at: After which shares of the stage's epochs the learning rate falls, by the trainer's factor.
    """

    name: str
    epochs: int
    loss: Callable[[DistillationBatch], Tensor]
    modules: Sequence[nn.Module] = ()
    trains_student: bool = False
    up_to_maps: bool = False
    lr: float | None = None
    decay_at: Sequence[float] = ()
