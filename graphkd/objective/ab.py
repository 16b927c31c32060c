"""AB: the student's hidden units learn on which side of zero the teacher's are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.maps import ConvRegressor, Shape, check_same_count, preactivations
from graphkd.objective.stage import Stage

_SCALE = 3 / 1000
"""The benchmark's factor of each map's loss."""


@OBJECTIVES.register("ab")
class AB(Objective):
    """Hinge losses that put pre-activations on the teacher's side of zero (Heo et al., arXiv 1811.03233).

    The student's body is trained so in a stage of its own, through connectors where the shapes of a map differ. Then
    it goes on without AB. Map i of n counts 2^(i-n+1), as in the CRD benchmark (arXiv 1910.10699).

    Attributes:
        connectors: Bring the student's maps to the shapes of the teacher's.
    """

    name = "ab"
    revision = 2  # since the stage leaves alone what is behind the student's last map
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
            margin: How far from zero a pre-activation must lie.
            stage_epochs: Epochs of the stage.

        Raises:
            UserError: An option is out of range, the networks have not equally many maps, or no connector leads from
                one map to the other.
        """
        super().__init__()
        check(margin > 0, f"objective 'ab': margin is {margin}, but must be positive")
        check(stage_epochs >= 1, f"objective 'ab': stage_epochs is {stage_epochs}, but must be at least 1")
        check_same_count(self.name, student_shapes, teacher_shapes)
        pairs = zip(student_shapes[1:], teacher_shapes[1:], strict=True)
        self.connectors = nn.ModuleList(
            _connector(student, teacher, layer) for layer, (student, teacher) in enumerate(pairs, start=1)
        )
        self.margin = margin
        self.stage_epochs = stage_epochs

    def stages(self) -> Sequence[Stage]:
        """`boundaries`: the connectors, and the student up to its last map."""
        modules = [self.connectors]
        return [Stage("boundaries", self.stage_epochs, self._loss, modules, trains_student=True, up_to_maps=True)]

    def freeze(self) -> None:
        """The connectors are not used any more."""
        self.connectors.requires_grad_(False)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """No term: the stage was all."""
        return {}

    def _loss(self, batch: DistillationBatch) -> Tensor:
        students = preactivations(batch.student, self.name, "student")[1:]
        teachers = preactivations(teacher_output(batch), self.name, "teacher")[1:]
        last = len(self.connectors) - 1
        losses = [
            2.0 ** (number - last) * self._distance(connector(student.float()), teacher)
            for number, (connector, student, teacher) in enumerate(
                zip(self.connectors, students, teachers, strict=True)
            )
        ]
        return _SCALE * torch.stack(losses).sum() / len(batch.labels)

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Squared distances to the margin on the teacher's side, where it is not yet passed; summed."""
        return torch.where(teacher > 0, F.relu(self.margin - student), F.relu(self.margin + student)).square().sum()


def _connector(student: Shape, teacher: Shape, layer: int) -> nn.Module:
    if student == teacher:
        return nn.Identity()
    return ConvRegressor(student, teacher, use_relu=False, what=f"objective 'ab': layer {layer}")
