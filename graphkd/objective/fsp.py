"""FSP: the flow of a network, as Gram matrices between its adjacent maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.maps import Shape, pooled_to_smaller
from graphkd.objective.stage import Stage


@OBJECTIVES.register("fsp")
class FSP(Objective):
    """sum over adjacent features of MSE(G_s, G_t), G the mean of a_i b_j over positions (Yim et al., CVPR 2017, eq. 1).

    They train the student's body in a pre-training stage; the main training has no FSP term. The stem's feature counts
    too; the larger of two maps is pooled to the smaller.
    """

    name = "fsp"
    revision = 2  # since the stage stops at the student's last map
    has_terms = False
    fewest_maps = 2

    def __init__(
        self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], stage_epochs: int = 30
    ) -> None:
        """Create an FSP objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.
            stage_epochs: Epochs of the stage.

        Raises:
            UserError: `stage_epochs` is out of range, or the channels of the networks differ.
        """
        super().__init__()
        self.check_at_least(1, stage_epochs=stage_epochs)
        student, teacher = ([channels for channels, _, _ in shapes] for shapes in (student_shapes, teacher_shapes))
        check(
            student == teacher and len(student) > 1,
            f"objective 'fsp': it cannot work for this pair; it needs features of the same channels, at least two, "
            f"but the student's have {student} and the teacher's {teacher}",
        )
        self.stage_epochs = stage_epochs

    def stages(self) -> Sequence[Stage]:
        """Return `flow`, which trains the student up to its last map."""
        return [Stage("flow", self.stage_epochs, _loss, trains_student=True, up_to_maps=True)]

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        return {}


def _loss(batch: DistillationBatch) -> Tensor:
    flows = zip(pairwise(batch.student.features), pairwise(teacher_output(batch).features), strict=True)
    return torch.stack([F.mse_loss(_gram(*student), _gram(*teacher)) for student, teacher in flows]).sum()


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """Return the Gram matrix of two feature maps, mean over positions, float32 [B, C, C']."""
    a, b = pooled_to_smaller(a.float(), b.float())
    return a.flatten(2) @ b.flatten(2).transpose(1, 2) / a[0, 0].numel()
