"""Pre-training stages of objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from graphkd.batch import DistillationBatch


@dataclass(frozen=True)
class Stage:
    """A pre-training stage, run by the trainer on the training data before the main training.

    Attributes:
        name: Its name within the objective, for progress and checkpoints.
        epochs: Passes over the training data.
        loss: Returns the scalar to minimise for a batch with all views.
        modules: The objective's own modules that it trains.
        trains_student: Whether it also trains the student's parameters that the loss reaches. Otherwise the student is
            in eval mode and gets no gradient.
        up_to_maps: Whether it trains the student up to its last feature map only; the parts behind are in eval mode
            then, as in the CRD benchmark (a loss on pre-activations may reach a norm there).
        lr: Initial learning rate; None for the trainer's.
        decay_at: Shares of the stage's epochs after which the learning rate falls, by the trainer's factor.
    """

    name: str
    epochs: int
    loss: Callable[[DistillationBatch], Tensor]
    modules: Sequence[nn.Module] = ()
    trains_student: bool = False
    up_to_maps: bool = False
    lr: float | None = None
    decay_at: Sequence[float] = ()
