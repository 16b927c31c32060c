"""AB: activation boundaries, the side of zero on which each hidden unit of the teacher lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.maps import ConvRegressor, Shape, check_same_count, preactivations
from graphkd.objective.stage import Stage

_SCALE = 3 / 1000
"""Factor of each map's loss in the CRD benchmark."""


@OBJECTIVES.register("ab")
class AB(Objective):
    """Hinge losses that put pre-activations on the teacher's side of zero (Heo et al., arXiv 1811.03233).

    They train the student's body in a pre-training stage, through connectors where the shapes of two maps differ; the
    main training has no AB term. Map i of n is weighted by 2^(i-n+1), as in the CRD benchmark (arXiv 1910.10699).

    Attributes:
        connectors: Map the student's pre-activations to the shapes of the teacher's.
    """

    name = "ab"
    revision = 2  # since the stage stops at the student's last map
    has_terms = False
    fewest_maps = 2
    needs_preactivations = frozenset({"student", "teacher"})

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        margin: float = 1.0,
        stage_epochs: int = 30,
    ) -> None:
        """Create an AB objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.
            margin: Distance from zero that a pre-activation must reach.
            stage_epochs: Epochs of the stage.

        Raises:
            UserError: An option is out of range, the networks have different numbers of maps, or no connector fits a
                pair of maps.
        """
        super().__init__()
        self.check_positive(margin=margin)
        self.check_at_least(1, stage_epochs=stage_epochs)
        check_same_count(self.name, student_shapes, teacher_shapes)
        pairs = zip(student_shapes[1:], teacher_shapes[1:], strict=True)
        self.connectors = nn.ModuleList(
            _connector(student, teacher, layer) for layer, (student, teacher) in enumerate(pairs, start=1)
        )
        self.margin = margin
        self.stage_epochs = stage_epochs

    def stages(self) -> Sequence[Stage]:
        """Return `boundaries`, which trains the connectors and the student up to its last map."""
        modules = [self.connectors]
        return [Stage("boundaries", self.stage_epochs, self._loss, modules, trains_student=True, up_to_maps=True)]

    def freeze(self) -> None:
        self.connectors.requires_grad_(False)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        return {}

    def _loss(self, batch: DistillationBatch) -> Tensor:
        students = preactivations(batch.student, self.name, "student")[1:]
        teachers = preactivations(teacher_output(batch), self.name, "teacher")[1:]
        last = len(self.connectors) - 1
        losses: list[Tensor] = []
        for number, (connector, student, teacher) in enumerate(zip(self.connectors, students, teachers, strict=True)):
            x = connector(student.float())
            side = torch.where(teacher > 0, 1.0, -1.0)
            distance = F.relu(self.margin - side * x)
            losses.append(2.0 ** (number - last) * distance.square().sum())
        return _SCALE * torch.stack(losses).sum() / len(batch.labels)


def _connector(student: Shape, teacher: Shape, layer: int) -> nn.Module:
    if student == teacher:
        return nn.Identity()
    return ConvRegressor(student, teacher, use_relu=False, what=f"objective 'ab': layer {layer}")
