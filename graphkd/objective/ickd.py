"""Inter-channel correlation: which channels of a map activate alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.errors import check
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output
from graphkd.objective.maps import BatchNorm, Shape


@OBJECTIVES.register("ickd")
class ICKD(Objective):
    """mean over samples and channels of |g_s - g_t|^2 on the last map (Liu et al., arXiv 2202.03680, ICKD-C).

    g = a row of the Gram matrix of a sample's flattened channels, [C, C], L2-normalised. The student's map is first
    mapped to the teacher's channels, with a 1x1 convolution and BatchNorm; heights and widths may differ.

    Attributes:
        embed: Maps the student's map, [B, C_s, H, W], to the teacher's channels, [B, C_t, H, W].
    """

    name = "ickd"
    fewest_maps = 1

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        """Create an ICKD objective.

        Args:
            student_shapes: Shapes of the student's features, the stem's first.
            teacher_shapes: Shapes of the teacher's features, the stem's first.

        Raises:
            UserError: A network has no feature map.
        """
        super().__init__()
        for side, shapes in (("student", student_shapes), ("teacher", teacher_shapes)):
            check(len(shapes) > 0, f"objective 'ickd': it needs a feature map, but the {side}'s network shows none")
        channels = teacher_shapes[-1][0]
        self.embed = nn.Sequential(nn.Conv2d(student_shapes[-1][0], channels, 1, bias=False), BatchNorm(channels))

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        student, teacher = batch.student.features[-1].float(), teacher_output(batch).features[-1].float()
        with torch.autocast(student.device.type, enabled=False):
            difference = _correlations(self.embed(student)) - _correlations(teacher)
            return {self.name: difference.square().sum(2).mean()}


def _correlations(map_: Tensor) -> Tensor:
    """Return the Gram matrix of each sample's channels, its rows normalised: float32 [B, C, H, W] to [B, C, C]."""
    channels = map_.flatten(2)
    return F.normalize(channels @ channels.mT, dim=2)
