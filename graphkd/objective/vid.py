"""Variational information distillation: a Gaussian of the teacher's maps given the student's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.maps import Shape, check_same_count, pooled_to_smaller

_SMALLEST_VARIANCE = 1e-5


@OBJECTIVES.register("vid")
class VID(Objective):
    """sum over maps of mean ((mu(s) - t)^2 / var + log var) / 2 (Ahn et al., arXiv 1904.05835).

    The Gaussian observation model: mu is three 1x1 convolutions with ReLU between them; var = softplus(rho) + 1e-5 is
    learnt for each channel of the teacher's. Widths and the pooling of the larger map are the CRD benchmark's
    (arXiv 1910.10699).
    """

    name = "vid"
    fewest_maps = 2

    def __init__(
        self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], initial_variance: float = 5.0
    ) -> None:
        """Create a VID objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.
            initial_variance: Initial value of var.

        Raises:
            UserError: The variance is not above 1e-5, or the networks have different numbers of maps.
        """
        super().__init__()
        check(
            initial_variance > _SMALLEST_VARIANCE,
            f"objective 'vid': initial_variance is {initial_variance}, but must be above {_SMALLEST_VARIANCE}",
        )
        check_same_count(self.name, student_shapes, teacher_shapes)
        pairs = zip(student_shapes[1:], teacher_shapes[1:], strict=True)
        self.gaussians = nn.ModuleList(
            _Gaussian(student[0], teacher[0], initial_variance) for student, teacher in pairs
        )

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        students, teachers = batch.student.features[1:], teacher_output(batch).features[1:]
        with torch.autocast(batch.student.logits.device.type, enabled=False):
            losses = [
                gaussian(*pooled_to_smaller(student.float(), teacher.float()))
                for gaussian, student, teacher in zip(self.gaussians, students, teachers, strict=True)
            ]
        return {self.name: torch.stack(losses).sum()}


class _Gaussian(nn.Module):
    """Negative log-likelihood of a teacher's map, up to a constant."""

    def __init__(self, inputs: int, outputs: int, initial_variance: float) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        above = initial_variance - _SMALLEST_VARIANCE
        rho = above + math.log(-math.expm1(-above))  # softplus(rho) = above
        self.log_scale = nn.Parameter(torch.full((outputs,), rho))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean for maps float [B, inputs, H, W] and [B, outputs, H, W]."""
        variance = (F.softplus(self.log_scale) + _SMALLEST_VARIANCE).view(1, -1, 1, 1)
        error: Tensor = self.regressor(student) - teacher
        return 0.5 * (error.square() / variance + variance.log()).mean()
