"""Attention transfer: where in its maps a network is active."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output
from graphkd.objective.maps import Shape, check_same_count, one_position_notes, pooled_to_smaller, smaller_positions


@OBJECTIVES.register("at")
class AT(Objective):
    """sum over maps of mean (a_s - a_t)^2, a = the L2-normalised channel mean of |map|^p (arXiv 1612.03928, eq. 2).

    Zagoruyko and Komodakis; the mean over positions and the pooling of the larger map are the CRD benchmark's
    (arXiv 1910.10699).
    """

    name = "at"
    fewest_maps = 2

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], p: float = 2.0) -> None:
        """Create an AT objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.
            p: The power; a larger one looks more at where the activation is highest.

        Raises:
            UserError: The power is below 1, or the networks have not equally many maps.
        """
        super().__init__()
        check(p >= 1, f"objective 'at': p is {p}, but must be at least 1")
        check_same_count(self.name, student_shapes, teacher_shapes)
        self._positions = smaller_positions(student_shapes[1:], teacher_shapes[1:])
        self.p = p

    def notes(self, setting: Setting) -> Sequence[str]:
        """Return what will teach nothing (`Objective.notes`)."""
        return one_position_notes(self._positions)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the term `at`."""
        pairs = zip(batch.student.features[1:], teacher_output(batch).features[1:], strict=True)
        losses = [self._difference(student.float(), teacher.float()) for student, teacher in pairs]
        return {self.name: torch.stack(losses).sum()}

    def _difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = pooled_to_smaller(student, teacher)
        return F.mse_loss(self._attention(student), self._attention(teacher))

    def _attention(self, map_: Tensor) -> Tensor:
        return F.normalize(map_.abs().pow(self.p).mean(1).flatten(1), dim=1)
