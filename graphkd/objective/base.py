"""The base class of all objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.errors import UserError, check
from graphkd.objective.stage import Stage
from graphkd.registry import Registry

Stream = Callable[[str], torch.Generator]
"""Returns the run's generator of a name ("negatives", "builder"), on the training device."""


@dataclass(frozen=True)
class Setting:
    """The setting of a training, as far as it is known in advance.

    Attributes:
        labels: Class of every training sample, int64 [N].
        num_classes: Number of classes.
        batch_size: Samples of a full batch, over all processes.
        processes: Number of processes that share a batch.
    """

    labels: Tensor
    num_classes: int
    batch_size: int
    processes: int = 1

    @property
    def largest_batch(self) -> int:
        """Number of samples in the largest batch."""
        return min(self.batch_size, len(self.labels))


class Objective(nn.Module, ABC):
    """A part of the training loss, with modules and banks of its own.

    Its parameters are trained by the run's optimizer together with the student's. Terms are unweighted; `WeightedSum`
    weights them. The constructor of a subclass takes those of the run-time arguments that it needs.
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
            "relation",  # a built relation, and a built discrepancy
            "discrepancy",
        }
    )
    SHARED: ClassVar[tuple[str, ...]] = ("negatives", "bank")
    """Options that a config states once, at its top level, for all objectives that take them."""
    name: ClassVar[str] = ""
    """Name of the term, for an objective with a single one."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the terms, for an objective with several; a batch may lack some of them."""
    revision: ClassVar[int] = 1
    """Raised when the same options begin to give another training; part of a run's identity if above 1."""
    needs_teacher: ClassVar[bool] = True
    views: tuple[str, ...] = ("weak",)
    """Names of the views of each sample that it uses, in the order in which it gets them (`graphkd.data.views`)."""
    needs_maps: bool = True
    """Whether it uses feature maps, which an option may decide; several devices exchange them only then."""
    fewest_maps: ClassVar[int] = 0
    """Smallest number of feature maps of each network, the stem's included."""
    needs_preactivations: ClassVar[frozenset[str]] = frozenset()
    """Which networks must show the pre-activations of their maps: of "student" and "teacher"."""
    has_terms: ClassVar[bool] = True
    """Whether it has terms after its pre-training stages; some methods consist of a stage alone."""
    is_relational: ClassVar[bool] = False
    """Whether it compares the samples of a batch with each other, so that a batch of one teaches nothing."""

    def check_positive(self, **options: float) -> None:
        """Raise a `UserError` unless every option is above 0."""
        for option, value in options.items():
            check(value > 0, f"objective '{self.name}': {option} is {value}, but must be positive")

    def check_at_least(self, least: int, **options: float) -> None:
        """Raise a `UserError` if an option is below the least value."""
        for option, value in options.items():
            check(value >= least, f"objective '{self.name}': {option} is {value}, but must be at least {least}")

    def check_between_0_and_1(self, **options: float) -> None:
        """Raise a `UserError` unless every option is between 0 and 1, both included."""
        for option, value in options.items():
            check(0 <= value <= 1, f"objective '{self.name}': {option} is {value}, but must be between 0 and 1")

    @classmethod
    def graph_dim(cls, options: Mapping[str, Any]) -> int | None:
        """Return the width at which an objective with these options encodes graphs; None without encoders."""
        return None

    @classmethod
    def builds_graphs(cls, options: Mapping[str, Any]) -> bool:
        """Return whether an objective with these options uses its graph builder."""
        return cls.graph_dim(options) is not None

    @classmethod
    def maps_needed(cls, options: Mapping[str, Any]) -> int:
        """Return the smallest number of feature maps of each network with these options, the stem's included."""
        return cls.fewest_maps

    @abstractmethod
    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the unweighted terms of a batch: scalars by name (`name`, or some of `parts`)."""

    def check(self, setting: Setting) -> None:
        """Raise a `UserError` if a training in this setting cannot run."""

    def notes(self, setting: Setting) -> Sequence[str]:
        """Return what will teach nothing in this setting, one line each."""
        if self.is_relational and setting.largest_batch == 1:
            return ["a batch has one sample, which has no relations to others, so it teaches nothing"]
        return ()

    def stages(self) -> Sequence[Stage]:
        """Return the pre-training stages, in their order."""
        return ()

    def freeze(self) -> None:
        """Freeze what the stages have trained for good; called after them."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups for `torch.optim`.

        A group may have its own `weight_decay`, and an `lr_scale` that multiplies the trainer's learning rate.
        """
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def prepare(self, device: torch.device, stream: Stream) -> None:
        """Move everything to the device and take the run's generators; called once before training."""
        self.to(device)

    def after_step(self) -> None:
        """Update banks and the like; called after each applied optimizer step."""


def checked_views(objective: str, views: Sequence[str]) -> tuple[str, ...]:
    """Return an objective's option `views`; raise a `UserError` if it is empty or names a view twice."""
    check(len(views) > 0, f"objective '{objective}': views is empty, but must name at least one")
    check(len(set(views)) == len(views), f"objective '{objective}': views is {list(views)}, but must name each once")
    return tuple(views)


def teacher_output(batch: DistillationBatch) -> NetworkOutput:
    """Return the teacher's output, detached; raise a `UserError` if there is none."""
    if batch.teacher is None:
        raise UserError("the objective needs a teacher, and the batch has none")
    return batch.teacher.map(Tensor.detach)


OBJECTIVES: Registry[Objective] = Registry("objective", "graphkd.objective", Objective.RUNTIME)
