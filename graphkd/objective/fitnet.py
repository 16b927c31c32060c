"""Hints: the student's inner map regressed onto the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.maps import ConvRegressor, Shape


@OBJECTIVES.register("fitnet")
class FitNet(Objective):
    """mean (regressor(student map) - teacher map)^2 at one layer (Romero et al., arXiv 1412.6550, eq. 3).

    As in the CRD benchmark (arXiv 1910.10699) it is trained together with the cross-entropy, not in a stage of its own.
    """

    name = "fitnet"
    fewest_maps = 1

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], layer: int = 2) -> None:
        """Create a FitNet objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.
            layer: Index of the feature map; 0 is the stem.

        Raises:
            UserError: A network has no such layer, or no regressor fits the pair of maps.
        """
        super().__init__()
        last = min(len(student_shapes), len(teacher_shapes)) - 1
        check(
            0 <= layer <= last,
            f"objective 'fitnet': layer is {layer}, but must be between 0 (the stem) and {last} for this pair",
        )
        self.layer = layer
        what = f"objective 'fitnet': layer {layer}"
        self.regressor = ConvRegressor(student_shapes[layer], teacher_shapes[layer], what=what)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student = self.regressor(batch.student.features[self.layer])
        teacher = teacher_output(batch).features[self.layer].float()
        return {self.name: F.mse_loss(student, teacher)}
