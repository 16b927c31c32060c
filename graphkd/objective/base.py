"""What every objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.errors import UserError
from graphkd.objective.stage import Stage
from graphkd.registry import Registry

Stream = Callable[[str], torch.Generator]
"""Gives the run's generator of a name ("negatives", "builder"), on the training device."""

ALONE = "a batch has one sample, which has no relations to others, so it teaches nothing"
"""The note of objectives on how the samples of a batch lie to each other."""


@dataclass(frozen=True)
class Setting:
    """What a training will show an objective, as far as that is known before it.

    Attributes:
        labels: Class of every training sample, int64 [N].
        num_classes: Number of classes.
        batch_size: Samples of a full batch, over all processes.
        processes: How many processes a batch is cut over.
    """

    labels: Tensor
    num_classes: int
    batch_size: int
    processes: int = 1

    @property
    def largest_batch(self) -> int:
        """Samples of the largest batch there will be."""
        return min(self.batch_size, len(self.labels))


class Objective(nn.Module, ABC):
    """A part of the training loss, with whatever modules and memory it needs of its own.

    Its parameters are trained by the run's optimizer beside the student's. Scalars come out unweighted; weights are
    `WeightedSum`'s. A subclass names in its constructor just those of the run-time arguments that it needs.
    """

    RUNTIME: ClassVar[frozenset[str]] = frozenset(
        {
            "student_dim",  # width of the student's embedding
            "teacher_dim",
            "student_shapes",  # shapes of the student's feature maps, without the batch
            "teacher_shapes",
            "labels",  # class of every training sample, int64 [N]
            "num_classes",
            "builder",  # a built graph builder
            "student_gnn",  # a built encoder for each side
            "teacher_gnn",
        }
    )
    SHARED: ClassVar[tuple[str, ...]] = ("negatives", "bank")
    """Options that a config states once, at its top level, for all objectives whose constructors have them."""
    name: ClassVar[str] = ""
    """The name of the term that an objective of one term returns."""
    parts: ClassVar[tuple[str, ...]] = ()
    """The names of the terms of an objective that has several; a batch may lack some of them."""
    revision: ClassVar[int] = 1
    """Counts in a run's identity where it is above 1: raised when the same options come to another training."""
    needs_teacher: ClassVar[bool] = True
    views: ClassVar[int] = 1
    """How many views of each sample it looks at (`transform`)."""
    needs_maps: ClassVar[bool] = True
    """Whether it looks at feature maps; several devices exchange them only then."""
    fewest_maps: ClassVar[int] = 0
    """How many feature maps each network must show at least, the stem's included."""
    needs_preactivations: ClassVar[frozenset[str]] = frozenset()
    """Which networks must show the pre-activations of their maps: of "student" and "teacher"."""
    has_terms: ClassVar[bool] = True
    """Whether it still has terms once its stages are over; some methods teach in a stage alone."""

    @classmethod
    def graph_dim(cls, options: Mapping[str, Any]) -> int | None:
        """Return the width at which an objective with these options encodes graphs, or None if it uses none."""
        return None

    @abstractmethod
    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the objective's terms on one batch.

        Returns:
            Scalars by name, before weighting; an objective of one term calls it by its own name.
        """

    def check(self, setting: Setting) -> None:
        """Check that a training in this setting can run at all.

        Raises:
            UserError: It cannot.
        """

    def notes(self, setting: Setting) -> Sequence[str]:
        """Return what of the objective will teach nothing in this setting, a line each."""
        return ()

    def transform(self, images: Tensor) -> Tensor:
        """Return the views of a batch of images, [B, C, H, W] to [views x B, C, H, W]: all first ones, then all second.

        The first view is the images as they are. An objective with one view is shown the first only, whatever views
        others ask for.
        """
        return images

    def stages(self) -> Sequence[Stage]:
        """Return what is trained before the student, in this order."""
        return ()

    def freeze(self) -> None:
        """Called after the stages: what they trained for good takes no gradient from here on."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the run's optimizer trains: groups as `torch.optim` takes them.

        A group may set an own `weight_decay`, and an `lr_scale` by which the trainer's learning rate is multiplied.
        """
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def prepare(self, device: torch.device, stream: Stream) -> None:
        """Called once before training: move what is not a parameter to the device, take the run's generators."""
        self.to(device)

    def after_step(self) -> None:
        """Called after each applied optimizer step."""


def teacher_output(batch: DistillationBatch) -> NetworkOutput:
    """Return the teacher's output of a batch; no gradient flows into it.

    Raises:
        UserError: There is none.
    """
    if batch.teacher is None:
        raise UserError("the objective needs a teacher, and the batch has none")
    return batch.teacher.map(Tensor.detach)


OBJECTIVES: Registry[Objective] = Registry("objective", "graphkd.objective", Objective.RUNTIME)
